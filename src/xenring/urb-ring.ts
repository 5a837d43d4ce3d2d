/**
 * The back end's end of the URB ring: requests and responses, with the journal that outlives this
 * process. Each request taken is answered by exactly one response.
 */

import { Journal, type Owed, readDebt } from './journal.ts';
import { BackRing } from './shared-ring.ts';
import type { Request } from './urb-request.ts';
import { UrbRequest, UrbResponse } from './usbif.ts';

const SIZES = { requestOctets: UrbRequest.octets, responseOctets: UrbResponse.octets };

/** What a request without an entry in the journal has: it is answered as soon as it is taken. */
export const NO_ENTRY = -1;

/** What a response says beside the id. */
export interface Answer {
  readonly status: number;
  readonly octets: number;
  /** Isochronous only; else 0. */
  readonly startFrame: number;
  readonly errorCount: number;
}

export class UrbRing {
  /** What a back end before this one has taken and not answered. */
  readonly owed: readonly Owed[];
  readonly #ring: BackRing;
  readonly #journal: Journal;

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

  /** Requests taken, and responses published, as indexes. */
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

  /** Call before the request has any effect. */
  note(entry: number, id: number): void {
    this.#journal.taken(entry, id);
  }

  respond(entry: number, id: number, answer: Answer): void {
    const ring = this.#ring;
    const at = ring.responseAt();
    const { view } = ring;
    const { offsets } = UrbResponse;
    view.setUint16(at + offsets.id, id, true);
    view.setUint16(at + offsets.startFrame, answer.startFrame & 0xffff, true);
    view.setInt32(at + offsets.status, answer.status, true);
    view.setInt32(at + offsets.actualLength, answer.octets, true);
    view.setInt32(at + offsets.errorCount, answer.errorCount, true);
    if (entry !== NO_ENTRY) this.#journal.answering(entry, ring.answered);
    ring.publish();
    if (entry !== NO_ENTRY) this.#journal.answered(entry);
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
