/** A bounded queue of octets: a ring. */
export class Fifo {
  readonly #ring: Buffer;
  /** Place of the oldest octet. */
  #head = 0;
  #length = 0;

  constructor(octetsMax: number) {
    this.#ring = Buffer.allocUnsafe(octetsMax);
  }

  get length(): number {
    return this.#length;
  }

  /** Copies as many of the octets as there is room for; returns how many. */
  put(octets: Uint8Array): number {
    const size = this.#ring.length;
    const count = Math.min(octets.length, size - this.#length);
    const tail = (this.#head + this.#length) % size;
    const straight = Math.min(count, size - tail);
    this.#ring.set(octets.subarray(0, straight), tail);
    this.#ring.set(octets.subarray(straight, count), 0);
    this.#length += count;
    return count;
  }

  /** Removes the oldest octets, at most `octetsMax`; the caller owns the copy. */
  take(octetsMax: number): Buffer {
    const size = this.#ring.length;
    const count = Math.min(octetsMax, this.#length);
    const straight = Math.min(count, size - this.#head);
    const octets = Buffer.allocUnsafe(count);
    this.#ring.copy(octets, 0, this.#head, this.#head + straight);
    this.#ring.copy(octets, straight, 0, count - straight);
    this.#head = (this.#head + count) % size;
    this.#length -= count;
    return octets;
  }

  clear(): void {
    this.#head = 0;
    this.#length = 0;
  }
}
