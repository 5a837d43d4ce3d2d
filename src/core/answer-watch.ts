/**
 * Watches what a peer owes: each thing that was asked of it has to be answered within a limit, or the peer
 * is given up.
 *
 * Time passes in looks, `LOOKS` to a limit, and what is found to be unanswered at so many looks is late. So a
 * standstill of this process, however long, counts as one look; and there is one timer, however much is asked.
 */
import type { Clock } from './clock.ts';

const LOOKS = 7;

export interface AnswerWatchOptions {
  readonly milliseconds: number;
  readonly clock: Clock;
  /** The peer owes an answer for longer than that. Called once; nothing is watched any more. */
  readonly onLate: () => void;
  /** False while this side takes no answers: that time is not counted. */
  readonly counts?: () => boolean;
}

export class AnswerWatch<T> {
  readonly #options: AnswerWatchOptions;
  /** With the count of looks at which each was asked; the oldest first. */
  readonly #asked = new Map<T, number>();
  #looks = 0;
  #cancel: (() => void) | null = null;
  #ended = false;

  constructor(options: AnswerWatchOptions) {
    this.#options = options;
  }

  asked(one: T): void {
    if (this.#ended || this.#asked.has(one)) return;
    this.#asked.set(one, this.#looks);
    if (this.#cancel === null) this.#lookLater();
  }

  /** It has been answered, or no answer is wanted any more. */
  answered(one: T): void {
    if (this.#asked.size > 0) this.#asked.delete(one);
  }

  /** The peer has gone: it owes nothing. */
  end(): void {
    this.#ended = true;
    this.#asked.clear();
    this.#cancel?.();
  }

  #lookLater(): void {
    const { clock, milliseconds } = this.#options;
    this.#cancel = clock.after(milliseconds / LOOKS, () => this.#look());
  }

  #look(): void {
    this.#cancel = null;
    const [oldest] = this.#asked.values();
    if (oldest === undefined) return;
    if (this.#options.counts?.() !== false) this.#looks++;
    // What was asked between two looks has not had the whole of the first piece.
    if (this.#looks - oldest <= LOOKS) {
      this.#lookLater();
      return;
    }
    this.end();
    this.#options.onLate();
  }
}
