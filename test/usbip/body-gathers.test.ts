/**
 * What may change while the body of an OUT URB arrives: the device goes, an endpoint goes with a
 * new setting. What was looked at with the header is looked at again with the body.
 */
import { strict as assert } from 'node:assert';
import { Registry } from '../../src/core/registry.ts';
import type { Room } from '../../src/core/urb.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { endpointInfo, ManualDevice } from '../core/manual-device.ts';
import { OUT, ScriptedClient } from './scripted-client.ts';
import { SocketClient } from './socket-client.ts';

const BODY_OCTETS = 200_000;
const SHUTDOWN = -108;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A device that gives nothing back before it is told to. */
class SlowDevice extends ManualDevice {
  roomsLent = 0;
  lends = false;
  /** What the device has at 0x02; undefined when a setting without it was chosen. */
  bulkOut = super.endpoint(0x02);

  override onUnlink = () => {};

  override endpoint(address: number) {
    return address === 0x02 ? this.bulkOut : super.endpoint(address);
  }

  room(_: unknown, octets: number): Room | null {
    if (!this.lends) return null;
    this.roomsLent++;
    return { octets: Buffer.alloc(octets), giveBack: () => this.roomsLent-- };
  }

  /** As a real one does when it has gone. */
  completeAll(): void {
    for (const urb of [...this.atDevice]) this.complete(urb, 'shutdown');
  }
}

describe('while a body arrives', () => {
  for (const lends of [false, true]) {
    const where = lends ? 'in memory of the device' : 'in memory of the gateway';

    /** A client with one URB at the device and half of another on its way. */
    const halfSent = () => {
      const device = new SlowDevice();
      device.lends = lends;
      const registry = new Registry();
      registry.add(device, 'slow');
      const client = new ScriptedClient({ registry });
      client.import();
      const first = client.submit({ direction: OUT, endpoint: 2, data: Buffer.alloc(10) });
      const second = client.wire.nextSeqnum();
      const data = Buffer.alloc(BODY_OCTETS);
      const octets = client.wire.submit({ direction: OUT, endpoint: 2, data, seqnum: second });
      client.send(octets.subarray(0, 1000));
      const rest = () => client.send(octets.subarray(1000));
      return { device, registry, client, first, second, rest };
    };

    it(`the device is taken away: its URB ends as shutdown (${where})`, async () => {
      const { device, registry, client, first, second, rest } = halfSent();
      assert.equal(device.roomsLent, lends ? 2 : 0);
      const removed = registry.remove('1-1');
      rest();
      assert.equal(device.roomsLent, lends ? 1 : 0);
      device.completeAll();
      assert.equal(device.roomsLent, 0);
      const replies = client.replies().map((one) => [one.seqnum, one.status]);
      assert.deepEqual(replies, [
        [second, SHUTDOWN],
        [first, SHUTDOWN],
      ]);
      assert(client.connection.ending);
      await client.connection.close();
      await removed;
    });

    it(`its endpoint goes with a new setting: its URB ends as shutdown (${where})`, async () => {
      const { device, client, second, rest } = halfSent();
      device.bulkOut = undefined;
      rest();
      assert.deepEqual(
        client.replies().map((one) => [one.seqnum, one.status]),
        [[second, SHUTDOWN]],
      );
      device.completeAll();
      await client.connection.close();
      assert.equal(device.roomsLent, 0);
    });

    it(`a setting has another endpoint there: its URB does not reach it (${where})`, async () => {
      const { device, client, second, rest } = halfSent();
      device.bulkOut = endpointInfo(0x02, 'interrupt');
      rest();
      assert.deepEqual(
        client.replies().map((one) => [one.seqnum, one.status]),
        [[second, SHUTDOWN]],
      );
      device.completeAll();
      await client.connection.close();
      assert.equal(device.roomsLent, 0);
    });
  }

  it('on sockets, honest clients lose their devices in the middle of 200 kB: others do not notice', async () => {
    const registry = new Registry();
    const warnings: string[] = [];
    const log = { info: () => {}, warn: (message: string) => warnings.push(message) };
    const server = new UsbipServer({ registry, log });
    const address: ListenAddress = await server.listen({ host: '127.0.0.1', port: 0 });
    const attach = async (busId: string) => {
      const device = new SlowDevice();
      device.lends = true;
      device.onSubmit = (urb) => urb.setup !== null && device.complete(urb);
      registry.add(device, 'slow', busId);
      const client = await SocketClient.connect(address);
      await client.import(busId);
      return { device, client };
    };
    const write = { direction: OUT, endpoint: 2, data: Buffer.alloc(BODY_OCTETS) };
    const other = await attach('2-1');
    for (let times = 0; times < 4; times++) {
      const { device, client } = await attach('1-1');
      client.submit(write);
      const octets = client.wire.submit({ ...write, deviceId: client.deviceId });
      client.send(octets.subarray(0, BODY_OCTETS / 2));
      while (device.roomsLent < 2) await turn();
      const removed = registry.remove('1-1');
      client.send(octets.subarray(BODY_OCTETS / 2));
      await client.until(() => client.wire.replies.some(({ status }) => status === SHUTDOWN));
      device.completeAll();
      await removed;
      await client.closed;
      assert.equal(device.roomsLent, 0);
    }
    const seqnum = other.client.submit(write);
    while (other.device.atDevice.length === 0) await turn();
    other.device.complete(other.device.atDevice[0]);
    assert.equal((await other.client.reply(seqnum)).status, 0);
    await other.client.close();
    await server.close();
    assert.deepEqual(warnings, []);
  });
});
