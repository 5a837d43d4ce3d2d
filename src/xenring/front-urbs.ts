/**
 * The front end's side of the URB ring: transfers in, requests out, responses in, results out. Which
 * transfer may be sent when is decided elsewhere (`ring-device.ts`); here they wait at most for a
 * free slot, each endpoint's in order (slot-shares.ts).
 *
 * Where their data lies: request-pages.ts. One slot is kept for unlinks, which are answered at once,
 * so that a ring full of transfers that do not end can always be taken back.
 */

import { assert } from '../core/assert.ts';
import {
  isInput,
  NO_OCTETS,
  roomOf,
  type Transfer,
  type TransferResult,
} from '../core/transfer.ts';
import { pipeOf } from './request-fields.ts';
import { RequestPages } from './request-pages.ts';
import { RingError } from './ring-error.ts';
import { FrontRing } from './shared-ring.ts';
import { SlotShares } from './slot-shares.ts';
import { PIPE, statusOf, UrbRequest, UrbResponse } from './usbif.ts';

const SIZES = { requestOctets: UrbRequest.octets, responseOctets: UrbResponse.octets };
/** Requests that can be out, by the size of a slot. */
export const IDS = 16;
/** Slots that transfers leave to unlinks. */
const SLOTS_FOR_UNLINKS = 1;
/** How often one call of `work` looks at the ring. */
const PASSES_MAX = 8;

/** A transfer to be sent. When it has been answered it may be sent again. */
export interface Sending {
  readonly port: number;
  readonly transfer: Transfer;
  clearStall: boolean;
  /** Belongs to `FrontUrbs`: the id of its request while that is out, else `NOT_OUT`. */
  requestId: number;
  /** Called once each time, unless `forget` was. */
  answered(result: TransferResult): void;
}

export const NOT_OUT = -1;

export interface FrontUrbsOptions {
  readonly ringPage: Buffer;
  /** `IDS` times `SEGMENTS_MAX` pages, and their grant references. */
  readonly memory: Buffer;
  readonly references: readonly number[];
  readonly notify: () => void;
}

/** What an id stands for: nothing, a transfer, one that nobody waits for any more, or an unlink. */
type Meaning = 'free' | Sending | 'forgotten' | 'unlink';

export class FrontUrbs {
  readonly #options: FrontUrbsOptions;
  readonly #ring: FrontRing;
  readonly #freeIds: number[] = [];
  /** By id. */
  readonly #meanings: Meaning[] = new Array(IDS).fill('free');
  readonly #shares = new SlotShares(IDS);
  /** Not in the ring yet. */
  #waiting: Sending[] = [];
  #unlinks: Sending[] = [];
  /** Responses are being taken. */
  #passing = false;
  readonly #pages: RequestPages;

  constructor(options: FrontUrbsOptions) {
    this.#options = options;
    this.#ring = new FrontRing(options.ringPage, SIZES);
    this.#pages = new RequestPages(IDS, options.memory, options.references);
    for (let id = IDS - 1; id >= 0; id--) this.#freeIds.push(id);
  }

  /** Call `push` after the last of several. */
  send(sending: Sending): void {
    this.#waiting.push(sending);
  }

  /** Asks for it back. True if it was never sent, and will not be answered. */
  unlink(sending: Sending): boolean {
    const place = this.#waiting.indexOf(sending);
    if (place >= 0) {
      this.#waiting.splice(place, 1);
      return true;
    }
    if (sending.requestId !== NOT_OUT) this.#unlinks.push(sending);
    return false;
  }

  /** Nobody waits any more for what was sent to a port. */
  forget(port: number): void {
    this.#waiting = this.#waiting.filter((one) => one.port !== port);
    this.#unlinks = this.#unlinks.filter((one) => one.port !== port);
    for (const [id, meaning] of this.#meanings.entries()) {
      if (typeof meaning !== 'object' || meaning.port !== port) continue;
      meaning.requestId = NOT_OUT;
      this.#meanings[id] = 'forgotten';
    }
  }

  /** Fills the ring with what waits, and tells the back end; at the end of a pass if one is under way. */
  push(): void {
    if (this.#passing) return;
    const ring = this.#ring;
    while (this.#unlinks.length > 0 && ring.free > 0) this.#putUnlink(this.#unlinks.shift());
    if (this.#waiting.length > 0 && ring.free > SLOTS_FOR_UNLINKS) this.#putWaiting();
    if (ring.push()) this.#options.notify();
  }

  /** What is refused room stays in its place, and so does all behind it of its endpoint. */
  #putWaiting(): void {
    const waiting = this.#waiting;
    let kept = 0;
    for (const sending of waiting) {
      const free = this.#ring.free - SLOTS_FOR_UNLINKS;
      if (this.#shares.mayTake(sending.port, sending.transfer.endpoint, free)) {
        this.#putTransfer(sending);
      } else waiting[kept++] = sending;
    }
    while (waiting.length > kept) waiting.pop(); // quicker than to set the length
  }

  /** Requests without a response. */
  get outstanding(): number {
    return this.#ring.outstanding;
  }

  /** Whether the back end has produced something. */
  get waiting(): boolean {
    return this.#ring.waiting;
  }

  /**
   * Takes the responses that are there; handlers run meanwhile, and may send and unlink. True if it
   * is to be called again when others had their turn.
   *
   * @param stayAwake Not to ask for an event for the next response.
   * @throws {RingError} if the back end breaks the protocol.
   */
  work(stayAwake = false): boolean {
    const ring = this.#ring;
    for (let pass = 0; pass < PASSES_MAX; pass++) {
      this.#takeAll();
      this.push();
      if (!(stayAwake ? ring.waiting : ring.sleep())) return false;
    }
    return true;
  }

  /** What handlers send meanwhile is published together: an index costs more than a request. */
  #takeAll(): void {
    this.#passing = true;
    try {
      for (let left = this.#ring.available(); left > 0; left--) this.#take();
    } finally {
      this.#passing = false;
    }
  }

  #take(): void {
    const { view } = this.#ring;
    const { offsets } = UrbResponse;
    const at = this.#ring.responseAt();
    const id = view.getUint16(at + offsets.id, true);
    const status = view.getInt32(at + offsets.status, true);
    const actualLength = view.getInt32(at + offsets.actualLength, true);
    this.#ring.release();
    const meaning = this.#meanings[id] ?? 'free';
    if (meaning === 'free') {
      throw new RingError(
        'bad-response',
        `Cannot accept response ${id}: no request of this id is out`,
      );
    }
    this.#meanings[id] = 'free';
    if (meaning !== 'unlink') this.#shares.left(id);
    if (typeof meaning === 'object') {
      meaning.requestId = NOT_OUT;
      const result = this.#resultOf(id, meaning.transfer, status, actualLength);
      this.#freeIds.push(id);
      meaning.answered(result);
    } else this.#freeIds.push(id);
  }

  #resultOf(
    id: number,
    transfer: Transfer,
    statusNumber: number,
    actualLength: number,
  ): TransferResult {
    const room = roomOf(transfer);
    if (actualLength < 0 || actualLength > room) {
      throw new RingError(
        'bad-response',
        `Cannot accept response ${id}: ${actualLength} octets, at most ${room}`,
      );
    }
    let status = statusOf(statusNumber);
    if (status === 'ok' && transfer.shortNotOk && actualLength < room) status = 'short';
    const { packets } = transfer;
    const octets = packets === undefined ? actualLength : room;
    const data = isInput(transfer) ? this.#pages.dataIn(id, octets, transfer.into) : NO_OCTETS;
    const result = { status, actualOctets: actualLength, data };
    if (packets === undefined) return result;
    return { ...result, packets: this.#pages.packetsOf(id, packets) };
  }

  #putUnlink(victim: Sending | undefined): void {
    const victimId = victim?.requestId ?? NOT_OUT;
    if (victim === undefined || victimId === NOT_OUT) return; // it has been answered
    const id = this.#takeId('unlink');
    const { view } = this.#ring;
    const { offsets } = UrbRequest;
    const at = this.#ring.make();
    view.setUint16(at + offsets.id, id, true);
    view.setUint16(at + offsets.bufferSegments, 0, true);
    view.setUint32(at + offsets.pipe, pipeOf(victim.port, victim.transfer) | PIPE.unlink, true);
    view.setUint16(at + offsets.transferFlags, 0, true);
    view.setUint16(at + offsets.bufferLength, 0, true);
    view.setUint16(at + offsets.specific, victimId, true);
  }

  #putTransfer(sending: Sending): void {
    const { port, transfer, clearStall } = sending;
    const id = this.#takeId(sending);
    sending.requestId = id;
    this.#shares.taken(id, port, transfer.endpoint);
    this.#pages.write(this.#ring.view, this.#ring.make(), id, port, transfer, clearStall);
  }

  #takeId(meaning: Meaning): number {
    const id = this.#freeIds.pop();
    assert(id !== undefined, 'Cannot make a request: no id is free');
    this.#meanings[id] = meaning;
    return id;
  }
}
