/** Data that is never copied on its way between a connection and a device of the machine. */
import { strict as assert } from 'node:assert';
import { UsbfsDevice } from '../../src/core/devices/usbfs/usbfs-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { FakeUsbfs } from '../core/devices/usbfs/fake-usbfs.ts';
import { IN, OUT, ScriptedClient, type SubmitReply } from './scripted-client.ts';

/** More than the writer copies. */
const OCTETS = 6000;
/** The memory for URBs, which stays as long as the device. */
const TABLE = 1;

const stamped = (octets: number, from: number) =>
  Buffer.from(Array.from({ length: octets }, (_, at) => (from + at) & 255));

interface Bench {
  readonly client: ScriptedClient;
  readonly file: FakeUsbfs;
  readonly device: UsbfsDevice;
}

async function attached(): Promise<Bench> {
  const file = new FakeUsbfs();
  const device = await UsbfsDevice.take(file, {
    speed: 'high',
    configurationValue: 1,
    label: 'fake',
    isStray: false,
    onGone: () => {},
  });
  const registry = new Registry();
  registry.add(device, 'fake');
  const client = new ScriptedClient({ registry });
  client.import();
  return { client, file, device };
}

const giveBack = ({ client }: Bench) => {
  for (const loan of client.connection.takeLoans()) loan.giveBack();
};

const read = ({ client }: Bench, octets: number) =>
  client.send(client.wire.submit({ direction: IN, endpoint: 1, octets }));

/** Sends a write in chunks that end where these numbers say. */
function write({ client }: Bench, data: Buffer, ...ends: number[]): void {
  const whole = client.wire.submit({ direction: OUT, endpoint: 2, data });
  let from = 0;
  for (const end of [...ends, whole.length]) {
    client.send(whole.subarray(from, end));
    from = end;
  }
}

describe('data on loan', () => {
  it('from the device: what is not sent yet stays as it is', async () => {
    const bench = await attached();
    const { client, file } = bench;
    read(bench, OCTETS);
    file.finish(file.pending[0], { data: stamped(OCTETS, 1) });
    const pieces = client.connection.takeOutput();
    read(bench, OCTETS);
    file.finish(file.pending[0], { data: stamped(OCTETS, 2) });
    pieces.push(...client.connection.takeOutput());
    const replies = client.wire.receive(Buffer.concat(pieces)) as SubmitReply[];
    assert.deepEqual(
      replies.map(({ data }) => data),
      [stamped(OCTETS, 1), stamped(OCTETS, 2)],
    );
    assert.equal(file.memories.size, TABLE + 2);
    giveBack(bench);
    for (let n = 0; n < 5; n++) {
      read(bench, OCTETS);
      file.finish(file.pending[0], { data: stamped(OCTETS, n) });
      assert.equal((client.replies()[0] as SubmitReply).data.length, OCTETS);
      giveBack(bench);
    }
    assert.equal(file.memories.size, TABLE + 2, 'they are used again');
  });

  for (const ends of [[], [48], [100], [20, 60, 5000]]) {
    it(`to the device, in chunks that end at ${ends}`, async () => {
      const bench = await attached();
      const { client, file, device } = bench;
      for (let n = 0; n < 5; n++) {
        write(bench, stamped(OCTETS, n), ...ends);
        assert.deepEqual(file.pending[0]?.data, stamped(OCTETS, n));
        file.finish(file.pending[0], { octets: OCTETS });
        assert.equal((client.replies()[0] as SubmitReply).actualLength, OCTETS);
      }
      assert.equal(file.memories.size, TABLE + 1);
      await client.connection.close();
      await device.dispose();
      assert.equal(file.memories.size, 0);
    });
  }

  it('waits where it is while the queue is full, and is taken back from there', async () => {
    const bench = await attached();
    const { client, file, device } = bench;
    for (let n = 0; n < 10; n++) write(bench, stamped(OCTETS, n), 100);
    assert.equal(file.pending.length, 8);
    client.send(client.wire.unlink(10));
    file.finish(file.pending[0], { octets: OCTETS });
    assert.deepEqual(file.pending.at(-1)?.data, stamped(OCTETS, 8));
    while (file.pending.length > 0) file.finish(file.pending[0], { octets: OCTETS });
    client.clock.advance(5000);
    assert.equal(client.replies().length, 10);
    await client.connection.close();
    await device.dispose();
    assert.equal(file.memories.size, 0);
  });

  it('a connection that ends in the middle of data leaves nothing behind', async () => {
    const bench = await attached();
    const { client, file, device } = bench;
    const whole = client.wire.submit({ direction: OUT, endpoint: 2, data: stamped(OCTETS, 0) });
    client.send(whole.subarray(0, 1000));
    assert.equal(file.memories.size, TABLE + 1);
    await client.connection.close();
    await device.dispose();
    assert.equal(file.memories.size, 0);
  });

  it('without memory to lend, data is copied', async () => {
    const bench = await attached();
    const { client, file } = bench;
    file.sharedLeft = 0;
    write(bench, stamped(OCTETS, 3), 100);
    assert.deepEqual(file.pending[0]?.data, stamped(OCTETS, 3));
    file.finish(file.pending[0], { octets: OCTETS });
    assert.equal((client.replies()[0] as SubmitReply).actualLength, OCTETS);
  });
});
