/**
 * What a machine asks its driver to do, in order. Flat arrays, reused: nothing is allocated per
 * transfer.
 */
export class Actions<T, Kind> {
  readonly #kinds: Kind[] = [];
  readonly #subjects: (T | undefined)[] = [];
  #filled = 0;
  #taken = 0;
  /** How many may be taken until `goOn`. */
  readonly #countMax: number;
  #takenMax: number;
  #subject: T | undefined;
  #draining = false;

  /** `countMax`: so many are taken in a row at most, and then none until `goOn`. */
  constructor(countMax = Number.POSITIVE_INFINITY) {
    this.#countMax = countMax;
    this.#takenMax = countMax;
  }

  add(kind: Kind, subject: T): void {
    this.#kinds[this.#filled] = kind;
    this.#subjects[this.#filled++] = subject;
  }

  get isEmpty(): boolean {
    return this.#taken === this.#filled;
  }

  /** The next action's kind, or undefined when all are done, or enough. Follow with `subject`. */
  next(): Kind | undefined {
    if (this.#taken === this.#filled) {
      this.#taken = 0;
      this.#filled = 0;
      this.#takenMax = this.#countMax;
      return undefined;
    }
    if (this.#taken >= this.#takenMax) return undefined;
    this.#subject = this.#subjects[this.#taken];
    this.#subjects[this.#taken] = undefined; // or the memory behind it would live on
    return this.#kinds[this.#taken++];
  }

  /** An action was as much work as `count` more. */
  charge(count: number): void {
    this.#takenMax -= count;
  }

  /** As many again may be taken as at the beginning. */
  goOn(): void {
    this.#kinds.splice(0, this.#taken);
    this.#subjects.splice(0, this.#taken);
    this.#filled -= this.#taken;
    this.#taken = 0;
    this.#takenMax = this.#countMax;
  }

  /**
   * Carries all of them out, those too that are added meanwhile. From inside `act` it does nothing
   * and returns false: the call that is under way goes on. What `act` throws is thrown, and what is
   * left is for the next call.
   */
  drain(act: (kind: Kind, subject: T) => void): boolean {
    if (this.#draining) return false;
    this.#draining = true;
    try {
      for (let kind = this.next(); kind !== undefined; kind = this.next()) act(kind, this.subject);
    } finally {
      this.#draining = false;
    }
    return true;
  }

  /** Forgets what is left. */
  clear(): void {
    this.#subjects.length = 0;
    this.#taken = 0;
    this.#filled = 0;
  }

  /** What the action that `next` returned last is about. */
  get subject(): T {
    return this.#subject as T;
  }
}
