/**
 * What becomes of a Xen guest's devices when the guest itself comes and goes: rebooted, saved and
 * restored, its controller or its front end taken away, all of it in the middle of I/O.
 */
import { strict as assert } from 'node:assert';
import { blockDevice, reading } from './lab/block-device.ts';
import { type GuestGateway, startGatewayInGuest } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { checkoutFolder } from './lab/paths.ts';
import { bootXen } from './lab/xen.ts';
import { createDomain, type Domain } from './lab/xen-domain.ts';
import { usedAsBefore, xenUsage } from './lab/xen-usage.ts';
import { vusbConfiguration } from './lab/xen-usb.ts';
import { plugged, plugIn, unpluggedAt } from './lab/xen-usb-ports.ts';

const EXPORTS = ['virtual:disk,size=32MiB', 'virtual:disk,size=32MiB'];
const MODULES = 'modprobe -a xen-hcd usb-storage sd_mod';

describe('A Xen guest that comes and goes', function () {
  this.timeout(600_000);
  let dom0: Guest;
  let gateway: GuestGateway;
  let domain: Domain;
  let complaintsSince = 0;

  const start = () =>
    startGatewayInGuest(dom0, { exports: EXPORTS, arguments: ['--xen', '--control', 'none'] });

  before(async () => {
    dom0 = await bootXen({ name: 'xen-life' });
    gateway = await start();
    domain = await createDomain(dom0, {
      name: 'restless',
      configuration: vusbConfiguration(),
      restarts: true,
    });
    await domain.guest.succeed(MODULES);
  });

  after(async () => {
    await dom0?.kill();
  });

  afterEach(function () {
    if (!this.currentTest?.isPassed()) return;
    assert.deepEqual(domain.guest.kernelComplaints(complaintsSince), []);
    assert.deepEqual(dom0.kernelComplaints(), []);
  });

  const urbgate = (line: string) =>
    dom0.succeed(`'${process.execPath}' '${checkoutFolder()}/dist/src/cli/main.js' xen ${line}`, {
      timeoutSeconds: 60,
    });

  const readOnce = (guest: Guest, disk: string) =>
    guest.succeed(`cat /dev/${disk} > /dev/null`, { timeoutSeconds: 120 });

  it('reboots in the middle, and has its disk again', async () => {
    const disk = await blockDevice(domain.guest, await plugIn(domain, 1, '1-1'));
    await domain.guest.succeed(`echo kept | dd of=/dev/${disk} conv=fsync 2> /dev/null`);
    await reading(domain.guest, disk);
    const before = domain.id;
    domain.guest.start('reboot -f').end();
    domain = await domain.rebooted();
    assert.notEqual(domain.id, before);
    await domain.guest.succeed(MODULES);
    const again = await blockDevice(domain.guest, await plugged(domain, 1, 30));
    assert.equal(await domain.guest.succeed(`head -n 1 /dev/${again}`), 'kept\n');
  });

  it('is saved and restored, and has its disk again', async () => {
    const { guest } = domain;
    const before = domain.id;
    complaintsSince = await domain.saveAndRestore();
    assert.notEqual(domain.id, before);
    const again = await blockDevice(guest, await plugged(domain, 1, 60));
    assert.equal(await guest.succeed(`head -n 1 /dev/${again}`), 'kept\n');
    await readOnce(guest, again);
  });

  it('sees its disk unplugged when the gateway is stopped in the middle, and back with the next', async () => {
    const { guest } = domain;
    const disk = await blockDevice(guest, await plugged(domain, 1));
    const load = await reading(guest, disk);
    await gateway.stop();
    await load.result(60);
    await unpluggedAt(domain, 1);
    gateway = await start();
    const again = await blockDevice(guest, await plugged(domain, 1, 30));
    await readOnce(guest, again);
  });

  it('loses its controller in the middle, unloads the front end, and gets another', async () => {
    const { guest } = domain;
    const disk = await blockDevice(guest, await plugged(domain, 1));
    const load = await reading(guest, disk);
    await urbgate('ctrl-remove restless 0');
    await load.result(60);
    await guest.succeed('rmmod xen-hcd && modprobe xen-hcd');
    assert.match(await urbgate('ctrl-add restless --ports 2'), /Added controller 0 with 2 ports/);
    assert.match(await urbgate('attach restless 1-1'), /Attached 1-1 to port 1/);
    const again = await blockDevice(guest, await plugged(domain, 1, 30));
    await readOnce(guest, again);
    await urbgate('detach restless 1-1');
    await unpluggedAt(domain, 1);
  });

  it('gets a controller from xl while it runs, and xl takes it away again', async () => {
    const before = await xenUsage(dom0);
    await dom0.succeed('xl usbctrl-attach restless type=pv version=2 ports=3', {
      timeoutSeconds: 60,
    });
    assert.match(await urbgate('list'), /controller 1 .*connected\n {2}3 ports, all free/);
    await urbgate('attach restless 1-1 --controller 1 --port 3');
    const disk = await blockDevice(domain.guest, await plugged(domain, 3, 30));
    await readOnce(domain.guest, disk);
    await urbgate('detach restless 1-1');
    await unpluggedAt(domain, 3);
    await dom0.succeed('xl usbctrl-detach restless 1', { timeoutSeconds: 60 });
    await usedAsBefore(dom0, before);
  });

  it('another loses its front end in the middle: nothing of it is held, and its disk is free', async () => {
    const before = await xenUsage(dom0);
    const other = await createDomain(dom0, {
      name: 'careless',
      configuration: vusbConfiguration(),
    });
    const { mappedGrants, channels } = await xenUsage(dom0);
    await other.guest.succeed(MODULES);
    const disk = await blockDevice(other.guest, await plugIn(other, 2, '1-2'));
    await reading(other.guest, disk);
    // The driver's remove does not wait for its own devices, so the guest may not get over it.
    other.guest.start('echo vusb-0 > /sys/bus/xen/drivers/vusb/unbind').end();
    const state = `/local/domain/0/backend/vusb/${other.id}/0/state`;
    await dom0.succeed(
      `for try in $(seq 300); do
  [ "$(xenstore-read ${state})" = 6 ] && exit; sleep 0.1
done
xenstore-ls -f | grep vusb; exit 1`,
      { timeoutSeconds: 60 },
    );
    const now = await xenUsage(dom0);
    assert.deepEqual([now.mappedGrants, now.channels], [mappedGrants, channels]);
    await blockDevice(domain.guest, await plugIn(domain, 2, '1-2'));
    await other.destroy();
    await usedAsBefore(dom0, before);
  });
});
