import { strict as assert } from 'node:assert';
import { randomOf } from './memory-platform.ts';
import { enumerate, RingRig, turn, until } from './rig.ts';
import type { HcdResult, XenHcd } from './xen-hcd.ts';

const BULK_IN = 1;

/** Keeps the device busy; the result grows as its twelve reads come back. */
async function load(hcd: XenHcd, port: number): Promise<HcdResult[]> {
  const results: HcdResult[] = [];
  for (let n = 0; n < 12; n++) {
    hcd.submit({
      port,
      endpoint: BULK_IN,
      type: 'bulk',
      in: true,
      buffer: Buffer.alloc(64),
      done: (r) => results.push(r),
    });
  }
  await turn();
  return results;
}

describe('back end with a stock front end', () => {
  let rig: RingRig;
  beforeEach(async () => {
    rig = new RingRig();
    await rig.start();
  });
  afterEach(async () => {
    await rig.end();
    assert.equal(rig.world.domain(0).inUse.mappedPages, 0);
  });

  const plug = async (hcd: XenHcd, busId: string, alternate = 0, domain = 5): Promise<number> => {
    const port = await rig.tools.attachDevice(domain, 0, busId);
    await enumerate(hcd, port, alternate);
    return port;
  };

  it('connects, plugs in, enumerates, answers NODEV at empty ports', async () => {
    rig.export('1-1');
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    assert.equal(port, 1);
    assert.deepEqual(hcd.plugLog, ['1:3']);
    const nobody = await hcd.control(2, [0x80, 6, 0, 1, 0, 0, 18, 0], 18);
    assert.equal(nobody.status, -19);
    assert.equal(hcd.error, null);
    assert.equal(rig.registry.get('1-1')?.holder?.peer, 'dom5 vusb 0');
  });

  it('moves control, bulk and interrupt data, at any offset in pages', async () => {
    rig.export('1-1', { pattern: 1 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1', 1);
    for (const octets of [1, 512, 4096, 4097, 61_440]) {
      for (const pageOffset of [0, 7, 4095]) {
        const buffer = Buffer.alloc(octets);
        const read = await hcd.transfer({
          port,
          endpoint: BULK_IN,
          type: 'bulk',
          in: true,
          buffer,
          pageOffset,
        });
        assert.deepEqual([read.status, read.actual], [0, octets]);
        read.data.forEach((octet, n) => {
          assert.equal(octet, (n % 512) % 63);
        });
        const write = await hcd.transfer({
          port,
          endpoint: 2,
          type: 'bulk',
          in: false,
          buffer: read.data,
          pageOffset,
        });
        assert.deepEqual([write.status, write.actual], [0, octets]);
      }
    }
    const data = Buffer.from('to and fro');
    assert.equal(
      (await hcd.control(port, [0x40, 0x5b, 0, 0, 0, 0, data.length, 0], 0, data)).status,
      0,
    );
    const back = await hcd.control(port, [0xc0, 0x5c, 0, 0, 0, 0, data.length, 0], data.length);
    assert.equal(back.data.toString(), 'to and fro');
    const interrupt = await hcd.transfer({
      port,
      endpoint: 5,
      type: 'interrupt',
      in: true,
      buffer: Buffer.alloc(64),
    });
    assert.deepEqual([interrupt.status, interrupt.actual], [0, 64]);
  });

  it('64 KiB: buffer_length is 0, the segments are all there', async () => {
    rig.export('1-1', { pattern: 1 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    const buffer = Buffer.alloc(65_536);
    const read = await hcd.transfer({ port, endpoint: BULK_IN, type: 'bulk', in: true, buffer });
    assert.deepEqual([read.status, read.actual], [0, 65_536]);
    assert.equal(read.data[65_535], 511 % 63);
  });

  it('isochronous: both directions, descriptors written back', async () => {
    rig.export('1-1', { pattern: 1 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1', 1);
    const packets = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => ({
      offset: n * 1500,
      length: 1000 + n,
      actual: -1,
      status: -1,
    }));
    const buffer = Buffer.alloc(12_000, 0xee);
    const read = await hcd.transfer({
      port,
      endpoint: 3,
      type: 'isochronous',
      in: true,
      buffer,
      packets,
    });
    assert.equal(read.status, 0);
    assert.equal(read.errorCount, 0);
    for (const { offset, length, actual, status } of packets) {
      assert.deepEqual([actual, status], [length, 0]);
      assert.equal(buffer[offset + 100], 100 % 63);
    }
    const out = Buffer.alloc(800);
    for (let n = 0; n < 800; n++) out[n] = (n % 100) % 63;
    const outPackets = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => ({
      offset: n * 100,
      length: 100,
      actual: -1,
      status: -1,
    }));
    const write = await hcd.transfer({
      port,
      endpoint: 4,
      type: 'isochronous',
      in: false,
      buffer: out,
      packets: outPackets,
    });
    assert.equal(write.status, 0);
    for (const { actual, status } of outPackets) assert.deepEqual([actual, status], [100, 0]);
  });

  it('isochronous: descriptors that leave the buffer, or do not match the count, are refused', async () => {
    rig.export('1-1');
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1', 1);
    const bad = await hcd.transfer({
      port,
      endpoint: 3,
      type: 'isochronous',
      in: true,
      buffer: Buffer.alloc(100),
      packets: [{ offset: 90, length: 11 }],
    });
    assert.equal(bad.status, -22);
    hcd.options = {
      spoil: (slot) => {
        slot.writeUInt16LE(2, 16);
      },
    };
    const count = await hcd.transfer({
      port,
      endpoint: 3,
      type: 'isochronous',
      in: true,
      buffer: Buffer.alloc(100),
      packets: [{ offset: 0, length: 10 }],
    });
    assert.equal(count.status, -22);
    assert.equal(hcd.error, null);
  });

  it('unlinks what the device holds', async () => {
    rig.export('1-1', { delay: 60_000 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    const results: HcdResult[] = [];
    const urbs = [0, 1, 2, 3].map(() =>
      hcd.submit({
        port,
        endpoint: BULK_IN,
        type: 'bulk',
        in: true,
        buffer: Buffer.alloc(64),
        done: (r) => results.push(r),
      }),
    );
    await turn();
    await turn();
    for (const urb of urbs) hcd.unlink(urb);
    await until(() => results.length === 4, 'all are back');
    for (const { status, actual } of results) assert.deepEqual([status, actual], [-104, 0]);
    assert.equal(hcd.error, null);
  });

  it('stall: halts, and clear-halt starts again', async () => {
    rig.export('1-1', { short: 512, end: 'stall' });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    const read = () =>
      hcd.transfer({ port, endpoint: BULK_IN, type: 'bulk', in: true, buffer: Buffer.alloc(1024) });
    assert.equal((await read()).status, -32);
    assert.equal((await hcd.control(port, [2, 1, 0, 0, 0x81, 0, 0, 0])).status, 0);
    assert.equal((await read()).status, -32);
  });

  /**
   * Rounds of reads behind one that comes back short; returns what moved behind the error, and how many
   * rounds the device has not seen.
   */
  async function probe(hcd: XenHcd, port: number, rounds: number, depth: number, unlinks: boolean) {
    let violations = 0;
    let stamp = -1;
    let lost = 0;
    let hollow = 0;
    for (let round = 0; round < rounds; round++) {
      await new Promise<void>((resolve) => {
        let back = 0;
        let failed = false;
        const urbs = Array.from({ length: depth }, () => ({
          port,
          endpoint: BULK_IN,
          type: 'bulk' as const,
          in: true,
          shortNotOk: true,
          buffer: Buffer.alloc(4096),
          done: (result: HcdResult) => {
            if (failed && result.actual > 0 && unlinks) violations++;
            for (let at = 0; at + 4 <= result.actual; at += 512) {
              const now = result.data.readUInt32LE(at);
              if (now !== stamp + 1) lost++;
              stamp = now;
            }
            if (!failed) {
              failed = true;
              if (result.actual === 0) hollow++;
              if (unlinks) for (const urb of urbs.slice(1)) hcd.unlink(urb);
            }
            if (++back === depth) resolve();
          },
        }));
        for (const urb of urbs) hcd.submit(urb);
      });
    }
    return { violations, lost, hollow };
  }

  for (const lagging of [false, true]) {
    for (const depth of [2, 8]) {
      it(`the stall guarantee: depth ${depth}, handlers ${lagging ? 'slow' : 'fast'}`, async () => {
        rig.export('1-1', { short: 1000, stamp: true });
        const hcd = await rig.guest(5);
        const port = await plug(hcd, '1-1');
        const random = randomOf(depth);
        if (lagging) hcd.options = { lag: () => random() < 0.5 };
        assert.deepEqual(await probe(hcd, port, 100, depth, true), {
          violations: 0,
          lost: 0,
          hollow: 0,
        });
        assert.equal(hcd.error, null);
      });
    }
  }

  for (const depth of [9, 10, 12, 16, 32]) {
    it(`the stall guarantee: depth ${depth}, where unlinks no longer fit the ring`, async () => {
      rig.export('1-1', { short: 1000, stamp: true });
      const hcd = await rig.guest(5);
      const port = await plug(hcd, '1-1');
      assert.deepEqual(await probe(hcd, port, 20, depth, true), {
        violations: 0,
        lost: 0,
        hollow: 0,
      });
      assert.equal(hcd.stuckUnlinks, 0);
      assert.equal(hcd.error, null);
    });
  }

  it('a driver that does not unlink gets the others, in order', async () => {
    rig.export('1-1', { short: 1000, stamp: true });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    assert.deepEqual(await probe(hcd, port, 20, 4, false), { violations: 0, lost: 0, hollow: 0 });
  });

  it('hot-plug: replug, export and unexport, another client', async () => {
    rig.export('1-1');
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    await rig.tools.detachDevice(5, 0, port);
    await until(() => hcd.speeds[port] === 0, 'it is unplugged');
    await until(() => rig.registry.get('1-1')?.holder === null, 'it is free');
    await rig.tools.attachDevice(5, 0, '1-1', port);
    await enumerate(hcd, port);
    await rig.registry.remove('1-1');
    await until(() => hcd.speeds[port] === 0, 'it has gone');
    rig.export('1-1');
    await enumerate(hcd, port);
    assert.deepEqual(hcd.plugLog, ['1:3', '1:0', '1:3', '1:0', '1:3']);
    const other = await rig.guest(6);
    await rig.tools.attachDevice(6, 0, '1-1');
    await until(
      () => rig.log.warnings.some((line) => line.includes('another client has it')),
      'it is refused',
    );
    await rig.tools.detachDevice(5, 0, port);
    await until(() => other.speeds[1] === 3, 'it moves to the other guest');
  });

  it('hot-plug 50 times', async () => {
    rig.export('1-1');
    const hcd = await rig.guest(5);
    const before = rig.dom0.inUse;
    for (let n = 0; n < 50; n++) {
      const port = await plug(hcd, '1-1');
      await rig.tools.detachDevice(5, 0, port);
      await until(() => rig.registry.get('1-1')?.holder === null, 'it is free');
      await until(() => hcd.speeds[port] === 0, 'it is unplugged');
    }
    assert.deepEqual(rig.dom0.inUse, before);
    assert.deepEqual(rig.log.warnings, []);
  });

  it('hot-plug of another device of the same speed is noticed', async () => {
    rig.export('1-1');
    rig.export('1-2');
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    await rig.dom0.store.write(`/local/domain/0/backend/vusb/5/0/port/${port}`, '1-2');
    await until(() => hcd.plugLog.length === 3, 'it changes');
    assert.deepEqual(hcd.plugLog, ['1:3', '1:0', '1:3']);
  });

  it('refuses SuperSpeed, and high speed on a USB 1.1 controller, with a reason', async () => {
    rig.export('1-1', { speed: 'super' });
    rig.export('1-2');
    const hcd = await rig.guest(5, 4, {}, 1);
    await rig.tools.attachDevice(5, 0, '1-1');
    await rig.tools.attachDevice(5, 0, '1-2');
    await until(() => rig.log.warnings.length === 2, 'both are refused');
    assert.match(
      rig.log.warnings[0] ?? '',
      /dom5 vusb 0: port 1: cannot plug in 1-1: .*super-speed/,
    );
    assert.match(rig.log.warnings[1] ?? '', /port 2: .*USB 1\.1/);
    assert.deepEqual(hcd.plugLog, []);
  });

  it('a domain that is destroyed under load leaves nothing', async () => {
    rig.export('1-1', { delay: 5 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    await load(hcd, port);
    rig.world.destroy(5);
    await until(() => rig.backends.controllers.size === 0, 'the controller is gone');
    await until(() => rig.registry.get('1-1')?.holder === null, 'the device is free');
    assert.deepEqual(rig.dom0.inUse, { grantedPages: 0, mappedPages: 0, channels: 0, watches: 2 });
    const next = await rig.guest(6);
    await rig.tools.attachDevice(6, 0, '1-1');
    await enumerate(next, 1);
  });

  for (const [what, device] of [
    ['what it had plugged in', '1-1'],
    ['not what was unplugged before', ''],
  ] as const) {
    it(`a guest that comes back under another number has ${what}`, async () => {
      rig.export('1-1');
      rig.world.store.set('/local/domain/5/vm', '/vm/the-uuid');
      const hcd = await rig.guest(5);
      const port = await plug(hcd, '1-1');
      if (device === '') {
        await rig.tools.detachDevice(5, 0, port);
        await until(() => hcd.speeds[port] === 0, 'it is unplugged');
      }
      rig.world.destroy(5);
      await until(() => rig.backends.controllers.size === 0, 'the controller is gone');
      rig.world.store.set('/local/domain/8/vm', '/vm/the-uuid');
      const again = await rig.guest(8);
      assert.equal((await rig.tools.list())[0]?.ports[port - 1], device);
      if (device !== '') await enumerate(again, port);
    });
  }

  it('the toolstack removes a controller under load', async () => {
    rig.export('1-1', { delay: 5 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    const results = await load(hcd, port);
    await rig.tools.removeController(5, 0);
    assert.equal(results.length, 12);
    assert.equal(hcd.state, 6);
    assert.equal(rig.state(5), undefined);
    await until(() => rig.backends.controllers.size === 0, 'the controller is gone');
    assert.equal(rig.world.domain(5).grants.size, 0);
    assert.deepEqual(rig.log.warnings, []);
  });

  it('the gateway stops under load: answers, unplugs, leaves the controller to the next one', async () => {
    rig.export('1-1', { delay: 5 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    const results = await load(hcd, port);
    await rig.backends.stop();
    await until(() => results.length === 12 && hcd.speeds[port] === 0, 'all is answered');
    assert.equal(rig.state(5), '4');
    await rig.restart();
    await until(() => hcd.speeds[port] === 3, 'it is plugged in again');
    await enumerate(hcd, port);
    assert.equal(hcd.error, null);
  });

  it('the gateway is killed under load: the next one answers what is owed, and plugs in again', async () => {
    rig.export('1-1', { delay: 3 });
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    for (let round = 0; round < 5; round++) {
      const results: HcdResult[] = [];
      const submit = (endpoint: number, isIn: boolean) =>
        hcd.submit({
          port,
          endpoint,
          type: 'bulk',
          in: isIn,
          buffer: Buffer.alloc(64),
          done: (r) => results.push(r),
        });
      for (let n = 0; n < 10; n++) submit(n % 3 !== 0 ? 1 : 2, n % 3 !== 0);
      await new Promise((resolve) => setTimeout(resolve, 1 + round * 3));
      rig.kill();
      for (let n = 0; n < 5; n++) submit(1, true);
      await rig.restart(true);
      await until(() => results.length === 15, 'all is answered');
      assert.equal(hcd.error, null);
      await until(() => hcd.plugLog.length === 3 + 2 * round, 'it is plugged in again');
      await enumerate(hcd, port);
    }
  });

  it('two controllers of one guest, and two guests, do not disturb each other', async () => {
    for (const busId of ['1-1', '1-2', '1-3']) rig.export(busId, { pattern: 1 });
    const hcds = [await rig.guest(5), await rig.guest(5), await rig.guest(6)];
    await rig.tools.attachDevice(5, 0, '1-1');
    await rig.tools.attachDevice(5, 1, '1-2', 3);
    await rig.tools.attachDevice(6, 0, '1-3');
    await Promise.all(
      [
        [0, 1],
        [1, 3],
        [2, 1],
      ].map(async ([n = 0, port = 1]) => {
        const hcd = hcds[n] as XenHcd;
        await enumerate(hcd, port);
        for (let round = 0; round < 20; round++) {
          const read = await hcd.transfer({
            port,
            endpoint: 1,
            type: 'bulk',
            in: true,
            buffer: Buffer.alloc(9000),
          });
          assert.deepEqual([read.status, read.actual], [0, 9000]);
        }
      }),
    );
  });

  it('a reset of the port resets the device', async () => {
    rig.export('1-1');
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1', 1);
    const configuration = async () =>
      (await hcd.control(port, [0x80, 8, 0, 0, 0, 0, 1, 0], 1)).data[0];
    assert.equal(await configuration(), 1);
    await hcd.control(port, [0, 5, 2, 0, 0, 0, 0, 0], 0, undefined, 0);
    assert.equal(await configuration(), 0);
  });

  it('late, merged and spurious events change nothing', async () => {
    const faulty = new RingRig({ faults: { seed: 7 } });
    await faulty.start();
    faulty.export('1-1', { short: 1000, stamp: true });
    const hcd = await faulty.guest(5);
    await faulty.tools.attachDevice(5, 0, '1-1');
    await enumerate(hcd, 1);
    assert.deepEqual(await probe(hcd, 1, 50, 8, true), { violations: 0, lost: 0, hollow: 0 });
    await faulty.end();
  });

  it('sends no event for nothing', async () => {
    rig.export('1-1');
    const hcd = await rig.guest(5);
    const port = await plug(hcd, '1-1');
    const before = rig.world.eventCount;
    for (let n = 0; n < 50; n++) {
      await hcd.transfer({ port, endpoint: 1, type: 'bulk', in: true, buffer: Buffer.alloc(64) });
    }
    assert(
      rig.world.eventCount - before <= 100,
      `${rig.world.eventCount - before} events for 50 URBs`,
    );
  });
});

describe('back ends that end', () => {
  it('while a controller is being taken up: nothing is watched afterwards', async () => {
    const rig = new RingRig();
    await rig.start();
    const { store } = rig.dom0;
    const { read } = store;
    let go = () => {};
    const reached = new Promise<void>((resolve) => {
      store.read = async (path) => {
        if (path.endsWith('/online')) {
          resolve();
          await new Promise<void>((goOn) => {
            go = goOn;
          });
        }
        return await read.call(store, path);
      };
    });
    await store.write('/local/domain/5', '');
    await rig.tools.addController(5, {});
    await reached;
    const ended = rig.end();
    for (let n = 0; n < 5; n++) await turn();
    go();
    await ended;
  });
});
