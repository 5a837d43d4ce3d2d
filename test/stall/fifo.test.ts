import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { Fifo } from '../../src/stall/fifo.ts';

/** An element; several may have the same number, but never at the same time. */
interface One {
  readonly order: number;
}

const COUNT = 4096;

const orderOf = ({ order }: One) => order;

/** A queue beside the array that it is to be like. */
class Pair {
  readonly fifo = new Fifo<One>(orderOf);
  list: One[] = [];
  /** Those that were here when the mark was set, and still are. */
  marked: One[] = [];
  /** Have left: their numbers are free again. */
  readonly gone: One[] = [];
  #orders = 0;

  /** One behind all others. */
  fresh(): One {
    return { order: this.#orders++ };
  }

  places(): number[] {
    const { fifo } = this;
    const places: number[] = [];
    for (let at = fifo.start; at < fifo.end; at = fifo.behind(at)) places.push(at);
    return places;
  }

  left(...gone: One[]): void {
    this.gone.push(...gone);
    this.list = this.list.filter((one) => !gone.includes(one));
    this.marked = this.marked.filter((one) => !gone.includes(one));
  }
}

const STEPS: Record<string, (pair: Pair, n: number) => void> = {
  push: (pair) => {
    const one = pair.fresh();
    pair.fifo.push(one);
    pair.list.push(one);
  },
  shift: (pair) => {
    const one = pair.fifo.shift();
    assert.equal(one, pair.list[0]);
    if (one !== undefined) pair.left(one);
  },
  remove: (pair, n) => {
    if (pair.list.length === 0) return;
    const one = pair.list[n % pair.list.length] as One;
    pair.fifo.remove(pair.fifo.find(one) as number);
    pair.left(one);
  },
  insert: (pair, n) => {
    const one = pair.gone.splice(n % (pair.gone.length + 1), 1)[0];
    if (one === undefined) return;
    pair.fifo.insert(one);
    pair.list.push(one);
    pair.list.sort((a, b) => a.order - b.order);
    STEPS.mark?.(pair, n);
  },
  set: (pair, n) => {
    if (pair.list.length === 0) return;
    const at = n % pair.list.length;
    const old = pair.list[at] as One;
    const other = { order: old.order };
    pair.fifo.set(pair.fifo.find(old) as number, other);
    pair.list[at] = other;
    pair.marked = pair.marked.map((one) => (one === old ? other : one));
  },
  cut: (pair, n) => {
    const from = Math.max(0, pair.list.length - (n % 4));
    const place = pair.places()[from] ?? pair.fifo.end;
    const cut = pair.list.slice(from);
    assert.deepEqual(pair.fifo.cut(place), cut);
    pair.left(...cut);
  },
  mark: (pair) => {
    pair.fifo.mark();
    pair.marked = [...pair.list];
  },
};
function check({ fifo, list, marked, gone }: Pair, places: number[]): void {
  assert.deepEqual([...fifo], list);
  assert.equal(fifo.length, list.length);
  assert.equal(fifo.first, list[0]);
  assert.equal(fifo.last, list.at(-1));
  for (const [n, one] of list.entries()) {
    const place = places[n] as number;
    assert.equal(fifo.find(one), place);
    assert.equal(fifo.at(place), one);
    assert.equal(fifo.orderAt(place), one.order);
    assert.equal(fifo.isMarked(place), marked.includes(one));
    assert(n === 0 ? fifo.before(place) < fifo.start : fifo.before(place) === places[n - 1]);
    assert.equal(fifo.behind(place), places[n + 1] ?? fifo.end);
  }
  for (const one of gone) assert.equal(fifo.find(one), undefined);
}

describe('first in, first out', () => {
  it('is like an array, whatever is done to it', () => {
    const names = ['push', 'push', 'push', 'remove', 'remove', ...Object.keys(STEPS)];
    const step = fc.tuple(fc.constantFrom(...names), fc.nat(1000));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const pair = new Pair();
        for (const [name, n] of steps) {
          STEPS[name]?.(pair, n);
          check(pair, pair.places());
        }
      }),
      { numRuns: 200 },
    );
  });

  it('is made of what there is', () => {
    const all = [1, 2, 3];
    assert.deepEqual([...new Fifo(Number, new Fifo(Number, all))], all);
  });

  for (const [name, order] of [
    ['oldest first', (n: number) => n],
    ['newest first', (n: number) => COUNT - 1 - n],
    ['every other, then the rest', (n: number) => ((2 * n) % COUNT) + (2 * n >= COUNT ? 1 : 0)],
  ] as const) {
    it(`thousands leave from anywhere at some twenty looks each: ${name}`, () => {
      let looks = 0;
      const numbers = Array.from({ length: COUNT }, (_, n) => n);
      const fifo = new Fifo<number>((one) => {
        looks++;
        return one;
      }, numbers);
      for (let n = 0; n < COUNT; n++) {
        const place = fifo.find(order(n)) as number;
        fifo.before(place);
        fifo.behind(place);
        fifo.remove(place);
      }
      assert.equal(fifo.length, 0);
      assert(looks < 20 * COUNT, `${looks} looks at numbers`);
    });
  }

  it('keeps no more slots than twice what is in it, whatever comes and goes in the middle', () => {
    const fifo = new Fifo<number>(Number, [0, 1]);
    let moved = 0;
    for (let n = 2; n < 100 * COUNT; n++) {
      fifo.push(n);
      const place = fifo.find(n - 1) as number;
      fifo.remove(place);
      moved = Math.max(moved, fifo.end - fifo.start);
    }
    assert.deepEqual([...fifo], [0, 100 * COUNT - 1]);
    assert(moved <= 8, `${moved} slots in use`);
  });
});
