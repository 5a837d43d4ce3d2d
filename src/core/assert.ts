/**
 * Assertions for the hot path: a check and nothing else. `node:assert` gathers its arguments anew
 * at each call, which shows in profiles of code that runs once for each URB.
 */
import { AssertionError } from 'node:assert';

/** @throws {AssertionError} if the condition does not hold: a caller's bug. */
export function assert(
  condition: unknown,
  message = 'Cannot go on: a condition does not hold',
): asserts condition {
  if (!condition) throw new AssertionError({ message, stackStartFn: assert });
}
