/**
 * A queue that gives up its first element without moving the others, which is what `Array.shift` does
 * with all of them: with 32 transfers queued that was a tenth of a client's time for each.
 *
 * A ring of slots, a power of two, which grows and is kept.
 */
const SLOTS_MIN = 8;

export class Fifo<E> {
  #slots: (E | undefined)[] = new Array(SLOTS_MIN).fill(undefined);
  #head = 0;
  #length = 0;

  constructor(elements: Iterable<E> = []) {
    for (const element of elements) this.push(element);
  }

  get length(): number {
    return this.#length;
  }

  /** Undefined if there is none. */
  get first(): E | undefined {
    return this.#slots[this.#head];
  }

  /** Undefined behind the last. */
  at(place: number): E | undefined {
    return place < this.#length ? this.#slots[this.#slotOf(place)] : undefined;
  }

  /** Replaces the one that is there. */
  set(place: number, element: E): void {
    this.#slots[this.#slotOf(place)] = element;
  }

  push(element: E): void {
    if (this.#length === this.#slots.length) this.#grow();
    this.#slots[this.#slotOf(this.#length++)] = element;
  }

  shift(): E | undefined {
    const first = this.#slots[this.#head];
    if (this.#length === 0) return undefined;
    this.#slots[this.#head] = undefined; // or the memory behind it would live on
    this.#head = this.#slotOf(1);
    this.#length--;
    return first;
  }

  /** Puts one in front of that at `place`, or behind the last. */
  insert(place: number, element: E): void {
    this.push(element);
    for (let at = this.#length - 1; at > place; at--) this.set(at, this.at(at - 1) as E);
    this.set(place, element);
  }

  /** Takes one out. */
  remove(place: number): void {
    if (place === 0) {
      this.shift();
      return;
    }
    for (let at = place; at < this.#length - 1; at++) this.set(at, this.at(at + 1) as E);
    this.#slots[this.#slotOf(--this.#length)] = undefined;
  }

  /** Takes out what is at `place` and behind. */
  cut(place: number): E[] {
    const rest = [...this].slice(place);
    for (const _ of rest) this.#slots[this.#slotOf(--this.#length)] = undefined;
    return rest;
  }

  /** -1 if it is not there. */
  indexOf(element: E): number {
    for (let place = 0; place < this.#length; place++) {
      if (this.#slots[this.#slotOf(place)] === element) return place;
    }
    return -1;
  }

  includes(element: E): boolean {
    return this.indexOf(element) >= 0;
  }

  *[Symbol.iterator](): IterableIterator<E> {
    for (let place = 0; place < this.#length; place++) yield this.at(place) as E;
  }

  #slotOf(place: number): number {
    return (this.#head + place) & (this.#slots.length - 1);
  }

  #grow(): void {
    const elements = [...this];
    const more = new Array<undefined>(elements.length).fill(undefined);
    this.#slots = [...elements, ...more];
    this.#head = 0;
  }
}
