/**
 * How long a property is tried. The seed of a failure is in its message; `SEED=n` runs it again, and
 * `FUZZ_MILLISECONDS=n` tries each for so long.
 */
import type { Parameters } from 'fast-check';

const longer = Number(process.env.FUZZ_MILLISECONDS ?? 0);

/** For mocha: what a property needs at most, its shrinking included. */
export const FUZZ_TIMEOUT_MILLISECONDS = 30_000 + 2 * longer;

export function bounded(milliseconds = 1200): Parameters<unknown> {
  const seed = Number(process.env.SEED);
  return {
    numRuns: 1_000_000,
    interruptAfterTimeLimit: Math.max(longer, milliseconds),
    markInterruptAsFailure: false,
    ...(Number.isInteger(seed) && process.env.SEED !== undefined && { seed }),
  };
}
