/** When an end of a ring stays awake: the decision alone, and what it means for the ring. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { SPIN_LIMITS, SpinPolicy } from '../../src/xenring/spin.ts';

const { awakeMilliseconds: AWAKE, shortMilliseconds: SHORT, rowMin, rowMax } = SPIN_LIMITS;

/** An end of a ring with a clock of its own; nothing takes time but waiting. */
class End {
  readonly policy = new SpinPolicy();
  now = 1000;
  /** Time spent awake with nothing to do. */
  awakeMilliseconds = 0;
  arrivals = 0;
  #awake = false;

  /** Something comes after so long; returns whether this end was awake then. */
  arriveAfter(gap: number): boolean {
    if (this.#awake && gap >= AWAKE) this.#giveUp();
    if (this.#awake) this.awakeMilliseconds += gap;
    const wasAwake = this.#awake;
    this.now = Math.max(this.now, this.#since + gap);
    this.policy.arrived(this.now);
    this.arrivals++;
    this.#rest();
    return wasAwake;
  }

  #since = 0;

  #giveUp(): void {
    assert.equal(this.policy.stays(this.now + AWAKE * 0.99), true);
    this.now += AWAKE;
    this.awakeMilliseconds += AWAKE;
    assert.equal(this.policy.stays(this.now), false, 'it sleeps at its deadline');
    this.policy.idle(this.now, false);
    this.#awake = false;
  }

  #rest(): void {
    this.#awake = this.policy.stays(this.now);
    this.#since = this.now;
    this.policy.idle(this.now, this.#awake);
  }
}

describe('how long an end of a ring stays awake', () => {
  it('sleeps without traffic', () => {
    const policy = new SpinPolicy();
    for (let now = 0; now < 100; now++) {
      assert.equal(policy.stays(now), false);
      policy.idle(now, false);
    }
  });

  it('sleeps between arrivals that are far apart', () => {
    const end = new End();
    for (let n = 0; n < 1000; n++) assert.equal(end.arriveAfter(SHORT * 1.1), false);
    assert.equal(end.awakeMilliseconds, 0);
  });

  it('stays awake after some short gaps in a row, seen asleep; one long one begins anew', () => {
    const end = new End();
    end.arriveAfter(1);
    for (let n = 0; n < rowMin; n++) assert.equal(end.arriveAfter(SHORT * 0.9), false);
    assert.equal(end.arriveAfter(AWAKE / 2), true);
    assert.equal(end.arriveAfter(AWAKE / 2), true);
    assert.equal(end.arriveAfter(1), false);
    assert.equal(end.arriveAfter(AWAKE / 2), false);
  });

  it('gives up where the other end cannot run: ever rarer', () => {
    const end = new End();
    // Each gap would be short enough to begin with, and outlasts the patience.
    for (let n = 0; n < 20_000; n++) end.arriveAfter(SHORT * 0.9);
    const tries = Math.round(end.awakeMilliseconds / AWAKE);
    assert(tries > 5 && tries < 20_000 / (rowMax / 2), `${tries} tries`);
  });

  it('comes back when the other end can run again', () => {
    const end = new End();
    for (let n = 0; n < 20_000; n++) end.arriveAfter(SHORT * 0.9);
    let awake = 0;
    for (let n = 0; n < 10_000; n++) if (end.arriveAfter(AWAKE / 4)) awake++;
    assert(awake > 5000, `${awake} of 10000`);
  });

  it('never stays awake for nothing more than once in so many arrivals', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 500 }),
        (gaps) => {
          const end = new End();
          let inVain = 0;
          for (const gap of gaps) {
            const before = end.awakeMilliseconds;
            const awake = end.arriveAfter(gap);
            if (!awake && end.awakeMilliseconds > before) inVain++;
          }
          assert(inVain <= end.arrivals / rowMin);
        },
      ),
    );
  });
});
