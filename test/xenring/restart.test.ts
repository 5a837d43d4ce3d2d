/**
 * The gateway dies between any two things that others see of it, and another takes its place: each URB
 * comes back once, and the device works again. What would be lost where: docs/decisions/0089.
 */
import { strict as assert } from 'node:assert';
import { type CrashRun, type Runner, runFrontend, runXenHcd } from './crash-runs.ts';
import { ASLEEP_MILLISECONDS, AWAKE_MILLISECONDS, watchStores } from './crash-world.ts';
import { randomOf } from './memory-platform.ts';

/** With this one an unlink is once alone in the ring, and its answer lies in its own slot. */
const SEED = 10;
const TRANSFERS = 20;
/** Runs with several deaths. */
const RUNS = 60;
const FIRST_LIVES_STEPS_MAX = 80;
const PAUSE_TURNS_MAX = 20;

const FRONT_ENDS: readonly [string, Runner][] = [
  ['urbgate’s front end', runFrontend],
  ['a stock front end', runXenHcd],
];
const WAYS: readonly [string, number][] = [
  ['ends that sleep', ASLEEP_MILLISECONDS],
  ['ends that stay awake', AWAKE_MILLISECONDS],
];

describe('a gateway that dies, and the next', function () {
  this.timeout(120_000);
  let unwatch = () => {};
  afterEach(() => unwatch());

  for (const [front, run] of FRONT_ENDS) {
    for (const [way, lookMilliseconds] of WAYS) {
      it(`at any step: ${front}, ${way}`, async () => {
        unwatch = watchStores(lookMilliseconds);
        const base = { seed: SEED, transfers: TRANSFERS, pauseTurns: 0 };
        const [steps = 0] = await run({ ...base, crashes: [] });
        assert(steps > 200, `${steps} steps`);
        for (let step = 1; step <= steps; step++) await attempt(run, { ...base, crashes: [step] });
      });
    }

    it(`several in a row: ${front}`, async () => {
      for (let seed = 1; seed <= RUNS; seed++) {
        const random = randomOf(seed);
        unwatch = watchStores(WAYS[seed % WAYS.length]?.[1] ?? 1);
        const length = 2 + Math.floor(random() * 3);
        const crashes = Array.from(
          { length },
          () => 1 + Math.floor(random() * FIRST_LIVES_STEPS_MAX),
        );
        crashes[0] = 1 + Math.floor(random() * 300);
        const pauseTurns = Math.floor(random() * PAUSE_TURNS_MAX);
        await attempt(run, { seed, transfers: TRANSFERS, pauseTurns, crashes });
        unwatch();
      }
    });
  }
});

async function attempt(run: Runner, what: CrashRun): Promise<void> {
  try {
    await run(what);
  } catch (error) {
    throw new Error(`${JSON.stringify(what)}: ${(error as Error).message}`);
  }
}
