/** An endless supply of packets for one IN endpoint. */
import { type Nak, nak } from '../definition.ts';
import type { DataOptions, Failure } from './kind.ts';
import { patternOctets, STAMP_OCTETS } from './pattern.ts';

const NO_OCTETS = Buffer.alloc(0);

export class Source {
  readonly #maxPacketOctets: number;
  readonly #pattern: Buffer;
  readonly #stamp: boolean;
  readonly #shortOctets: number;
  readonly #failure: Failure | undefined;
  readonly #delayMilliseconds: number;
  readonly #onReady: () => void;
  /** Octets that the transfer at hand has had, all in whole packets. */
  #moved = 0;
  #delay: 'none' | 'running' | 'over' = 'none';
  /** Packets supplied so far; the number that the next stamped packet carries. */
  packets = 0;

  /** @param onReady - called when there is data after a nak */
  constructor(maxPacketOctets: number, options: DataOptions, onReady: () => void) {
    this.#maxPacketOctets = maxPacketOctets;
    this.#pattern = patternOctets(options.pattern, maxPacketOctets);
    this.#stamp = options.stamp;
    this.#shortOctets = options.shortOctets ?? Number.POSITIVE_INFINITY;
    this.#failure = options.failure;
    this.#delayMilliseconds = options.delayMilliseconds;
    this.#onReady = onReady;
  }

  restart(): void {
    this.#moved = 0;
  }

  /** Data for a transfer with room for `octetsMax`, or what ends it. */
  read(octetsMax: number): Buffer | Nak | Failure {
    const left = this.#shortOctets - this.#moved;
    if (left === 0 && octetsMax > 0) return this.#end();
    if (this.#isDelayed()) return nak;
    const octets = Math.min(octetsMax, left, this.#pattern.length);
    const ends = octets === octetsMax || octets % this.#maxPacketOctets !== 0;
    this.#moved = ends ? 0 : this.#moved + octets;
    return this.#supply(octets);
  }

  #end(): Buffer | Failure {
    this.#moved = 0;
    if (this.#failure !== undefined) return this.#failure;
    this.packets++;
    return NO_OCTETS;
  }

  /** Whether data is still to come; each piece of it has its delay. */
  #isDelayed(): boolean {
    if (this.#delayMilliseconds === 0) return false;
    if (this.#delay === 'over') {
      this.#delay = 'none';
      return false;
    }
    if (this.#delay === 'none') {
      this.#delay = 'running';
      setTimeout(() => {
        this.#delay = 'over';
        this.#onReady();
      }, this.#delayMilliseconds).unref();
    }
    return true;
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
