/**
 * `urbgate attach --xen`: real Xen, the gateway in dom0, and a paravirtual domain with Debian's kernel
 * as it is, which has no front end for USB. urbgate's own front end stands there between the ring and
 * the kernel's vhci.
 */
import { strict as assert } from 'node:assert';
import { blockDevice, reading } from './lab/block-device.ts';
import { type GuestGateway, startGatewayInGuest } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import type { GuestProcess } from './lab/guest-process.ts';
import { faults, SHORT_CASE } from './lab/stall-cases.ts';
import { formatProbe, runProbe } from './lab/stall-probe.ts';
import { shownAttachments, urbgateCommand } from './lab/urbgate-attach.ts';
import { detach } from './lab/usbip.ts';
import { bootXen } from './lab/xen.ts';
import {
  attachXen,
  createDomainWithUrbgate,
  ringDevice,
  ringDeviceGone,
} from './lab/xen-attach.ts';
import type { Domain } from './lab/xen-domain.ts';
import { usedAsBefore, type XenUsage, xenUsage } from './lab/xen-usage.ts';
import { vusbConfiguration } from './lab/xen-usb.ts';
import { plugInto } from './lab/xen-usb-ports.ts';

const EXPORTS = ['virtual:disk,size=24MiB', 'virtual:source-sink,short=1000,stamp'];
const PROBE_ROUNDS = 1000;
const START_SECONDS = 180;

const say = (text: string) => console.log(`      ${text}`);

describe('urbgate attach --xen in a guest without xen-hcd', function () {
  this.timeout(600_000);
  let dom0: Guest;
  let domain: Domain;
  let guest: Guest;
  let gateway: GuestGateway;
  let supervisor: GuestProcess;
  let usedBefore: XenUsage;

  const start = () =>
    startGatewayInGuest(dom0, {
      exports: EXPORTS,
      arguments: ['--xen', '--control', 'none'],
      startTimeoutSeconds: START_SECONDS,
    });

  before(async () => {
    dom0 = await bootXen({ name: 'attach-xen' });
    gateway = await start();
    domain = await createDomainWithUrbgate(dom0, {
      name: 'plain',
      configuration: vusbConfiguration(),
    });
    guest = domain.guest;
    assert.notEqual((await guest.run('modprobe xen-hcd')).code, 0);
    await guest.succeed('modprobe -a usb-storage sd_mod crc32c_generic ext4', {
      timeoutSeconds: 120,
    });
    usedBefore = await xenUsage(dom0);
    supervisor = await attachXen(guest, '--persist');
  });

  after(async () => {
    await dom0?.kill();
  });

  afterEach(function () {
    if (!this.currentTest?.isPassed()) {
      if (supervisor !== undefined) say(supervisor.stdout);
      return;
    }
    assert.deepEqual(guest.kernelComplaints(), []);
    assert.deepEqual(dom0.kernelComplaints(), []);
  });

  it('has a disk with a file system that keeps what it was given', async () => {
    await plugInto(domain, 1, '1-1');
    let disk = await blockDevice(guest, await ringDevice(guest, 1));
    await guest.succeed(
      `mkfs.ext4 -q -F /dev/${disk} && mkdir -p /mnt && mount /dev/${disk} /mnt
       for n in 1 2 3; do dd if=/dev/urandom of=/mnt/file$n bs=1M count=2 2> /dev/null; done
       cd /mnt && sha256sum file* > /run/sums && sync && cd / && umount /mnt`,
      { timeoutSeconds: 240 },
    );
    await plugInto(domain, 1, '');
    await ringDeviceGone(guest, 1);
    await plugInto(domain, 2, '1-1');
    disk = await blockDevice(guest, await ringDevice(guest, 2));
    await guest.succeed(
      `e2fsck -f -n /dev/${disk} && mount -o ro /dev/${disk} /mnt
       cd /mnt && sha256sum -c /run/sums && cd / && umount /mnt`,
      { timeoutSeconds: 120 },
    );
  });

  it(`stall probe, ${PROBE_ROUNDS} rounds`, async () => {
    await plugInto(domain, 3, '1-2');
    const { node } = await ringDevice(guest, 3);
    const settings = { rounds: PROBE_ROUNDS, stamps: true };
    const result = await runProbe(guest, node, settings, 400);
    say(formatProbe('ring and vhci', result));
    assert.deepEqual(faults(SHORT_CASE, PROBE_ROUNDS, result), []);
    const shown = (await shownAttachments(guest)).find(({ busId }) => busId === '3');
    assert.equal(shown?.stallProtocol, true);
    assert(shown.fences >= PROBE_ROUNDS && shown.timedFences === 0, `${shown.timedFences} by time`);
  });

  it('usbip port shows it and usbip detach detaches it, until it is wanted again', async () => {
    assert.match(
      await guest.succeed('usbip port 2>&1', { timeoutSeconds: 60 }),
      /usbip:\/\/xen:0\/3/,
    );
    const { port } = (await shownAttachments(guest)).find(({ busId }) => busId === '3') ?? {};
    assert(typeof port === 'number');
    await detach(guest, port);
    const again = urbgateCommand('attach --xen --port 3');
    await guest.succeed(again, { timeoutSeconds: START_SECONDS });
    await ringDevice(guest, 3);
  });

  it('finds its devices again when the gateway was killed in the middle', async () => {
    const disk = await blockDevice(guest, await ringDevice(guest, 2));
    const load = await reading(guest, disk);
    gateway.process.signal('SIGKILL');
    await gateway.process.result(20);
    gateway = await start();
    await load.result(120);
    const again = await blockDevice(guest, await ringDevice(guest, 2, 90));
    await guest.succeed(`cat /dev/${again} > /dev/null`, { timeoutSeconds: 120 });
  });

  it('begins anew where a killed supervisor has left off', async () => {
    supervisor.signal('SIGKILL');
    await supervisor.result(20);
    await ringDeviceGone(guest, 2);
    supervisor = await attachXen(guest, '--persist');
    await blockDevice(guest, await ringDevice(guest, 2));
    await ringDevice(guest, 3);
  });

  it('leaves nothing behind', async () => {
    supervisor.signal('SIGTERM');
    assert.equal((await supervisor.result(60)).code, 0);
    await ringDeviceGone(guest, 2);
    await usedAsBefore(dom0, usedBefore);
    await gateway.stop();
  });
});
