import { strict as assert } from 'node:assert';
import { NotPermitted } from '../../../../src/core/devices/host/device.ts';
import { parseSelector } from '../../../../src/core/devices/host/selector.ts';
import { HostDeviceSource } from '../../../../src/core/devices/host/source.ts';
import { listingsOf } from '../../../../src/core/devices/webusb/listing.ts';
import { WebUsbBackend } from '../../../../src/core/devices/webusb/open.ts';
import { loadPackage } from '../../../../src/core/devices/webusb/package.ts';
import { UserError } from '../../../../src/core/errors.ts';
import { FakeClock } from '../../../examples/rig.ts';
import { FakePackage, FakePackageDevice, settle } from './fake-package.ts';

const deviceWith = (changes: Partial<FakePackageDevice>): FakePackageDevice => {
  const device = Object.assign(new FakePackageDevice(), changes);
  device.drivers.clear(); // no system but Linux has the package detach one
  return device;
};

function bench(target: string, wait = false, ...devices: FakePackageDevice[]) {
  const usb = new FakePackage();
  usb.devices = devices;
  const clock = new FakeClock();
  const log: string[] = [];
  // macOS, so that nothing of the machine that runs the test is looked at.
  const source = new HostDeviceSource(new WebUsbBackend(usb, 'darwin', clock), {
    selector: parseSelector(target),
    spec: `usb:${target}`,
    wait,
    force: false,
    clock,
    onAdded: async (device, busId) => {
      log.push(`added ${busId} ${device.info.label}`);
    },
    onGone: (device) => log.push(`gone ${device.info.label}`),
    onRefused: (reason) => log.push(reason),
  });
  return { usb, clock, log, source };
}

/** A look takes some turns: it lists, reads, opens. */
async function pass(clock: FakeClock, milliseconds: number): Promise<void> {
  for (let gone = 0; gone < milliseconds; gone += 500) {
    clock.advance(500);
    for (let turn = 0; turn < 5; turn++) await settle();
  }
}

describe('a device that goes while another is being opened', () => {
  /** Two devices; the second takes its time to open, and the first goes meanwhile. */
  async function opening(wait: boolean, late: boolean) {
    const [one, two] = [
      deviceWith({ handle: 'one', ports: [1] }),
      deviceWith({ handle: 'two', ports: [2] }),
    ];
    const rig = bench('*', wait, ...(late ? [] : [one, two]));
    let go = () => {};
    const { open } = two;
    two.open = async () => {
      await new Promise<void>((resolve) => {
        go = resolve;
      });
      await open.call(two);
    };
    const starting = rig.source.start();
    if (late) {
      assert.deepEqual(await starting, []);
      rig.usb.devices = [one, two];
    }
    await pass(rig.clock, 500);
    rig.usb.devices = [two];
    await pass(rig.clock, 2000);
    assert.deepEqual(rig.log, ['gone Maker Thing']);
    go();
    for (let turn = 0; turn < 5; turn++) await settle();
    return { ...rig, starting };
  }

  it('at the start: it is not among those that are exported', async () => {
    const { source, starting } = await opening(true, false);
    const found = await starting;
    assert.deepEqual(
      found.map(({ busId }) => busId),
      ['1-2'],
    );
    source.stop();
    for (const { device } of found) await device.dispose();
  });

  it('later: only the other one is told of', async () => {
    const { source, log } = await opening(true, true);
    assert.deepEqual(log, ['gone Maker Thing', 'added 1-2 Maker Thing']);
    source.stop();
  });
});

describe('devices that the package shows', () => {
  const places = (platform: NodeJS.Platform, ...devices: Partial<FakePackageDevice>[]) =>
    listingsOf(devices.map(deviceWith), platform).map(({ busId }) => busId);

  it('Linux and macOS: bus and ports as the system has them', () => {
    assert.deepEqual(places('linux', { bus: '012', ports: [1, 4] }), ['12-1.4']);
    assert.deepEqual(places('darwin', { bus: '14', ports: [3] }), ['20-3']);
    assert.deepEqual(places('linux', { address: 0 }), [], 'it is being reset');
  });

  it('Windows: buses are numbered in the order of their names, an unknown port is 0', () => {
    const [one, two] = ['PCIROOT(0)#USBROOT(0)', 'PCIROOT(1)#USBROOT(0)'];
    assert.deepEqual(
      places(
        'win32',
        { bus: two, ports: [5] },
        { bus: one, ports: [2, 1] },
        { bus: two, ports: [] },
      ),
      ['2-5', '1-2.1', '2-0'],
    );
  });

  it('identifiers, speed, hubs', () => {
    const [hub, fast, unknown] = listingsOf(
      [
        deviceWith({ deviceClass: 9, vendorId: 0x1d, productId: 0x2 }),
        deviceWith({ speed: 'superPlus' }),
        deviceWith({ speed: undefined, usbVersionMajor: 3 }),
      ],
      'darwin',
    );
    assert.deepEqual([hub?.isHub, hub?.vendorId, hub?.productId], [true, '001d', '0002']);
    assert.deepEqual([fast?.speed, unknown?.speed], ['super', 'super']);
  });

  it('a device that does not tell is left out, and the others are there', () => {
    const broken = deviceWith({ ports: undefined as unknown as number[] });
    const listed = listingsOf([deviceWith({}), broken, deviceWith({ ports: [4] })], 'darwin');
    assert.deepEqual(
      listed.map(({ busId }) => busId),
      ['1-1.2', '1-4'],
    );
  });

  it('the package is there, and lists what this machine has', async () => {
    const backend = new WebUsbBackend(await loadPackage(), process.platform, new FakeClock());
    for (const { busId } of await backend.list()) assert.match(busId, /^\d+-\d/);
  });
});

describe('a SPEC through the package', () => {
  it('finds a device by serial number, under an id that does not depend on its place', async () => {
    const devices = [deviceWith({ serialNumber: 'S2', handle: 'b' }), deviceWith({})];
    const { source } = bench('0525:a4a0:S1', false, ...devices);
    const [found, ...others] = await source.start();
    assert.equal(others.length, 0);
    assert.equal(found?.device.info.label, 'Maker Thing');
    assert.match(found?.busId ?? '', /^1\d\d-/);
    assert.equal(devices[0]?.opened, false);
  });

  it('says what there is where nothing matches', async () => {
    const { source } = bench('0951:*', false, deviceWith({}));
    await assert.rejects(source.start(), /no device matches, there are 0525:a4a0 at 1-1\.2/);
  });

  it('hubs are refused', async () => {
    const { source } = bench('1-1.2', false, deviceWith({ deviceClass: 9 }));
    await assert.rejects(source.start(), /usb:1-1\.2: it is a hub, wanted a device/);
  });

  it('a driver that cannot be detached is said', async () => {
    const device = deviceWith({});
    device.drivers.add(0);
    const { source } = bench('1-1.2', false, device);
    await assert.rejects(
      source.start(),
      (error) =>
        error instanceof UserError &&
        /usb:1-1\.2: claimInterface error: interface is busy .*; wanted a device that no driver of macOS has/.test(
          error.message,
        ),
    );
    assert.equal(device.opened, false);
  });

  it('Linux: without the rights it is tried again', async () => {
    const usb = new FakePackage();
    const device = deviceWith({ ports: [250] }); // no such place on this machine
    device.failures.set('open', 'open error: permission denied (errno 13)');
    usb.devices = [device];
    const backend = new WebUsbBackend(usb, 'linux', new FakeClock());
    const [listing] = await backend.list();
    const host = await backend.read(listing as never);
    await assert.rejects(
      backend.open(host, { force: false, onGone: () => {} }),
      (error) => error instanceof NotPermitted && /see urbgate udev-rule/.test(error.message),
    );
  });

  it('a name that cannot be had is no name', async () => {
    const device = deviceWith({});
    const secret = () => {
      throw new Error('getString error: endpoint stalled');
    };
    Object.defineProperty(device, 'serialNumber', { get: secret });
    Object.defineProperty(device, 'productName', { get: secret });
    const { source } = bench('0525:a4a0', false, device);
    const [found] = await source.start();
    assert.equal(found?.device.info.label, 'Maker');
  });

  it('unplugged, and with wait plugged in again: gone once, and there under the same id', async () => {
    const first = deviceWith({});
    const { usb, clock, log, source } = bench('0525:a4a0', true, first);
    const [found] = await source.start();
    assert(found !== undefined);
    await pass(clock, 2000);
    assert.deepEqual(log, []);
    usb.devices = [];
    await pass(clock, 500);
    assert.deepEqual(log, [], 'it may be in the middle of a reset');
    await pass(clock, 1000);
    assert.deepEqual(log, ['gone Maker Thing']);
    await found.device.dispose();
    assert.equal(first.opened, false);
    usb.devices = [deviceWith({ handle: 'bus 1, address 8' })];
    await pass(clock, 1000);
    assert.deepEqual(log, ['gone Maker Thing', `added ${found.busId} Maker Thing`]);
    source.stop();
  });

  it('with wait, a device that was hidden for a moment is not taken twice', async () => {
    const device = deviceWith({});
    const { usb, clock, log, source } = bench('0525:a4a0', true, device);
    const [found] = await source.start();
    usb.devices = [];
    found?.device.reset();
    await pass(clock, 500);
    usb.devices = [device];
    await pass(clock, 2000);
    assert.deepEqual(log, []);
    assert.equal(device.calls.filter((call) => call === 'open').length, 1);
    source.stop();
  });

  it('a reset hides a device, however long it takes; it is not gone', async () => {
    const device = deviceWith({});
    const { usb, clock, log, source } = bench('0525:a4a0', false, device);
    const [found] = await source.start();
    let finish = () => {};
    device.gate = new Promise((resolve) => {
      finish = resolve;
    });
    found?.device.reset();
    usb.devices = [];
    await pass(clock, 5000);
    usb.devices = [device];
    finish();
    await pass(clock, 2000);
    assert.deepEqual(log, []);
  });

  it('a list that cannot be had tells of nothing', async () => {
    const { usb, clock, log, source } = bench('0525:a4a0', true, deviceWith({}));
    await source.start();
    usb.fails = true;
    await pass(clock, 2000);
    usb.fails = false;
    await pass(clock, 2000);
    assert.deepEqual(log, ['Cannot list USB devices: getDevices error: none'], 'it is said once');
    source.stop();
  });

  it('nothing looks any more when the last device is given back', async () => {
    const { usb, clock, source } = bench('0525:a4a0', false, deviceWith({}));
    const [found] = await source.start();
    await found?.device.dispose();
    await pass(clock, 1000);
    const { looks } = usb;
    await pass(clock, 3000);
    assert.equal(usb.looks, looks);
    assert.equal(clock.timers, 0);
  });
});
