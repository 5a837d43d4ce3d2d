/**
 * Devices behind emulated host controllers (xHCI, EHCI, UHCI), exported by a gateway in the guest,
 * attached there with the stock client, and used by the kernel's drivers.
 */
import { strict as assert } from 'node:assert';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { blockDevice, checkFiles, DISK_MODULES, writeFiles } from './lab/block-device.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { hostCommand } from './lab/host-command.ts';
import { findDevice } from './lab/local-gadget.ts';
import {
  attachFrom,
  driversOf,
  exportedBusId,
  holdsNoDevice,
  serveOwn,
  tidyUp,
  unplugWhileRead,
} from './lab/own-devices.ts';
import { TYPED, typedThrough } from './lab/qemu-keyboard.ts';
import { QemuMonitor } from './lab/qemu-monitor.ts';
import { FRAMES_PER_SECOND, heard, play, soundCard } from './lab/sound.ts';
import { exportCycles } from './lab/usbfs-cycles.ts';
import { type AttachedDevice, detachAll, loadVhci } from './lab/usbip.ts';

/** Disk by the controller that it is at, with how much is written. */
const DISKS = [
  { controller: 'xhci', serial: 'DISKX', mebibytes: 16 },
  { controller: 'ehci', serial: 'DISKE', mebibytes: 16 },
  { controller: 'uhci', serial: 'DISKU', mebibytes: 2 },
] as const;

const CYCLES = 200;

const say = (text: string) => console.log(`      ${text}`);

describe('hardware through usbfs', function () {
  this.timeout(900_000);
  const monitor = new QemuMonitor();
  let guest: Guest;

  before(async () => {
    const disks: string[] = [];
    for (const { controller, serial } of DISKS) {
      const file = join(monitor.folder, serial);
      await hostCommand('truncate', ['-s', '64M', file]);
      disks.push('-drive', `if=none,id=${controller}drive,file=${file},format=raw`);
      disks.push('-device', diskOf(controller, serial));
    }
    guest = await bootGuest({
      name: 'usbfs-hardware',
      qemuArguments: [
        ...monitor.qemuArguments,
        ...['-device', 'qemu-xhci,id=xhci', '-device', 'usb-ehci,id=ehci'],
        ...['-device', 'piix3-usb-uhci,id=uhci'],
        ...disks,
        ...['-device', 'usb-kbd,bus=uhci.0,serial=KBD'],
        ...['-chardev', `file,id=port,path=${join(monitor.folder, 'serial')}`],
        ...['-device', 'usb-serial,bus=xhci.0,chardev=port,always-plugged=on,serial=PORT'],
        ...soundCard('SOUND', join(monitor.folder, 'played.wav')),
      ].filter((word) => word !== ''),
    });
    await monitor.open();
    await guest.succeed('modprobe -a xhci-pci ehci-pci uhci-hcd', { timeoutSeconds: 60 });
    await loadVhci(guest);
    await guest.succeed(DISK_MODULES);
    await guest.succeed('modprobe -a usbhid hid-generic evdev ftdi_sio snd-usb-audio', {
      timeoutSeconds: 60,
    });
  });

  after(async () => {
    monitor.close();
    await guest?.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  });

  afterEach(function () {
    return tidyUp(guest, this.currentTest?.isPassed());
  });

  function diskOf(controller: string, serial: string): string {
    return `usb-storage,bus=${controller}.0,id=${serial},drive=${controller}drive,serial=${serial}`;
  }

  for (const { controller, serial, mebibytes } of DISKS) {
    it(`disk at ${controller}: ext4 through the gateway, then on the machine itself`, async () => {
      const local = await findDevice(guest, serial, 60);
      await blockDevice(guest, local as AttachedDevice);
      const drivers = await driversOf(guest, local.sysfs);
      const gateway = await serveOwn(guest, `usb:*:*:${serial}`);
      const disk = await blockDevice(guest, await attachFrom(guest, gateway));
      await writeFiles(guest, disk, mebibytes);
      await detachAll(guest);
      await gateway.stop();
      assert.equal(await driversOf(guest, local.sysfs), drivers);
      const again = await blockDevice(guest, local as AttachedDevice);
      await checkFiles(guest, again);
    });
  }

  it('a disk that is mounted is refused, and says where', async () => {
    const local = await findDevice(guest, 'DISKX');
    const disk = await blockDevice(guest, local as AttachedDevice);
    await guest.succeed(`mount -o ro /dev/${disk} /mnt`);
    await assert.rejects(
      serveOwn(guest, `usb:${local.busid}`),
      new RegExp(`${disk} is mounted on /mnt`),
    );
    await guest.succeed(`ls /mnt/sums && umount /mnt`);
  });

  it('keyboard: keys arrive', async () => {
    await findDevice(guest, 'KBD');
    const gateway = await serveOwn(guest, 'usb:*:*:KBD,force');
    assert.deepEqual(await typedThrough(guest, monitor, gateway), TYPED);
    await gateway.stop();
  });

  it('serial port: every octet arrives', async () => {
    await findDevice(guest, 'PORT');
    const gateway = await serveOwn(guest, 'usb:*:*:PORT');
    const { sysfs } = await attachFrom(guest, gateway);
    await guest.succeed(
      `for try in $(seq 100); do
         tty=$(ls -d ${sysfs}/*/ttyUSB* 2>/dev/null) && [ -c /dev/\${tty##*/} ] && break
         sleep 0.1
       done
       (exec 3<>/dev/\${tty##*/}; stty raw -echo <&3; seq 1 5000 >&3; stty -F /dev/\${tty##*/} sane)`,
      { timeoutSeconds: 120 },
    );
    await detachAll(guest);
    await gateway.stop();
    const wanted = `${Array.from({ length: 5000 }, (_, at) => at + 1).join('\n')}\n`;
    assert.equal(readFileSync(join(monitor.folder, 'serial'), 'latin1'), wanted);
  });

  it('sound card: what is played is heard', async () => {
    await findDevice(guest, 'SOUND');
    const gateway = await serveOwn(guest, 'usb:*:*:SOUND');
    const device = await attachFrom(guest, gateway);
    const count = 2 * FRAMES_PER_SECOND;
    await play(guest, device, count);
    await detachAll(guest);
    await gateway.stop();
    await monitor.command('device_del', { id: 'SOUND' }).catch(() => {});
    const { frames, jumps } = heard(join(monitor.folder, 'played.wav'));
    say(`sound: ${frames} of ${count} frames heard, ${jumps} jumps`);
    assert.equal(jumps, 0);
    assert(frames > count * 0.98, `${frames} of ${count} frames heard`);
  });

  it('unplugged under load, plugged in again: comes back under the same bus id', async () => {
    await findDevice(guest, 'DISKE');
    const gateway = await serveOwn(guest, 'usb:*:*:DISKE,wait');
    const busId = exportedBusId(gateway);
    for (let round = 1; round <= 3; round++) {
      const disk = await blockDevice(guest, await attachFrom(guest, gateway));
      await unplugWhileRead(guest, disk, async () => {
        await monitor.command('device_del', { id: 'DISKE' });
        await gateway.process.printed(new RegExp(`(${busId} has gone[^]*){${round}}`), 30);
      });
      await holdsNoDevice(guest, gateway);
      await monitor.command('blockdev-add', drive(round));
      await monitor.command('device_add', {
        driver: 'usb-storage',
        bus: 'ehci.0',
        id: 'DISKE',
        serial: 'DISKE',
        drive: `again${round}`,
      });
      await gateway.process.printed(new RegExp(`(exporting ${busId} [^]*){${round}}`), 30);
      assert.equal(exportedBusId(gateway), busId);
    }
    await gateway.stop();
  });

  const drive = (round: number) => ({
    'node-name': `again${round}`,
    driver: 'raw',
    file: {
      driver: 'file',
      filename: join(monitor.folder, 'DISKE'),
      locking: 'off',
    },
  });

  it('gateway killed while a client reads: the next one has the device, then its driver', async () => {
    const local = await findDevice(guest, 'DISKU');
    await blockDevice(guest, local as AttachedDevice);
    const drivers = await driversOf(guest, local.sysfs);
    const killed = await serveOwn(guest, 'usb:*:*:DISKU');
    const disk = await blockDevice(guest, await attachFrom(guest, killed));
    const load = guest.start(`dd if=/dev/${disk} of=/dev/null bs=64k iflag=direct; echo over`);
    load.end();
    await new Promise((resolve) => setTimeout(resolve, 500));
    killed.process.signal('SIGKILL');
    await load.result(60);
    const gateway = await serveOwn(guest, 'usb:*:*:DISKU');
    await blockDevice(guest, await attachFrom(guest, gateway));
    await detachAll(guest);
    await gateway.stop();
    assert.equal(await driversOf(guest, local.sysfs), drivers);
  });

  it(`${CYCLES} times taken and given back: drivers, descriptors and memory as before`, () =>
    exportCycles(guest, 'DISKX', CYCLES));
});
