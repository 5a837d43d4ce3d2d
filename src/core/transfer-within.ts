/**
 * A transfer as a promise that ends: it is unlinked when its time is over, and ends as 'unlinked' then, or as it
 * had ended before. A peer that does not answer the unlink is given up, which ends the transfer as 'shutdown'.
 */
import { type Clock, systemClock } from './clock.ts';
import { LATE_UNLINK_MILLISECONDS } from './limits.ts';

export interface Transferring<P, R> {
  /** Begins it; it ends later, never inside. */
  readonly submit: (done: (result: R) => void) => P;
  readonly unlink: (pending: P) => void;
  /** Gives the peer up: every transfer that it has ends. */
  readonly giveUp: () => void;
}

export function transferWithin<P, R>(
  { submit, unlink, giveUp }: Transferring<P, R>,
  milliseconds: number,
  clock: Clock = systemClock,
): Promise<R> {
  return new Promise((resolve) => {
    const pending = submit((result) => {
      cancel();
      resolve(result);
    });
    let cancel = clock.after(milliseconds, () => {
      cancel = clock.after(LATE_UNLINK_MILLISECONDS, giveUp);
      unlink(pending);
    });
  });
}
