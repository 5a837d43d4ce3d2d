/**
 * Unlinks that arrive before the URB that they are about.
 *
 * vhci's sender thread looks for submits, then for unlinks (vhci_tx_loop). A URB that is submitted
 * and unlinked between these two looks has its CMD_UNLINK sent first. Linux's own server answers
 * that unlink with "had ended before", runs the URB when it arrives, and its RET_SUBMIT then ends
 * the connection, for the client has forgotten the URB.
 *
 * So such an unlink waits for its victim, which is then never started and answered by RET_UNLINK
 * alone. It must not be answered sooner: vhci finds the URB by that answer only once it was sent.
 *
 * Which victims are still to come is told by their numbers: vhci counts up, so the victim's lies
 * between the last that was submitted and the unlink's own. If a later URB comes instead, the
 * victim was never to come, and the unlink is answered as for any unknown one.
 */
import { isAfter, SeqnumHeap } from './seqnum-heap.ts';

const NONE: readonly number[] = [];

export class EarlyUnlinks {
  readonly #countMax: number;
  /** seqnum of the unlink by that of its victim. */
  readonly #byVictim = new Map<number, number>();
  /** The victims, so that those that were passed are found without a look at the others. */
  readonly #victims: SeqnumHeap;
  #lastSubmitted: number | undefined;
  /** Of the last CMD_UNLINK, on whatever endpoint: vhci sends them in their order. */
  #lastUnlink: number | undefined;

  /** `countMax`: unlinks that may wait at a time. `victims`: empty. */
  constructor(countMax: number, victims = new SeqnumHeap()) {
    this.#countMax = countMax;
    this.#victims = victims;
  }

  /** Unlinks that wait. */
  get count(): number {
    return this.#byVictim.size;
  }

  /** An unlink arrives. */
  unlinked(seqnum: number): void {
    this.#lastUnlink = seqnum;
  }

  /** Whether the last unlink has overtaken this URB: it was asked for later, and was sent sooner. */
  isOlder(seqnum: number): boolean {
    return this.#lastUnlink !== undefined && isAfter(this.#lastUnlink, seqnum);
  }

  /** Keeps an unlink if its victim is still to come; else false, and it is to be answered now. */
  keep(victim: number, unlink: number): boolean {
    const last = this.#lastSubmitted;
    if (last === undefined || !isAfter(victim, last) || !isAfter(unlink, victim)) return false;
    if (this.#byVictim.size >= this.#countMax || this.#byVictim.has(victim)) return false;
    this.#byVictim.set(victim, unlink);
    this.#victims.add(victim);
    return true;
  }

  /** Whether `arrived` has nothing to return, nor `takeMissed` afterwards. */
  get isEmpty(): boolean {
    return this.#victims.isEmpty;
  }

  /** A URB arrives; returns the unlink that waits for it, if any. Follow with `takeMissed`. */
  arrived(seqnum: number): number | undefined {
    if (this.#lastSubmitted === undefined || isAfter(seqnum, this.#lastSubmitted)) {
      this.#lastSubmitted = seqnum;
    }
    if (this.#byVictim.size === 0) return undefined;
    const unlink = this.#byVictim.get(seqnum);
    this.#byVictim.delete(seqnum); // its victim leaves the heap with those that were passed
    return unlink;
  }

  /** Unlinks whose victims cannot come any more, in the order of their victims; each is returned once. */
  takeMissed(): readonly number[] {
    const last = this.#lastSubmitted ?? 0;
    let first = this.#victims.first;
    if (first === undefined || isAfter(first, last)) return NONE;
    const missed: number[] = [];
    for (; first !== undefined && !isAfter(first, last); first = this.#victims.first) {
      this.#victims.removeFirst();
      const unlink = this.#byVictim.get(first);
      if (unlink !== undefined) missed.push(unlink);
      this.#byVictim.delete(first);
    }
    return missed;
  }
}
