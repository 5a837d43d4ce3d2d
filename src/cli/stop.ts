/** How processes that serve end: in peace at the first signal, at once at the second. */
import { constants } from 'node:os';
import type { Log } from './log.ts';

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
