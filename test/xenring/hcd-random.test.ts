/** A stock front end with random drivers, slow handlers and faulty events; the seed is printed. */
import { strict as assert } from 'node:assert';
import { randomOf } from './memory-platform.ts';
import { enumerate, RingRig, until } from './rig.ts';
import type { HcdResult, HcdUrb } from './xen-hcd.ts';

const SEED = Number(process.env.SEED ?? 1);
const RUNS = Number(process.env.RING_RUNS ?? 4);
const STEPS = 600;

describe('a stock front end, at random', () => {
  for (let run = 0; run < RUNS; run++) {
    const seed = SEED * 1000 + run;
    it(`seed ${seed}: each URB once, no packet lost, nothing moves behind an error`, async () => {
      const random = randomOf(seed);
      const rig = new RingRig({ faults: { seed } });
      await rig.start();
      rig.export('1-1', { short: 1000, stamp: true });
      const hcd = await rig.guest(5, 4, { lag: () => random() < 0.3 });
      await rig.tools.attachDevice(5, 0, '1-1');
      await enumerate(hcd, 1, 1);
      const out = new Set<HcdUrb>();
      let [stamp, lost, doubled, moved, given] = [-1, 0, 0, 0, 0];

      /** A driver that submits a queue, and unlinks what is behind an error, or not. */
      const submitQueue = (depth: number, unlinks: boolean) => {
        const urbs: HcdUrb[] = [];
        let failed = false;
        let full = false;
        for (let n = 0; n < depth; n++) {
          const urb: HcdUrb = {
            port: 1,
            endpoint: 1,
            type: 'bulk',
            in: true,
            shortNotOk: random() < 0.8,
            buffer: Buffer.alloc(512 * (1 + Math.floor(random() * 6))),
            done: (result: HcdResult) => {
              given++;
              if (!out.delete(urb)) doubled++;
              // Others cannot be told from those whose driver wants them, if their unlinks do not
              // fit the ring.
              const sure = urb.shortNotOk || !full;
              if (failed && unlinks && result.actual > 0 && sure) moved++;
              for (let at = 0; at + 4 <= result.actual; at += 512) {
                const now = result.data.readUInt32LE(at);
                if (now !== stamp + 1) lost++;
                stamp = now;
              }
              if (result.status === 0 || failed) return;
              failed = true;
              if (unlinks) for (const other of urbs) if (out.has(other)) hcd.unlink(other);
              full = hcd.stuckUnlinks > 0;
            },
          };
          urbs.push(urb);
        }
        for (const urb of urbs) {
          out.add(urb);
          hcd.submit(urb);
        }
      };
      const write = () => {
        const urb: HcdUrb = {
          port: 1,
          endpoint: 2,
          type: 'bulk',
          in: false,
          buffer: Buffer.alloc(64),
          done: () => {
            given++;
            if (!out.delete(urb)) doubled++;
          },
        };
        out.add(urb);
        hcd.submit(urb);
        if (random() < 0.3) setImmediate(() => hcd.unlink(urb));
      };

      for (let step = 0; step < STEPS; step++) {
        if (random() < 0.5) write();
        // One queue at a time, as drivers have it; beside it the other endpoint goes on.
        else if (![...out].some((urb) => urb.in)) {
          submitQueue(1 + Math.floor(random() * 20), random() < 0.7);
        }
        if (random() < 0.5) await new Promise((resolve) => setImmediate(resolve));
      }
      await until(() => out.size === 0, 'all are back', 10_000);
      assert.deepEqual({ lost, doubled, moved }, { lost: 0, doubled: 0, moved: 0 });
      assert.equal(hcd.error, null);
      assert(given > STEPS / 4);
      assert.deepEqual(rig.log.warnings, []);
      await rig.end();
    });
  }
});
