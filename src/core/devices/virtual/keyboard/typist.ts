/**
 * Types strokes as boot reports: pure, one report a call.
 *
 * A report says which keys are down, so a key that is typed twice must come up in between, and one
 * that is never released repeats on the host for ever. Every stroke is therefore two reports, and
 * the second has no key and no modifier down.
 */
import { INPUT_OCTETS } from './descriptors.ts';
import type { Stroke } from './keymap.ts';

export class Typist {
  readonly #strokes: readonly Stroke[];
  /** Strokes that are down or done. */
  #begun = 0;
  #down = false;

  constructor(strokes: readonly Stroke[]) {
    this.#strokes = strokes;
  }

  /** True when nothing is left to type and no key is down. */
  get done(): boolean {
    return this.#begun === this.#strokes.length && !this.#down;
  }

  /** True between a press and its release. */
  get keyDown(): boolean {
    return this.#down;
  }

  /** The next report; when all is done, the one with no key down. */
  next(): Uint8Array {
    const report = new Uint8Array(INPUT_OCTETS);
    const stroke = this.#down ? undefined : this.#strokes[this.#begun];
    this.#down = stroke !== undefined;
    if (stroke !== undefined) {
      this.#begun++;
      report[0] = stroke.modifiers;
      report[2] = stroke.usage;
    }
    return report;
  }

  /** Back to the start of the text, with no key down. */
  rewind(): void {
    this.#begun = 0;
    this.#down = false;
  }
}
