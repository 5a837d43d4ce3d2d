/**
 * Memory for the data of transfers, used again and again.
 *
 * Blocks mapped on the device file are reached by the host controller directly; usbfs gives only so
 * much of it to all programs together (usbfs_memory_mb, 16 MiB by default), and it has to be in one
 * piece. When there is none left, memory of the process serves, which the kernel copies.
 *
 * Blocks have sizes of powers of two. Both kinds have a bound; what lies free is unmapped when
 * another size needs the room.
 */
import { assert } from '../../assert.ts';
import type { Memory, UsbfsFile } from './kernel.ts';

const BLOCK_OCTETS_MIN = 4096;
/** What the largest block holds; longer transfers go in pieces. */
export const BLOCK_OCTETS_MAX = 1 << 20;
/** Of one device: half of what usbfs has by default. */
export const SHARED_OCTETS_MAX = 8 << 20;
const PLAIN_OCTETS_MAX = 8 << 20;

export interface Block extends Memory {
  readonly shared: boolean;
}

/** Blocks of one kind. */
class Arena {
  readonly #shared: boolean;
  readonly #octetsMax: number;
  readonly #file: UsbfsFile;
  /** By size: index n holds blocks of `BLOCK_OCTETS_MIN << n` octets. */
  readonly #free: Block[][] = [];
  #octets = 0;

  constructor(file: UsbfsFile, shared: boolean, octetsMax: number) {
    this.#file = file;
    this.#shared = shared;
    this.#octetsMax = octetsMax;
  }

  take(octets: number): Block | null {
    const index = sizeIndex(octets);
    return this.#free[index]?.pop() ?? this.#map(BLOCK_OCTETS_MIN << index) ?? this.#larger(index);
  }

  #map(size: number): Block | null {
    if (!this.#makeRoom(size)) return null;
    const memory = this.#shared ? this.#file.mapShared(size) : this.#file.mapPlain(size);
    if (memory === null) return null;
    this.#octets += size;
    return { ...memory, shared: this.#shared };
  }

  #larger(index: number): Block | null {
    for (const blocks of this.#free.slice(index)) {
      const block = blocks?.pop();
      if (block !== undefined) return block;
    }
    return null;
  }

  give(block: Block): void {
    const index = sizeIndex(block.octets.length);
    this.#free[index] ??= [];
    this.#free[index].push(block);
  }

  /** Unmaps what lies free. */
  trim(): void {
    this.#makeRoom(this.#octetsMax);
  }

  #makeRoom(octets: number): boolean {
    for (let index = this.#free.length - 1; index >= 0; index--) {
      while (this.#octets + octets > this.#octetsMax) {
        const block = this.#free[index]?.pop();
        if (block === undefined) break;
        this.#octets -= block.octets.length;
        this.#file.unmap(block);
      }
    }
    return this.#octets + octets <= this.#octetsMax;
  }
}

export class TransferMemory {
  readonly #shared: Arena;
  readonly #plain: Arena;

  constructor(file: UsbfsFile) {
    this.#shared = new Arena(file, true, SHARED_OCTETS_MAX);
    this.#plain = new Arena(file, false, PLAIN_OCTETS_MAX);
  }

  /** A block of at least so many octets, or null. */
  take(octets: number): Block | null {
    assert(octets <= BLOCK_OCTETS_MAX, 'Cannot take memory: more than the largest block');
    return this.#shared.take(octets) ?? this.#plain.take(octets);
  }

  /** As `take`, but a smaller block rather than none. */
  takeUpTo(octets: number): Block | null {
    for (let size = octets; size > BLOCK_OCTETS_MIN; size = Math.ceil(size / 4)) {
      const block = this.#shared.take(size);
      if (block !== null) return block;
    }
    // The kernel needs memory of its own beside it: the less in one piece, the better.
    return this.take(Math.min(octets, PLAIN_PIECE_OCTETS));
  }

  give(block: Block): void {
    (block.shared ? this.#shared : this.#plain).give(block);
  }

  /** All blocks have been given back. */
  dispose(): void {
    this.#shared.trim();
    this.#plain.trim();
  }
}

const PLAIN_PIECE_OCTETS = 16384;

function sizeIndex(octets: number): number {
  return Math.max(0, 32 - Math.clz32((Math.max(1, octets) - 1) >>> 12));
}
