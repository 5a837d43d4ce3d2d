/**
 * Thousands of URBs in simulated time, with everything left to chance that may differ in the world.
 * Each run prints its seed; SEED=n repeats one, SIM_RUNS=n makes more of them (default 30 each).
 */
import { strict as assert } from 'node:assert';
import { randomInt } from 'node:crypto';
import { type Client, type Outcome, simulate } from './simulation.ts';

const RUNS = Number(process.env.SIM_RUNS ?? 30);
const URBS = 1000;
const given = process.env.SEED;
const first = given === undefined ? randomInt(2 ** 31) : Number(given);
const seeds = Array.from({ length: given === undefined ? RUNS : 1 }, (_, n) => first + n);

async function simulateAll(client: Client, lost: boolean): Promise<Outcome> {
  const sum = { urbs: 0, errors: 0, unlinked: 0, retried: 0, violations: 0, milliseconds: 0 };
  for (const seed of seeds) {
    try {
      const outcome = await simulate({ seed, client, urbs: URBS, lost });
      for (const key of Object.keys(sum) as (keyof Outcome)[]) sum[key] += outcome[key];
      if (client !== 'none') assert.equal(outcome.violations, 0, 'I1: violations');
    } catch (error) {
      throw new Error(`With SEED=${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
  const { urbs, errors, unlinked, retried, milliseconds } = sum;
  console.log(
    `        seeds ${seeds[0]} to ${seeds.at(-1)}: ${urbs} URBs, ${errors} errors, ` +
      `${unlinked} unlinked, ${retried} retried, ${Math.round(milliseconds / 1000)} s simulated`,
  );
  return sum;
}

describe(`simulation, SEED=${first}`, function () {
  this.timeout(300_000);

  for (const client of ['timed', 'exact', 'return', 'old'] as const) {
    for (const lost of [false, true]) {
      it(`client ${client}${lost ? ', the connection is lost' : ''}`, async () => {
        const { errors, unlinked, retried } = await simulateAll(client, lost);
        if (lost) return;
        assert(errors > 0 && unlinked > 0);
        assert.equal(retried > 0, client === 'return');
      });
    }
  }

  it('without recovery the guarantee is broken, and this simulation notices', async () => {
    const { violations } = await simulateAll('none', false);
    assert(violations > 0);
  });

  it('the same seed gives the same run', async () => {
    const options = { seed: first, client: 'timed', urbs: 100, lost: false } as const;
    assert.deepEqual(await simulate(options), await simulate(options));
  });
});
