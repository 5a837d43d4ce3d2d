/**
 * A queue in the order of its elements' numbers, from which any element can leave.
 *
 * A ring of slots, a power of two, which grows and is kept: to give up the first element moves no other.
 * An element in the middle leaves a hole, so that its going moves none either. Whatever thousands of
 * elements are queued, one is found by a binary search over their numbers, holes included, and its
 * neighbours are found past holes in one step: the ends of a run of holes know its length.
 *
 * A place names a slot. It stays what it is until the next `push` or `insert`, whatever leaves. The first
 * and the last slot in use are never holes.
 */
const SLOTS_MIN = 8;

/** Where an element has been. */
class Hole {
  readonly order: number;
  /** Holes in a row; right at both ends of the row. */
  length = 1;
  constructor(order: number) {
    this.order = order;
  }
}

export class Fifo<E> {
  /** An element's number: a whole one, or one between two. No two are the same, and they rise. */
  readonly #orderOf: (element: E) => number;
  #slots: (E | Hole | undefined)[] = new Array(SLOTS_MIN).fill(undefined);
  /** The first slot in use, and its place. */
  #head = 0;
  #start = 0;
  /** Slots in use, and elements. */
  #span = 0;
  #length = 0;
  /** The place behind the elements that are marked. */
  #markEnd = 0;

  constructor(orderOf: (element: E) => number, elements: Iterable<E> = []) {
    this.#orderOf = orderOf;
    for (const element of elements) this.push(element);
  }

  get length(): number {
    return this.#length;
  }

  /** Undefined if there is none. */
  get first(): E | undefined {
    return this.#slots[this.#head] as E | undefined;
  }

  get last(): E | undefined {
    return this.#span === 0 ? undefined : this.at(this.end - 1);
  }

  /** The place of the first element. */
  get start(): number {
    return this.#start;
  }

  /** The place behind the last element. */
  get end(): number {
    return this.#start + this.#span;
  }

  /** The element at a place where there is one. */
  at(place: number): E {
    return this.#slots[this.#slotOf(place)] as E;
  }

  /** The number of the element there. */
  orderAt(place: number): number {
    return this.#orderOf(this.at(place));
  }

  /** Replaces the one that is there by one with the same number. */
  set(place: number, element: E): void {
    this.#slots[this.#slotOf(place)] = element;
  }

  /** Adds one behind all others. */
  push(element: E): void {
    if (this.#span === this.#slots.length) this.#makeRoom();
    this.#slots[(this.#head + this.#span++) & (this.#slots.length - 1)] = element;
    this.#length++;
  }

  shift(): E | undefined {
    const first = this.#slots[this.#head] as E | undefined;
    if (this.#length === 0) return undefined;
    this.#dropHead();
    this.#length--;
    while (this.#span > this.#length && this.#slots[this.#head] instanceof Hole) this.#dropHead();
    return first;
  }

  /** Adds one where its number belongs, which is near the first. What is marked is not defined then. */
  insert(element: E): void {
    if (this.#span === this.#slots.length) this.#makeRoom();
    const order = this.#orderOf(element);
    let place = this.#behind(order);
    if (place > this.#start && this.#slots[this.#slotOf(place - 1)] instanceof Hole) {
      this.#rebuild(this.#slots.length);
      place = this.#behind(order);
    }
    const mask = this.#slots.length - 1;
    this.#head = (this.#head - 1) & mask;
    this.#start--;
    this.#span++;
    this.#length++;
    for (let at = this.#start; at < place - 1; at++) {
      this.#slots[this.#slotOf(at)] = this.#slots[this.#slotOf(at + 1)];
    }
    this.#slots[this.#slotOf(place - 1)] = element;
  }

  /** Takes one out. */
  remove(place: number): void {
    if (place === this.#start) {
      this.shift();
      return;
    }
    this.#length--;
    if (place === this.end - 1) {
      do this.#slots[this.#slotOf(this.#start + --this.#span)] = undefined;
      while (this.#slots[this.#slotOf(this.end - 1)] instanceof Hole);
      this.#markEnd = Math.min(this.#markEnd, this.end); // the next to come gets this place
      return;
    }
    const hole = new Hole(this.#orderOf(this.at(place)));
    const before = this.#holesAt(place - 1);
    const behind = this.#holesAt(place + 1);
    this.#slots[this.#slotOf(place)] = hole;
    hole.length = before + 1 + behind;
    for (const end of [place - before, place + behind]) {
      (this.#slots[this.#slotOf(end)] as Hole).length = hole.length;
    }
  }

  /** Takes out what is at `place` and behind. */
  cut(place: number): E[] {
    const rest: E[] = [];
    for (let at = this.end - 1; at >= place && at >= this.#start; at = this.before(at)) {
      rest.push(this.at(at));
    }
    for (const _ of rest) this.remove(this.end - 1);
    return rest.reverse();
  }

  /** The place of an element, which may be any number; undefined if it is not there. */
  find(element: E): number | undefined {
    if (this.#length === 0) return undefined;
    if (this.#slots[this.#head] === element) return this.#start;
    const place = this.#behind(this.#orderOf(element)) - 1;
    if (place < this.#start) return undefined;
    return this.#slots[this.#slotOf(place)] === element ? place : undefined;
  }

  /** The place of the element before another's; less than `start` if there is none. */
  before(place: number): number {
    return place - 1 - (place > this.#start ? this.#holesAt(place - 1) : 0);
  }

  /** The place of the element behind another's; `end` if there is none. */
  behind(place: number): number {
    return place + 1 + (place + 1 < this.end ? this.#holesAt(place + 1) : 0);
  }

  /** Marks all elements that are here. */
  mark(): void {
    this.#markEnd = this.end;
  }

  /** Whether the element there was here when `mark` was called last. */
  isMarked(place: number): boolean {
    return place < this.#markEnd;
  }

  *[Symbol.iterator](): IterableIterator<E> {
    for (let place = this.#start; place < this.end; place = this.behind(place)) {
      yield this.at(place);
    }
  }

  #slotOf(place: number): number {
    return (this.#head + place - this.#start) & (this.#slots.length - 1);
  }

  /** How many holes are in the row whose end is there; 0 if there is an element. */
  #holesAt(place: number): number {
    const one = this.#slots[this.#slotOf(place)];
    return one instanceof Hole ? one.length : 0;
  }

  #dropHead(): void {
    this.#slots[this.#head] = undefined; // or the memory behind it would live on
    this.#head = (this.#head + 1) & (this.#slots.length - 1);
    this.#start++;
    this.#span--;
  }

  /** The place behind all slots whose numbers are at most `order`. */
  #behind(order: number): number {
    let low = this.#start;
    let high = this.end;
    while (low < high) {
      const middle = low + ((high - low) >>> 1);
      const one = this.#slots[this.#slotOf(middle)];
      const middleOrder = one instanceof Hole ? one.order : this.#orderOf(one as E);
      if (middleOrder <= order) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Fills the holes if they are half of the slots, else takes more slots: either way for long. */
  #makeRoom(): void {
    const { length } = this.#slots;
    this.#rebuild(this.#length * 2 > length ? length * 2 : length);
  }

  #rebuild(count: number): void {
    const elements = [...this];
    let marked = 0;
    for (let at = this.#start; at < Math.min(this.#markEnd, this.end); at = this.behind(at))
      marked++;
    this.#slots = new Array<E | undefined>(count).fill(undefined);
    for (const [at, element] of elements.entries()) this.#slots[at] = element;
    this.#head = 0;
    this.#start = 0;
    this.#span = elements.length;
    this.#markEnd = marked;
  }
}
