/** Chance and time for simulations: both repeat exactly, given the seed. */
import type { Clock } from '../../src/core/clock.ts';

export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1); mulberry32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(count: number): number {
    return Math.floor(this.next() * count);
  }

  /** Milliseconds, in steps of 1/1024: those add up without rounding, so that order is kept. */
  between(low: number, high: number): number {
    return Math.round((low + this.next() * (high - low)) * 1024) / 1024;
  }

  /** True once in `count` times. */
  oneIn(count: number): boolean {
    return this.below(count) === 0;
  }

  pick<E>(list: readonly E[]): E {
    return list[this.below(list.length)] as E;
  }
}

interface Timer {
  readonly at: number;
  readonly order: number;
  call: (() => void) | null;
}

/** Time that passes from one event to the next: a binary heap of timers. */
export class SimulatedClock implements Clock {
  #now = 0;
  #order = 0;
  readonly #heap: Timer[] = [];

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, call: () => void): () => void {
    const timer: Timer = { at: this.#now + milliseconds, order: this.#order++, call };
    this.#push(timer);
    return () => {
      timer.call = null;
    };
  }

  /** Until nothing is left to happen. */
  run(): void {
    for (let timer = this.#pop(); timer !== undefined; timer = this.#pop()) {
      if (timer.call === null) continue;
      this.#now = timer.at;
      timer.call();
    }
  }

  #push(timer: Timer): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(timer);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(timer, heap[parent] as Timer)) break;
      heap[at] = heap[parent] as Timer;
      at = parent;
    }
    heap[at] = timer;
  }

  #pop(): Timer | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      if (right !== undefined && isBefore(right, heap[child] as Timer)) child++;
      if (!isBefore(heap[child] as Timer, last)) break;
      heap[at] = heap[child] as Timer;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore(one: Timer, other: Timer): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}

/** Delivers in order, each message a while after it was sent. */
export class Channel<M> {
  readonly #clock: Clock;
  readonly #delay: () => number;
  readonly #deliver: (message: M) => void;
  #last = 0;
  #open = true;
  /** Messages under way. */
  length = 0;

  constructor(clock: Clock, delay: () => number, deliver: (message: M) => void) {
    this.#clock = clock;
    this.#delay = delay;
    this.#deliver = deliver;
  }

  send(message: M): void {
    if (!this.#open) return;
    const now = this.#clock.now();
    this.#last = Math.max(this.#last, now + this.#delay());
    this.length++;
    this.#clock.after(this.#last - now, () => {
      this.length--;
      if (this.#open) this.#deliver(message);
    });
  }

  cut(): void {
    this.#open = false;
  }
}
