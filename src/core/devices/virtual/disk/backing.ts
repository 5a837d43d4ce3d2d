/**
 * Where a disk keeps its octets, and the copy in memory.
 *
 * A backing answers through callbacks and may do so before the call returns: memory always does,
 * files never. Callers work with either, and a disk in memory moves its data without leaving the
 * handler that asked for it.
 */

import { DISKS_MEMORY, type DiskMemory } from './disk-memory.ts';

/** `error` is null when all octets were moved. */
export type Done = (error: Error | null) => void;

export interface Backing {
  /** Size; does not change. */
  readonly octets: number;
  readonly readonly: boolean;
  /** Calls are done when they return, and `octets` given to `write` is free again. */
  readonly immediate: boolean;
  /** Fills `into`, which belongs to the backing until `done`. */
  read(offset: number, into: Buffer, done: Done): void;
  /** `octets` belongs to the backing until `done`. */
  write(offset: number, octets: Buffer, done: Done): void;
  /** Forgets a range, which reads as zeros from then on; null if the backing cannot. */
  readonly discard: ((offset: number, octets: number, done: Done) => void) | null;
  /** What was written before is on stable storage when this is done. */
  sync(done: Done): void;
  close(): Promise<void>;
}

/** Octets that memory is allocated in. */
export const PAGE_OCTETS = 64 << 10;

const ZERO_PAGE = Buffer.alloc(PAGE_OCTETS);

export interface MemoryOptions {
  readonly readonly?: boolean;
  /** Memory that the disk may occupy; default: as much as it is large. */
  readonly bytesMax?: number;
  /** What it takes that from; default: what all disks of this process share. */
  readonly memory?: DiskMemory;
}

/**
 * A sparse disk in memory: pages come with the first write, so a disk of terabytes costs what is
 * written to it. What was never written, was discarded, or is only zeros costs nothing and reads as zeros.
 */
export class MemoryBacking implements Backing {
  readonly octets: number;
  readonly readonly: boolean;
  readonly immediate = true;
  readonly #pages = new Map<number, Buffer>();
  readonly #memory: DiskMemory;
  readonly #pagesMax: number;

  constructor(octets: number, options: MemoryOptions = {}) {
    const {
      readonly = false,
      bytesMax = Number.POSITIVE_INFINITY,
      memory = DISKS_MEMORY,
    } = options;
    this.octets = octets;
    this.readonly = readonly;
    this.#memory = memory;
    this.#pagesMax = Math.floor(bytesMax / PAGE_OCTETS);
  }

  /** Memory in use for data. */
  get allocatedOctets(): number {
    return this.#pages.size * PAGE_OCTETS;
  }

  read(offset: number, into: Buffer, done: Done): void {
    eachPage(offset, into.length, (page, from, to, at) => {
      const source = this.#pages.get(page);
      if (source === undefined) into.fill(0, at, at + to - from);
      else source.copy(into, at, from, to);
    });
    done(null);
  }

  write(offset: number, octets: Buffer, done: Done): void {
    try {
      eachPage(offset, octets.length, (page, from, to, at) => {
        const end = at + to - from;
        if (isZeros(octets, at, end)) this.#clear(page, from, to);
        else octets.copy(this.#page(page), from, at, end);
      });
    } catch (error) {
      // No page more is allowed, or the machine has no memory for one: the thin disk is full.
      done(Object.assign(error as Error, { code: 'ENOSPC' }));
      return;
    }
    done(null);
  }

  discard = (offset: number, octets: number, done: Done): void => {
    const first = Math.ceil(offset / PAGE_OCTETS);
    const end = Math.floor((offset + octets) / PAGE_OCTETS);
    if (first >= end) {
      this.#clearRange(offset, octets);
    } else {
      this.#clearRange(offset, first * PAGE_OCTETS - offset);
      this.#dropAll(first, end);
      this.#clearRange(end * PAGE_OCTETS, offset + octets - end * PAGE_OCTETS);
    }
    done(null);
  };

  sync(done: Done): void {
    done(null);
  }

  async close(): Promise<void> {
    this.#dropAll(0, Number.POSITIVE_INFINITY);
  }

  #page(page: number): Buffer {
    let octets = this.#pages.get(page);
    if (octets === undefined) {
      if (this.#pages.size >= this.#pagesMax || !this.#memory.take(PAGE_OCTETS)) {
        throw new Error('Cannot write to a disk in memory: it occupies all that it may');
      }
      try {
        octets = Buffer.alloc(PAGE_OCTETS);
      } catch (error) {
        this.#memory.giveBack(PAGE_OCTETS);
        throw error;
      }
      this.#pages.set(page, octets);
    }
    return octets;
  }

  #drop(page: number): void {
    if (this.#pages.delete(page)) this.#memory.giveBack(PAGE_OCTETS);
  }

  /** Drops whole pages; the work is bounded by the pages there are, not by the range. */
  #dropAll(first: number, end: number): void {
    if (end - first > this.#pages.size) {
      for (const page of this.#pages.keys()) if (page >= first && page < end) this.#drop(page);
      return;
    }
    for (let page = first; page < end; page++) this.#drop(page);
  }

  #clearRange(offset: number, octets: number): void {
    eachPage(offset, octets, (page, from, to) => this.#clear(page, from, to));
  }

  /** Zeroes a part of a page, if it exists; one that has nothing else is given back. */
  #clear(page: number, from: number, to: number): void {
    const octets = this.#pages.get(page);
    if (octets === undefined) return;
    octets.fill(0, from, to);
    if (isZeros(octets, 0, PAGE_OCTETS)) this.#drop(page);
  }
}

/** Whether a piece of at most a page has only zeros; most that do not are told by their first octet. */
function isZeros(octets: Buffer, from: number, to: number): boolean {
  return octets[from] === 0 && ZERO_PAGE.compare(octets, from, to, 0, to - from) === 0;
}

/** Calls `visit` with each page of a range: octets `from`..`to` of it stand at `at` in the range. */
function eachPage(
  offset: number,
  octets: number,
  visit: (page: number, from: number, to: number, at: number) => void,
): void {
  for (let at = 0; at < octets; ) {
    const page = Math.floor((offset + at) / PAGE_OCTETS);
    const from = offset + at - page * PAGE_OCTETS;
    const to = Math.min(PAGE_OCTETS, from + octets - at);
    visit(page, from, to, at);
    at += to - from;
  }
}
