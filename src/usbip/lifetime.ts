/** How long a connection may last: not for ever, as long as it has no device. */
import type { Clock } from '../core/clock.ts';

/** From accept to the last byte of the goodbye, for a connection that imports nothing. */
const OPERATION_MILLISECONDS = 10_000;

export interface LifetimeOptions {
  readonly clock: Clock;
  /** An import waits for a device that is being let go of, which takes a limited time. */
  readonly isWaiting: () => boolean;
  /** To close the connection, whatever it does. */
  readonly end: () => void;
}

export class Lifetime {
  readonly #options: LifetimeOptions;
  /** By then the operation is over; Infinity once a device is imported. */
  #operationEnd: number;
  #cancelTimer = () => {};

  constructor(options: LifetimeOptions) {
    this.#options = options;
    this.#operationEnd = options.clock.now() + OPERATION_MILLISECONDS;
    this.limit(OPERATION_MILLISECONDS);
  }

  /** The connection ends when this time is over, or sooner. */
  limit(milliseconds: number): void {
    const { clock } = this.#options;
    this.stop();
    const left = Math.max(0, Math.min(milliseconds, this.#operationEnd - clock.now()));
    this.#cancelTimer = clock.after(left, () => this.#elapsed());
  }

  /** It has a device, and lasts as long as its client wants. */
  imported(): void {
    this.stop();
    this.#operationEnd = Number.POSITIVE_INFINITY;
  }

  /** It has ended. */
  stop(): void {
    this.#cancelTimer();
  }

  #elapsed(): void {
    if (!this.#options.isWaiting()) {
      this.#options.end();
      return;
    }
    // What it waits for has a bound of its own; the answer wants a goodbye.
    this.#operationEnd += OPERATION_MILLISECONDS;
    this.limit(OPERATION_MILLISECONDS);
  }
}
