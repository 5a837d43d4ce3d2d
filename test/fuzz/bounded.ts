/**
 * How long a property is tried. The seed of a failure is in its message; `SEED=n` runs it again, and
 * `FUZZ_MILLISECONDS=n` tries each for so long. Where several share `FUZZ_SECONDS=n`, it is for all of them.
 */
import type { Parameters } from 'fast-check';

const longer = Number(process.env.FUZZ_MILLISECONDS ?? 0);
const together = 1000 * Number(process.env.FUZZ_SECONDS ?? 0);

/** For mocha: what a property needs at most, its shrinking included. */
export const FUZZ_TIMEOUT_MILLISECONDS = 30_000 + 2 * (longer + together);

export function bounded(milliseconds = 1200): Parameters<unknown> {
  const seed = Number(process.env.SEED);
  return {
    numRuns: 1_000_000,
    interruptAfterTimeLimit: Math.max(longer, milliseconds),
    markInterruptAsFailure: false,
    ...(Number.isInteger(seed) && process.env.SEED !== undefined && { seed }),
  };
}

/** For one of several properties that share the time of `FUZZ_SECONDS`. */
export function boundedShare(properties: number, milliseconds = 500): Parameters<unknown> {
  return bounded(Math.max(milliseconds, together / properties));
}
