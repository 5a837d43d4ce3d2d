import { strict as assert } from 'node:assert';
import { sourceSink } from '../../../../src/core/devices/virtual/source-sink/kind.ts';
import type { VirtualDevice } from '../../../../src/core/devices/virtual/virtual-device.ts';
import { UserError } from '../../../../src/core/errors.ts';
import { Urb } from '../../../../src/core/urb.ts';
import { Rig, setup } from '../../../examples/rig.ts';

async function rigOf(options: Record<string, unknown> = {}, setting = 0): Promise<Rig<unknown>> {
  const rig = new Rig(sourceSink.define(options as never));
  await rig.configure([0, setting]);
  return rig;
}

/** IN packets, OUT packets, gaps. */
async function counters(rig: Rig<unknown>): Promise<number[]> {
  const { dataIn } = await rig.control(setup(0xc0, 0x5d, 0, 0, 12));
  return [0, 4, 8].map((at) => Buffer.from(dataIn).readUInt32LE(at));
}

describe('source-sink (usbtest’s gadget zero)', () => {
  it('has the descriptors that usbtest looks for', async () => {
    const rig = await rigOf();
    const { info } = rig.device as VirtualDevice<unknown>;
    assert.deepEqual([info.vendorId, info.productId, info.speed], [0x0525, 0xa4a0, 'high']);
    const types = (): (string | undefined)[] =>
      [0x81, 0x02, 0x83, 0x04, 0x85, 0x06].map((at) => rig.device.endpoint(at)?.type);
    assert.deepEqual(types(), ['bulk', 'bulk', undefined, undefined, undefined, undefined]);
    await rig.select(0, 1);
    const [bulk, iso, interrupt] = ['bulk', 'isochronous', 'interrupt'];
    assert.deepEqual(types(), [bulk, bulk, iso, iso, interrupt, interrupt]);
  });

  it('yields zeros, or the position in the packet modulo 63, however long the transfer', async () => {
    const zeros = await rigOf();
    assert((await zeros.read(0x81, 600_000)).dataIn.every((octet) => octet === 0));
    const rig = await rigOf({ pattern: 1 });
    for (const octets of [1, 512, 1000, 600_001]) {
      const urb = await rig.read(0x81, octets);
      assert.equal(urb.actualOctets, octets);
      assert(urb.dataIn.every((octet, at) => octet === (at % 512) % 63));
    }
  });

  it('takes its own pattern, and halts on any other', async () => {
    const rig = await rigOf({ pattern: 1 });
    const { dataIn } = await rig.read(0x81, 600_001);
    assert.equal((await rig.write(0x02, dataIn)).status, 'ok');
    const spoiled = Buffer.from(dataIn);
    spoiled.writeUInt8(99, 600_000);
    assert.equal((await rig.write(0x02, spoiled)).status, 'stall');
    assert.equal((await rig.write(0x02, dataIn)).status, 'stall', 'halted');
  });

  for (const short of [0, 1, 511, 512, 513, 1024, 262_143, 262_144, 262_145, 300_000, 524_288]) {
    it(`short=${short}: each IN transfer ends after so many octets`, async () => {
      const rig = await rigOf({ short });
      for (const octets of [short + 1, short + 100_000, short, Math.floor(short / 2), short + 1]) {
        const urb = await rig.read(0x81, octets);
        assert.deepEqual([urb.status, urb.actualOctets], ['ok', Math.min(octets, short)]);
      }
    });
  }

  it('short counts anew after a transfer that was taken back half-way', async () => {
    const rig = await rigOf({ short: 300_000, delay: 1 });
    const urb = Urb.read(1000, rig.endpoint(0x81), 400_000);
    const waiting = rig.submit(urb);
    while ((await counters(rig))[0] === 0) await new Promise((resolve) => setImmediate(resolve));
    rig.device.unlink(urb);
    assert.equal((await waiting).actualOctets, 262_144);
    assert.equal((await rig.read(0x81, 400_000)).actualOctets, 300_000);
  });

  it('stamped packets carry running numbers, over transfers and endpoints of a kind', async () => {
    const rig = await rigOf({ stamp: true, short: 1024 });
    const stamps: number[] = [];
    for (const octets of [2048, 512, 2048]) {
      const data = Buffer.from((await rig.read(0x81, octets)).dataIn);
      for (let at = 0; at < data.length; at += 512) stamps.push(data.readUInt32LE(at));
    }
    // The empty packet that ends a transfer of whole packets has a number, too.
    assert.deepEqual(stamps, [0, 1, 3, 4, 5]);
    assert.equal((await counters(rig))[0], 7);
  });

  it('counts stamped packets that are missing', async () => {
    const rig = await rigOf({ stamp: true });
    const packet = (number: number): Buffer => {
      const octets = Buffer.alloc(512);
      octets.writeUInt32LE(number);
      return octets;
    };
    await rig.write(0x02, Buffer.concat([packet(0), packet(1)]));
    assert.deepEqual(await counters(rig), [0, 2, 0]);
    await rig.write(0x02, Buffer.concat([packet(3), packet(4)]));
    await rig.write(0x02, packet(4));
    assert.deepEqual(await counters(rig), [0, 5, 2]);
  });

  it('writes and reads back a control buffer (usbtest case 14)', async () => {
    const rig = await rigOf();
    const octets = Buffer.from(Array.from({ length: 1000 }, (_, n) => n & 0xff));
    assert.equal((await rig.control(setup(0x40, 0x5b, 0, 0, 1000), octets)).status, 'ok');
    const back = await rig.control(setup(0xc0, 0x5c, 0, 0, 1000));
    assert.deepEqual(Buffer.from(back.dataIn), octets);
    assert.equal((await rig.control(setup(0xc0, 0x5c, 1, 0, 10))).status, 'stall');
    assert.equal((await rig.control(setup(0x40, 0x5b, 0, 1, 1), Buffer.alloc(1))).status, 'stall');
  });

  it('isochronous and interrupt pairs move data', async () => {
    const rig = await rigOf({ pattern: 1 }, 1);
    const iso = await rig.stream(0x83, [1024, 100, 0]);
    assert.equal(iso.actualOctets, 1124);
    assert.equal((await rig.stream(0x04, [100, 100], Buffer.alloc(200))).actualOctets, 200);
    const { dataIn } = await rig.read(0x85, 1024);
    assert.equal((await rig.write(0x06, dataIn)).status, 'ok');
  });

  it('refuses options that make no sense', () => {
    for (const options of [{ pattern: 2 }, { speed: 'low' }, { speed: 'fast' }]) {
      assert.throws(() => sourceSink.define(options as never), UserError);
    }
  });
});
