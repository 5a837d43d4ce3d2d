import { strict as assert } from 'node:assert';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { Urb } from '../../src/core/urb.ts';
import { importDevice, type RemoteDevice } from '../../src/usbip/client.ts';
import type { Pending } from '../../src/usbip/pending.ts';
import { openRemote, type RemoteUsbDevice } from '../../src/usbip/remote-device.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { setupOctets } from './scripted-client.ts';

const LOG = { info: () => {}, warn: () => {} };

/** Two servers: the second exports what it has from the first. */
describe('device of another server', () => {
  let first: UsbipServer;
  let second: UsbipServer;
  let registry: Registry;
  let address: ListenAddress;
  let device: RemoteUsbDevice;
  let client: RemoteDevice | undefined;

  beforeEach(async () => {
    const origin = new Registry();
    origin.add(
      new VirtualDevice(sourceSink.define({ short: 1000, stamp: true } as never)),
      'origin',
    );
    first = new UsbipServer({ registry: origin, log: LOG });
    device = await openRemote(await first.listen({ host: '127.0.0.1', port: 0 }), '1-1');
    registry = new Registry();
    registry.add(device, 'remote');
    second = new UsbipServer({ registry, log: LOG });
    address = await second.listen({ host: '127.0.0.1', port: 0 });
  });

  afterEach(async () => {
    await client?.close();
    client = undefined;
    await second.close();
    await device.dispose();
    await first.close();
  });

  const configure = async (remote: RemoteDevice) => {
    const setup = setupOctets(0, 9, 1);
    assert.equal((await remote.transfer({ endpoint: 0, type: 'control', setup })).status, 'ok');
  };

  const anotherRegistry = () => {
    const another = new Registry();
    another.add(new VirtualDevice(sourceSink.define({})), 'another');
    return another;
  };

  it('a bug in a handler ends the connection to the server, and is told', async () => {
    const bugs: unknown[] = [];
    const server = new UsbipServer({ registry: anotherRegistry(), log: LOG });
    const at = await server.listen({ host: '127.0.0.1', port: 0 });
    const remote = await openRemote(at, '1-1', { onBug: (error) => bugs.push(error) });
    remote.open({
      completed: () => {
        throw new TypeError('made by a test');
      },
      removed: () => {},
      failed: () => {},
    });
    const setup = { requestType: 0, request: 9, value: 1, index: 0, length: 0 };
    remote.submit(Urb.control(1, remote.endpoint(0) ?? assert.fail(), setup));
    assert.equal(await remote.gone, 'lost');
    assert.match(String(bugs), /made by a test/);
    await remote.dispose();
    await server.close();
  });

  it('shows what the other server says of it', () => {
    const { speed, vendorId, productId, interfaces, label, configurationValue } = device.info;
    assert.deepEqual([speed, vendorId, productId], ['high', 0x0525, 0xa4a0]);
    assert.equal(configurationValue, 1);
    assert.equal(interfaces.length, 1);
    assert.match(label, /\w/);
  });

  for (const stallProtocol of [true, false]) {
    it(`keeps order and stops on an error (stall protocol: ${stallProtocol})`, async () => {
      client = await importDevice(address, '1-1', { stallProtocol });
      await configure(client);
      for (let round = 0; round < 10; round++) {
        const results = await shortAndUnlinked(client);
        assert.equal(results[0]?.status, 'short');
        assert.equal(results[0].data.readUInt32LE(0), round * 2, 'packets are missing');
        const rest = results.slice(1).map(({ status, actualOctets }) => [status, actualOctets]);
        assert.deepEqual(rest, Array(7).fill(['unlinked', 0]));
      }
    });
  }

  function shortAndUnlinked(remote: RemoteDevice): Promise<TransferResult[]> {
    const read: Transfer = { endpoint: 0x81, type: 'bulk', octets: 4096, shortNotOk: true };
    return new Promise((resolve) => {
      const results: TransferResult[] = [];
      const pending: Pending[] = [];
      for (let n = 0; n < 8; n++) {
        pending.push(
          remote.submit(read, (result) => {
            results[n] = result;
            if (n === 0) for (const other of pending.slice(1)) remote.unlink(other);
            if (Object.keys(results).length === 8) resolve(results);
          }),
        );
      }
    });
  }

  it('follows alternate settings, and carries isochronous transfers', async () => {
    client = await importDevice(address, '1-1');
    await configure(client);
    assert.equal(device.endpoint(0x83), undefined);
    const setup = setupOctets(1, 11, 1, 0);
    assert.equal((await client.transfer({ endpoint: 0, type: 'control', setup })).status, 'ok');
    assert.equal(device.endpoint(0x83)?.type, 'isochronous');
    const packets = [0, 1, 2, 3].map((n) => ({ offset: n * 1024, octets: 1024 }));
    const transfer = { endpoint: 0x83, type: 'isochronous', octets: 4096, packets } as const;
    const reads = await Promise.all(
      Array.from({ length: 5 }, () => (client as RemoteDevice).transfer(transfer)),
    );
    for (const { status, packets: got, actualOctets, data } of reads) {
      assert.equal(status, 'ok');
      assert.equal(got?.length, 4);
      assert.equal(data.length, actualOctets);
    }
  });

  it('can be had again after a client has left it', async () => {
    for (let n = 0; n < 3; n++) {
      client = await importDevice(address, '1-1');
      await configure(client);
      const released = new Promise((resolve) => registry.once('released', resolve));
      await client.close();
      await released;
    }
  });

  it('is gone when the other server goes', async () => {
    client = await importDevice(address, '1-1');
    await configure(client);
    const remote = client;
    await first.close();
    await remote.closed;
    const host = { completed: () => {}, removed: () => {}, failed: () => {} };
    assert.throws(() => device.open(host), /server has gone/);
  });
});
