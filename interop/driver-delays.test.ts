/**
 * A driver that kills its transfers and starts anew, at each open of a port or start of a network card, waits
 * for no hold: the kernel's class drivers, from their start to their first data, at the machine itself,
 * through a gateway, and through one that holds nothing.
 *
 * The sums of all rounds are compared, and again if need be, so that a busy machine does not decide. A port
 * whose second open heard nothing for a second, and whose third one for half of it (decision 0090), had sums
 * that were 2000 ms and more apart, after each attachment.
 */
import { strict as assert } from 'node:assert';
import { rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import { endGateways, type GuestGateway, startGatewayInGuest } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { findDevice, type GuestUsbDevice } from './lab/local-gadget.ts';
import { QemuMonitor } from './lab/qemu-monitor.ts';
import { attach, detachAll, loadVhci, type UsbipServer } from './lab/usbip.ts';

interface Driver {
  readonly name: string;
  /** What a gateway exports. */
  readonly spec: string;
  readonly busid: string;
  /** Of the device at the machine itself, if there is one. */
  readonly serial?: string;
  /** What there is below a device's folder when the driver is ready; its last part is the name. */
  readonly node: string;
  /** How lab/open-delays.c calls it, and where it is. */
  readonly kind: 'tty' | 'event' | 'net';
  readonly folder: string;
  readonly rounds: number;
}

const own = (serial: string, busid: string) => ({
  spec: `usb:*:*:${serial},busid=${busid}`,
  busid,
  serial,
});

/** Devices of QEMU, exported by a gateway in the guest through usbfs. */
const OWN_DRIVERS: readonly Driver[] = [
  {
    name: 'ftdi_sio',
    ...own('PORT', '1-1'),
    node: '*/ttyUSB*',
    kind: 'tty',
    folder: '/dev/',
    rounds: 50,
  },
  {
    name: 'usbhid, a tablet',
    ...own('TABLET', '1-2'),
    node: '*/*/input/input*/event*',
    kind: 'event',
    folder: '/dev/input/',
    rounds: 50,
  },
  {
    name: 'usbnet (cdc_ether)',
    ...own('NETWORK', '1-3'),
    node: '*/net/*',
    kind: 'net',
    folder: '',
    rounds: 10,
  },
];

/** Over a network cable. */
const CABLE_DRIVER: Driver = {
  name: 'cdc_acm',
  spec: 'virtual:serial',
  busid: '1-1',
  node: '*/tty/ttyACM*',
  kind: 'tty',
  folder: '/dev/',
  rounds: 50,
};

const PATHS = ['local', 'urbgate', '--stall-hold 0'] as const;
type Path = (typeof PATHS)[number];
const HOLDS: readonly { path: Path; arguments: readonly string[] }[] = [
  { path: 'urbgate', arguments: [] },
  { path: '--stall-hold 0', arguments: ['--stall-hold', '0'] },
];

/** More than so much between the sums: 20 ms for each of 50 opens. */
const EXCESS_MILLISECONDS_MAX = 1000;
const BATCHES_MAX = 4;

describe('class drivers start as soon as without a hold', function () {
  this.timeout(1_200_000);
  const monitor = new QemuMonitor();
  const portPath = join(monitor.folder, 'port');
  let cabled: CabledGuest;
  let guest: Guest;
  let program: string;

  before(async function () {
    if (process.getuid?.() !== 0) this.skip(); // network cables are root's
    program = await compiled(labSource('open-delays.c'), ['-static']);
    cabled = await bootCabledGuest({
      name: 'driver-delays',
      // Its clock counts instructions, one in 8 ns, so that a busy machine does not show.
      acceleration: 'tcg,thread=single',
      bootTimeoutSeconds: 300,
      qemuArguments: [
        ...['-icount', 'shift=3'],
        ...monitor.qemuArguments,
        ...['-device', 'qemu-xhci,id=xhci', '-device', 'usb-ehci,id=ehci'],
        ...['-chardev', `socket,id=port,path=${portPath},server=on,wait=off`],
        ...['-device', 'usb-serial,bus=xhci.0,chardev=port,always-plugged=on,serial=PORT'],
        ...['-device', 'usb-tablet,bus=ehci.0,serial=TABLET'],
        ...['-netdev', 'user,id=far,net=10.0.9.0/24,restrict=on'],
        ...['-device', 'usb-net,bus=xhci.0,netdev=far,serial=NETWORK'],
      ],
    });
    guest = cabled.guest;
    await monitor.open();
    const port = connect(portPath);
    port.on('error', () => {});
    port.unref();
    port.pipe(port);
    await guest.succeed('modprobe -a xhci-pci ehci-pci', { timeoutSeconds: 60 });
    await guest.succeed('modprobe -a usbhid hid-generic evdev cdc_ether ftdi_sio cdc-acm', {
      timeoutSeconds: 60,
    });
    await loadVhci(guest);
  });

  after(async () => {
    monitor.close();
    await cabled?.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  });

  afterEach(async function () {
    if (guest.alive) await detachAll(guest).finally(() => endGateways(guest));
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  /** Milliseconds from each start of a device's driver to its first data. */
  async function delays({ sysfs }: GuestUsbDevice, driver: Driver): Promise<number[]> {
    const { kind, folder, node, rounds } = driver;
    const found = await guest.succeed(
      `for try in $(seq 300); do
         found=$(ls -d ${sysfs}/${node} 2>/dev/null) && break
         sleep 0.1
       done
       basename $found`,
      { timeoutSeconds: 60 },
    );
    const command = `${program} ${kind} ${folder}${found.trim()} ${rounds}`;
    const printed = await whileMoving(kind, () => guest.succeed(command, { timeoutSeconds: 180 }));
    return printed.trim().split('\n').map(Number);
  }

  /** The tablet moves, so that whoever opens it hears of it. */
  async function whileMoving<T>(kind: Driver['kind'], work: () => Promise<T>): Promise<T> {
    if (kind !== 'event') return work();
    let over = false;
    const move = async () => {
      for (let n = 0; !over; n++) {
        const data = { axis: 'x', value: 1000 + (n % 100) * 100 };
        await monitor.command('input-send-event', { events: [{ type: 'abs', data }] });
        await new Promise((resolve) => setTimeout(resolve, 3));
      }
    };
    const moving = move();
    try {
      return await work();
    } finally {
      over = true;
      await moving;
    }
  }

  async function attached(driver: Driver, server: UsbipServer): Promise<number[]> {
    const device = await attach(guest, driver.busid, server, 60);
    const taken = await delays(device, driver);
    await detachAll(guest);
    return taken;
  }

  /** All of a batch, by driver. */
  type Batch = Map<Driver, Partial<Record<Path, number[]>>>;

  async function measureOwn(drivers: readonly Driver[]): Promise<Batch> {
    const batch: Batch = new Map(drivers.map((driver) => [driver, {}]));
    for (const driver of drivers) {
      const local = await findDevice(guest, driver.serial ?? '', 60);
      (batch.get(driver) ?? {}).local = await delays(local, driver);
    }
    for (const { path, arguments: hold } of HOLDS) {
      const gateway = await startGatewayInGuest(guest, {
        exports: drivers.map(({ spec }) => spec),
        arguments: ['--control', 'none', ...hold],
      });
      await allExported(gateway, drivers.length);
      const server = { address: '127.0.0.1', port: gateway.port };
      for (const driver of drivers) {
        (batch.get(driver) ?? {})[path] = await attached(driver, server);
      }
      await gateway.stop();
    }
    return batch;
  }

  async function allExported(gateway: GuestGateway, count: number): Promise<void> {
    await gateway.process.printed(new RegExp(`(xporting .*\\n[^]*){${count}}`), 60);
  }

  async function measureCable(drivers: readonly Driver[]): Promise<Batch> {
    const batch: Batch = new Map();
    for (const driver of drivers) {
      const figures: Partial<Record<Path, number[]>> = {};
      for (const { path, arguments: hold } of HOLDS) {
        const options = { exports: [driver.spec], arguments: ['--control', 'none', ...hold] };
        const gateway = await cabled.startGateway(options);
        try {
          figures[path] = await attached(driver, cabled.serverOf(gateway));
          await gateway.stop();
        } finally {
          await gateway.kill();
        }
      }
      batch.set(driver, figures);
    }
    return batch;
  }

  /** Measures until no driver waits too long, which a busy machine may feign now and then. */
  async function check(
    drivers: readonly Driver[],
    measure: (drivers: readonly Driver[]) => Promise<Batch>,
  ): Promise<void> {
    let late: string[] = [];
    let left = drivers;
    for (let batch = 0; batch < BATCHES_MAX && left.length > 0; batch++) {
      const measured = await measure(left);
      late = [];
      left = [...measured].flatMap(([driver, figures]) => {
        for (const path of PATHS) say(driver.name, path, figures[path]);
        const { urbgate = [], '--stall-hold 0': plain = [] } = figures;
        assert.equal(urbgate.length, driver.rounds);
        const excess = Math.round(sum(urbgate) - sum(plain));
        if (excess <= EXCESS_MILLISECONDS_MAX) return [];
        late.push(
          `${driver.name}: ${excess} ms more than without a hold, in ${driver.rounds} starts`,
        );
        return [driver];
      });
    }
    assert.deepEqual(late, []);
  }

  it('ports, input devices and network cards through usbfs', () => check(OWN_DRIVERS, measureOwn));

  it('a serial port over the cable', () => check([CABLE_DRIVER], measureCable));
});

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

function say(name: string, path: Path, figures: readonly number[] | undefined): void {
  if (figures === undefined) return;
  const sorted = [...figures].sort((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor((sorted.length - 1) * share)] ?? 0).toFixed(0);
  const first = figures.slice(0, 5).map((one) => one.toFixed(0));
  console.log(
    `      ${name.padEnd(20)} ${path.padEnd(15)} ${figures.length} starts: ` +
      `median ${at(0.5)} ms, 95 % ${at(0.95)}, at most ${at(1)}; the first ${first.join(', ')}`,
  );
}
