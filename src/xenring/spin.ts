/**
 * Whether an end of a ring that has nothing to do stays awake for a moment, or sleeps.
 *
 * To sleep is to ask for an event: the other end then makes a system call to send it, and this one
 * wakes up tens of microseconds later, several times what a small transfer takes. To stay awake is
 * to look at an index in shared memory again and again, and the other end sends nothing. Whoever
 * stays awake for about as long as a wake-up costs, loses at worst as much again; so that is the
 * limit, and it is only worth it while what comes next comes soon.
 *
 * What comes soon is learned from the past. `gap` is the time from having nothing to do to the next
 * arrival. After `rowMin` short gaps in a row this end stays awake; each gap that outlasts the limit
 * ends that, and doubles the number of short gaps that are wanted before it is tried again: an other
 * end that cannot run meanwhile, because there is no CPU for it, costs ever less. A success ends the
 * doubling: what failed before was a pause of the other end's, as for its garbage. Gaps seen asleep
 * have both ends' wake-ups in them, so short means more there.
 *
 * An end without traffic has no arrivals, and sleeps.
 */

/** All times are in milliseconds, as a `Clock` has them. */
export interface SpinLimits {
  /** How long to stay awake with nothing to do. */
  readonly awakeMilliseconds: number;
  /** Gaps up to this count as short when they were slept through. */
  readonly shortMilliseconds: number;
  /** Short gaps in a row before this end stays awake; at first, and after many failures. */
  readonly rowMin: number;
  readonly rowMax: number;
}

export const SPIN_LIMITS: SpinLimits = {
  awakeMilliseconds: 0.2,
  shortMilliseconds: 0.3,
  rowMin: 2,
  rowMax: 1024,
};

export class SpinPolicy {
  readonly #limits: SpinLimits;
  /** Since when there is nothing to do. */
  #idleSince = Number.NEGATIVE_INFINITY;
  #busy = false;
  /** Until when this end stays awake; -Infinity while it does not. */
  #deadline = Number.NEGATIVE_INFINITY;
  /** Short gaps in a row, and how many are wanted. */
  #row = 0;
  #wanted: number;

  constructor(limits: SpinLimits = SPIN_LIMITS) {
    this.#limits = limits;
    this.#wanted = limits.rowMin;
  }

  /** Something was there when somebody looked. */
  arrived(now: number): void {
    const { shortMilliseconds, rowMin, rowMax } = this.#limits;
    this.#busy = true;
    if (this.#deadline > Number.NEGATIVE_INFINITY) {
      this.#deadline = Number.NEGATIVE_INFINITY;
      this.#wanted = rowMin;
      this.#row = rowMax;
      return;
    }
    this.#row = now - this.#idleSince <= shortMilliseconds ? Math.min(this.#row + 1, rowMax) : 0;
  }

  /** Whether to stay awake now: ask before what is there is worked off, and when it is over. */
  stays(now: number): boolean {
    if (this.#deadline > Number.NEGATIVE_INFINITY) {
      if (now < this.#deadline) return true;
      this.#deadline = Number.NEGATIVE_INFINITY;
      this.#wanted = Math.min(this.#wanted * 2, this.#limits.rowMax);
      this.#row = 0;
      return false;
    }
    return this.#row >= this.#wanted;
  }

  /** Everything that was there is done. */
  idle(now: number, awake: boolean): void {
    if (this.#busy) this.#idleSince = now;
    this.#busy = false;
    this.#deadline = awake ? now + this.#limits.awakeMilliseconds : Number.NEGATIVE_INFINITY;
  }
}
