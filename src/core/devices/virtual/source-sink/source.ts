/** An endless supply of packets for one IN endpoint. */
import type { DataOptions } from './kind.ts';
import { patternOctets, STAMP_OCTETS } from './pattern.ts';

const NO_OCTETS = Buffer.alloc(0);

export class Source {
  readonly #maxPacketOctets: number;
  readonly #pattern: Buffer;
  readonly #stamp: boolean;
  readonly #shortOctets: number;
  /** The transfer at hand has had its `short` octets in whole packets: end it with an empty one. */
  #endsNow = false;
  /** Packets supplied so far; the number that the next stamped packet carries. */
  packets = 0;

  constructor(maxPacketOctets: number, options: DataOptions) {
    this.#maxPacketOctets = maxPacketOctets;
    this.#pattern = patternOctets(options.pattern, maxPacketOctets);
    this.#stamp = options.stamp;
    this.#shortOctets = options.shortOctets ?? Number.POSITIVE_INFINITY;
  }

  restart(): void {
    this.#endsNow = false;
  }

  /** Data for a transfer with room for `octetsMax`. */
  read(octetsMax: number): Buffer {
    if (this.#endsNow) {
      this.#endsNow = false;
      this.packets++;
      return NO_OCTETS;
    }
    const octets = Math.min(octetsMax, this.#shortOctets, this.#pattern.length);
    const endsEarly = octets === this.#shortOctets && octets < octetsMax;
    this.#endsNow = endsEarly && octets % this.#maxPacketOctets === 0 && octets > 0;
    return this.#supply(octets);
  }

  /** One packet, for an isochronous endpoint. */
  readPacket(octetsMax: number): Buffer {
    return this.#supply(Math.min(octetsMax, this.#maxPacketOctets, this.#shortOctets));
  }

  #supply(octets: number): Buffer {
    const plain = this.#pattern.subarray(0, octets);
    const first = this.packets;
    this.packets = (first + Math.max(1, Math.ceil(octets / this.#maxPacketOctets))) >>> 0;
    if (!this.#stamp) return plain;
    const stamped = Buffer.from(plain);
    for (let at = 0, number = first; at + STAMP_OCTETS <= octets; at += this.#maxPacketOctets) {
      stamped.writeUInt32LE(number++ >>> 0, at);
    }
    return stamped;
  }
}
