import { strict as assert } from 'node:assert';
import { PIECE_MILLISECONDS, runningTime } from '../../src/core/running-time.ts';
import { FakeClock } from '../examples/rig.ts';

function waiting(milliseconds: number) {
  const clock = new FakeClock();
  const calls: number[] = [];
  const begin = clock.now();
  const cancel = runningTime(clock).after(milliseconds, () => calls.push(clock.now() - begin));
  return { clock, calls, cancel };
}

describe('runningTime', () => {
  for (const milliseconds of [0, 5, PIECE_MILLISECONDS, 120, 1000]) {
    it(`calls back once after ${milliseconds} ms, when nothing is late`, () => {
      const { clock, calls } = waiting(milliseconds);
      clock.advance(milliseconds);
      assert.deepEqual(calls, [milliseconds]);
      clock.advance(5000);
      assert.equal(calls.length, 1);
      assert.equal(clock.timers, 0);
    });
  }

  it('does not count a standstill, however long', () => {
    const { clock, calls } = waiting(1000);
    clock.advance(500);
    clock.freeze(60_000);
    clock.advance(499);
    assert.deepEqual(calls, []);
    clock.advance(1);
    assert.deepEqual(calls, [61_000]);
  });

  it('a short wait that was late is waited for again', () => {
    const { clock, calls } = waiting(5);
    clock.freeze(1000);
    assert.deepEqual(calls, []);
    clock.advance(5);
    assert.deepEqual(calls, [1005]);
  });

  it('counts timers that are a little late', () => {
    const { clock, calls } = waiting(PIECE_MILLISECONDS);
    clock.freeze(PIECE_MILLISECONDS + 5);
    assert.deepEqual(calls, [PIECE_MILLISECONDS + 5]);
  });

  it('ends although all timers are late', () => {
    const { clock, calls } = waiting(1000);
    let pieces = 0;
    for (; calls.length === 0 && pieces < 1000; pieces++) clock.freeze(PIECE_MILLISECONDS + 20);
    assert.equal(pieces, (2 * 1000) / PIECE_MILLISECONDS);
  });

  it('counts no piece that the caller does not', () => {
    const clock = new FakeClock();
    const calls: number[] = [];
    const begin = clock.now();
    const end = begin + 3000;
    const counts = () => clock.now() > end;
    runningTime(clock).after(200, () => calls.push(clock.now() - begin), counts);
    clock.advance(10_000);
    assert.deepEqual(calls, [3200]);
    assert.equal(clock.timers, 0);
  });

  it('is cancelled in every piece', () => {
    const { clock, calls, cancel } = waiting(1000);
    clock.advance(333);
    cancel();
    assert.equal(clock.timers, 0);
    clock.advance(5000);
    assert.deepEqual(calls, []);
  });
});
