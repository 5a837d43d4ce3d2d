import { strict as assert } from 'node:assert';
import { sourceSink } from '../../../../../src/core/devices/virtual/source-sink/kind.ts';
import { Urb } from '../../../../../src/core/urb.ts';
import { Rig, setup } from '../../../../examples/rig.ts';

const IN = 0x81;
const OUT = 0x02;
const PACKET_OCTETS = 512;

async function attached(options: Record<string, unknown>) {
  const rig = new Rig(sourceSink.define(options as never));
  await rig.configure();
  return rig;
}

/** The host clears the halt of an endpoint. */
async function clearHalt(rig: Rig<unknown>, address: number): Promise<void> {
  assert.equal((await rig.control(setup(0x02, 1, 0, address, 0))).status, 'ok');
}

/** IN packets, OUT packets, gaps. */
async function counters(rig: Rig<unknown>): Promise<number[]> {
  const { dataIn } = await rig.control(setup(0xc0, 0x5d, 0, 0, 12));
  const octets = Buffer.from(dataIn);
  return [0, 4, 8].map((at) => octets.readUInt32LE(at));
}

function stamps(octets: Uint8Array): number[] {
  const found: number[] = [];
  const buffer = Buffer.from(octets);
  for (let at = 0; at + 4 <= buffer.length; at += PACKET_OCTETS) {
    found.push(buffer.readUInt32LE(at));
  }
  return found;
}

function stamped(first: number, packets: number): Buffer {
  const octets = Buffer.alloc(packets * PACKET_OCTETS);
  for (let at = 0; at < packets; at++) octets.writeUInt32LE(first + at, at * PACKET_OCTETS);
  return octets;
}

describe('source-sink', () => {
  it('ends transfers with a short packet after `short` octets', async () => {
    const rig = await attached({ short: 1000, stamp: true });
    for (const first of [0, 2, 4]) {
      const { status, actualOctets, dataIn } = await rig.read(IN, 4096);
      assert.deepEqual([status, actualOctets], ['ok', 1000]);
      assert.deepEqual(stamps(dataIn), [first, first + 1]);
    }
    assert.deepEqual(await counters(rig), [6, 0, 0]);
    await rig.end();
  });

  for (const end of ['stall', 'babble', 'protocol-error'] as const) {
    it(`ends IN transfers with ${end} after whole packets, and loses none`, async () => {
      const rig = await attached({ short: 1024, end, stamp: true });
      for (const first of [0, 2, 4]) {
        const { status, actualOctets, dataIn } = await rig.read(IN, 4096);
        assert.deepEqual([status, actualOctets], [end, 1024]);
        assert.deepEqual(stamps(dataIn), [first, first + 1]);
        if (end !== 'stall') continue;
        assert.equal((await rig.read(IN, 4096)).status, 'stall');
        await clearHalt(rig, IN);
      }
      assert.equal((await rig.read(IN, 1024)).status, 'ok', 'a transfer of no more does not fail');
      assert.deepEqual(await counters(rig), [8, 0, 0]);
      await rig.end();
    });

    it(`ends OUT transfers with ${end} after \`take\` octets, and counts those`, async () => {
      const rig = await attached({ take: 1024, end, stamp: true });
      for (const first of [0, 2, 4]) {
        const { status, actualOctets } = await rig.write(OUT, stamped(first, 8));
        assert.deepEqual([status, actualOctets], [end, 1024]);
        if (end === 'stall') await clearHalt(rig, OUT);
      }
      assert.equal((await rig.write(OUT, stamped(6, 2))).status, 'ok');
      assert.deepEqual(await counters(rig), [0, 8, 0]);
      await rig.end();
    });
  }

  it('fails at once after no octets', async () => {
    const rig = await attached({ short: 0, take: 0, end: 'protocol-error' });
    const read = await rig.read(IN, 512);
    assert.deepEqual([read.status, read.actualOctets], ['protocol-error', 0]);
    const write = await rig.write(OUT, Buffer.alloc(512));
    assert.deepEqual([write.status, write.actualOctets], ['protocol-error', 0]);
    await rig.end();
  });

  it('counts OUT packets that are not the ones after the last', async () => {
    const rig = await attached({ stamp: true });
    await rig.write(OUT, stamped(0, 2));
    await rig.write(OUT, stamped(5, 2));
    await rig.write(OUT, stamped(7, 1));
    assert.deepEqual(await counters(rig), [0, 5, 1]);
    await rig.end();
  });

  it('lets IN transfers wait for `delay`, and survives that they do not', async () => {
    const rig = await attached({ delay: 5, stamp: true });
    const given = rig.read(IN, 1024);
    assert.equal(rig.pending, 1);
    assert.deepEqual(stamps((await given).dataIn), [0, 1]);

    const urb = Urb.read(1000, rig.endpoint(IN), 1024);
    const unlinked = rig.submit(urb);
    rig.device.unlink(urb);
    assert.equal((await unlinked).status, 'unlinked');
    assert.deepEqual(stamps((await rig.read(IN, 1024)).dataIn), [2, 3]);
    await rig.end();
  });

  for (const [options, message] of [
    [{ end: 'bang', short: 0 }, /end=bang, wanted stall, babble or protocol-error/],
    [{ end: 'stall' }, /end without short or take/],
    [{ end: 'stall', short: 1000 }, /short=1000 with an end, wanted whole packets of 512/],
  ] as const) {
    it(`refuses ${JSON.stringify(options)}`, () => {
      assert.throws(() => sourceSink.define(options as never), { name: 'UserError', message });
    });
  }
});
