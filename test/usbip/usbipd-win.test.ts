/** The client library against a server that cancels nothing but whole endpoints. */
import { strict as assert } from 'node:assert';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { type ImportOptions, importDevice, type RemoteDevice } from '../../src/usbip/client.ts';
import { withoutGaps } from '../../src/usbip/front-end-packets.ts';
import type { Pending } from '../../src/usbip/pending.ts';
import { openRemote } from '../../src/usbip/remote-device.ts';
import type { ListenAddress } from '../../src/usbip/server.ts';
import { setupOctets } from './scripted-client.ts';
import { UsbipdWin } from './usbipd-win.ts';

const DEPTH = 8;
const ROUNDS = 20;
/** Packets of 512 octets in a transfer that ends early. */
const PACKETS = 2;
const ALL: ImportOptions = { holdBack: 'all' };

describe('client library, with a server like usbipd-win', () => {
  let server: UsbipdWin;
  let address: ListenAddress;
  let device: RemoteDevice;

  async function begin(settings: object, options: ImportOptions): Promise<void> {
    server = new UsbipdWin(new VirtualDevice(sourceSink.define(settings as never)));
    address = await server.listen();
    device = await importDevice(address, '1-1', options);
    assert.equal(device.stallProtocol, false);
    await ask(setupOctets(0, 9, 1));
  }

  async function ask(setup: Buffer): Promise<void> {
    assert.equal((await device.transfer({ endpoint: 0, type: 'control', setup })).status, 'ok');
  }

  afterEach(async () => {
    await device.close();
    await server.close();
    assert.deepEqual(server.faults, []);
  });

  /** The handler of the first of `DEPTH` reads unlinks the others, or does not. */
  function oneRound(read: Transfer, unlinks = true): Promise<TransferResult[]> {
    return new Promise((resolve) => {
      const results: TransferResult[] = [];
      const pending: Pending[] = [];
      for (let n = 0; n < DEPTH; n++) {
        pending.push(
          device.submit(read, (result) => {
            results[n] = result;
            if (n === 0 && unlinks) for (const other of pending.slice(1)) device.unlink(other);
            if (Object.keys(results).length === DEPTH) resolve(results);
          }),
        );
      }
    });
  }

  const read: Transfer = { endpoint: 0x81, type: 'bulk', octets: 4096 };
  const endings = (results: TransferResult[]) =>
    results.map(({ status, actualOctets }) => [status, actualOctets]);

  for (const options of [{}, ALL]) {
    const name = options.holdBack === undefined ? 'by default' : "with holdBack 'all'";

    it(`lets nothing move behind a short read, ${name}`, async () => {
      await begin({ short: 1000, stamp: true }, options);
      for (let round = 0; round < ROUNDS; round++) {
        const results = await oneRound({ ...read, shortNotOk: true });
        assert.deepEqual(endings(results), [
          ['short', 1000],
          ...Array(DEPTH - 1).fill(['unlinked', 0]),
        ]);
        assert.equal(results[0]?.data.readUInt32LE(0), round * PACKETS, 'packets are missing');
      }
      assert.equal(server.pendingMax, 1);
    });
  }

  it("lets nothing move behind an error of another kind, with holdBack 'all'", async () => {
    await begin({ short: 1024, end: 'babble', stamp: true }, ALL);
    for (let round = 0; round < ROUNDS; round++) {
      const results = await oneRound(read);
      assert.deepEqual(endings(results), [
        ['babble', 1024],
        ...Array(DEPTH - 1).fill(['unlinked', 0]),
      ]);
      assert.equal(results[0]?.data.readUInt32LE(0), round * PACKETS, 'packets are missing');
    }
  });

  it('a halted endpoint fails what comes until it is cleared', async () => {
    await begin({ short: 1024, end: 'stall', stamp: true }, ALL);
    for (let round = 0; round < 3; round++) {
      const results = await oneRound(read, false);
      assert.deepEqual(endings(results), [['stall', 1024], ...Array(DEPTH - 1).fill(['stall', 0])]);
      assert.equal(results[0]?.data.readUInt32LE(0), round * PACKETS, 'packets are missing');
      await ask(setupOctets(2, 1, 0, 0x81));
    }
  });

  /** What is answered as unlinked at once must not run on: octets would be lost unseen. */
  it("takes back one of several, with holdBack 'all'", async () => {
    await begin({ short: 500, stamp: true, delay: 5 }, ALL);
    for (let round = 0; round < ROUNDS; round++) {
      const results: TransferResult[] = [];
      await new Promise<void>((resolve) => {
        const done = (result: TransferResult) => {
          if (results.push(result) === 2) resolve();
        };
        const first = device.submit(read, done);
        device.submit(read, done);
        setImmediate(() => device.unlink(first));
      });
      assert.deepEqual(
        results.map(({ status }) => status),
        ['unlinked', 'ok'],
      );
      assert.equal(results[1]?.data.readUInt32LE(0), round, 'packets are missing');
    }
    assert.equal(server.runaways, 0);
    assert.equal(server.aborts, ROUNDS);
  });

  it('without that, a server like this loses what it had not stopped', async () => {
    await begin({ short: 500, stamp: true, delay: 5 }, {});
    const second = await new Promise<TransferResult>((resolve) => {
      const first = device.submit(read, () => {});
      device.submit(read, resolve);
      setImmediate(() => device.unlink(first));
    });
    assert.equal(server.runaways, 1);
    assert.equal(second.data.readUInt32LE(0), 1, 'then holdBack is not needed here');
  });

  for (const direction of ['in', 'out'] as const) {
    it(`sends isochronous packets without gaps: ${direction}`, async () => {
      await begin({}, {});
      await ask(setupOctets(1, 11, 1, 0));
      const packets = [0, 1, 2].map((n) => ({ offset: 2048 * n, octets: 1024 }));
      const endpoint = direction === 'in' ? 0x83 : 0x04;
      const buffer = direction === 'in' ? { octets: 6144 } : { data: Buffer.alloc(6144) };
      const result = await device.transfer({ endpoint, type: 'isochronous', packets, ...buffer });
      assert.equal(result.status, 'ok');
      assert.equal(result.packets?.length, 3);
      assert(result.packets.every(({ status }) => status === 'ok'));
    });
  }

  it('what is written keeps its octets when gaps go', () => {
    const data = Buffer.from('ab..cd.');
    const packets = [0, 4].map((offset) => ({ offset, octets: 2 }));
    const transfer = withoutGaps({ endpoint: 4, type: 'isochronous', data, packets }, false);
    assert.equal(transfer.data?.toString(), 'abcd');
    assert.deepEqual(transfer.packets, [
      { offset: 0, octets: 2 },
      { offset: 2, octets: 2 },
    ]);
    assert.equal(withoutGaps(transfer, false), transfer, 'a copy for nothing');
  });

  it('interrupt transfers are told from bulk ones', async () => {
    await begin({}, {});
    await ask(setupOctets(1, 11, 1, 0));
    const interrupt: Transfer = { endpoint: 0x85, type: 'interrupt', octets: 64 };
    assert.equal((await device.transfer(interrupt)).status, 'ok');
    assert.equal((await device.transfer(read)).status, 'ok');
  });

  it('its devices can be exported once more', async () => {
    await begin({}, {});
    await device.close();
    const exported = await openRemote(address, '1-1');
    assert.equal(exported.info.vendorId, 0x0525);
    await exported.dispose();
  });
});
