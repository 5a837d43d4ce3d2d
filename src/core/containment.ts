/**
 * Where a bug stops. An exception that nobody expects (an assertion, a TypeError) says that some
 * state is not what its code believes. That state belongs to one client, one device or one
 * attachment, and only that ends: the process has others to serve.
 *
 * Whoever owns such state makes a `Containment` and lets everything that enters from outside (a
 * socket, a timer, a device, a promise) pass through it. The first bug is told to the owner, who
 * logs it with its stack and lets the state go. Later ones come of the first and are not told. What
 * nobody contains ends the process (cli/stop.ts).
 *
 * The expected failures (errors.ts) are caught where they are expected, before they get here.
 */
import type { Clock } from './clock.ts';

export class Containment {
  readonly #onBug: (error: unknown) => void;
  #isBroken = false;

  /** `onBug` is called once. What it throws goes to whoever has called. */
  constructor(onBug: (error: unknown) => void) {
    this.#onBug = onBug;
  }

  /** There was a bug. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Calls `work` with `subject`. On a hot path, `work` is a function that was made once. */
  run<S>(work: (subject: S) => void, subject: S): void {
    try {
      work(subject);
    } catch (error) {
      this.bug(error);
    }
  }

  /** The same as a function, for a timer or an event. */
  guard(work: () => void): () => void {
    return () => this.run(work, undefined);
  }

  /** The same clock; what it calls runs in here. */
  clock(clock: Clock): Clock {
    return {
      now: () => clock.now(),
      after: (milliseconds, call) => clock.after(milliseconds, this.guard(call)),
    };
  }

  /** For a promise that nobody waits for. */
  watch(promise: Promise<unknown>): void {
    promise.catch((error) => this.bug(error));
  }

  bug(error: unknown): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    this.#onBug(error);
  }
}

export interface BugLog {
  warn(message: string, kind: string, peer: string): void;
  /** A bug, in the form that the log has for them; default: a warning with the stack. */
  bug?(error: unknown, what: string, peer: string): void;
}

/** Logs a bug with its stack. `peer`: in whose connection it came up. */
export function logBug(log: BugLog, error: unknown, what: string, peer: string): void {
  if (log.bug !== undefined) log.bug(error, what, peer);
  else log.warn(`${what}: ${stackOf(error)}`, 'bugs', peer);
}

export function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
