/**
 * The back end's end of the URB ring: requests and responses, with the journal that outlives this
 * process. Each request taken is answered by exactly one response.
 */

import { assert } from '../core/assert.ts';
import type { UrbStatus } from '../core/urb.ts';
import { Journal, type Owed, readDebt } from './journal.ts';
import { BackRing } from './shared-ring.ts';
import type { Request } from './urb-request.ts';
import { STATUS_NUMBER, UrbRequest, UrbResponse } from './usbif.ts';

const SIZES = { requestOctets: UrbRequest.octets, responseOctets: UrbResponse.octets };

/** Responses that may wait to be published together, and octets that may have moved for them. */
const TOGETHER_RESPONSES_MAX = 4;
const TOGETHER_OCTETS_MAX = 4096;

/** What a response says beside the id. */
export interface Answer {
  readonly status: number;
  readonly octets: number;
  /** Isochronous only; else 0. */
  readonly startFrame: number;
  readonly errorCount: number;
}

const OK: Answer = { status: STATUS_NUMBER.ok, octets: 0, startFrame: 0, errorCount: 0 };

/** An answer without data. */
export function plainAnswer(status: UrbStatus): Answer {
  return status === 'ok' ? OK : { ...OK, status: STATUS_NUMBER[status] };
}

export class UrbRing {
  /** What a back end before this one has taken and not answered. */
  readonly owed: readonly Owed[];
  readonly #ring: BackRing;
  readonly #journal: Journal;
  /** Responses that are made and not published: how many, whose (one bit an entry), and their octets. */
  #together = 0;
  #entries = 0;
  #octets = 0;

  /** @throws {RingError} if nobody knows what is owed. */
  constructor(page: Buffer) {
    const view = new DataView(page.buffer, page.byteOffset, page.length);
    const debt = readDebt(view);
    this.owed = debt.owed;
    this.#ring = new BackRing(page, SIZES, debt.answered);
    this.#ring.skip(debt.owed.length);
    this.#journal = new Journal(view, debt);
  }

  get slots(): number {
    return this.#ring.slots;
  }

  /** Requests taken, and responses made, as indexes. */
  get taken(): number {
    return this.#ring.taken;
  }

  get answered(): number {
    return this.#ring.answered;
  }

  /** The index of the response at which the front end wants to be woken. */
  get responseEvent(): number {
    return this.#ring.responseEvent;
  }

  /** @throws {RingError} if the front end's index is impossible. */
  available(): number {
    return this.#ring.available();
  }

  /**
   * Takes a request that `available` counted.
   *
   * @throws {RingError} if no front end may send it.
   */
  take(into: Request, ports: number): void {
    into.read(this.#ring.view, this.#ring.take(), ports);
  }

  /** Call before the request has any effect, and before its slot may have an answer in it. */
  note(entry: number, id: number): void {
    assert((this.#entries & (1 << entry)) === 0, 'Cannot note a request: its entry is taken');
    this.#journal.taken(entry, id);
  }

  /**
   * Makes a response. It is published with those behind it, for an index costs more than a response:
   * the front end looks at the memory around it meanwhile. Call `publish` when no more come. An entry
   * belongs to its request until the answer is published, or the next back end would take up the ring one
   * request too early. Returns whether all are.
   */
  respond(entry: number, id: number, answer: Answer): boolean {
    const { view } = this.#ring;
    const at = this.#ring.make();
    const { offsets } = UrbResponse;
    view.setUint16(at + offsets.id, id, true);
    view.setUint16(at + offsets.startFrame, answer.startFrame & 0xffff, true);
    view.setInt32(at + offsets.status, answer.status, true);
    view.setInt32(at + offsets.actualLength, answer.octets, true);
    view.setInt32(at + offsets.errorCount, answer.errorCount, true);
    this.#entries |= 1 << entry;
    this.#together++;
    this.#octets += answer.octets;
    const isEnough =
      this.#together === TOGETHER_RESPONSES_MAX || this.#octets >= TOGETHER_OCTETS_MAX;
    if (!isEnough) return false;
    this.publish();
    return true;
  }

  publish(): void {
    if (this.#together === 0) return;
    this.#journal.answering(this.#entries, (this.#ring.answered - this.#together) >>> 0);
    this.#ring.publish();
    this.#journal.answered(this.#entries);
    this.#together = 0;
    this.#entries = 0;
    this.#octets = 0;
  }

  get waiting(): boolean {
    return this.#ring.waiting;
  }

  needsEvent(): boolean {
    return this.#ring.needsEvent();
  }

  sleep(): boolean {
    return this.#ring.sleep();
  }
}
