import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import type { Urb } from '../../src/core/urb.ts';
import { UrbTable } from '../../src/core/urb-table.ts';
import { write } from './manual-device.ts';

/** Numbers that follow each other, and numbers that all want one slot. */
const id = fc.oneof(
  fc.nat(600),
  fc.nat(20).map((n) => n * 4096),
  fc.constantFrom(0xffff_ffff, 0x8000_0000),
);

describe('table of URBs', () => {
  it('is like a map, whatever numbers come and go', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(id, fc.boolean()), { maxLength: 300 }), (steps) => {
        const table = new UrbTable();
        const map = new Map<number, Urb>();
        for (const [number, mayDelete] of steps) {
          const known = map.get(number);
          assert.equal(table.get(number), known);
          if (known === undefined) {
            const urb = write(number);
            table.add(urb);
            map.set(number, urb);
          } else if (mayDelete) {
            assert.equal(table.delete(known), map.delete(number));
            assert.equal(table.delete(known), false);
          }
          assert.equal(table.size, map.size);
        }
        const all = [...table];
        assert.equal(all.length, map.size);
        assert(all.every((urb) => map.get(urb.id) === urb));
      }),
      { numRuns: 300 },
    );
  });
});
