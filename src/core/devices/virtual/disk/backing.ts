/**
 * Where a disk keeps its octets, and the copy in memory.
 *
 * A backing answers through callbacks and may do so before the call returns: memory always does,
 * files never. Callers work with either, and a disk in memory moves its data without leaving the
 * handler that asked for it.
 */

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

/**
 * A sparse disk in memory: pages come with the first write, so a disk of terabytes costs what is
 * written to it. What was never written, or was discarded, reads as zeros.
 */
export class MemoryBacking implements Backing {
  readonly octets: number;
  readonly readonly: boolean;
  readonly immediate = true;
  readonly #pages = new Map<number, Buffer>();

  constructor(octets: number, readonly = false) {
    this.octets = octets;
    this.readonly = readonly;
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
        octets.copy(this.#page(page), from, at, at + to - from);
      });
    } catch (error) {
      // The machine has no memory left for another page: the thin disk is full.
      done(Object.assign(error as Error, { code: 'ENOSPC' }));
      return;
    }
    done(null);
  }

  discard = (offset: number, octets: number, done: Done): void => {
    const first = Math.ceil(offset / PAGE_OCTETS);
    const end = Math.floor((offset + octets) / PAGE_OCTETS);
    if (first >= end) {
      this.#clear(offset, octets);
    } else {
      this.#clear(offset, first * PAGE_OCTETS - offset);
      this.#drop(first, end);
      this.#clear(end * PAGE_OCTETS, offset + octets - end * PAGE_OCTETS);
    }
    done(null);
  };

  sync(done: Done): void {
    done(null);
  }

  async close(): Promise<void> {
    this.#pages.clear();
  }

  #page(page: number): Buffer {
    let octets = this.#pages.get(page);
    if (octets === undefined) {
      octets = Buffer.alloc(PAGE_OCTETS);
      this.#pages.set(page, octets);
    }
    return octets;
  }

  /** Drops whole pages; the work is bounded by the pages there are, not by the range. */
  #drop(first: number, end: number): void {
    if (end - first > this.#pages.size) {
      for (const page of this.#pages.keys()) {
        if (page >= first && page < end) this.#pages.delete(page);
      }
      return;
    }
    for (let page = first; page < end; page++) this.#pages.delete(page);
  }

  /** Zeroes a part of a page or two, where they exist. */
  #clear(offset: number, octets: number): void {
    eachPage(offset, octets, (page, from, to) => {
      this.#pages.get(page)?.fill(0, from, to);
    });
  }
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
