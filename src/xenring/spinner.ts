/**
 * Keeps an end of a ring awake: looks at the ring from the event loop, as long as `spin.ts` says.
 *
 * Each turn of the loop it looks for a few microseconds, then others have their turn: sockets, timers
 * and other rings wait no longer for it than for any one transfer. Where there is one CPU alone, the
 * other end can do nothing while this one looks, so it always sleeps.
 */
import { availableParallelism } from 'node:os';
import { SpinPolicy } from './spin.ts';

/** How long one turn of the event loop may look at the ring. */
const TURN_MILLISECONDS = 0.01;
/** Looks between two looks at the clock, which costs more. */
const LOOKS = 16;

const MAY_SPIN = availableParallelism() > 1;

export interface Spun {
  /** Whether the other end has produced something. Cheap. */
  readonly waiting: () => boolean;
  /** Whether it can be expected to. */
  readonly expecting: () => boolean;
  /** Called from the event loop when something is there, or when it is time to sleep. */
  readonly work: () => void;
}

export class Spinner {
  readonly #spun: Spun;
  readonly #policy = new SpinPolicy();
  #immediate: NodeJS.Immediate | null = null;
  readonly #turn = () => this.#look();

  constructor(spun: Spun) {
    this.#spun = spun;
  }

  /** Call before the work: whether this end stays awake after it. */
  begin(): boolean {
    if (!MAY_SPIN) return false;
    const now = performance.now();
    if (this.#spun.waiting()) this.#policy.arrived(now);
    return this.#policy.stays(now);
  }

  /** Call after it. */
  end(awake: boolean): void {
    if (!MAY_SPIN) return;
    this.#policy.idle(performance.now(), awake);
    if (awake) this.#immediate ??= setImmediate(this.#turn);
  }

  stop(): void {
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
  }

  #look(): void {
    this.#immediate = null;
    if (this.#watch()) this.#spun.work();
    else this.#immediate = setImmediate(this.#turn);
  }

  /** Looks for a while: whether there is something to do, be it to sleep. */
  #watch(): boolean {
    const { waiting, expecting } = this.#spun;
    const begin = performance.now();
    let now = begin;
    do {
      for (let look = 0; look < LOOKS; look++) if (waiting()) return true;
      now = performance.now();
      if (!this.#policy.stays(now)) return true;
    } while (expecting() && now - begin < TURN_MILLISECONDS);
    return false;
  }
}
