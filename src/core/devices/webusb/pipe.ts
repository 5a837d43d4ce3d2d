/**
 * One bulk or interrupt endpoint, one URB at a time: from URBs to the package's transfers and back.
 *
 * The package can end a transfer at a deadline that was set when it began, and in no other way, and
 * does not tell what such a transfer had moved. So a URB goes in pieces. One packet either moves or
 * does not: a piece of one packet has a short deadline, after which it is simply begun again, as long
 * as the URB is wanted. The first piece is one, because it is there that a device makes its host
 * wait. Once that packet has moved the device is at work, and the rest goes in large pieces with a
 * long deadline; when such a piece fails, the URB ends with the error and the octets of the pieces
 * before. An interrupt endpoint has pieces of one packet only.
 *
 * A read that is unlinked while it waits for one packet is given back at once. The piece stays out,
 * and the next URB takes it over: a packet that comes meanwhile is kept for that URB, as the device
 * would have kept it. Any other URB that is unlinked is given back when its piece is done.
 */
import { assert } from '../../assert.ts';
import type { EndpointInfo } from '../../device.ts';
import type { Urb, UrbStatus } from '../../urb.ts';
import { type Ending, endingOf, octetsOf, type PackageDevice } from './package.ts';

/** Shorter than the 5 s that drivers give a clear-halt, which may have to wait for it. */
export const PACKET_MILLISECONDS = 4000;
/** For a piece of many packets. */
export const PIECE_MILLISECONDS = 20_000;
/** What a piece has at most; more copies and longer waits for an unlink beyond it. */
const PIECE_OCTETS_MAX = 1 << 16;

const NO_OCTETS = Buffer.alloc(0);

/** The URB at the device, and how far it is. */
interface Work {
  readonly urb: Urb;
  readonly parts: Buffer[];
  /** Octets of all pieces that are done. */
  done: number;
  unlinking: boolean;
}

interface Outcome {
  readonly ending: Ending;
  /** Octets asked for. */
  readonly asked: number;
  readonly moved: number;
  readonly data: Buffer;
}

export interface PipeHost {
  /** A URB has ended: `actual` octets have moved, and for IN are in `dataIn`. */
  completed(urb: Urb, status: UrbStatus, dataIn: Buffer, actual: number): void;
  /** An exception that nobody expects, from inside a promise. */
  onBug(error: unknown): void;
}

export class Pipe {
  readonly endpoint: EndpointInfo;
  readonly #device: PackageDevice;
  readonly #host: PipeHost;
  #work: Work | null = null;
  /** Resolves when the piece that is out is done, and worked up. */
  #piece: Promise<void> | null = null;
  #pieceIsOnePacket = true;
  /** A packet that came when nobody wanted it. */
  #kept: Buffer | null = null;
  #pauses = 0;
  #aborting = false;

  constructor(endpoint: EndpointInfo, device: PackageDevice, host: PipeHost) {
    this.endpoint = endpoint;
    this.#device = device;
    this.#host = host;
  }

  /** A transfer of the package is outstanding. */
  get isBusy(): boolean {
    return this.#piece !== null;
  }

  /** What is outstanding can be ended and begun again with nothing lost. */
  get isInterruptible(): boolean {
    return this.#pieceIsOnePacket;
  }

  /** The one that it has. */
  get urb(): Urb | null {
    return this.#work?.urb ?? null;
  }

  submit(urb: Urb): void {
    assert(this.#work === null, 'Cannot submit a URB: the pipe has one');
    this.#work = { urb, parts: [], done: 0, unlinking: false };
    this.#go();
  }

  unlink(urb: Urb): void {
    const work = this.#work;
    if (work?.urb !== urb) return;
    work.unlinking = true;
    const mayStayOut = urb.in && this.#pieceIsOnePacket;
    if (this.#piece === null || mayStayOut) this.#finish(work, 'unlinked');
  }

  /** Begins no piece until it has been resumed as often. One may be out: `settled`. */
  pause(): void {
    this.#pauses++;
  }

  resume(): void {
    this.#pauses--;
    this.#go();
  }

  /** Resolves when no piece is out. */
  async settled(): Promise<void> {
    await this.#piece;
  }

  /** The piece that is out will end as if the device had gone; it has not. */
  expectAbort(): void {
    this.#aborting = this.isBusy;
  }

  /** Forgets what came for nobody: the endpoint begins anew. */
  forget(): void {
    this.#kept = null;
  }

  /** Ends the URB, if there is one. What is out stays out, for nobody. */
  abandon(status: UrbStatus): void {
    if (this.#work !== null) this.#finish(this.#work, status);
  }

  #go(): void {
    const work = this.#work;
    if (work === null || this.#piece !== null || this.#pauses > 0) return;
    if (this.#kept !== null && work.urb.in && work.done === 0) {
      const packet = this.#kept;
      this.#kept = null;
      this.#advance(work, packet, packet.length, this.endpoint.maxPacketOctets);
      return;
    }
    const { urb, done } = work;
    const { maxPacketOctets: packet, type } = this.endpoint;
    if (packet === 0) {
      this.#finish(work, 'invalid');
      return;
    }
    const onlyOne = done === 0 || type === 'interrupt';
    const room = onlyOne ? packet : PIECE_OCTETS_MAX - (PIECE_OCTETS_MAX % packet);
    const left = urb.octets - done;
    // The package reads whole packets, and one at least.
    const whole = urb.in ? Math.max(1, Math.ceil(left / packet)) * packet : left;
    const octets = Math.min(room, whole);
    this.#pieceIsOnePacket = octets <= packet;
    this.#piece = this.#carry(urb, done, octets)
      .then((outcome) => this.#carried(outcome))
      .catch((error) => this.#host.onBug(error));
  }

  #carried(outcome: Outcome): void {
    this.#piece = null;
    const aborted = this.#aborting && outcome.ending === 'shutdown';
    this.#aborting = false;
    this.#ended(aborted ? { ...outcome, ending: 'cancelled' } : outcome);
  }

  async #carry(urb: Urb, done: number, octets: number): Promise<Outcome> {
    const number = this.endpoint.address & 15;
    const milliseconds = this.#pieceIsOnePacket ? PACKET_MILLISECONDS : PIECE_MILLISECONDS;
    try {
      if (urb.in) {
        const { data } = await this.#device.transferIn(number, octets, milliseconds);
        const read = octetsOf(data);
        return { ending: 'ok', asked: octets, moved: read.length, data: read };
      }
      const piece = urb.dataOut.subarray(done, done + octets);
      const { bytesWritten } = await this.#device.transferOut(number, piece, milliseconds);
      return { ending: 'ok', asked: octets, moved: bytesWritten, data: NO_OCTETS };
    } catch (error) {
      return { ending: endingOf(error), asked: octets, moved: 0, data: NO_OCTETS };
    }
  }

  #ended({ ending, asked, moved, data }: Outcome): void {
    const work = this.#work;
    if (work === null) {
      // An error will show again: a halted endpoint is halted for the next URB too.
      if (ending === 'ok' && this.endpoint.direction === 'in') this.#kept = data;
    } else if (ending === 'ok') {
      this.#advance(work, data, moved, asked);
    } else if (ending !== 'cancelled') {
      this.#finish(work, ending);
    } else if (work.unlinking) {
      this.#finish(work, 'unlinked');
    } else if (this.#pieceIsOnePacket) {
      this.#go();
    } else {
      this.#finish(work, 'timeout');
    }
  }

  /** A piece of `asked` octets has moved. */
  #advance(work: Work, data: Buffer, moved: number, asked: number): void {
    const { urb } = work;
    work.done += moved;
    if (urb.in) work.parts.push(data);
    const wantsMore = work.done < urb.octets || this.#wantsZeroPacket(work, asked);
    if (moved < asked || !wantsMore) this.#finish(work, endOf(work));
    else if (work.unlinking) this.#finish(work, 'unlinked');
    else this.#go();
  }

  /** An OUT transfer of whole packets is to end with an empty one, which has not gone yet. */
  #wantsZeroPacket({ urb }: Work, asked: number): boolean {
    const whole = urb.octets > 0 && urb.octets % this.endpoint.maxPacketOctets === 0;
    return urb.zeroPacket && whole && asked > 0;
  }

  #finish(work: Work, status: UrbStatus): void {
    this.#work = null;
    const { urb, parts } = work;
    const read = parts.length === 1 ? (parts[0] ?? NO_OCTETS) : Buffer.concat(parts);
    const actual = Math.min(work.done, urb.octets);
    this.#host.completed(urb, status, read.subarray(0, actual), actual);
  }
}

/** All that the device had to say has come, or all that it was to have has gone. */
function endOf({ urb, done }: Work): UrbStatus {
  if (done > urb.octets) return 'babble';
  return done < urb.octets && urb.shortNotOk ? 'short' : 'ok';
}
