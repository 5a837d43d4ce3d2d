/**
 * Memory that disks occupy: all of a process together, and each its own.
 *
 * A disk in memory is thin, so its size says nothing of what it costs: a client decides that by what it
 * writes. Without a bound one client takes all that the machine has. A disk that may have no more is full,
 * as a thin disk is when its pool has run out: the write fails, and nothing that was written is lost.
 */
import { assert } from '../../../assert.ts';
import { machineMemoryBytes } from '../../../machine-memory.ts';

/** Of the machine's memory, what all disks in memory together may occupy. */
export const DISKS_SHARE = 1 / 2;

export class DiskMemory {
  readonly bytesMax: number;
  #usedBytes = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Whether there was so much. */
  take(bytes: number): boolean {
    if (this.#usedBytes + bytes > this.bytesMax) return false;
    this.#usedBytes += bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.#usedBytes -= bytes;
    assert(this.#usedBytes >= 0, 'Cannot give back memory that was not taken');
  }
}

/** What all disks of this process share. */
export const DISKS_MEMORY = new DiskMemory(Math.floor(machineMemoryBytes() * DISKS_SHARE));
