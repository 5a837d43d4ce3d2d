/**
 * Devices behind a host controller of dom0 (QEMU's xHCI) in a Xen guest with the kernel's own front end:
 * taken through usbfs, given through the ring.
 */
import { strict as assert } from 'node:assert';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { blockDevice } from './lab/block-device.ts';
import { type GuestGateway, startGatewayInGuest } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { hostCommand } from './lab/host-command.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { findDevice } from './lab/local-gadget.ts';
import { QemuMonitor } from './lab/qemu-monitor.ts';
import { faults, hollowRounds } from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { deviceOf, HARDWARE_CASES, probeStamped } from './lab/usbfs-cases.ts';
import { RedirectedDevice } from './lab/usbredir/redirected-device.ts';
import { bootXen } from './lab/xen.ts';
import { createDomain, type Domain } from './lab/xen-domain.ts';
import { vusbConfiguration } from './lab/xen-usb.ts';
import { plugged, plugIn, plugInto, unplug } from './lab/xen-usb-ports.ts';

const EXPORTS = [
  'usb:*:*:STICK,busid=1-1',
  'usb:*:*:KEYS,force,busid=1-2',
  'usb:0525:a4a0,wait,busid=1-3',
];
/** Of the guest's controller that are used here. */
const PORTS = [1, 2, 3];
const PROBE_ROUNDS = 300;
const PLUG_SECONDS = 120;
/** Node in an emulated dom0 on a busy host. */
const START_SECONDS = 300;

const say = (text: string) => console.log(`      ${text}`);

describe('A Xen guest with hardware of dom0', function () {
  this.timeout(900_000);
  const monitor = new QemuMonitor();
  const path = (name: string) => join(monitor.folder, name);
  let dom0: Guest;
  let domain: Domain;
  let gateway: GuestGateway;
  let keyReader: string;
  /** What of ours is plugged into dom0. */
  let ours: RedirectedDevice | undefined;

  before(async () => {
    await hostCommand('truncate', ['-s', '32M', path('stick')]);
    dom0 = await bootXen({
      name: 'xen-usbfs',
      qemuArguments: [
        ...monitor.qemuArguments,
        // A ring has no SuperSpeed, and neither have ports 5 to 8.
        ...['-device', 'qemu-xhci,id=xhci,p2=8,p3=4'],
        ...['-drive', `if=none,id=stick,file=${path('stick')},format=raw`],
        ...['-device', 'usb-storage,bus=xhci.0,port=5,drive=stick,serial=STICK'],
        ...['-device', 'usb-kbd,bus=xhci.0,port=6,serial=KEYS'],
        ...RedirectedDevice.qemuArguments('ours', path('ours'), 'xhci.0'),
      ],
    });
    await monitor.open();
    await dom0.succeed('modprobe xhci-pci', { timeoutSeconds: 60 });
    for (const serial of ['STICK', 'KEYS']) await findDevice(dom0, serial, PLUG_SECONDS);
    gateway = await startGatewayInGuest(dom0, {
      exports: EXPORTS,
      arguments: ['--xen', '--control', 'none'],
      startTimeoutSeconds: START_SECONDS,
    });
    keyReader = await compiled(labSource('input-events.c'), ['-static']);
    domain = await createDomain(dom0, {
      name: 'usbfs-guest',
      configuration: vusbConfiguration(),
      programs: [keyReader],
    });
    await domain.guest.succeed(
      'modprobe -a xen-hcd usb-storage sd_mod crc32c_generic ext4 usbhid hid-generic evdev',
      { timeoutSeconds: 60 },
    );
  });

  after(async () => {
    monitor.close();
    await dom0?.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  });

  afterEach(async function () {
    for (const port of PORTS) await unplug(domain, port);
    await ours?.unplug();
    if (!this.currentTest?.isPassed()) return;
    assert.deepEqual(domain.guest.kernelComplaints(), []);
    assert.deepEqual(dom0.kernelComplaints(), []);
  });

  it('has a stick with a file system, which dom0 can read afterwards', async () => {
    const { guest } = domain;
    const disk = await blockDevice(guest, await plugIn(domain, 1, '1-1', PLUG_SECONDS));
    const sums = await guest.succeed(
      `mkfs.ext4 -q -F /dev/${disk} && mkdir -p /mnt && mount /dev/${disk} /mnt &&
       for n in 1 2; do dd if=/dev/urandom of=/mnt/file$n bs=1M count=1 2> /dev/null; done
       cd /mnt && sha256sum file* && cd / && umount /mnt`,
      { timeoutSeconds: 300 },
    );
    await unplug(domain, 1);
    const again = await blockDevice(guest, await plugIn(domain, 2, '1-1', PLUG_SECONDS));
    const reread = `mount -o ro /dev/${again} /mnt && cd /mnt && sha256sum file*; cd / && umount /mnt`;
    assert.equal(await guest.succeed(reread, { timeoutSeconds: 60 }), sums);
    await unplug(domain, 2);
    await hostCommand('e2fsck', ['-f', '-n', path('stick')]);
  });

  it('has a keyboard', async () => {
    const events = domain.guest.start(`exec ${keyReader} 'QEMU QEMU USB Keyboard'`);
    events.end();
    await plugIn(domain, 1, '1-2', PLUG_SECONDS);
    await events.printed(/ready .*\n/, PLUG_SECONDS);
    for (const key of ['u', 'r', 'b', 'esc']) {
      await monitor.say(`sendkey ${key}`);
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    await events.printed(/^1 1 0$/m, 30);
    await unplug(domain, 1);
    const { stdout } = await events.result(30);
    const pressed = [...stdout.matchAll(/^1 (\d+) 1$/gm)].map(([, code]) => Number(code));
    assert.deepEqual(pressed, [22, 19, 48, 1]); // as input-event-codes.h has them
  });

  for (const one of HARDWARE_CASES) {
    it(`stall probe: ${one.name}, ${PROBE_ROUNDS} rounds, plugged into dom0 while the guest runs`, async () => {
      ours = new RedirectedDevice(deviceOf(one), path('ours'));
      await plugInto(domain, 3, '1-3');
      await ours.plugIn();
      const inGuest = await plugged(domain, 3, PLUG_SECONDS);
      const run = { rounds: PROBE_ROUNDS };
      const result = await probeStamped(domain.guest, inGuest, one.settings, run);
      say(formatProbe(`xHCI of dom0, Xen ring: ${one.name}`, result));
      assert.deepEqual(faults(one, PROBE_ROUNDS, result), []);
      assert.equal(hollowRounds(result), 0);
    });
  }

  it('the gateway stops in peace', async () => {
    await gateway.stop();
  });
});
