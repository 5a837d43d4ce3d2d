import { strict as assert } from 'node:assert';
import type { Pending } from '../../src/usbip/pending.ts';
import { Pendings } from '../../src/usbip/pendings.ts';

const pending = (): Pending => ({ seqnum: 0 }) as Pending;

describe('transfers and unlinks under way', () => {
  it('unlinks whose transfers have ended are not kept for ever, others are', () => {
    const pendings = new Pendings();
    const kept = pending();
    pendings.add(kept);
    const keptUnlink = pendings.addUnlink(kept);
    const unlinks: number[] = [];
    for (let n = 0; n < 10_000; n++) {
      const one = pending();
      pendings.add(one);
      unlinks.push(pendings.addUnlink(one));
      pendings.remove(one);
    }
    assert.equal(pendings.removeUnlink(keptUnlink), kept);
    const known = unlinks.filter((seqnum) => pendings.removeUnlink(seqnum) !== undefined);
    assert(known.length <= 256, `${known.length} are kept`);
    assert.equal(pendings.count, 1);
  });

  it('as many unlinks as there are transfers are kept', () => {
    const pendings = new Pendings();
    const all = Array.from({ length: 2000 }, pending);
    for (const one of all) pendings.add(one);
    const unlinks = all.map((one) => pendings.addUnlink(one));
    assert.deepEqual(
      unlinks.map((seqnum) => pendings.removeUnlink(seqnum)),
      all,
    );
  });
});
