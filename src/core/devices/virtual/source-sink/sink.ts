/** Takes and checks what is written to one OUT endpoint. */
import type { DataOptions } from './kind.ts';
import { patternOctets, STAMP_OCTETS } from './pattern.ts';

export class Sink {
  readonly #maxPacketOctets: number;
  readonly #pattern: Buffer;
  readonly #stamp: boolean;
  #nextStamp = 0;
  /** Packets taken so far. */
  packets = 0;
  /** Stamped packets whose number was not the one after the last. */
  gaps = 0;

  constructor(maxPacketOctets: number, options: DataOptions) {
    this.#maxPacketOctets = maxPacketOctets;
    this.#pattern = patternOctets(options.pattern, maxPacketOctets);
    this.#stamp = options.stamp;
  }

  restart(): void {
    this.#nextStamp = 0;
  }

  /** Takes a transfer; false if it does not follow the pattern. */
  write(octets: Buffer): boolean {
    this.packets =
      (this.packets + Math.max(1, Math.ceil(octets.length / this.#maxPacketOctets))) >>> 0;
    return this.#stamp ? this.#checkStamped(octets) : this.#checkPlain(octets);
  }

  #checkPlain(octets: Buffer): boolean {
    const pattern = this.#pattern;
    for (let at = 0; at < octets.length; at += pattern.length) {
      const end = Math.min(octets.length, at + pattern.length);
      if (pattern.compare(octets, at, end, 0, end - at) !== 0) return false;
    }
    return true;
  }

  /** Numbers are counted, not refused: a test reads the count at its end. */
  #checkStamped(octets: Buffer): boolean {
    for (let at = 0; at + STAMP_OCTETS <= octets.length; at += this.#maxPacketOctets) {
      const stamp = octets.readUInt32LE(at);
      if (stamp !== this.#nextStamp) this.gaps++;
      this.#nextStamp = (stamp + 1) >>> 0;
      const end = Math.min(octets.length, at + this.#maxPacketOctets);
      const body = at + STAMP_OCTETS;
      if (this.#pattern.compare(octets, body, end, STAMP_OCTETS, end - at) !== 0) return false;
    }
    return true;
  }
}
