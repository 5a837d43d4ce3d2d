/** Time for those who need it, so that tests and simulations can supply their own. */
import { performance } from 'node:perf_hooks'; // the global one is looked up at each use

export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  now(): number;
  /** Calls back once, not before `milliseconds` have passed; the result cancels that. */
  after(milliseconds: number, call: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (milliseconds, call) => {
    // Node runs timers before it reads sockets: a late one must not overtake what has arrived.
    let immediate: NodeJS.Immediate | undefined;
    const timer = setTimeout(() => {
      immediate = setImmediate(call);
    }, milliseconds);
    return () => {
      clearTimeout(timer);
      clearImmediate(immediate);
    };
  },
};

/** Like `systemClock`, but what waits on it does not keep the process alive. */
export const backgroundClock: Clock = {
  now: systemClock.now,
  after: (milliseconds, call) => {
    const timer = setTimeout(call, milliseconds).unref();
    return () => clearTimeout(timer);
  },
};
