/** Servers that grant an import and then say nothing: every wait for them has an end. */
import { strict as assert } from 'node:assert';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import {
  LATE_UNLINK_MILLISECONDS,
  LET_GO_MILLISECONDS,
  ORDERLY_REMOVAL_MILLISECONDS,
  UNLINK_MILLISECONDS,
} from '../../src/core/limits.ts';
import { Registry } from '../../src/core/registry.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { importDevice, type RemoteDevice } from '../../src/usbip/client.ts';
import { DESCRIPTORS_MILLISECONDS } from '../../src/usbip/control-within.ts';
import { findBusId } from '../../src/usbip/find-device.ts';
import { LOOKS_AT_A_TIME, LOOKS_MILLISECONDS } from '../../src/usbip/look-at.ts';
import { openRemote } from '../../src/usbip/remote-device.ts';
import { UsbipServer } from '../../src/usbip/server.ts';
import { RemoteUsb } from '../../src/usbip/webusb.ts';
import { NotingClient, read, request } from '../core/manual-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { type Mute, MutingProxy } from './muting-proxy.ts';
import { setupOctets } from './scripted-client.ts';

const LOG = { info: () => {}, warn: () => {} };
const CALL_MILLISECONDS = 2_000;
/** Never ends by itself. */
const ENDLESS = { delay: 3_600_000 } as never;
const READ: Transfer = { endpoint: 0x81, type: 'bulk', octets: 512 };

describe('silent servers', () => {
  let server: UsbipServer;
  let registry: Registry;
  let proxy: MutingProxy;
  let clock: FakeClock;

  beforeEach(async () => {
    clock = new FakeClock();
    registry = new Registry();
    server = new UsbipServer({ registry, log: LOG });
    proxy = await MutingProxy.before(await server.listen({ host: '127.0.0.1', port: 0 }));
  });

  afterEach(async () => {
    await proxy.close();
    await server.close();
  });

  const give = (options: object = ENDLESS) =>
    registry.add(new VirtualDevice(sourceSink.define(options as never)), 'source-sink');

  /** Waits without letting any time of the fake clock pass. */
  async function until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  /** Lets time pass in small steps, with real input and output between them, until it has ended. */
  async function passTimeUntil<T>(work: Promise<T>, mostMilliseconds: number): Promise<T> {
    let ended = false;
    const end = () => {
      ended = true;
    };
    work.then(end, end);
    const limit = clock.now() + mostMilliseconds;
    for (;;) {
      // Several turns: what arrived is read, worked up and answered.
      for (let turn = 0; turn < 10 && !ended; turn++) await new Promise((go) => setImmediate(go));
      if (ended) return await work;
      assert(clock.now() < limit, `it has not ended after ${mostMilliseconds} ms`);
      clock.advance(100);
    }
  }

  async function imported(): Promise<RemoteDevice> {
    const device = await importDevice(proxy.address, '1-1', { clock });
    const setup = setupOctets(0, 9, 1);
    assert.equal((await device.transfer({ endpoint: 0, type: 'control', setup })).status, 'ok');
    return device;
  }

  describe('library', () => {
    for (const mute of ['drop', 'half', 'unread'] as const satisfies Mute[]) {
      it(`a call with a time ends, and all others with it: ${mute}`, async () => {
        give();
        const device = await imported();
        const other = device.transfer(READ);
        proxy.mute(mute);
        const call = device.transferWithin(READ, CALL_MILLISECONDS);
        const most = CALL_MILLISECONDS + LATE_UNLINK_MILLISECONDS + 1000;
        assert.equal((await passTimeUntil(call, most)).status, 'shutdown');
        assert.equal((await other).status, 'shutdown');
        assert.equal(device.isOpen, false);
        await device.closed;
      });
    }

    it('a call with a time is unlinked, and nothing more, where the server answers that', async () => {
      give();
      const device = await imported();
      const call = device.transferWithin(READ, CALL_MILLISECONDS);
      clock.advance(CALL_MILLISECONDS);
      assert.equal((await call).status, 'unlinked');
      clock.advance(UNLINK_MILLISECONDS * 2);
      assert(device.isOpen);
      assert.equal(clock.timers, 0);
      await device.close();
    });

    it('a transfer that is unlinked comes back', async () => {
      give();
      const device = await imported();
      const result = new Promise<TransferResult>((resolve) => {
        const pending = device.submit(READ, resolve);
        proxy.mute();
        device.unlink(pending);
      });
      assert.equal((await passTimeUntil(result, UNLINK_MILLISECONDS + 5000)).status, 'shutdown');
    });

    it('who reads nothing waits on, and costs the server nothing', async () => {
      give();
      const device = await imported();
      const result = new Promise<TransferResult>((resolve) => {
        const pending = device.submit(READ, resolve);
        device.pause();
        device.unlink(pending);
      });
      for (let n = 0; n < 100; n++) clock.advance(1000);
      assert(device.isOpen);
      device.resume();
      assert.equal((await result).status, 'unlinked');
      await device.close();
    });
  });

  describe('WebUSB', () => {
    it('close ends, takes back what is under way, and does not spin', async () => {
      give();
      const usb = new RemoteUsb(proxy.address, { clock });
      const [device] = await usb.getDevices();
      assert(device !== undefined);
      await device.open();
      await device.selectConfiguration(1);
      await device.claimInterface(0);
      const transfer = assert.rejects(device.transferIn(1, 512), { name: 'AbortError' });
      proxy.mute();
      let turns = 0;
      const setImmediateBefore = globalThis.setImmediate;
      const closed = device.close();
      globalThis.setImmediate = ((...args: Parameters<typeof setImmediate>) => {
        turns++;
        return setImmediateBefore(...args);
      }) as typeof setImmediate;
      try {
        await new Promise((resolve) => setTimeout(resolve, 100));
      } finally {
        globalThis.setImmediate = setImmediateBefore;
      }
      assert(turns < 10, `it has looked ${turns} times`);
      await passTimeUntil(closed, LATE_UNLINK_MILLISECONDS + 1000);
      await transfer;
    });

    it('a request to the device has an end', async () => {
      give();
      const [device] = await new RemoteUsb(proxy.address, { clock }).getDevices();
      assert(device !== undefined);
      await device.open();
      proxy.mute();
      const selected = assert.rejects(device.selectConfiguration(1), { name: 'NotFoundError' });
      await passTimeUntil(selected, 20_000);
    });

    it('devices that say nothing are left out, named, and cost the others nothing', async () => {
      const count = LOOKS_AT_A_TIME + 8;
      for (let n = 0; n < count; n++) give({});
      const silent = new Set(['1-2', '1-7']);
      proxy.isSilent = (busId) => silent.has(busId);
      const usb = new RemoteUsb(proxy.address, { clock });
      let connects = 0;
      usb.onconnect = () => connects++;
      const looking = usb.getDevices();
      await until(() => connects === count - silent.size);
      const found = await passTimeUntil(looking, LOOKS_MILLISECONDS + 1000);
      assert.deepEqual(
        found.map(({ busId }) => busId),
        registry.list().flatMap(({ busId }) => (silent.has(busId) ? [] : [busId])),
      );
      assert.match(usb.missing[0] ?? '', /Cannot look at 1-2 of .*no answer/);
      assert.match(usb.missing[1] ?? '', /Cannot look at 1-7 of .*no answer/);
      assert.equal(usb.missing.length, 2);
    });

    it('of devices of which none says anything, all have one time together', async () => {
      for (let n = 0; n < 200; n++) give({});
      proxy.isSilent = () => true;
      const usb = new RemoteUsb(proxy.address, { clock });
      const looking = usb.getDevices();
      await until(() => proxy.imports === LOOKS_AT_A_TIME);
      assert.deepEqual(await passTimeUntil(looking, LOOKS_MILLISECONDS + 1000), []);
      assert.equal(proxy.importsMost, LOOKS_AT_A_TIME);
      assert.equal(usb.missing.length, 200);
      assert.match(usb.missing.at(-1) ?? '', /Cannot look at 1-200 of .*no time was left/);
      assert(proxy.importsAll <= 3 * LOOKS_AT_A_TIME, `${proxy.importsAll} imports`);
    });

    it('a server that is away does not hide the others', async () => {
      give({});
      const away = { host: '127.0.0.1', port: 1 };
      const usb = new RemoteUsb([away, proxy.address], { clock });
      assert.equal((await usb.getDevices()).length, 1);
      assert.match(usb.missing.join(), /Cannot list devices of 127.0.0.1:1: nothing listens there/);
      await assert.rejects(new RemoteUsb(away).getDevices(), { name: 'UserError' });
    });
  });

  describe('looking for a device', () => {
    it('by its serial number: one that says nothing does not hide it', async () => {
      give({});
      give({});
      proxy.isSilent = (busId) => busId === '1-1';
      const wanted = { vendorId: 0x0525, productId: 0xa4a0, serial: '0001' };
      const found = findBusId(proxy.address, wanted, clock);
      await until(() => proxy.importsAll === 2 && proxy.imports === 1);
      assert.equal(await passTimeUntil(found, LOOKS_MILLISECONDS + 1000), '1-2');
    });

    it('by its serial number: what could not be read is said, not all of it', async () => {
      for (let n = 0; n < 100; n++) give({});
      proxy.isSilent = () => true;
      const wanted = { vendorId: 0x0525, productId: 0xa4a0, serial: '0001' };
      const refused = assert.rejects(findBusId(proxy.address, wanted, clock), {
        name: 'UserError',
        message: / 1-1 .*; Cannot .* 1-2 .*; Cannot .* 1-3 .*; Cannot .* 1-4 .*; 96 more, see/,
      });
      await passTimeUntil(refused, LOOKS_MILLISECONDS + 1000);
    });
  });

  describe('remote:', () => {
    it('is refused if it does not tell what it is', async () => {
      give();
      proxy.isSilent = () => true;
      const refused = assert.rejects(openRemote(proxy.address, '1-1', { clock }), {
        name: 'UserError',
      });
      await passTimeUntil(refused, DESCRIPTORS_MILLISECONDS + LATE_UNLINK_MILLISECONDS);
    });

    async function claimed() {
      give();
      const device = await openRemote(proxy.address, '1-1', { clock });
      const second = new Registry(clock);
      second.add(device, 'remote');
      const client = new NotingClient();
      const claim = second.claim('1-1', 'client', client, { clock });
      assert(typeof claim !== 'string');
      await new Promise<void>((resolve) => {
        client.onGaveBack = () => resolve();
        claim.session.submit(request(0, 0, 9, 1)); // configures it
      });
      assert.deepEqual(client.take(), ['0 ok 0']);
      const endpoint = device.endpoint(0x81);
      assert(endpoint !== undefined);
      return { device, second, client, claim, endpoint };
    }

    it('a URB that is unlinked comes back, and the device has gone', async () => {
      const { device, client, claim, endpoint } = await claimed();
      claim.session.submit(read(1, endpoint, 512));
      proxy.mute();
      claim.session.unlink(1);
      assert.equal(await passTimeUntil(device.gone, UNLINK_MILLISECONDS + 5000), 'lost');
      assert.deepEqual(client.take(), ['1 shutdown 0', 'removed']);
    });

    it('a client that leaves: the device is not busy for ever', async () => {
      const { second, claim, endpoint } = await claimed();
      claim.session.submit(read(1, endpoint, 512));
      proxy.mute();
      await passTimeUntil(claim.release(), LET_GO_MILLISECONDS);
      assert.equal(second.get('1-1')?.holder, null);
    });

    it('a client that leaves with nothing under way: the reset has an end', async () => {
      const { device, claim } = await claimed();
      proxy.mute();
      await passTimeUntil(claim.release(), 10_000);
      assert.equal(await device.gone, 'lost');
    });

    it('unexport ends, and gives the connection up', async () => {
      const { device, second, client, claim, endpoint } = await claimed();
      claim.session.submit(read(1, endpoint, 512));
      proxy.mute();
      await passTimeUntil(second.remove('1-1'), ORDERLY_REMOVAL_MILLISECONDS + 1000);
      assert.deepEqual(client.take(), ['1 shutdown 0', 'removed']);
      assert.equal(await device.gone, 'lost');
      await until(() => proxy.connections === 0);
    });
  });
});
