/**
 * The two ends of a ring in a shared page.
 *
 * A ring is an array of slots, a power of two of them, and four indexes that run freely through 32
 * bits; an index names the slot of its low bits. The front end produces requests, the back end
 * takes them and answers with responses, in any order, in the same slots: response n goes where
 * request n was. So never more requests are out than there are slots.
 *
 * Each end keeps its own indexes privately and publishes one of them. What the other publishes is a
 * claim: it is checked against the private ones before it is used, and the checked count, not the
 * index, drives the loops. The other end can change a slot at any time: whoever is told where one is
 * reads each of its fields once, into memory of its own, and looks at that alone.
 *
 * Events: each end writes the index at which it wants to be woken (`requestEvent`,
 * `responseEvent`). Whoever produces sends an event only if it has passed that index. Before
 * sleeping, an end writes its index and looks once more, or it would miss what was produced in
 * between (RING_FINAL_CHECK_FOR_REQUESTS in ring.h).
 *
 * Order of memory accesses: indexes are read and written with `Atomics`, which are sequentially
 * consistent, so a slot's octets are there before the index that announces them, and an index is
 * published before the other end's event index is read. Slots need no atomics.
 */
import { assert } from '../core/assert.ts';
import { RingError } from './ring-error.ts';
import { RING_OCTETS, RingHeader } from './usbif.ts';

/** Places of the indexes, in 32-bit words. */
const REQUEST_PRODUCED = RingHeader.offsets.requestProduced / 4;
const REQUEST_EVENT = RingHeader.offsets.requestEvent / 4;
const RESPONSE_PRODUCED = RingHeader.offsets.responseProduced / 4;
const RESPONSE_EVENT = RingHeader.offsets.responseEvent / 4;

/** What a slot holds, one after the other. */
export interface SlotSizes {
  readonly requestOctets: number;
  readonly responseOctets: number;
}

/** What both ends have in common: the page. */
class RingPage {
  readonly view: DataView;
  readonly slots: number;
  readonly slotOctets: number;
  readonly #words: Int32Array;

  constructor(memory: Buffer, { requestOctets, responseOctets }: SlotSizes) {
    assert(memory.length === RING_OCTETS, 'Cannot use a ring: it is not one page');
    this.view = new DataView(memory.buffer, memory.byteOffset, memory.length);
    this.#words = new Int32Array(memory.buffer, memory.byteOffset, RingHeader.octets / 4);
    this.slotOctets = Math.max(requestOctets, responseOctets);
    const fit = Math.floor((RING_OCTETS - RingHeader.octets) / this.slotOctets);
    this.slots = 2 ** Math.floor(Math.log2(fit));
  }

  get(word: number): number {
    return Atomics.load(this.#words, word) >>> 0;
  }

  set(word: number, value: number): void {
    Atomics.store(this.#words, word, value | 0);
  }

  /** Where the slot of an index begins. */
  at(index: number): number {
    return RingHeader.octets + (index & (this.slots - 1)) * this.slotOctets;
  }
}

/** The end that takes requests and answers them. */
export class BackRing {
  readonly #page: RingPage;
  /** Requests taken (req_cons). */
  #taken: number;
  /** Responses made, published or not (rsp_prod_pvt). */
  #answered: number;
  /** Responses for which an event was sent if one was wanted. */
  #announced: number;

  /**
   * @param at Responses that a back end before this one has published. It may have been killed before it
   * sent the event for them, so they count as not announced.
   */
  constructor(memory: Buffer, sizes: SlotSizes, at = 0) {
    this.#page = new RingPage(memory, sizes);
    this.#taken = at;
    this.#answered = at;
    this.#announced = (at - this.#page.slots) >>> 0;
  }

  get slots(): number {
    return this.#page.slots;
  }

  /** Requests taken, as an index. */
  get taken(): number {
    return this.#taken;
  }

  /** Responses made, as an index. */
  get answered(): number {
    return this.#answered;
  }

  /** Requests taken, without a response. */
  get outstanding(): number {
    return (this.#taken - this.#answered) >>> 0;
  }

  /** The front end's index of requests: a claim. */
  get requestsProduced(): number {
    return this.#page.get(REQUEST_PRODUCED);
  }

  /** The index of the response at which the front end wants to be woken (rsp_event). */
  get responseEvent(): number {
    return this.#page.get(RESPONSE_EVENT);
  }

  /**
   * Requests that can be taken now.
   *
   * @throws {RingError} if the front end claims more than there are free slots, which it also does
   * when it steps its index back.
   */
  available(): number {
    const count = (this.requestsProduced - this.#taken) >>> 0;
    const free = this.#page.slots - this.outstanding;
    if (count > free) {
      throw new RingError(
        'bad-index',
        `Cannot take requests: ${count} are claimed, at most ${free} of ${this.#page.slots} slots are free`,
      );
    }
    return count;
  }

  /** Takes the next request: where in `view` it is, until a response is made. Call `available` first. */
  take(): number {
    const at = this.#page.at(this.#taken);
    this.#taken = (this.#taken + 1) >>> 0;
    return at;
  }

  /** Passes over requests whose answers a back end before this one still owed. */
  skip(count: number): void {
    this.#taken = (this.#taken + count) >>> 0;
  }

  /** Makes a response: where in `view` it is to be written, before `publish`. */
  make(): number {
    assert(this.outstanding > 0, 'Cannot answer: no request is outstanding');
    const at = this.#page.at(this.#answered);
    this.#answered = (this.#answered + 1) >>> 0;
    return at;
  }

  get view(): DataView {
    return this.#page.view;
  }

  /** The responses made are there. The front end may be awake and see them; `needsEvent` tells. */
  publish(): void {
    this.#page.set(RESPONSE_PRODUCED, this.#answered);
  }

  /** Whether the front end wants an event for what was published since this was asked last. */
  needsEvent(): boolean {
    const from = this.#announced;
    this.#announced = this.#answered;
    return passed(from, this.#answered, this.responseEvent);
  }

  /** Whether there is something to take, or a false claim of it. */
  get waiting(): boolean {
    return this.requestsProduced !== this.#taken;
  }

  /** Asks to be woken by the next request; true if there is one already. */
  sleep(): boolean {
    if (this.waiting) return true;
    this.#page.set(REQUEST_EVENT, this.#taken + 1);
    return this.waiting;
  }
}

/** The end that makes requests. */
export class FrontRing {
  readonly #page: RingPage;
  /** Requests made, published or not (req_prod_pvt). */
  #made = 0;
  /** Requests published when `push` was called last. */
  #pushed = 0;
  /** Responses taken (rsp_cons). */
  #taken = 0;

  /** Initialises the page (SHARED_RING_INIT). */
  constructor(memory: Buffer, sizes: SlotSizes) {
    this.#page = new RingPage(memory, sizes);
    memory.fill(0, 0, RingHeader.octets);
    this.#page.set(REQUEST_EVENT, 1);
    this.#page.set(RESPONSE_EVENT, 1);
  }

  get slots(): number {
    return this.#page.slots;
  }

  /** Slots for further requests. */
  get free(): number {
    return this.#page.slots - ((this.#made - this.#taken) >>> 0);
  }

  /** Requests without a response. */
  get outstanding(): number {
    return (this.#made - this.#taken) >>> 0;
  }

  /** Requests made. */
  get made(): number {
    return this.#made;
  }

  get view(): DataView {
    return this.#page.view;
  }

  /** Makes a request: where in `view` it is to be written, before `push`. An old one is still there. */
  make(): number {
    assert(this.free > 0, 'Cannot make a request: the ring is full');
    const at = this.#page.at(this.#made);
    this.#made = (this.#made + 1) >>> 0;
    return at;
  }

  /** Publishes what was put; true if the back end wants an event for it. */
  push(): boolean {
    const from = this.#pushed;
    this.#pushed = this.#made;
    this.#page.set(REQUEST_PRODUCED, this.#made);
    return passed(from, this.#made, this.#page.get(REQUEST_EVENT));
  }

  /**
   * Responses that can be taken now.
   *
   * @throws {RingError} if the back end claims more than requests are out.
   */
  available(): number {
    const count = (this.#page.get(RESPONSE_PRODUCED) - this.#taken) >>> 0;
    const out = (this.#made - this.#taken) >>> 0;
    if (count > out) {
      throw new RingError(
        'bad-index',
        `Cannot take responses: ${count} are claimed, at most ${out} requests are out`,
      );
    }
    return count;
  }

  /** Where in `view` the first response is that `available` counted. */
  responseAt(): number {
    return this.#page.at(this.#taken);
  }

  /** Responses were read: their slots are free. */
  release(count = 1): void {
    this.#taken = (this.#taken + count) >>> 0;
  }

  /** Whether there is something to take, or a false claim of it. */
  get waiting(): boolean {
    return this.#page.get(RESPONSE_PRODUCED) !== this.#taken;
  }

  /** Asks to be woken by the next response; true if there is one already. */
  sleep(): boolean {
    if (this.waiting) return true;
    this.#page.set(RESPONSE_EVENT, this.#taken + 1);
    return this.waiting;
  }
}

/** Whether an index that went from `from` to `to` has passed `event` (…_AND_CHECK_NOTIFY). */
function passed(from: number, to: number, event: number): boolean {
  return (to - event) >>> 0 < (to - from) >>> 0;
}
