/** What a driver does with a device behind urbgate's own front end: for tests of both ends. */
import { strict as assert } from 'node:assert';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import type { Frontend } from '../../src/xenring/frontend.ts';
import type { Pending } from '../../src/xenring/pending.ts';
import type { RingDevice } from '../../src/xenring/ring-device.ts';
import { until } from './rig.ts';

const setup = (type: number, request: number, value: number, index: number, length: number) => {
  const packet = Buffer.alloc(8);
  packet.writeUInt8(type, 0);
  packet.writeUInt8(request, 1);
  packet.writeUInt16LE(value, 2);
  packet.writeUInt16LE(index, 4);
  packet.writeUInt16LE(length, 6);
  return packet;
};
export const control = (
  type: number,
  request: number,
  value = 0,
  index = 0,
  octets = 0,
): Transfer => ({
  endpoint: 0,
  type: 'control',
  setup: setup(type, request, value, index, octets),
  octets,
});

/** The device, with its interface at `alternate`. */
export async function plugged(frontend: Frontend, alternate = 1): Promise<RingDevice> {
  await until(() => frontend.devices.size > 0, 'a device is there');
  const ring = [...frontend.devices.values()][0] as RingDevice;
  assert.equal((await ring.transfer(control(0, 9, 1))).status, 'ok');
  assert.equal((await ring.transfer(control(1, 11, alternate))).status, 'ok');
  return ring;
}

/** Moves transfers of all kinds through a source-sink with pattern 1. */
export async function allKinds(ring: RingDevice): Promise<void> {
  const device = await ring.transfer(control(0x80, 6, 0x100, 0, 18));
  assert.equal(device.data.readUInt16LE(8), 0x0525);
  for (const octets of [0, 1, 4096, 65_536, 65_537, 200_000]) {
    const got = await ring.transfer({ endpoint: 0x81, type: 'bulk', octets });
    assert.deepEqual([got.status, got.actualOctets], ['ok', octets]);
    const put = await ring.transfer({ endpoint: 0x02, type: 'bulk', data: got.data });
    assert.deepEqual([put.status, put.actualOctets], ['ok', octets]);
  }
  const interrupt = await ring.transfer({ endpoint: 0x85, type: 'interrupt', octets: 64 });
  assert.equal(interrupt.actualOctets, 64);
  const packets = [0, 1, 2, 3].map((n) => ({ offset: n * 1100, octets: 1000 }));
  const stream = await ring.transfer({
    endpoint: 0x83,
    type: 'isochronous',
    octets: 4400,
    packets,
  });
  assert.deepEqual(
    stream.packets,
    packets.map(() => ({ status: 'ok', actualOctets: 1000 })),
  );
  assert.deepEqual([stream.actualOctets, stream.data.length], [4000, 4000]);
  assert.equal(stream.data[1000 + 70], 7, 'without the gaps');
  const sent = Buffer.alloc(4400);
  for (const { offset, octets } of packets) stream.data.copy(sent, offset, 0, octets);
  const out = await ring.transfer({
    endpoint: 0x04,
    type: 'isochronous',
    data: sent,
    packets,
  });
  assert.deepEqual(
    out.packets,
    packets.map(() => ({ status: 'ok', actualOctets: 1000 })),
  );
  assert.equal((await ring.transfer(control(0x80, 6, 0x900, 0, 8))).status, 'stall');
}

/** Rounds of short-not-ok reads behind a short one; the handler unlinks those that `unlinks` says. */
export async function probe(
  ring: RingDevice,
  rounds: number,
  depth: number,
  unlinks: (n: number) => boolean,
) {
  const seen = { violations: 0, lost: 0, kept: 0 };
  let stamp = -1;
  for (let round = 0; round < rounds; round++) {
    await new Promise<void>((resolve) => {
      const pending: Pending[] = [];
      const wanted = new Array(depth).fill(true);
      let back = 0;
      const done = (n: number) => (result: TransferResult) => {
        if (!wanted[n] && result.actualOctets > 0) seen.violations++;
        assert.equal(result.status, wanted[n] ? 'short' : 'unlinked');
        if (wanted[n] && n > 0) seen.kept++;
        for (let at = 0; at + 4 <= result.actualOctets; at += 512) {
          const now = result.data.readUInt32LE(at);
          if (now !== stamp + 1) seen.lost++;
          stamp = now;
        }
        if (n === 0) {
          assert.equal(result.status, 'short');
          for (let other = 1; other < depth; other++) {
            if (!unlinks(other)) continue;
            wanted[other] = false;
            ring.unlink(pending[other] as Pending);
          }
        }
        if (++back === depth) resolve();
      };
      for (let n = 0; n < depth; n++) {
        const transfer: Transfer = { endpoint: 0x81, type: 'bulk', octets: 4096, shortNotOk: true };
        pending.push(ring.submit(transfer, done(n)));
      }
    });
  }
  return seen;
}
