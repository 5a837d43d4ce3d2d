import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { BufferPool } from '../../src/usbip/buffer-pool.ts';

const KEPT_OCTETS_MAX = 8 << 20;

describe('BufferPool', () => {
  it('gives buffers of exactly the octets asked for', () => {
    const pool = new BufferPool();
    const sizes = [1, 4095, 4096, 4097, 8192, 8193, 65536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1];
    for (const octets of [...sizes, ...sizes]) {
      const buffer = pool.take(octets);
      assert.equal(buffer.length, octets);
      pool.give(buffer);
    }
  });

  it('uses memory again', () => {
    const pool = new BufferPool();
    for (const octets of [1, 4096, 5000, 1 << 20]) {
      const first = pool.take(octets);
      pool.give(first);
      assert.equal(pool.take(octets).buffer, first.buffer, `${octets} octets`);
    }
  });

  it('does not keep buffers of more than a MiB', () => {
    const pool = new BufferPool();
    const large = pool.take((1 << 20) + 1);
    pool.give(large);
    assert.notEqual(pool.take((1 << 20) + 1).buffer, large.buffer);
  });

  it('keeps a bounded amount', () => {
    const pool = new BufferPool();
    const count = 2 * (KEPT_OCTETS_MAX >> 20);
    const taken = Array.from({ length: count }, () => pool.take(1 << 20));
    for (const buffer of taken) pool.give(buffer);
    const known = new Set(taken.map((buffer) => buffer.buffer));
    let kept = 0;
    for (let n = 0; n < count; n++) if (known.has(pool.take(1 << 20).buffer)) kept++;
    assert.equal(kept, KEPT_OCTETS_MAX >> 20);
  });

  it('what it keeps counts once: it can be filled again after it was emptied', () => {
    const pool = new BufferPool();
    for (let round = 0; round < 5; round++) {
      const taken = Array.from({ length: 8 }, () => pool.take(1 << 20));
      for (const buffer of taken) pool.give(buffer);
      const again = Array.from({ length: 8 }, () => pool.take(1 << 20).buffer);
      assert.deepEqual(new Set(again), new Set(taken.map((buffer) => buffer.buffer)));
      for (const memory of again) pool.give(Buffer.from(memory as ArrayBuffer));
    }
  });

  it('never has one piece of memory in two hands', () => {
    const step = fc.oneof(
      fc.record({ take: fc.nat(70_000).map((octets) => octets + 1) }),
      fc.record({ give: fc.nat(30) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const pool = new BufferPool();
        const held: Buffer[] = [];
        for (const one of steps) {
          if ('take' in one) {
            const buffer = pool.take(one.take);
            assert.equal(buffer.length, one.take);
            assert(held.every((other) => other.buffer !== buffer.buffer));
            held.push(buffer);
          } else if (held.length > 0) {
            const [given] = held.splice(one.give % held.length, 1);
            if (given !== undefined) pool.give(given);
          }
        }
      }),
    );
  });
});
