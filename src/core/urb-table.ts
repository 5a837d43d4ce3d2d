/**
 * URBs by the number that their client gave them. Linux counts its numbers up, so that most have a slot of their
 * own: no hashing, nothing allocated. What finds its slot taken goes into a map, so that a client that chooses
 * numbers to collide gains nothing.
 */
import type { Urb } from './urb.ts';

/** A power of two. */
const SLOTS = 256;

export class UrbTable {
  readonly #slots: (Urb | undefined)[] = new Array(SLOTS).fill(undefined);
  readonly #others = new Map<number, Urb>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(id: number): Urb | undefined {
    const urb = this.#slots[id & (SLOTS - 1)];
    if (urb?.id === id) return urb;
    return this.#others.size === 0 ? undefined : this.#others.get(id);
  }

  /** Its number must not be there. */
  add(urb: Urb): void {
    const slot = urb.id & (SLOTS - 1);
    if (this.#slots[slot] === undefined) this.#slots[slot] = urb;
    else this.#others.set(urb.id, urb);
    this.#size++;
  }

  /** Whether it was there. */
  delete(urb: Urb): boolean {
    const slot = urb.id & (SLOTS - 1);
    if (this.#slots[slot] === urb) this.#slots[slot] = undefined;
    else if (!this.#others.delete(urb.id)) return false;
    this.#size--;
    return true;
  }

  /** All of them, in no order. */
  *[Symbol.iterator](): IterableIterator<Urb> {
    for (const urb of this.#slots) if (urb !== undefined) yield urb;
    yield* this.#others.values();
  }
}
