/**
 * How processes that serve end: in peace at the first signal, at once at the second; and when an
 * exception comes up that nobody contains (core/containment.ts), for then nobody knows what is
 * right any more.
 */
import { constants } from 'node:os';
import type { Log } from './log.ts';

/** After a bug that concerns all, how long clients and devices may take to be let go of. */
const LAST_MILLISECONDS = 2_000;
const EXIT_BUG = 1;

export function stopOnSignal(close: () => Promise<void>, log: Log): void {
  let stopping = false;
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) process.exit(128 + constants.signals[signal]);
    stopping = true;
    log.debug(`Stopping on ${signal}`);
    await close();
    process.exit(0);
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, stop);
}

/** Lets go of what can be let go of, and ends with an exit code that says so. */
export function endOnBug(close: () => Promise<void>, log: Log): void {
  let isEnding = false;
  process.on('uncaughtException', (error: unknown) => {
    if (isEnding) return; // it comes of the first
    isEnding = true;
    const err = error instanceof Error ? error : new Error(String(error));
    log.error({ err }, 'Ending by a bug');
    const end = () => process.exit(EXIT_BUG);
    setTimeout(end, LAST_MILLISECONDS);
    close().then(end, end);
  });
}
