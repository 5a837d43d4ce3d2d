/**
 * Looks at something that changes, one at a time: a change during a look asks for one more after it,
 * however many changes there were.
 */
export class Looks {
  readonly #look: () => Promise<void>;
  #looking = false;
  #quiet: Promise<void> = Promise.resolve();
  #again = false;
  #stopped = false;

  /** @param look Deals with its own errors. */
  constructor(look: () => Promise<void>) {
    this.#look = look;
  }

  /** Something has changed. */
  ask(): void {
    this.#again = true;
    if (!this.#looking) this.#quiet = this.#untilQuiet();
  }

  /** No look begins any more. */
  stop(): void {
    this.#stopped = true;
  }

  /** Resolves when no look is under way. */
  async ended(): Promise<void> {
    await this.#quiet;
  }

  async #untilQuiet(): Promise<void> {
    this.#looking = true;
    while (this.#again && !this.#stopped) {
      this.#again = false;
      await this.#look();
    }
    this.#looking = false; // in the same breath: who asks from now on begins anew
  }
}
