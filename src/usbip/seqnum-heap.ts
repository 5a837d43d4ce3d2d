/**
 * Sequence numbers, the earliest first: a binary heap. Numbers have 32 bits and wrap, so all that are in
 * here must lie within half of their circle.
 */

/** Whether a number comes after another. */
export function isAfter(one: number, other: number): boolean {
  return ((one - other) | 0) > 0;
}

export class SeqnumHeap {
  readonly #numbers: number[] = [];
  readonly #isAfter: typeof isAfter;

  /** `compare`: in place of `isAfter`, for tests that count. */
  constructor(compare = isAfter) {
    this.#isAfter = compare;
  }

  get isEmpty(): boolean {
    return this.#numbers.length === 0;
  }

  /** The earliest; undefined if there is none. */
  get first(): number | undefined {
    return this.#numbers[0];
  }

  add(number: number): void {
    const numbers = this.#numbers;
    let at = numbers.length;
    numbers.push(number);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isAfter(numbers[parent] as number, number)) break;
      numbers[at] = numbers[parent] as number;
      at = parent;
    }
    numbers[at] = number;
  }

  removeFirst(): void {
    const numbers = this.#numbers;
    const number = numbers.pop();
    if (number === undefined || numbers.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= numbers.length) break;
      const other = numbers[child + 1];
      if (other !== undefined && this.#isAfter(numbers[child] as number, other)) child++;
      if (!this.#isAfter(number, numbers[child] as number)) break;
      numbers[at] = numbers[child] as number;
      at = child;
    }
    numbers[at] = number;
  }
}
