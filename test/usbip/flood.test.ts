/** Floods of connections: who is there already goes on, and who comes from elsewhere is served. */
import { strict as assert } from 'node:assert';
import { connect, type Socket } from 'node:net';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { LINES_MAX } from '../../src/core/peer-log.ts';
import { Registry } from '../../src/core/registry.ts';
import { ADMISSION_LIMITS } from '../../src/usbip/admission.ts';
import type { DoorOptions } from '../../src/usbip/door.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { type Script, scriptedDevice } from '../core/scripted-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { importRequest, listRequest } from './scripted-client.ts';
import { SocketClient } from './socket-client.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Connections from one address; each is opened again a second after the server has closed it. */
class Flood {
  readonly #to: ListenAddress;
  readonly #localAddress: string;
  readonly #sends: Buffer | null;
  readonly #sockets = new Set<Socket>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #isOver = false;
  openedCount = 0;

  constructor(to: ListenAddress, localAddress: string, count: number, sends: Buffer | null = null) {
    this.#to = to;
    this.#localAddress = localAddress;
    this.#sends = sends;
    for (let n = 0; n < count; n++) this.#open();
  }

  #open(): void {
    if (this.#isOver) return;
    const socket = connect({ ...this.#to, localAddress: this.#localAddress });
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('connect', () => {
      this.openedCount++;
      if (this.#sends !== null) socket.write(this.#sends);
    });
    socket.resume();
    socket.on('close', () => {
      this.#sockets.delete(socket);
      this.#timers.add(setTimeout(() => this.#open(), 1000));
    });
  }

  stop(): void {
    this.#isOver = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }
}

class Bench {
  readonly registry = new Registry();
  readonly log: string[] = [];
  readonly clock = new FakeClock();
  readonly server: UsbipServer;
  readonly clients: SocketClient[] = [];
  address: ListenAddress = { host: '', port: 0 };

  constructor(door: DoorOptions) {
    const note = (message: string) => this.log.push(message);
    this.server = new UsbipServer({
      registry: this.registry,
      log: { info: note, warn: note },
      clock: this.clock,
      door,
    });
  }

  async listen(): Promise<void> {
    this.address = await this.server.listen({ host: '127.0.0.1', port: 0 });
  }

  async client(localAddress: string): Promise<SocketClient> {
    const client = await SocketClient.connect(this.address, { localAddress });
    this.clients.push(client);
    return client;
  }

  /** Whether a list asked for from this address came. */
  async list(localAddress: string): Promise<boolean> {
    const socket = connect({ ...this.address, localAddress });
    socket.on('error', () => {});
    let received = 0;
    socket.on('data', (chunk) => {
      received += chunk.length;
    });
    socket.write(listRequest());
    await new Promise((resolve) => socket.once('close', resolve));
    return received >= 12;
  }

  async end(): Promise<void> {
    for (const client of this.clients) await client.close();
    await this.server.close();
  }
}

/** Loopback addresses stand for machines. */
const APART: DoorOptions = { addressKey: (address) => address };
const FLOOD = '127.0.0.2';
const HONEST = '127.0.0.3';
const CONNECTIONS = 1024;
const TRIES = 20;

describe('a flood of connections', function () {
  this.timeout(60_000);
  let bench: Bench;
  let flood: Flood | undefined;

  const start = async (door: DoorOptions) => {
    bench = new Bench(door);
    bench.registry.add(new VirtualDevice(sourceSink.define({})), 'source-sink');
    bench.registry.add(new VirtualDevice(sourceSink.define({})), 'source-sink');
    await bench.listen();
  };

  afterEach(async () => {
    flood?.stop();
    flood = undefined;
    await bench.end();
  });

  for (const [what, sends] of [
    ['that say nothing', null],
    ['that ask for lists', listRequest()],
    ['of garbage', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ] as const) {
    it(`${what}, 1024 at a time from one address: all others are served, and imported ones go on`, async () => {
      await start(APART);
      const before = await bench.client('127.0.0.4');
      await before.import('1-1');
      flood = new Flood(bench.address, FLOOD, CONNECTIONS, sends);
      while (flood.openedCount < CONNECTIONS / 2) await turn();
      let servedCount = 0;
      for (let n = 0; n < TRIES; n++) {
        if (await bench.list(HONEST)) servedCount++;
        assert.equal((await before.read(1, 4096)).actualLength, 4096);
      }
      assert.equal(servedCount, TRIES, `${servedCount} of ${TRIES} were served`);
      await (await bench.client(HONEST)).import('1-2');
      assert(bench.server.strangerCount <= ADMISSION_LIMITS.strangersOfAddressMax + 2);
      // Each kind of line: so often in 10 s, which pass only when this test's clock says so.
      const lines = bench.log.length;
      assert(lines <= 6 * LINES_MAX, `${lines} lines`);
    });
  }

  it('from the address of an honest client: it is served all the same', async () => {
    await start({});
    const places = ADMISSION_LIMITS.strangersOfAddressMax;
    flood = new Flood(bench.address, FLOOD, 2 * places);
    while (flood.openedCount < places) await turn();
    let servedCount = 0;
    for (let n = 0; n < TRIES; n++) if (await bench.list(HONEST)) servedCount++;
    assert(servedCount > TRIES / 2, `${servedCount} of ${TRIES} were served`);
  });

  it('of an address is served at its rate, and refused beyond it', async () => {
    await start(APART);
    const { burstMax } = ADMISSION_LIMITS;
    let servedCount = 0;
    for (let n = 0; n < burstMax + 100; n++) if (await bench.list(FLOOD)) servedCount++;
    assert.equal(servedCount, burstMax);
    assert.equal(await bench.list(HONEST), true);
    bench.clock.advance(1000);
    assert.equal(await bench.list(FLOOD), true);
  });
});

describe('a connection without a device', () => {
  let bench: Bench;
  let script: Script;
  beforeEach(async () => {
    bench = new Bench({});
    const device = new VirtualDevice(scriptedDevice());
    script = device.state;
    bench.registry.add(device, 'scripted');
    await bench.listen();
  });
  afterEach(() => bench.end());

  /** Waits until the server has seen so many. */
  const seen = async (count: number) => {
    while (bench.server.clientCount < count) await turn();
  };

  for (const [what, octets] of [
    ['nothing', Buffer.alloc(0)],
    ['half a header', importRequest('1-1').subarray(0, 4)],
    ['half an import', importRequest('1-1').subarray(0, 20)],
  ] as const) {
    it(`that has sent ${what} is closed 10 s after it was accepted, whatever comes meanwhile`, async () => {
      const client = await bench.client(HONEST);
      await seen(1);
      client.send(octets);
      const rest = importRequest('1-1').subarray(octets.length);
      for (let second = 0; second < 9; second++) {
        bench.clock.advance(1000);
        client.send(rest.subarray(second, second + 1));
        await turn();
      }
      assert(!client.socket.destroyed);
      bench.clock.advance(1001);
      await client.closed;
      assert.equal(bench.server.strangerCount, 0);
    });
  }

  it('that does not close its end after its list is closed', async () => {
    const client = await SocketClient.connect(bench.address, { allowHalfOpen: true });
    bench.clients.push(client);
    client.socket.pause();
    client.send(listRequest());
    while (bench.log.length === 0) await turn();
    bench.clock.advance(2000);
    while (bench.server.clientCount > 0) await turn();
  });

  it('that waits for a device which another lets go of is not closed meanwhile', async () => {
    let ready = (): void => {};
    script.released = new Promise((resolve) => {
      ready = resolve;
    });
    const first = await bench.client(HONEST);
    await first.import();
    await first.close();
    while (bench.registry.freed('1-1') === null) await turn();
    const second = await bench.client(HONEST);
    const imported = second.import();
    // A round trip of another client's: the import has most likely arrived.
    assert.equal(await bench.list(HONEST), true);
    bench.clock.advance(10_001);
    ready();
    await imported;
  });

  it('that has a device then is not closed', async () => {
    const client = await bench.client(HONEST);
    await client.import();
    assert.equal(bench.server.strangerCount, 0);
    bench.clock.advance(1_000_000);
    assert.equal(
      (await client.transfer({ direction: 0, endpoint: 2, data: Buffer.from('x') })).status,
      0,
    );
  });
});
