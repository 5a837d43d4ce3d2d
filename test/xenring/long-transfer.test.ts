/** Transfers longer than a request, and slots for all: our front end against a gateway's back end. */
import { strict as assert } from 'node:assert';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { type Part, partsOf } from '../../src/xenring/long-transfer.ts';
import { connect, end } from './front-pair.ts';
import { until } from './rig.ts';

const REQUEST_OCTETS = 64 * 1024;
const read = (octets: number, shortNotOk = false): Transfer => ({
  endpoint: 0x81,
  type: 'bulk',
  octets,
  shortNotOk,
});

describe('a transfer longer than a request', () => {
  it('is cut into parts that stop at a short one', () => {
    for (const [octets, wanted] of [
      [REQUEST_OCTETS + 1, 2],
      [2 * REQUEST_OCTETS, 2],
      [2 * REQUEST_OCTETS + 1, 3],
    ] as const) {
      for (const shortNotOk of [true, false]) {
        const parts = partsOf(read(octets, shortNotOk));
        assert.equal(parts.length, wanted);
        assert.equal(sum(parts), octets);
        const flags = parts.map(({ transfer }) => transfer.shortNotOk);
        assert.deepEqual(flags, [...new Array(wanted - 1).fill(true), shortNotOk]);
      }
    }
  });

  it('ends with a zero packet once', () => {
    const data = Buffer.alloc(2 * REQUEST_OCTETS, 7);
    const parts = partsOf({ endpoint: 2, type: 'bulk', data, zeroPacket: true });
    assert.deepEqual(
      parts.map(({ offset, transfer }) => [offset, transfer.data?.length, transfer.zeroPacket]),
      [
        [0, REQUEST_OCTETS, false],
        [REQUEST_OCTETS, REQUEST_OCTETS, true],
      ],
    );
  });

  it('is cut between isochronous packets, by octets and by count', () => {
    for (const [count, length] of [
      [600, 100],
      [64, 3072],
    ] as const) {
      const packets = Array.from({ length: count }, (_, n) => ({
        offset: n * length,
        octets: length,
      }));
      const whole: Transfer = {
        endpoint: 0x83,
        type: 'isochronous',
        octets: count * length,
        packets,
      };
      const parts = partsOf(whole);
      assert(parts.length > 1);
      const all = parts.flatMap(({ offset, transfer }) =>
        (transfer.packets ?? []).map((one) => ({ ...one, offset: one.offset + offset })),
      );
      assert.deepEqual(all, packets);
      for (const { transfer } of parts) {
        assert((transfer.octets ?? 0) <= 15 * 4096 && (transfer.packets?.length ?? 0) <= 256);
      }
    }
    const packets = [{ offset: 0, octets: REQUEST_OCTETS }];
    assert.throws(
      () => partsOf({ endpoint: 0x83, type: 'isochronous', octets: REQUEST_OCTETS, packets }),
      /a packet of 65536 octets, at most 61440/,
    );
  });

  it('puts data from the device where it is wanted', async () => {
    const both = await connect({}, { short: 40_000, stamp: true });
    const { ring } = both;
    let packet = 0;
    for (const [octets, came] of [
      [512, 512],
      [3 * REQUEST_OCTETS, 40_000],
    ] as const) {
      const into = Buffer.alloc(octets + 1, 0xee);
      const { data, actualOctets } = await ring.transfer({ ...read(octets), into });
      assert.deepEqual([actualOctets, data.length], [came, came]);
      assert.equal(data.buffer, into.buffer);
      for (let at = 0; at + 4 <= came; at += 512) {
        assert.equal(into.readUInt32LE(at), packet++);
      }
      assert(
        into.subarray(came).every((octet) => octet === 0xee),
        'nothing behind it',
      );
    }
    const tooSmall = { ...read(512), into: Buffer.alloc(511) };
    assert.throws(() => ring.submit(tooSmall, () => {}), /fewer/);
    await end(both);
  });

  it('moves what it says, both ways, isochronous too', async () => {
    const both = await connect({}, { pattern: 1 });
    const { ring } = both;
    for (const octets of [REQUEST_OCTETS + 1, 5 * REQUEST_OCTETS]) {
      const got = await ring.transfer(read(octets, true));
      assert.deepEqual([got.status, got.actualOctets, got.data.length], ['ok', octets, octets]);
      const put = await ring.transfer({ endpoint: 0x02, type: 'bulk', data: got.data });
      assert.deepEqual([put.status, put.actualOctets], ['ok', octets]);
      const into = Buffer.alloc(octets);
      const same = await ring.transfer({ ...read(octets), into });
      assert.equal(same.data.buffer, into.buffer);
      assert.deepEqual(same.data, got.data);
    }
    const packets = Array.from({ length: 300 }, (_, n) => ({ offset: n * 512, octets: 500 }));
    const stream: Transfer = { endpoint: 0x83, type: 'isochronous', octets: 300 * 512, packets };
    const got = await ring.transfer(stream);
    assert.deepEqual(got.packets, new Array(300).fill({ status: 'ok', actualOctets: 500 }));
    assert.equal(got.actualOctets, 300 * 500);
    assert.equal(got.data.length, 300 * 500);
    assert.equal(got.data[299 * 500 + 70], 7, 'without the gaps');
    const into = Buffer.alloc(300 * 512);
    const same = await ring.transfer({ ...stream, into });
    assert.equal(same.data.buffer, into.buffer);
    assert.deepEqual(same.data, got.data);
    assert.deepEqual(both.rig.log.warnings, []);
    await end(both);
  });

  for (const shortNotOk of [true, false]) {
    it(`stops where it is short${shortNotOk ? ', which is an error' : ''}: not an octet is lost`, async () => {
      const both = await connect({ faults: { seed: 3 } }, { short: 40_000, stamp: true });
      const { ring } = both;
      const results: TransferResult[] = [];
      let unlinks = 0;
      for (let n = 0; n < 3; n++) {
        ring.submit(read(3 * REQUEST_OCTETS, shortNotOk), (result) => {
          results.push(result);
          unlinks++;
        });
      }
      await until(() => unlinks === 3, 'all are back');
      let packet = 0;
      for (const { status, actualOctets, data } of results) {
        assert.equal(status, shortNotOk ? 'short' : 'ok');
        assert(actualOctets < 3 * REQUEST_OCTETS);
        for (let at = 0; at + 4 <= actualOctets; at += 512) {
          assert.equal(data.readUInt32LE(at), packet++);
        }
      }
      await end(both);
    });
  }

  it('is taken back whole', async () => {
    const both = await connect({}, { delay: 60_000 });
    const { ring } = both;
    let result: TransferResult | undefined;
    const pending = ring.submit(read(4 * REQUEST_OCTETS), (one) => {
      result = one;
    });
    await new Promise((resolve) => setTimeout(resolve, 5));
    ring.unlink(pending);
    await until(() => result !== undefined, 'it is back');
    assert.deepEqual([result?.status, result?.actualOctets], ['unlinked', 0]);
    await end(both);
  });

  it('holds its endpoint back until its handler is done, when that comes later', async () => {
    const both = await connect({}, { short: 40_000, stamp: true });
    const { ring } = both;
    const order: string[] = [];
    const long = ring.submit(read(3 * REQUEST_OCTETS, true), () => {
      order.push('long');
      return 'later';
    });
    ring.submit(read(512, true), () => order.push('next'));
    await until(() => order.length === 1, 'the long one is back');
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(order, ['long']);
    ring.handled(long);
    await until(() => order.length === 2, 'the next is back');
    await end(both);
  });
});

function sum(parts: readonly Part[]): number {
  return parts.reduce((octets, { transfer }) => octets + (transfer.octets ?? 0), 0);
}

describe('slots of a ring', () => {
  it('are left to others by an endpoint whose reads never end', async () => {
    const both = await connect({}, { delay: 60_000 });
    const { ring } = both;
    let back = 0;
    const reads = Array.from({ length: 40 }, () => ring.submit(read(64), () => back++));
    const control = { endpoint: 0, type: 'control' as const, octets: 2 };
    const setup = Buffer.from([0x80, 0, 0, 0, 0, 0, 2, 0]);
    for (let n = 0; n < 20; n++) {
      assert.equal((await ring.transfer({ ...control, setup })).status, 'ok');
    }
    assert.equal(back, 0);
    for (const one of reads) ring.unlink(one);
    await until(() => back === 40, 'all are back');
    await end(both);
  });
});

describe('a front end', () => {
  it('begins anew where one has died, and removes what it wrote when it leaves', async () => {
    const both = await connect();
    const { rig, platform } = both;
    const path = '/local/domain/7/device/vusb/0';
    assert.equal(rig.world.store.get(`${path}/state`), '4');
    platform.die();
    for (const grants of rig.world.platforms.values()) grants.grants.clear();
    const next = await connect({}, {}, both);
    assert.equal((await next.ring.transfer(read(64))).status, 'ok');
    let left = 0;
    next.frontend.on('left', () => left++);
    await next.frontend.close();
    assert.equal(left, 0, 'that was its own doing');
    const nodes = [...rig.world.store.keys()].filter((one) => one.startsWith(`${path}/`));
    assert.deepEqual(nodes.sort(), [`${path}/backend`, `${path}/backend-id`, `${path}/state`]);
    await rig.end();
  });

  it('says so when its back end leaves, and does not bring back a directory', async () => {
    const both = await connect();
    let left = 0;
    both.frontend.on('left', () => left++);
    await both.rig.tools.removeController(7, 0);
    await until(() => left === 1, 'it says so');
    assert(!both.rig.world.store.has('/local/domain/7/device/vusb/0'));
    await end(both);
    assert(!both.rig.world.store.has('/local/domain/7/device/vusb/0'));
  });

  it('releases a device: the next user finds its queues as new', async () => {
    const both = await connect({}, { delay: 100 });
    const { ring } = both;
    const statuses: string[] = [];
    for (let n = 0; n < 20; n++) {
      ring.submit(read(64), ({ status }) => {
        statuses.push(status);
        return 'later'; // and nobody will ever say that it is done
      });
    }
    ring.overtaken({ endpoint: 0x81, type: 'bulk' });
    await ring.release();
    assert.deepEqual(statuses, new Array(20).fill('unlinked'));
    assert.equal((await ring.transfer(read(64))).status, 'ok');
    await end(both);
  });
});
