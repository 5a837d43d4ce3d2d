/** Both ends wired together: urbgate's front end, and its back end with virtual devices. */
import { strict as assert } from 'node:assert';
import { LATE_UNLINK_MILLISECONDS, UNLINK_MILLISECONDS } from '../../src/core/limits.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import type { Pending } from '../../src/xenring/pending.ts';
import type { RingDevice } from '../../src/xenring/ring-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { allKinds, control, plugged, probe } from './front-driver.ts';
import { connect, end } from './front-pair.ts';
import { randomOf } from './memory-platform.ts';
import { turn, until } from './rig.ts';

const READ: Transfer = { endpoint: 0x81, type: 'bulk', octets: 64 };

describe('front end and back end', () => {
  it('agree upon the stall protocol, move all kinds of transfers, and leave nothing', async () => {
    const both = await connect({}, { pattern: 1 });
    const { ring, rig } = both;
    assert.equal(ring.stallProtocol, true);
    assert.equal(ring.speed, 'high');
    await allKinds(ring);
    assert.deepEqual(rig.log.warnings, []);
    await end(both);
  });

  for (const [what, unlinks] of [
    ['unlinks all', () => true],
    ['unlinks none', () => false],
    ['unlinks every other', (n: number) => n % 2 === 0],
  ] as const) {
    for (const depth of [2, 8, 15, 40]) {
      it(`the stall guarantee, depth ${depth}: a driver that ${what}`, async () => {
        const both = await connect({ faults: { seed: depth } }, { short: 1000, stamp: true });
        const { violations, lost } = await probe(both.ring, 20, depth, unlinks);
        assert.deepEqual({ violations, lost }, { violations: 0, lost: 0 });
        await end(both);
      });
    }
  }

  it('more transfers than slots, and all of them unlinked', async () => {
    const both = await connect({}, { delay: 60_000 });
    const results: string[] = [];
    const pending: Pending[] = [];
    for (let n = 0; n < 50; n++) {
      const transfer: Transfer = { endpoint: 0x81, type: 'bulk', octets: 64 };
      pending.push(both.ring.submit(transfer, ({ status }) => results.push(status)));
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
    for (const one of pending) both.ring.unlink(one);
    await until(() => results.length === 50, 'all are back');
    assert.deepEqual(new Set(results), new Set(['unlinked']));
    await end(both);
  });

  it('hot-plug: transfers end, and the next device is another', async () => {
    const both = await connect({}, { delay: 60_000 });
    const { rig, frontend, ring } = both;
    const read = ring.transfer({ endpoint: 0x81, type: 'bulk', octets: 64 });
    await rig.tools.detachDevice(7, 0, ring.port);
    assert.equal((await read).status, 'shutdown');
    await ring.closed;
    assert.equal((await ring.transfer(control(0x80, 0, 0, 0, 2))).status, 'shutdown');
    await until(() => rig.registry.get('1-1')?.holder === null, 'it is free');
    await rig.tools.attachDevice(7, 0, '1-1', 3);
    const next = await plugged(frontend);
    assert.notEqual(next, ring);
    assert.equal(next.port, 3);
    await end(both);
  });

  it('the gateway is killed and started again under load', async () => {
    const both = await connect({}, { delay: 3 });
    const { rig, frontend } = both;
    let { ring } = both;
    for (let round = 0; round < 5; round++) {
      const reads = Array.from({ length: 30 }, () =>
        ring.transfer({ endpoint: 0x81, type: 'bulk', octets: 64 }),
      );
      await new Promise((resolve) => setTimeout(resolve, 2 + 2 * round));
      rig.kill();
      await rig.restart(true);
      await Promise.all(reads);
      await ring.closed;
      ring = await plugged(frontend);
    }
    const { status } = await ring.transfer({ endpoint: 0x81, type: 'bulk', octets: 64 });
    assert.equal(status, 'ok');
    await end(both);
  });

  for (const [what, take, milliseconds] of [
    [
      'a call with a time',
      (ring: RingDevice) => ring.transferWithin(READ, 2_000),
      2_000 + LATE_UNLINK_MILLISECONDS,
    ],
    [
      'an unlink',
      (ring: RingDevice) =>
        new Promise<TransferResult>((resolve) => ring.unlink(ring.submit(READ, resolve))),
      UNLINK_MILLISECONDS,
    ],
  ] as const) {
    it(`the gateway says nothing any more: ${what} has an end, and the device is gone`, async () => {
      const clock = new FakeClock();
      const both = await connect({}, { delay: 60_000 }, undefined, clock);
      const { rig, frontend, ring } = both;
      const other = ring.transfer(READ);
      await until(
        () => rig.registry.get('1-1')?.holder?.session.outstandingCount === 1,
        'it waits',
      );
      rig.kill();
      const results: string[] = [];
      void take(ring).then(({ status }) => results.push(status));
      clock.advance(milliseconds - 1_000);
      await turn();
      assert.deepEqual(results, []);
      for (let n = 0; n < 5; n++) clock.advance(1_000);
      await turn();
      assert.deepEqual(results, ['shutdown']);
      assert.equal((await other).status, 'shutdown');
      await ring.closed;
      assert.equal(frontend.devices.size, 0);
      await rig.restart(true);
      const next = await plugged(frontend);
      assert.notEqual(next, ring);
      assert.equal((await next.transfer(control(0x80, 8, 0, 0, 1))).status, 'ok');
      await end(both);
    });
  }

  it('a handler throws: that is the program’s, and the others come back all the same', async () => {
    const both = await connect({}, { delay: 1 });
    const listeners = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    const caught: unknown[] = [];
    process.on('uncaughtException', (error) => caught.push(error.message));
    try {
      let back = 0;
      for (let n = 0; n < 6; n++) {
        both.ring.submit({ endpoint: 0x81, type: 'bulk', octets: 64 }, () => {
          back++;
          if (n % 2 === 0) throw new Error(`thrown by ${n}`);
        });
      }
      await until(() => back === 6, 'all are back');
    } finally {
      process.removeAllListeners('uncaughtException');
      for (const listener of listeners) process.on('uncaughtException', listener);
    }
    assert.deepEqual(caught, ['thrown by 0', 'thrown by 2', 'thrown by 4']);
    await end(both);
  });

  it('the toolstack takes the controller away', async () => {
    const both = await connect({}, { delay: 60_000 });
    const read = both.ring.transfer({ endpoint: 0x81, type: 'bulk', octets: 64 });
    await both.rig.tools.removeController(7, 0);
    assert.equal((await read).status, 'shutdown');
    await end(both);
  });

  it('random transfers and unlinks over late, merged and spurious events', async () => {
    const seed = Number(process.env.SEED ?? 20_260);
    const random = randomOf(seed);
    const both = await connect({ faults: { seed } }, { short: 1536 });
    let out = 0;
    let doubled = 0;
    for (let step = 0; step < 1500; step++) {
      const octets = 512 * Math.floor(random() * 8);
      const isIn = random() < 0.6;
      let done = false;
      const transfer: Transfer = isIn
        ? { endpoint: 0x81, type: 'bulk', octets, shortNotOk: random() < 0.5 }
        : { endpoint: 0x02, type: 'bulk', data: Buffer.alloc(octets) };
      out++;
      const pending = both.ring.submit(transfer, () => {
        if (done) doubled++;
        done = true;
        out--;
      });
      if (random() < 0.2) setImmediate(() => done || both.ring.unlink(pending));
      if (random() < 0.1) await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => out === 0, `all are back (seed ${seed})`);
    assert.equal(doubled, 0);
    assert.deepEqual(both.rig.log.warnings, []);
    await end(both);
  });
});
