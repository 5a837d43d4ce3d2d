/**
 * How processes that serve end: in peace at the first signal, if that does not take too long, and at once at the
 * second; and when an exception comes up that nobody contains (core/containment.ts), for then nobody knows what
 * is right any more. Nothing that others do keeps them from ending.
 */
import { constants } from 'node:os';
import { within } from '../core/within.ts';
import { leave } from './leave.ts';
import type { Log } from './log.ts';

/** After a bug that concerns all, how long clients and devices may take to be let go of. */
const LAST_MILLISECONDS = 2_000;
const EXIT_BUG = 1;

/** For an orderly end. With what comes before and after it, a process ends within 5 s of the signal. */
export const STOP_MILLISECONDS = 4_000;

/** Something did not let go, or failed to. */
const EXIT_DISORDERLY = 1;

export interface Stoppable {
  readonly close: () => Promise<void>;
  /** What `close` waits for, for people. */
  readonly unfinished: () => readonly string[];
}

export interface Stopping {
  /** A signal has come: the process ends, whatever else it does. */
  readonly hasBegun: boolean;
}

export function stopOnSignal(what: Stoppable, log: Log): Stopping {
  let hasBegun = false;
  const stop = async (signal: NodeJS.Signals) => {
    if (hasBegun) leave(128 + constants.signals[signal]);
    hasBegun = true;
    log.debug(`Stopping on ${signal}`);
    const closed = what.close().then(
      () => 0,
      (error) => {
        log.error({ err: error }, 'Cannot stop in an orderly way');
        return EXIT_DISORDERLY;
      },
    );
    const late = () => {
      const names = what.unfinished().join(', ') || 'something unknown';
      log.warn(
        `Stopped on ${signal}, but not in an orderly way: did not let go within 4 s: ${names}`,
      );
      return EXIT_DISORDERLY;
    };
    leave(await within(closed, STOP_MILLISECONDS, late));
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, stop);
  return {
    get hasBegun() {
      return hasBegun;
    },
  };
}

/** Lets go of what can be let go of, and ends with an exit code that says so. */
export function endOnBug(close: () => Promise<void>, log: Log): void {
  let isEnding = false;
  process.removeAllListeners('uncaughtException'); // of commands that serve nobody, see main.ts
  process.on('uncaughtException', (error: unknown) => {
    if (isEnding) return; // it comes of the first
    isEnding = true;
    const err = error instanceof Error ? error : new Error(String(error));
    log.error({ err }, 'Ending by a bug');
    const end = () => leave(EXIT_BUG);
    setTimeout(end, LAST_MILLISECONDS);
    close().then(end, end);
  });
}
