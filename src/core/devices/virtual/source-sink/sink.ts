/** Takes and checks what is written to one OUT endpoint. */
import { type Ack, ack, stall, type Took, took } from '../definition.ts';
import type { DataOptions, Failure } from './kind.ts';
import { patternOctets, STAMP_OCTETS } from './pattern.ts';

export class Sink {
  readonly #maxPacketOctets: number;
  readonly #pattern: Buffer;
  readonly #stamp: boolean;
  readonly #takeOctets: number;
  readonly #failure: Failure;
  #nextStamp = 0;
  /** What the transfer at hand may still bring before it fails. */
  #room: number;
  /** Packets taken so far. */
  packets = 0;
  /** Stamped packets whose number was not the one after the last. */
  gaps = 0;

  constructor(maxPacketOctets: number, options: DataOptions) {
    this.#maxPacketOctets = maxPacketOctets;
    this.#pattern = patternOctets(options.pattern, maxPacketOctets);
    this.#stamp = options.stamp;
    this.#takeOctets = options.takeOctets ?? Number.POSITIVE_INFINITY;
    this.#failure = options.failure ?? stall;
    this.#room = this.#takeOctets;
  }

  restart(): void {
    this.#nextStamp = 0;
    this.#room = this.#takeOctets;
  }

  /** Takes a transfer or its rest; a stall if it does not follow the pattern. */
  write(octets: Buffer): Ack | Took | Failure {
    if (octets.length > this.#room) return this.#writePart(octets);
    this.#room = this.#takeOctets;
    return this.#check(octets) ? ack : stall;
  }

  /** There is more than the transfer is to bring: what fits is taken, then it fails. */
  #writePart(octets: Buffer): Took | Failure {
    const room = this.#room;
    if (room > 0 && this.#check(octets.subarray(0, room))) {
      this.#room = 0;
      return took(room);
    }
    this.#room = this.#takeOctets;
    return room > 0 ? stall : this.#failure;
  }

  #check(octets: Buffer): boolean {
    const packets = Math.max(1, Math.ceil(octets.length / this.#maxPacketOctets));
    this.packets = (this.packets + packets) >>> 0;
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
