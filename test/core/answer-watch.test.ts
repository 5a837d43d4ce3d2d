import { strict as assert } from 'node:assert';
import { AnswerWatch } from '../../src/core/answer-watch.ts';
import { FakeClock } from '../examples/rig.ts';

const LIMIT = 7000;

describe('AnswerWatch', () => {
  let clock: FakeClock;
  let late: number;
  let reads: boolean;
  let watch: AnswerWatch<string>;

  beforeEach(() => {
    clock = new FakeClock();
    late = 0;
    reads = true;
    watch = new AnswerWatch({
      milliseconds: LIMIT,
      clock,
      onLate: () => late++,
      counts: () => reads,
    });
  });

  it('what is not answered within the limit is late, soon after it, and once', () => {
    watch.asked('a');
    clock.advance(LIMIT);
    assert.equal(late, 0);
    clock.advance(LIMIT / 7);
    assert.equal(late, 1);
    watch.asked('b');
    clock.advance(10 * LIMIT);
    assert.equal(late, 1);
    assert.equal(clock.timers, 0);
  });

  it('answers to others do not help the one that has none', () => {
    watch.asked('a');
    for (let n = 0; n < 100; n++) {
      watch.asked(`b${n}`);
      clock.advance(LIMIT / 50);
      watch.answered(`b${n}`);
    }
    assert.equal(late, 1);
  });

  it('with all answered nothing is late, and no timer is left', () => {
    for (let n = 0; n < 1000; n++) {
      watch.asked(`${n}`);
      assert.equal(clock.timers, 1);
      clock.advance(LIMIT / 3);
      watch.answered(`${n}`);
    }
    clock.advance(LIMIT);
    assert.deepEqual([late, clock.timers], [0, 0]);
  });

  it('a standstill of this process is not the peer’s', () => {
    watch.asked('a');
    clock.freeze(100 * LIMIT);
    assert.equal(late, 0);
    clock.advance((LIMIT * 5) / 7);
    watch.answered('a');
    clock.advance(LIMIT);
    assert.equal(late, 0);
  });

  it('time in which no answers are read is not counted', () => {
    reads = false;
    watch.asked('a');
    clock.advance(100 * LIMIT);
    assert.equal(late, 0);
    reads = true;
    clock.advance(2 * LIMIT);
    assert.equal(late, 1);
  });

  it('a peer that has gone owes nothing', () => {
    watch.asked('a');
    watch.end();
    clock.advance(10 * LIMIT);
    assert.deepEqual([late, clock.timers], [0, 0]);
  });
});
