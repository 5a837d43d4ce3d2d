/**
 * What a machine asks its driver to do, in order. Flat arrays, reused: nothing is allocated per
 * transfer.
 */
export class Actions<T, Kind> {
  readonly #kinds: Kind[] = [];
  readonly #subjects: (T | undefined)[] = [];
  #filled = 0;
  #taken = 0;
  #subject: T | undefined;

  add(kind: Kind, subject: T): void {
    this.#kinds[this.#filled] = kind;
    this.#subjects[this.#filled++] = subject;
  }

  /** The next action's kind, or undefined when all are done. Follow with `subject`. */
  next(): Kind | undefined {
    if (this.#taken === this.#filled) {
      this.#taken = 0;
      this.#filled = 0;
      return undefined;
    }
    this.#subject = this.#subjects[this.#taken];
    this.#subjects[this.#taken] = undefined; // or the memory behind it would live on
    return this.#kinds[this.#taken++];
  }

  /** What the action that `next` returned last is about. */
  get subject(): T {
    return this.#subject as T;
  }
}
