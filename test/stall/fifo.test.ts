import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { Fifo } from '../../src/stall/fifo.ts';

/** What can be done to a queue, and to the array that it is to be like. */
const STEPS: Record<string, (fifo: Fifo<number>, list: number[], place: number) => unknown[]> = {
  push: (fifo, list, place) => [fifo.push(place), list.push(place) && undefined],
  shift: (fifo, list) => [fifo.shift(), list.shift()],
  insert: (fifo, list, place) => [
    fifo.insert(place % (list.length + 1), place),
    list.splice(place % (list.length + 1), 0, place) && undefined,
  ],
  remove: (fifo, list, place) => {
    if (list.length === 0) return [];
    fifo.remove(place % list.length);
    list.splice(place % list.length, 1);
    return [];
  },
  set: (fifo, list, place) => {
    if (list.length === 0) return [];
    fifo.set(place % list.length, place);
    list[place % list.length] = place;
    return [];
  },
  cut: (fifo, list, place) => {
    const from = list.length - (place % 4);
    return from < 0 ? [] : [fifo.cut(from), list.splice(from)];
  },
  indexOf: (fifo, list, place) => [fifo.indexOf(place), list.indexOf(place)],
  at: (fifo, list, place) => [fifo.at(place), list[place]],
};

describe('first in, first out', () => {
  it('is like an array, whatever is done to it', () => {
    const step = fc.tuple(fc.constantFrom('push', 'push', ...Object.keys(STEPS)), fc.nat(40));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const fifo = new Fifo<number>();
        const list: number[] = [];
        for (const [name, place] of steps) {
          const [got, wanted] = STEPS[name]?.(fifo, list, place) ?? [];
          assert.deepEqual(got, wanted, name);
          assert.deepEqual([...fifo], list, name);
          assert.equal(fifo.length, list.length);
          assert.equal(fifo.first, list[0]);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('is made of what there is', () => {
    assert.deepEqual([...new Fifo(new Fifo([1, 2, 3]))], [1, 2, 3]);
  });
});
