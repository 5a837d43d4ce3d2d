import { strict as assert } from 'node:assert';
import { Socket } from 'node:net';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { UserError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { importDevice, type RemoteDevice } from '../../src/usbip/client.ts';
import type { Pending } from '../../src/usbip/pending.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { setupOctets } from './scripted-client.ts';

const DEPTH = 8;
const SHORT = 1000;
/** Packets of a transfer of SHORT octets. */
const PACKETS = 2;

/** Twice what leaves together while replies are handled (docs/decisions/0074). */
const TOGETHER = 16;
const COMMAND_OCTETS = 48 + 64;
const write64: Transfer = { endpoint: 0x02, type: 'bulk', data: Buffer.alloc(64) };
const read: Transfer = { endpoint: 0x81, type: 'bulk', octets: 4096, shortNotOk: true };

async function configure(device: RemoteDevice): Promise<void> {
  const setup = setupOctets(0, 9, 1);
  assert.equal((await device.transfer({ endpoint: 0, type: 'control', setup })).status, 'ok');
}

describe('client library', () => {
  let server: UsbipServer;
  let address: ListenAddress;
  let device: RemoteDevice | undefined;

  beforeEach(async () => {
    const registry = new Registry();
    const options = { short: SHORT, stamp: true } as never;
    registry.add(new VirtualDevice(sourceSink.define(options)), 'source-sink');
    server = new UsbipServer({ registry, log: { info: () => {}, warn: () => {} } });
    address = await server.listen({ host: '127.0.0.1', port: 0 });
  });

  afterEach(async () => {
    await device?.close();
    device = undefined;
    await server.close();
  });

  it('sends what handlers submit before it has handled all that came', async () => {
    const remote = await importDevice(address, '1-1');
    device = remote;
    await configure(remote);
    const sent: number[] = [];
    const { port } = address;
    const write = Socket.prototype.write;
    Socket.prototype.write = function (this: Socket, ...args: unknown[]) {
      if (this.remotePort === port) sent.push((args[0] as Uint8Array).length);
      return write.apply(this, args as Parameters<typeof write>);
    } as typeof write;
    try {
      // The replies of the first come in one piece, the second leave while they are handled.
      const results = await new Promise<TransferResult[]>((resolve) => {
        const came: TransferResult[] = [];
        const done = (result: TransferResult) => {
          came.push(result);
          if (came.length === 2 * TOGETHER) resolve(came);
          else if (came.length <= TOGETHER) remote.submit(write64, done);
        };
        for (let n = 0; n < TOGETHER; n++) remote.submit(write64, done);
      });
      assert(results.every(({ status }) => status === 'ok'));
    } finally {
      Socket.prototype.write = write;
    }
    const [first, ...later] = sent;
    assert.equal(first, TOGETHER * COMMAND_OCTETS);
    assert(Math.max(...later) <= first / 2, `left in pieces of ${sent} octets`);
  });

  for (const stallProtocol of [true, false]) {
    const kind = stallProtocol ? 'that speaks the stall protocol' : 'that does not';

    /**
     * A driver that queues deep, behind a transfer that will be short, and unlinks the rest from
     * its handler: none of the rest may move data, and no packet of the device may be lost.
     */
    it(`lets nothing move behind an error, with a server ${kind}`, async () => {
      device = await importDevice(address, '1-1', { stallProtocol });
      assert.equal(device.stallProtocol, stallProtocol);
      await configure(device);
      for (let round = 0; round < 50; round++) {
        const results = await oneRound(device);
        const [first, ...rest] = results;
        assert.equal(first?.status, 'short');
        assert.equal(first.data.readUInt32LE(0), round * PACKETS, 'packets are missing');
        assert.deepEqual(
          rest.map(({ status, actualOctets }) => [status, actualOctets]),
          Array(DEPTH - 1).fill(['unlinked', 0]),
        );
      }
    });

    it(`goes on in order if the driver unlinks nothing, with a server ${kind}`, async () => {
      const remote = await importDevice(address, '1-1', { stallProtocol });
      device = remote;
      await configure(remote);
      const results = await Promise.all(Array.from({ length: 40 }, () => remote.transfer(read)));
      assert.deepEqual(
        results.map(({ status, data }) => [status, data.readUInt32LE(0)]),
        results.map((_, n) => ['short', n * PACKETS]),
      );
    });
  }

  function oneRound(remote: RemoteDevice): Promise<TransferResult[]> {
    return new Promise((resolve) => {
      const results: TransferResult[] = [];
      const pending: Pending[] = [];
      for (let n = 0; n < DEPTH; n++) {
        pending.push(
          remote.submit(read, (result) => {
            results[n] = result;
            if (n === 0) for (const other of pending.slice(1).reverse()) remote.unlink(other);
            if (Object.keys(results).length === DEPTH) resolve(results);
          }),
        );
      }
    });
  }

  it('reads and writes, and refuses nothing that the device allows', async () => {
    device = await importDevice(address, '1-1');
    assert.equal(device.record.vendorId, 0x0525);
    const setup = setupOctets(0x80, 6, 0x0100, 0, 18);
    const { data } = await device.transfer({ endpoint: 0, type: 'control', octets: 18, setup });
    assert.equal(data.readUInt16LE(10), 0xa4a0);
    await configure(device);
    const empty = { endpoint: 0x02, type: 'bulk', data: Buffer.alloc(0) } as const;
    assert.equal((await device.transfer(empty)).status, 'ok');
  });

  it('puts data from the device where the transfer wants it, however it arrives', async () => {
    const remote = await importDevice(address, '1-1');
    device = remote;
    await configure(remote);
    // 40 at a time: of replies that lie across two chunks, and of some within one.
    const memories = Array.from({ length: 40 }, () => Buffer.alloc(5000, 0xee));
    const results = await Promise.all(
      memories.map((into) => remote.transfer({ ...read, into, shortNotOk: false })),
    );
    for (const [n, { data, actualOctets }] of results.entries()) {
      const into = memories[n] as Buffer;
      assert.deepEqual([actualOctets, data.length], [SHORT, SHORT]);
      assert.deepEqual([data.buffer, data.byteOffset], [into.buffer, into.byteOffset]);
      assert.equal(data.readUInt32LE(0), n * PACKETS);
      assert(
        into.subarray(SHORT).every((octet) => octet === 0xee),
        'nothing behind it',
      );
    }
    assert.throws(() => remote.submit({ ...read, into: Buffer.alloc(4095) }, () => {}), /fewer/);
  });

  it('ends what is outstanding when the server goes', async () => {
    device = await importDevice(address, '1-1');
    await configure(device);
    const setup = setupOctets(0x80, 6, 0x0100, 0, 18);
    const transfer = device.transfer({ endpoint: 0, type: 'control', octets: 18, setup });
    await server.close();
    await device.closed;
    assert(['ok', 'shutdown'].includes((await transfer).status));
    assert.equal((await device.transfer(read)).status, 'shutdown');
  });

  it('says why it cannot import', async () => {
    await assert.rejects(importDevice(address, '9-9'), (error) => {
      assert(error instanceof UserError);
      assert.match(error.message, /Cannot import 9-9 from 127.0.0.1:\d+: the server does not/);
      return true;
    });
    device = await importDevice(address, '1-1');
    await assert.rejects(importDevice(address, '1-1'), /another client has it/);
    await assert.rejects(importDevice({ host: '127.0.0.1', port: 1 }, '1-1'), /ECONNREFUSED/);
  });
});
