/**
 * Transfers under way by their seqnum, and unlinks by theirs. A client chooses its own numbers, so
 * they are chosen to fit a table: to look one up costs an index, and nothing is allocated for it.
 */
import type { Pending } from './pending.ts';

const SLOTS_MIN = 256;
/** Unlinks kept without their reply, at least; a server need not answer those of transfers that it has ended. */
const UNLINKS_MIN = 256;

export class Pendings {
  /** Each at its seqnum modulo the length, which is a power of two and at least twice the count. */
  #slots: (Pending | undefined)[] = new Array(SLOTS_MIN).fill(undefined);
  #count = 0;
  /** Unlinks without their reply: seqnum of the unlink, and whose it is. */
  readonly #unlinks = new Map<number, Pending>();
  /** As many as that, and those are forgotten whose transfers have ended. */
  #unlinksMax = UNLINKS_MIN;
  #last = 0;

  get count(): number {
    return this.#count;
  }

  get(seqnum: number): Pending | undefined {
    const found = this.#slots[seqnum & (this.#slots.length - 1)];
    return found?.seqnum === seqnum ? found : undefined;
  }

  /** Numbers a transfer that is not in here. */
  add(pending: Pending): void {
    if (this.#count * 2 >= this.#slots.length) this.#grow();
    let seqnum = this.#next();
    while (this.#slots[seqnum & (this.#slots.length - 1)] !== undefined) seqnum = this.#next();
    pending.seqnum = seqnum;
    this.#slots[seqnum & (this.#slots.length - 1)] = pending;
    this.#count++;
  }

  /** Whether it was there. */
  remove(pending: Pending): boolean {
    if (this.get(pending.seqnum) !== pending) return false;
    this.#slots[pending.seqnum & (this.#slots.length - 1)] = undefined;
    this.#count--;
    return true;
  }

  /** The seqnum of an unlink of this transfer. */
  addUnlink(pending: Pending): number {
    if (this.#unlinks.size >= this.#unlinksMax) this.#forgetUnlinks();
    const seqnum = this.#next();
    this.#unlinks.set(seqnum, pending);
    return seqnum;
  }

  /** Whose unlink that was; undefined if nobody's. */
  removeUnlink(seqnum: number): Pending | undefined {
    const pending = this.#unlinks.get(seqnum);
    this.#unlinks.delete(seqnum);
    return pending;
  }

  clear(): void {
    this.#slots.fill(undefined);
    this.#count = 0;
    this.#unlinks.clear();
  }

  /** Their replies would mean nothing. */
  #forgetUnlinks(): void {
    for (const [seqnum, pending] of this.#unlinks) {
      if (this.get(pending.seqnum) !== pending) this.#unlinks.delete(seqnum);
    }
    this.#unlinksMax = Math.max(UNLINKS_MIN, 2 * this.#unlinks.size);
  }

  /** A number that nothing has. 32 bits, which wrap. */
  #next(): number {
    do this.#last = (this.#last + 1) >>> 0;
    while (this.get(this.#last) !== undefined || this.#isUnlink(this.#last));
    return this.#last;
  }

  #isUnlink(seqnum: number): boolean {
    return this.#unlinks.size > 0 && this.#unlinks.has(seqnum);
  }

  /** Two numbers that differ in a shorter table differ in a longer one. */
  #grow(): void {
    const old = this.#slots;
    this.#slots = new Array(old.length * 2).fill(undefined);
    for (const one of old) {
      if (one !== undefined) this.#slots[one.seqnum & (this.#slots.length - 1)] = one;
    }
  }
}
