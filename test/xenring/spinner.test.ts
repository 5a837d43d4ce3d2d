/** The driver that keeps an end of a ring awake, in a real event loop. */
import { strict as assert } from 'node:assert';
import { availableParallelism } from 'node:os';
import { Spinner } from '../../src/xenring/spinner.ts';
import { turn, until } from './rig.ts';

/** An end whose other end is this test. */
class Ring {
  produced = 0;
  taken = 0;
  looks = 0;
  sleeps = 0;
  readonly spinner = new Spinner({
    waiting: () => {
      this.looks++;
      return this.produced !== this.taken;
    },
    expecting: () => true,
    work: () => this.work(),
  });

  work(): void {
    const awake = this.spinner.begin();
    this.taken = this.produced;
    this.spinner.end(awake);
    if (!awake) this.sleeps++;
  }

  /** As with an event. */
  arrive(): void {
    this.produced++;
    this.work();
  }
}

describe('an end of a ring that stays awake', () => {
  before(function () {
    if (availableParallelism() < 2) this.skip(); // it never does there
  });

  /** After dense traffic; a machine that is busy just then may need more of it. */
  async function awake(): Promise<Ring> {
    const ring = new Ring();
    for (let n = 0; n < 10_000; n++) {
      const { sleeps } = ring;
      ring.arrive();
      if (ring.sleeps === sleeps) return ring;
    }
    assert.fail('it never stayed awake');
  }

  it('sees what comes without an event', async () => {
    let seen = 0;
    for (let n = 0; n < 50; n++) {
      const ring = await awake();
      const { sleeps } = ring;
      ring.produced++;
      await turn();
      if (ring.taken === ring.produced && ring.sleeps === sleeps) seen++;
      ring.spinner.stop();
    }
    assert(seen > 10, `${seen} of 50`);
  });

  it('goes to sleep soon, and then looks no more', async () => {
    const ring = await awake();
    const { sleeps } = ring;
    await until(() => ring.sleeps > sleeps, 'it sleeps', 1000);
    const { looks } = ring;
    for (let n = 0; n < 10; n++) await turn();
    assert.equal(ring.looks, looks);
  });

  it('lets others have their turn meanwhile', async () => {
    let turns = 0;
    for (let n = 0; n < 20; n++) {
      const ring = await awake();
      const { sleeps } = ring;
      for (; ring.sleeps === sleeps; turns++) await turn();
    }
    assert(turns >= 40, `${turns} turns`);
  });

  it('stops when told so', async () => {
    const ring = await awake();
    ring.spinner.stop();
    const { looks } = ring;
    for (let n = 0; n < 10; n++) await turn();
    assert.equal(ring.looks, looks);
  });
});
