/**
 * Devices behind emulated host controllers (xHCI, EHCI, UHCI), exported by a gateway in the guest,
 * attached there with the stock client, and used by the kernel's drivers.
 */
import { strict as assert } from 'node:assert';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { blockDevice, DISK_MODULES } from './lab/block-device.ts';
import { type GuestGateway, startGatewayInGuest } from './lab/gateway.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { hostCommand } from './lab/host-command.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { findDevice } from './lab/local-gadget.ts';
import { QemuMonitor } from './lab/qemu-monitor.ts';
import { driversOf, exportCycles } from './lab/usbfs-cycles.ts';
import { type AttachedDevice, attach, detachAll, loadVhci, ports } from './lab/usbip.ts';

/** Disk by the controller that it is at, with how much is written. */
const DISKS = [
  { controller: 'xhci', serial: 'DISKX', mebibytes: 16 },
  { controller: 'ehci', serial: 'DISKE', mebibytes: 16 },
  { controller: 'uhci', serial: 'DISKU', mebibytes: 2 },
] as const;

const CYCLES = 200;
const RAMP = 16_000;
const WAV_HEADER_OCTETS = 44;

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
        ...[
          '-audiodev',
          `wav,id=audio,out.frequency=48000,path=${join(monitor.folder, 'played.wav')}`,
        ],
        ...['-device', 'usb-audio,bus=xhci.0,id=SOUND,audiodev=audio,serial=SOUND'],
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

  afterEach(async function () {
    await guest.run('umount /mnt 2>/dev/null');
    if (guest.alive) await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  function diskOf(controller: string, serial: string): string {
    return `usb-storage,bus=${controller}.0,id=${serial},drive=${controller}drive,serial=${serial}`;
  }

  async function serve(spec: string): Promise<GuestGateway> {
    const options = { exports: [spec], arguments: ['--control', 'none'] };
    const gateway = await startGatewayInGuest(guest, options);
    await gateway.process.printed(/Exporting .*\n/); // which it says after where it listens
    return gateway;
  }

  /** The bus id that a gateway has said last. */
  function exportedBusId(gateway: GuestGateway): string {
    const lines = [...gateway.process.stdout.matchAll(/xporting (\d[\d.-]*) /g)];
    const busId = lines.at(-1)?.[1];
    assert(busId !== undefined, gateway.process.stdout);
    return busId;
  }

  const attachFrom = (gateway: GuestGateway): Promise<AttachedDevice> =>
    attach(guest, exportedBusId(gateway), { address: '127.0.0.1', port: gateway.port }, 60);

  for (const { controller, serial, mebibytes } of DISKS) {
    it(`disk at ${controller}: ext4 through the gateway, then on the machine itself`, async () => {
      const local = await findDevice(guest, serial, 60);
      await blockDevice(guest, local as AttachedDevice);
      const drivers = await driversOf(guest, local.sysfs);
      const gateway = await serve(`usb:*:*:${serial}`);
      const disk = await blockDevice(guest, await attachFrom(gateway));
      await guest.succeed(
        `mkfs.ext4 -q -F /dev/${disk} && mount /dev/${disk} /mnt &&
         for n in 1 2 3 4; do head -c ${mebibytes * 262144} /dev/urandom > /mnt/file$n; done
         cd /mnt && sha256sum file* > sums && cd / && umount /mnt &&
         echo 3 > /proc/sys/vm/drop_caches && mount -o ro /dev/${disk} /mnt &&
         cd /mnt && sha256sum -c --quiet sums && cd / && umount /mnt`,
        { timeoutSeconds: 240 },
      );
      await detachAll(guest);
      await gateway.stop();
      assert.equal(await driversOf(guest, local.sysfs), drivers);
      const again = await blockDevice(guest, local as AttachedDevice);
      await guest.succeed(
        `e2fsck -f -n /dev/${again} && mount -o ro /dev/${again} /mnt &&
         cd /mnt && sha256sum -c --quiet sums && cd / && umount /mnt`,
        { timeoutSeconds: 120 },
      );
    });
  }

  it('a disk that is mounted is refused, and says where', async () => {
    const local = await findDevice(guest, 'DISKX');
    const disk = await blockDevice(guest, local as AttachedDevice);
    await guest.succeed(`mount -o ro /dev/${disk} /mnt`);
    await assert.rejects(serve(`usb:${local.busid}`), new RegExp(`${disk} is mounted on /mnt`));
    await guest.succeed(`ls /mnt/sums && umount /mnt`);
  });

  it('keyboard: keys arrive', async () => {
    const reader = await compiled(labSource('input-events.c'));
    await findDevice(guest, 'KBD');
    const gateway = await serve('usb:*:*:KBD,force');
    const events = guest.start(`exec ${reader} 'QEMU QEMU USB Keyboard'`);
    events.end();
    await attachFrom(gateway);
    await events.printed(/ready .*\n/, 60);
    for (const key of ['u', 'r', 'b', 'esc']) {
      await monitor.say(`sendkey ${key}`);
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    await events.printed(/^1 1 0\n/m, 30);
    const pressed = [...events.stdout.matchAll(/^1 (\d+) 1$/gm)].map(([, code]) => Number(code));
    assert.deepEqual(pressed, [22, 19, 48, 1]);
    await detachAll(guest);
    await events.result(30);
    await gateway.stop();
  });

  it('serial port: every octet arrives', async () => {
    await findDevice(guest, 'PORT');
    const gateway = await serve('usb:*:*:PORT');
    const { sysfs } = await attachFrom(gateway);
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
    const gateway = await serve('usb:*:*:SOUND');
    const { sysfs } = await attachFrom(gateway);
    // On the left a ramp, so that a packet that is lost shows; on the right what tells a frame from
    // the silence that QEMU puts in when the guest is late.
    const count = 2 * 48_000;
    const frames = Buffer.alloc(count * 4);
    for (let at = 0; at < count; at++) {
      frames.writeInt16LE(at % RAMP, at * 4);
      frames.writeInt16LE(RAMP, at * 4 + 2);
    }
    await guest.succeed('cat > /run/frames', { input: frames });
    await guest.succeed(
      `for try in $(seq 200); do
         card=$(ls -d ${sysfs}/*/sound/card* 2>/dev/null); n=\${card##*/card}
         [ -n "$n" ] && [ -c /dev/snd/controlC$n ] && break
         sleep 0.1
       done
       aplay -D hw:$n -t raw -f S16_LE -c 2 -r 48000 --buffer-time=2000000 /run/frames`,
      { timeoutSeconds: 120 },
    );
    await detachAll(guest);
    await gateway.stop();
    await monitor.command('device_del', { id: 'SOUND' }).catch(() => {});
    const whole = readFileSync(join(monitor.folder, 'played.wav'));
    const heard: number[] = [];
    for (let at = WAV_HEADER_OCTETS; at + 4 <= whole.length; at += 4) {
      if (whole.readInt16LE(at + 2) !== 0) heard.push(whole.readInt16LE(at));
    }
    // QEMU turns the volume down a little, so that steps are 0 or 1, and one at each end of the ramp.
    const jumps = heard.slice(1).filter((sample, at) => {
      const step = sample - (heard[at] ?? 0);
      return step < 0 ? step > -RAMP * 0.9 : step > 2;
    });
    say(`sound: ${heard.length} of ${count} frames heard, ${jumps.length} jumps`);
    assert.deepEqual(jumps, []);
    assert(heard.length > count * 0.98, `${heard.length} of ${count} frames heard`);
  });

  it('unplugged under load, plugged in again: comes back under the same bus id', async () => {
    await findDevice(guest, 'DISKE');
    const gateway = await serve('usb:*:*:DISKE,wait');
    const busId = exportedBusId(gateway);
    for (let round = 1; round <= 3; round++) {
      const disk = await blockDevice(guest, await attachFrom(gateway));
      const load = guest.start(
        `while dd if=/dev/${disk} of=/dev/null bs=1M iflag=direct 2>/dev/null; do :; done; echo over`,
      );
      load.end();
      await new Promise((resolve) => setTimeout(resolve, 1500));
      await monitor.command('device_del', { id: 'DISKE' });
      await gateway.process.printed(new RegExp(`(${busId} was unplugged[^]*){${round}}`), 30);
      await load.printed(/over/, 60);
      await load.result(30);
      for (let tries = 0; (await ports(guest)).length > 0; tries++) {
        assert(tries < 100, 'the client still has the device');
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      const fds = await guest.succeed(`ls -l /proc/$(pgrep -f '[c]li/main.js serve')/fd`);
      assert.doesNotMatch(fds, /bus\/usb/);
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
    const killed = await serve('usb:*:*:DISKU');
    const disk = await blockDevice(guest, await attachFrom(killed));
    const load = guest.start(`dd if=/dev/${disk} of=/dev/null bs=64k iflag=direct; echo over`);
    load.end();
    await new Promise((resolve) => setTimeout(resolve, 500));
    killed.process.signal('SIGKILL');
    await load.result(60);
    const gateway = await serve('usb:*:*:DISKU');
    await blockDevice(guest, await attachFrom(gateway));
    await detachAll(guest);
    await gateway.stop();
    assert.equal(await driversOf(guest, local.sysfs), drivers);
  });

  it(`${CYCLES} times taken and given back: drivers, descriptors and memory as before`, () =>
    exportCycles(guest, 'DISKX', CYCLES));
});
