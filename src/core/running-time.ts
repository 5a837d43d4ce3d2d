/**
 * A clock for waiting on somebody else: time in which this process itself did not run is not counted.
 *
 * Theory. A deadline gives the other side so much time to answer. When the machine stands still for a while (a
 * virtual one that its host does not run, a processor that others keep busy), the deadline passes all
 * the same: nothing that has arrived was read meanwhile, and an other side on the same machine could send nothing.
 * So a wait is made of short timers. One that fires much later than it was set for tells of a standstill, and
 * its piece of the wait is waited for again; a process that is always late waits twice at most.
 */
import type { Clock } from './clock.ts';

export const PIECE_MILLISECONDS = 50;
/** A timer that is later than this was held up by more than other callbacks. */
const LATE_MILLISECONDS = 10;

/** The same clock, but for waits. */
export function runningTime(clock: Clock): Clock {
  return {
    now: () => clock.now(),
    after: (milliseconds, call) => {
      let left = milliseconds;
      let repeats = Math.ceil(milliseconds / PIECE_MILLISECONDS);
      let cancel = () => {};
      const wait = () => {
        const piece = Math.min(left, PIECE_MILLISECONDS);
        const due = clock.now() + piece;
        cancel = clock.after(piece, () => {
          const isLate = clock.now() - due > LATE_MILLISECONDS;
          if (isLate && repeats > 0) repeats--;
          else left -= piece;
          if (left > 0) wait();
          else call();
        });
      };
      wait();
      return () => cancel();
    },
  };
}
