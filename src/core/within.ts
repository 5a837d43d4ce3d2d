/** Waits that have an end, whatever the other side does. */
import { type Clock, systemClock } from './clock.ts';

/**
 * Settles as `work` does, or as `late` says when `work` takes longer than `milliseconds`. `work` goes on then,
 * and nobody hears how it ends.
 */
export function within<T>(
  work: Promise<T>,
  milliseconds: number,
  late: () => T,
  clock: Clock = systemClock,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(milliseconds, () => {
      try {
        resolve(late());
      } catch (error) {
        reject(error);
      }
    });
    const settle = (call: () => void) => {
      cancel();
      call();
    };
    work.then(
      (value) => settle(() => resolve(value)),
      (error) => settle(() => reject(error)),
    );
  });
}
