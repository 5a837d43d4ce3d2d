import { strict as assert } from 'node:assert';
import { Barrier, type Line, lowerBarriers, putBarrier } from '../../src/stall/barriers.ts';
import { waitingLine } from '../../src/stall/endpoint-queue.ts';

describe('barriers', () => {
  it('none stands longer than the earliest time that it was lowered to', () => {
    const waiting = waitingLine<number>((n) => n, [0, 1, 2, 3, 4, 5, 6, 7]);
    const line: Line<number> = {
      waiting,
      barriers: 0,
      fresh: new Set(),
      lowered: Number.NEGATIVE_INFINITY,
    };
    const unlink = (n: number) => putBarrier(line, waiting.find(n) ?? Number.NaN, 1000);
    const untils = () => [...waiting].flatMap((one) => (one instanceof Barrier ? one.until : []));
    unlink(2);
    lowerBarriers(line, 50);
    unlink(5);
    assert.deepEqual(untils(), [50, 1000]);
    lowerBarriers(line, 60);
    assert.deepEqual(untils(), [50, 60]);
    lowerBarriers(line, 20);
    assert.deepEqual(untils(), [20, 20]);
    unlink(7);
    lowerBarriers(line, 70);
    assert.deepEqual(untils(), [20, 20, 70]);
  });
});
