/**
 * A bug of a device, of its session or of a connection ends that connection alone. On sockets: the
 * log has one line with the stack, others go on, and the device can be attached again.
 */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { Registry } from '../../src/core/registry.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { type Fault, FaultyDevice, MadeBug } from '../core/faulty-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { IN, importRequest, listRequest, OUT } from './scripted-client.ts';
import { SocketClient } from './socket-client.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class Bench {
  readonly registry = new Registry();
  readonly clock = new FakeClock();
  readonly bugs: { readonly error: unknown; readonly what: string }[] = [];
  readonly warnings: string[] = [];
  readonly device = new FaultyDevice();
  readonly server: UsbipServer;
  address: ListenAddress = { host: '', port: 0 };

  constructor() {
    this.registry.add(this.device, 'faulty');
    this.registry.add(new FaultyDevice(), 'sound');
    this.server = new UsbipServer({
      registry: this.registry,
      session: { clock: this.clock },
      log: {
        info: () => {},
        warn: (message) => this.warnings.push(message),
        bug: (error, what) => this.bugs.push({ error, what }),
      },
    });
  }

  async client(busId: string): Promise<SocketClient> {
    const client = await SocketClient.connect(this.address);
    await client.import(busId);
    return client;
  }

  released(): Promise<unknown> {
    return once(this.registry, 'released');
  }
}

const read = { direction: IN, endpoint: 1, octets: 64 };
const write = { direction: OUT, endpoint: 2, data: Buffer.alloc(200_000) };

describe('a bug ends one connection', () => {
  let bench: Bench;
  let other: SocketClient;

  beforeEach(async () => {
    bench = new Bench();
    bench.address = await bench.server.listen({ host: '127.0.0.1', port: 0 });
    other = await bench.client('1-2');
  });

  afterEach(async () => {
    await other.close();
    await bench.server.close();
  });

  /** That a transfer of somebody else's goes well. */
  const othersGoOn = async () => {
    assert.equal((await other.transfer({ direction: IN, endpoint: 1, octets: 0 })).status, 0);
  };

  const oneLine = (message: RegExp, what: RegExp) => {
    assert.equal(bench.bugs.length, 1, 'the log has one line');
    const { error, what: said } = bench.bugs[0] ?? {};
    assert(error instanceof Error);
    assert.match(error.message, message);
    assert.match(error.stack ?? '', /\n\s+at /);
    assert.match(said ?? '', what);
  };

  const attachAgain = async () => {
    bench.device.fault = null;
    const again = await bench.client('1-1');
    assert.equal((await again.transfer({ ...read, octets: 0 })).status, 0);
    await again.close();
  };

  const CASES: readonly [fault: Fault, message: RegExp, urb: typeof read | typeof write][] = [
    ['submit throws', /submit throws/, read],
    ['endpoint throws', /endpoint throws/, read],
    ['room throws', /room throws/, write],
    ['completes twice', /the device does not have it/, { ...read, octets: 0 }],
    ['completes what it does not have', /the device does not have it/, read],
    ['says more octets than it brings', /condition does not hold/, read],
    ['finds a bug of its own', /finds a bug of its own/, read],
    ['a loan throws when it is given back', /a loan throws/, { ...read, octets: 10_000 }],
  ];

  for (const [fault, message, urb] of CASES) {
    it(`${fault}: once in the log, others go on, the device can be attached again`, async () => {
      const client = await bench.client('1-1');
      const released = bench.released();
      bench.device.fault = fault;
      client.submit(urb);
      await client.closed;
      await released;
      await othersGoOn();
      oneLine(message, /^127\.0\.0\.1:\d+: connection of 1-1 closed by a bug$/);
      assert.deepEqual([bench.device.openCount, bench.device.closeCount], [1, 1]);
      assert.deepEqual(bench.warnings, []);
      await attachAgain();
    });
  }

  it('a timer of the session comes to a bug', async () => {
    const client = await bench.client('1-1');
    const { device } = bench;
    device.fault = 'keeps its URBs';
    const first = client.submit({ ...read, octets: 0 });
    for (const _ of [1, 2, 3]) client.submit({ ...read, octets: 0 });
    while (device.atDevice.size < 4) await turn();
    // One fails, the rest come back and are held; when the hold is over they start again.
    for (const urb of [...device.atDevice].reverse()) {
      urb.status = urb.id === first ? 'stall' : 'unlinked';
      device.complete(urb);
    }
    bench.clock.advance(10);
    assert.equal((await client.reply(first)).status, -32);
    device.fault = 'a queue throws when time is over';
    const released = bench.released();
    // The hold counts once the client's machine has acknowledged the report.
    while (!client.socket.destroyed) {
      bench.clock.advance(1000);
      await turn();
    }
    device.fault = null;
    await released;
    await othersGoOn();
    oneLine(/a queue throws/, /1-1 closed by a bug/);
    await attachAgain();
  });

  /** A bug of the registry's, once. */
  const breakRegistry = (method: 'list' | 'get') => {
    bench.registry[method] = () => {
      Reflect.deleteProperty(bench.registry, method);
      throw new MadeBug('the registry throws');
    };
  };

  it('a device that does not say what it is, is listed as before', async () => {
    bench.device.fault = 'info throws';
    const lister = await SocketClient.connect(bench.address);
    lister.send(listRequest());
    assert.equal((await lister.rest()).readUInt32BE(8), 2);
    assert.deepEqual(bench.bugs, []);
  });

  it('the device list comes to a bug: whoever asks is let go, nobody else', async () => {
    breakRegistry('list');
    const lister = await SocketClient.connect(bench.address);
    lister.send(listRequest());
    await lister.closed;
    await othersGoOn();
    oneLine(/registry throws/, /^127\.0\.0\.1:\d+: connection closed by a bug$/);
    await attachAgain();
  });

  it('the import that has waited for the client before comes to a bug', async () => {
    const client = await bench.client('1-1');
    const { device } = bench;
    let go = () => {};
    device.close = () => {
      device.close = FaultyDevice.prototype.close;
      return new Promise<void>((resolve) => {
        go = resolve;
      }).then(() => device.close());
    };
    await client.close();
    while (device.closeCount === 0 && bench.registry.freed('1-1') === null) await turn();
    const waiting = await SocketClient.connect(bench.address);
    waiting.send(importRequest('1-1'));
    while (bench.server.clientCount < 3) await turn();
    await turn();
    breakRegistry('get');
    go();
    await waiting.closed;
    await othersGoOn();
    oneLine(/registry throws/, /closed by a bug/);
    await attachAgain();
  });

  it('a second bug of the same connection is not told', async () => {
    const client = await bench.client('1-1');
    const released = bench.released();
    bench.device.fault = 'completes what it does not have';
    client.submit(read);
    client.submit(read);
    client.submit(write);
    await released;
    await client.closed;
    oneLine(/the device does not have it/, /1-1/);
    await attachAgain();
  });

  for (const [fault, why] of [
    ['keeps its URBs', /it has not given back its URBs within 5000 ms/],
    ['unlink throws', /it has not given back its URBs within 5000 ms/],
    ['does not close', /it has not closed within 5000 ms/],
    ['close throws', /close throws/],
  ] as const) {
    it(`a device that does not come to rest after a bug (${fault}) is refused until it is exported again`, async () => {
      const { device, registry } = bench;
      const client = await bench.client('1-1');
      const released = bench.released();
      device.fault = 'keeps its URBs';
      client.submit(read);
      while (device.atDevice.size === 0) await turn();
      device.fault = fault;
      device.bug();
      await client.closed;
      while (bench.clock.timers === 0 && fault !== 'close throws') await turn();
      await othersGoOn();
      if (fault === 'does not close' || fault === 'close throws') device.stall();
      while (!(await Promise.race([released.then(() => true), turn()]))) bench.clock.advance(1000);
      oneLine(/finds a bug of its own/, /1-1 closed by a bug/);
      assert.match(registry.get('1-1')?.fault ?? '', why);
      device.fault = null;
      const refused = await SocketClient.connect(bench.address);
      refused.send(importRequest('1-1'));
      assert.equal((await refused.rest()).readUInt32BE(4), 3, 'device in error state');
      await refused.closed;
      assert.equal(bench.warnings.filter((one) => why.test(one)).length, 2);
      await registry.remove('1-1');
      registry.add(new FaultyDevice(), 'another', '1-1');
      await attachAgain();
      await othersGoOn();
    });
  }

  it('every URB is given back at most once, and what the device brings late changes nothing', async () => {
    const { device } = bench;
    const client = await bench.client('1-1');
    device.fault = 'keeps its URBs';
    for (const _ of [1, 2, 3]) client.submit(read);
    while (device.atDevice.size < 3) await turn();
    const urbs = [...device.atDevice];
    const released = bench.released();
    device.bug();
    assert.equal(bench.registry.get('1-1')?.holder?.session.outstandingCount, 3);
    for (const urb of urbs) device.complete(urb);
    for (const urb of urbs) device.complete(urb);
    await released;
    assert(urbs.every(({ outstanding, atDevice }) => !outstanding && !atDevice));
    oneLine(/finds a bug of its own/, /1-1/);
    await attachAgain();
  });
});

describe('a bug without a log for it', () => {
  it('is a warning with its stack', async () => {
    const registry = new Registry();
    const device = new FaultyDevice();
    registry.add(device, 'faulty');
    const warnings: string[] = [];
    const log = { info: () => {}, warn: (message: string) => warnings.push(message) };
    const server = new UsbipServer({ registry, log });
    const client = await SocketClient.connect(await server.listen({ host: '127.0.0.1', port: 0 }));
    await client.import();
    device.fault = 'submit throws';
    client.submit(read);
    await client.closed;
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? '', new RegExp(`closed by a bug: ${MadeBug.name}: .*\\n +at `));
    await server.close();
  });
});
