/**
 * Buffers for bodies that arrive in pieces, used again: to allocate and page in 256 KiB for each
 * URB costs more than to copy into it.
 */
const SMALLEST_OCTETS = 4096;
/** Larger buffers are not kept. */
const LARGEST_OCTETS = 1 << 20;
/** What the pool keeps for later, in all. */
const KEPT_OCTETS_MAX = 8 << 20;

export class BufferPool {
  /** Free memory by size: index n holds blocks of `SMALLEST_OCTETS << n` octets. */
  readonly #free: ArrayBuffer[][] = [];
  #keptOctets = 0;

  /** A buffer of exactly `octets` octets with any content. */
  take(octets: number): Buffer {
    if (octets > LARGEST_OCTETS) return Buffer.allocUnsafeSlow(octets);
    const index = sizeIndex(octets);
    const kept = this.#free[index]?.pop();
    if (kept !== undefined) {
      this.#keptOctets -= kept.byteLength;
      return Buffer.from(kept, 0, octets);
    }
    return Buffer.allocUnsafeSlow(SMALLEST_OCTETS << index).subarray(0, octets);
  }

  /** Gives back what `take` returned; nobody may use it any more. */
  give(buffer: Buffer): void {
    const memory = buffer.buffer as ArrayBuffer;
    if (memory.byteLength > LARGEST_OCTETS) return;
    if (this.#keptOctets + memory.byteLength > KEPT_OCTETS_MAX) return;
    const index = sizeIndex(memory.byteLength);
    this.#free[index] ??= [];
    this.#free[index].push(memory);
    this.#keptOctets += memory.byteLength;
  }
}

function sizeIndex(octets: number): number {
  return Math.max(0, 32 - Math.clz32((octets - 1) >>> 12));
}
