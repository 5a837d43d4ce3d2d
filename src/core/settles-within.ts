/** Waiting for somebody who may never answer. */
import type { Clock } from './clock.ts';

/** Whether `promise` resolves within that time; rejects if it does. */
export function settlesWithin(
  promise: Promise<unknown>,
  milliseconds: number,
  clock: Clock,
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(milliseconds, () => resolve(false));
    promise
      .then(() => resolve(true), reject)
      .finally(() => {
        cancel();
      });
  });
}
