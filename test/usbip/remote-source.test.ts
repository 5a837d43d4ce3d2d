import { strict as assert } from 'node:assert';
import { type AddressInfo, connect, createServer } from 'node:net';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { openRemote, type RemoteUsbDevice } from '../../src/usbip/remote-device.ts';
import { RemoteSource } from '../../src/usbip/remote-source.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { FakeClock } from '../examples/rig.ts';

const LOG = { info: () => {}, warn: () => {} };
/** More than any pause between two tries. */
const PAUSE_MILLISECONDS_MAX = 10_000;

describe('source of a device of another server', () => {
  let server: UsbipServer | null;
  let address: ListenAddress;
  let clock: FakeClock;
  let source: RemoteSource;
  /** What the source said, in order. */
  let events: string[];
  let device: RemoteUsbDevice | undefined;
  let tries: number;
  let onEvent: () => void;

  async function serve(): Promise<void> {
    const registry = new Registry();
    registry.add(new VirtualDevice(sourceSink.define({} as never)), 'device', '1-1');
    server = new UsbipServer({ registry, log: LOG });
    address = await server.listen({ host: '127.0.0.1', port: address.port });
  }

  async function stopServing(): Promise<void> {
    await server?.close();
    server = null;
  }

  function say(event: string): void {
    events.push(event);
    onEvent();
  }

  function make(wait: boolean): RemoteSource {
    return new RemoteSource({
      open: async () => {
        try {
          return await openRemote(address, '1-1');
        } finally {
          tries++;
          queueMicrotask(() => setImmediate(() => onEvent()));
        }
      },
      wait,
      clock,
      onAdded: async (one) => {
        device = one;
        say('added');
      },
      onGone: (one) => {
        assert.equal(one, device);
        device = undefined;
        say('gone');
      },
      onAwaited: (why) => say(`awaited: ${why}`),
    });
  }

  async function until(done: () => boolean): Promise<void> {
    while (!done()) {
      await new Promise<void>((resolve) => {
        onEvent = resolve;
      });
    }
  }

  /** The next try, and its end. */
  async function nextTry(): Promise<void> {
    const before = tries;
    clock.advance(PAUSE_MILLISECONDS_MAX);
    await until(() => tries > before && (clock.timers > 0 || device !== undefined));
  }

  beforeEach(() => {
    address = { host: '127.0.0.1', port: 0 };
    clock = new FakeClock();
    events = [];
    tries = 0;
    onEvent = () => {};
    device = undefined;
    server = null;
  });

  afterEach(async () => {
    source.stop();
    await device?.dispose();
    await stopServing();
  });

  it('without wait: what is not there is refused, what has gone does not come back', async () => {
    await serve();
    await stopServing();
    source = make(false);
    await assert.rejects(source.start(), { name: 'UserError', message: /ECONNREFUSED/ });
    await serve();
    source = make(false);
    [device] = await source.start();
    await stopServing();
    await until(() => events.includes('gone'));
    assert.deepEqual(events, ['gone']);
    assert.equal(clock.timers, 0);
  });

  it('a server that goes while the device is being opened: it is not there', async () => {
    await serve();
    const behind = address.port;
    // Cut off when the client asks for a string, the last that it asks for.
    const GET_STRING = Buffer.from([0x80, 6]);
    const between = createServer((client) => {
      const real = connect(behind, '127.0.0.1');
      const end = () => {
        client.destroy();
        real.destroy();
      };
      real.on('data', (octets) => client.write(octets)).on('error', end);
      client.on('error', end).on('close', end);
      client.on('data', (octets) => {
        const at = octets.length >= 48 ? octets.indexOf(GET_STRING, 40) : -1;
        if (at >= 0 && octets[at + 3] === 3) end();
        else real.write(octets);
      });
    });
    await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
    address = { host: '127.0.0.1', port: (between.address() as AddressInfo).port };
    source = make(false);
    await assert.rejects(source.start(), { name: 'UserError', message: /has gone/ });
    assert.deepEqual(events, []);
    source = make(true);
    assert.deepEqual(await source.start(), []);
    assert.equal(events.length, 1);
    assert.match(events[0] ?? '', /^awaited: .*has gone/);
    await new Promise((resolve) => between.close(resolve));
  });

  it('with wait: comes when it is there, goes when it goes, comes again', async () => {
    await serve();
    await stopServing();
    source = make(true);
    assert.deepEqual(await source.start(), []);
    assert.match(events[0] ?? '', /^awaited: .*ECONNREFUSED/);
    await nextTry();
    await nextTry();
    assert.equal(events.length, 1, 'each try is told of');
    for (let round = 0; round < 3; round++) {
      await serve();
      events = [];
      await nextTry();
      assert.deepEqual(events, ['added']);
      await stopServing();
      await until(() => clock.timers > 0);
      assert.deepEqual(events.slice(1), ['gone', 'awaited: the server or the device has gone']);
    }
  });

  it('tries more and more seldom', async () => {
    await serve();
    await stopServing();
    source = make(true);
    await source.start();
    const waits: number[] = [];
    for (let n = 0; n < 8; n++) {
      const begin = clock.now();
      const before = tries;
      while (tries === before && clock.now() - begin <= PAUSE_MILLISECONDS_MAX) {
        clock.advance(5);
        await new Promise((resolve) => setImmediate(resolve));
      }
      waits.push(clock.now() - begin);
      await until(() => clock.timers > 0);
    }
    assert(Math.min(...waits) >= 125, `${waits}`);
    assert((waits.at(-1) ?? 0) >= 5_000, `${waits}`);
  });

  it('a device that is disposed of is not wanted any more', async () => {
    await serve();
    source = make(true);
    [device] = await source.start();
    await device?.dispose();
    await device?.gone;
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(events, []);
    assert.equal(clock.timers, 0);
  });

  it('gives back what comes after it was stopped', async () => {
    await serve();
    await stopServing();
    source = make(true);
    await source.start();
    await serve();
    clock.advance(PAUSE_MILLISECONDS_MAX);
    source.stop();
    await until(() => tries === 2);
    while ((server?.clientCount ?? 0) > 0) await new Promise((resolve) => setImmediate(resolve));
    assert(!events.includes('added'));
  });
});
