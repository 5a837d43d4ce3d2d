/**
 * A clock for waiting on somebody else: time in which this process itself did not run is not counted.
 *
 * Theory. A deadline gives the other side so much time to answer. When the machine stands still for a while (a
 * virtual one that its host does not run, a processor that others keep busy), the deadline passes all
 * the same: nothing that has arrived was read meanwhile, and an other side on the same machine could send nothing.
 * So a wait is made of short timers. One that fires much later than it was set for tells of a standstill, and
 * its piece of the wait is waited for again; a process that is always late waits twice at most. A piece in which
 * the other side could not answer yet, for what only the caller knows, is not counted either.
 */
import type { Clock } from './clock.ts';

export const PIECE_MILLISECONDS = 50;
/** A timer that is later than this was held up by more than other callbacks. */
const LATE_MILLISECONDS = 10;

export interface RunningClock extends Clock {
  /** As a clock's; but time is counted only while `counts`, which is asked at the end of each piece. */
  after(milliseconds: number, call: () => void, counts?: () => boolean): () => void;
}

/** The same clock, but for waits. */
export function runningTime(clock: Clock): RunningClock {
  return {
    now: () => clock.now(),
    after: (milliseconds, call, counts = () => true) => {
      let left = milliseconds;
      let repeats = Math.ceil(milliseconds / PIECE_MILLISECONDS);
      let cancel = () => {};
      const wait = () => {
        const piece = Math.min(left, PIECE_MILLISECONDS);
        const due = clock.now() + piece;
        cancel = clock.after(piece, () => {
          const isLate = clock.now() - due > LATE_MILLISECONDS;
          if (isLate && repeats > 0) repeats--;
          else if (counts()) left -= piece;
          if (left > 0) wait();
          else call();
        });
      };
      wait();
      return () => cancel();
    },
  };
}
