/**
 * Devices of a guest through the npm package `usb`, exported by a gateway in the guest and attached
 * there with the stock client: class drivers, the stall probe. usbtest: webusb-usbtest.test.ts.
 */
import { strict as assert } from 'node:assert';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { blockDevice, checkFiles, DISK_MODULES, makeDisk, writeFiles } from './lab/block-device.ts';
import { passesHaltProbe } from './lab/gadget-tests.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { labSource } from './lab/kernel.ts';
import { createGadget, findDevice } from './lab/local-gadget.ts';
import {
  attachFrom,
  driversOf,
  exportedBusId,
  holdsNoDevice,
  type OwnGateway,
  serveOwn,
  throughGateway,
  tidyUp,
  unplugWhileRead,
} from './lab/own-devices.ts';
import { checkoutFolder } from './lab/paths.ts';
import { TYPED, typedThrough } from './lab/qemu-keyboard.ts';
import { QemuMonitor } from './lab/qemu-monitor.ts';
import { faults, SHORT_CASE } from './lab/stall-cases.ts';
import { formatProbe, runProbe } from './lab/stall-probe.ts';
import { type AttachedDevice, detachAll, loadVhci } from './lab/usbip.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';

const PROBE_ROUNDS = 200;
const HALT_ROUNDS = 25;
const MEBIBYTES = 2;
const WEBUSB: OwnGateway = { backend: 'webusb' };

const say = (text: string) => console.log(`      ${text}`);

describe('devices of the machine, through the usb package', function () {
  this.timeout(600_000);
  const monitor = new QemuMonitor();
  const file = join(monitor.folder, 'disk');
  let guest: Guest;

  before(async () => {
    await makeDisk(file, 64);
    guest = await bootGuest({
      name: 'webusb',
      qemuArguments: [
        ...monitor.qemuArguments,
        ...['-device', 'qemu-xhci,id=xhci'],
        ...['-drive', `if=none,id=drive,file=${file},format=raw`],
        ...['-device', 'usb-storage,bus=xhci.0,id=DISK,drive=drive,serial=DISK'],
        ...['-device', 'usb-kbd,bus=xhci.0,serial=KBD'],
      ],
    });
    await monitor.open();
    await guest.succeed('modprobe xhci-pci', { timeoutSeconds: 60 });
    await loadVhci(guest);
    await guest.succeed(DISK_MODULES);
    await guest.succeed('modprobe -a usbhid hid-generic evdev', { timeoutSeconds: 60 });
  });

  after(async () => {
    monitor.close();
    await guest?.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  });

  afterEach(function () {
    return tidyUp(guest, this.currentTest?.isPassed());
  });

  it('disk: ext4 through the gateway, then on the machine itself', async () => {
    const local = await findDevice(guest, 'DISK', 60);
    await blockDevice(guest, local as AttachedDevice);
    const drivers = await driversOf(guest, local.sysfs);
    const gateway = await serveOwn(guest, 'usb:*:*:DISK,backend=webusb');
    await writeFiles(guest, await blockDevice(guest, await attachFrom(guest, gateway)), MEBIBYTES);
    await detachAll(guest);
    await gateway.stop();
    assert.equal(await driversOf(guest, local.sysfs), drivers);
    await checkFiles(guest, await blockDevice(guest, local as AttachedDevice));
  });

  it('a disk that is mounted is refused, and says where', async () => {
    const local = await findDevice(guest, 'DISK');
    const disk = await blockDevice(guest, local as AttachedDevice);
    await guest.succeed(`mount -o ro /dev/${disk} /mnt`);
    const refusal = new RegExp(`usb:${local.busid}: /dev/${disk} is mounted on /mnt`);
    await assert.rejects(serveOwn(guest, `usb:${local.busid},backend=webusb`), refusal);
    await guest.succeed('ls /mnt/sums && umount /mnt');
  });

  it('keyboard: keys arrive, and again for the next client', async () => {
    await findDevice(guest, 'KBD');
    const gateway = await serveOwn(guest, 'usb:*:*:KBD,force,backend=webusb');
    // The first client leaves while the keyboard has nothing to say.
    for (let client = 1; client <= 2; client++) {
      assert.deepEqual(await typedThrough(guest, monitor, gateway), TYPED);
    }
    await gateway.stop();
  });

  it('unplugged under load, plugged in again: comes back under the same bus id', async () => {
    await findDevice(guest, 'DISK');
    const gateway = await serveOwn(guest, 'usb:*:*:DISK,wait,backend=webusb');
    const busId = exportedBusId(gateway);
    const disk = await blockDevice(guest, await attachFrom(guest, gateway));
    await unplugWhileRead(guest, disk, async () => {
      await monitor.command('device_del', { id: 'DISK' });
      await gateway.process.printed(new RegExp(`${busId} has gone`), 30);
    });
    await holdsNoDevice(guest, gateway);
    const raw = { driver: 'file', filename: file, locking: 'off' };
    const again = { 'node-name': 'again', driver: 'raw', file: raw };
    await monitor.command('blockdev-add', again);
    const plug = { driver: 'usb-storage', bus: 'xhci.0', id: 'DISK', serial: 'DISK' };
    await monitor.command('device_add', { ...plug, drive: 'again' });
    await gateway.process.printed(new RegExp(`exporting ${busId} `), 30);
    await checkFiles(guest, await blockDevice(guest, await attachFrom(guest, gateway)));
    await detachAll(guest);
    await gateway.stop();
  });

  it(`stall probe: short packet, ${PROBE_ROUNDS} rounds`, async () => {
    // Every IN transfer of this gadget is one short packet more than it should be.
    const gadget = await sourceSinkGadget(guest, { pattern: '2', bulk_buflen: '1000' });
    const probe = ({ node }: AttachedDevice) =>
      runProbe(guest, node, { rounds: PROBE_ROUNDS }, 60 + PROBE_ROUNDS);
    const result = await throughGateway(guest, gadget, probe, WEBUSB);
    await gadget.remove();
    say(formatProbe('gadget through the usb package', result));
    assert.deepEqual(faults(SHORT_CASE, PROBE_ROUNDS, result), []);
  });

  it(`halt probe: ${HALT_ROUNDS} rounds of 8 reads at a halted endpoint`, async () => {
    say(await passesHaltProbe(guest, HALT_ROUNDS, WEBUSB));
  });

  it('a device that does not answer: unlinks end, and the next client has it', async () => {
    await guest.succeed('rmmod usbhid');
    const attributes = { report_length: '64', subclass: '0', protocol: '0', report_desc: 'x' };
    const gadget = await createGadget(guest, { function: 'hid.usb0', attributes });
    const hidg = (await guest.succeed('ls /dev/hidg* | tail -1')).trim();
    const addresses = await guest.succeed(`cat ${gadget.sysfs}/*:1.0/ep_*/bEndpointAddress`);
    const [out, input] = addresses.trim().split(/\s+/).sort();
    const gateway = await serveOwn(guest, `usb:${gadget.busid},backend=webusb`);
    const library = join(checkoutFolder(), 'dist', 'src', 'index.js');
    const script = labSource('mute-device.mjs');
    const client = guest.start(
      `exec node ${script} ${library} ${gateway.port} ${gadget.busid} 0x${input} 0x${out}`,
    );
    client.end();
    await client.printed(/reading\n/, 120);
    await guest.succeed(`printf 'awake' > ${hidg}`);
    const { stdout } = await client.result(30);
    await gateway.stop();
    await gadget.remove();
    assert.deepEqual(JSON.parse(stdout.slice(stdout.indexOf('{'))), {
      silent: 'unlinked',
      refused: 'unlinked',
      answer: 'ok',
      data: 'awake',
    });
  });
});
