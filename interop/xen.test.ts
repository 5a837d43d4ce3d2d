/**
 * A Xen guest uses urbgate's devices through the rings: real Xen, Debian as dom0 with the gateway in
 * it, a paravirtual domain with the kernel's own front end (xen-hcd).
 */
import { strict as assert } from 'node:assert';
import { blockDevice, reading } from './lab/block-device.ts';
import { type GuestGateway, startGatewayInGuest } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { checkoutFolder } from './lab/paths.ts';
import { faults, hollowRounds, SHORT_CASE, UNLINK_CASES } from './lab/stall-cases.ts';
import { formatProbe, runProbe } from './lab/stall-probe.ts';
import { loadUsbtest, runUsbtest, usbtestFaults } from './lab/testusb.ts';
import { bulkCases } from './lab/usbtest-gadgets.ts';
import { bootXen } from './lab/xen.ts';
import { createDomain, type Domain } from './lab/xen-domain.ts';
import { usedAsBefore, xenUsage } from './lab/xen-usage.ts';
import { vusbConfiguration } from './lab/xen-usb.ts';
import { plugged, plugIn, unplug } from './lab/xen-usb-ports.ts';

const EXPORTS = [
  'virtual:disk,size=32MiB',
  'virtual:source-sink,short=1000,stamp',
  'virtual:source-sink',
  'virtual:keyboard,text=hello ring\\e,wait=5000,delay=30',
];
/** As the kernel's input-event-codes.h has them: type EV_KEY, value 1 for down; and escape. */
const KEY_DOWN = /^1 (\d+) 1$/gm;
const ESCAPE_UP = /^1 1 0$/m;
/** h e l l o, space, r i n g, escape. */
const TYPED = '35 18 38 38 24 57 19 23 49 34 1';
/** In alternate setting 1. */
const ISOCHRONOUS_CASES = [15, 16, 22, 23].map((number) => ({ number }));
const HOT_PLUGS = 50;
const PROBE_ROUNDS = 1000;

const say = (text: string) => console.log(`      ${text}`);

describe('A Xen guest with the kernel’s own front end', function () {
  this.timeout(600_000);
  let dom0: Guest;
  let domain: Domain;
  let gateway: GuestGateway;
  let keyReader: string;

  const start = () =>
    startGatewayInGuest(dom0, { exports: EXPORTS, arguments: ['--xen', '--control', 'none'] });
  const urbgate = (line: string) =>
    dom0.succeed(`'${process.execPath}' '${checkoutFolder()}/dist/src/cli/main.js' xen ${line}`, {
      timeoutSeconds: 60,
    });

  before(async () => {
    dom0 = await bootXen({ name: 'xen' });
    gateway = await start();
    keyReader = await compiled(labSource('input-events.c'), ['-static']);
    domain = await createDomain(dom0, {
      name: 'guest',
      configuration: vusbConfiguration(),
      programs: [keyReader],
    });
    await domain.guest.succeed(
      'modprobe -a xen-hcd usb-storage sd_mod crc32c_generic ext4 usbhid hid-generic evdev',
    );
  });

  after(async () => {
    await dom0?.kill();
  });

  afterEach(function () {
    if (!this.currentTest?.isPassed()) return;
    assert.deepEqual(domain.guest.kernelComplaints(), []);
    assert.deepEqual(dom0.kernelComplaints(), []);
  });

  it('has a disk with a file system that keeps what it was given', async () => {
    assert.match(await urbgate('attach guest 1-1'), /Attached 1-1 to port 1 of controller 0/);
    const { guest } = domain;
    let disk = await blockDevice(guest, await plugged(domain, 1));
    await guest.succeed(
      `mkfs.ext4 -q -F /dev/${disk} && mkdir -p /mnt && mount /dev/${disk} /mnt`,
      {
        timeoutSeconds: 120,
      },
    );
    await guest.succeed(
      `for n in 1 2 3 4; do dd if=/dev/urandom of=/mnt/file$n bs=1M count=2 2> /dev/null; done
       cd /mnt && sha256sum file* > /run/sums && sync && cd / && umount /mnt`,
      { timeoutSeconds: 120 },
    );
    assert.match(await urbgate('list'), /port 1 {2}1-1/);
    await urbgate('detach guest 1-1');
    disk = await blockDevice(guest, await plugIn(domain, 2, '1-1'));
    await guest.succeed(`e2fsck -f -n /dev/${disk}`, { timeoutSeconds: 60 });
    await guest.succeed(`mount -o ro /dev/${disk} /mnt && cd /mnt && sha256sum -c /run/sums`, {
      timeoutSeconds: 60,
    });
    await guest.succeed('cd /; umount /mnt');
    await unplug(domain, 2);
  });

  for (const load of [false, true]) {
    it(`stall probe, ${PROBE_ROUNDS} rounds, guest ${load ? 'loaded' : 'idle'}`, async () => {
      const { node } = await plugIn(domain, 1, '1-2');
      const busy = load ? domain.guest.start('while :; do :; done') : undefined;
      busy?.end();
      const settings = { rounds: PROBE_ROUNDS, stamps: true };
      const result = await runProbe(domain.guest, node, settings, 200);
      busy?.signal('SIGKILL');
      say(formatProbe('Xen ring', result));
      await unplug(domain, 1);
      assert.deepEqual(faults(SHORT_CASE, PROBE_ROUNDS, result), []);
      assert.equal(hollowRounds(result), 0);
    });
  }

  it('usbtest', async () => {
    await loadUsbtest(domain.guest);
    const { node } = await plugIn(domain, 1, '1-3');
    const results = await runUsbtest(domain.guest, node, bulkCases(0));
    await unplug(domain, 1);
    await domain.guest.succeed('rmmod usbtest');
    say(results.map(({ case: { number }, outcome }) => `${number} ${outcome}`).join(', '));
    assert.deepEqual(usbtestFaults(results), []);
    assert(UNLINK_CASES.every((wanted) => results.some((one) => one.case.number === wanted)));
  });

  it('usbtest, isochronous', async () => {
    await loadUsbtest(domain.guest, { alternateSetting: 1 });
    const { node } = await plugIn(domain, 1, '1-3');
    const results = await runUsbtest(domain.guest, node, ISOCHRONOUS_CASES);
    await unplug(domain, 1);
    await domain.guest.succeed('rmmod usbtest');
    assert.deepEqual(
      results.map(({ case: { number }, outcome, reason }) => [number, outcome, reason]),
      ISOCHRONOUS_CASES.map(({ number }) => [number, 'pass', undefined]),
    );
  });

  it('has a keyboard', async () => {
    const events = domain.guest.start(`exec ${keyReader} 'urbgate Keyboard'`);
    events.end();
    await plugIn(domain, 1, '1-4');
    await events.printed(ESCAPE_UP, 60);
    await unplug(domain, 1);
    const { stdout } = await events.result(30);
    assert.equal([...stdout.matchAll(KEY_DOWN)].map(([, key]) => key).join(' '), TYPED);
  });

  it(`is plugged in and out ${HOT_PLUGS} times`, async () => {
    for (let n = 0; n < HOT_PLUGS; n++) {
      await plugIn(domain, 1 + (n % 4), `1-${3 + (n % 2)}`);
      await unplug(domain, 1 + (n % 4));
    }
  });

  it('keeps the rules of a platform: pages, events and store of a real hypervisor', async () => {
    const mocha = 'node_modules/mocha/bin/mocha.js --no-config --timeout 120000';
    const printed = await dom0.succeed(
      `cd '${checkoutFolder()}' && '${process.execPath}' ${mocha} dist/test/xenring/platform/xen.test.js`,
      { timeoutSeconds: 300 },
    );
    assert.match(printed, /\d\d passing/);
  });

  it('finds its disk again when the gateway was killed in the middle', async () => {
    const { guest } = domain;
    const disk = await blockDevice(guest, await plugIn(domain, 1, '1-1'));
    const load = await reading(guest, disk);
    gateway.process.signal('SIGKILL');
    await gateway.process.result(20);
    gateway = await start();
    await load.result(60);
    const again = await blockDevice(guest, await plugged(domain, 1, 30));
    await guest.succeed(`cat /dev/${again} > /dev/null`, { timeoutSeconds: 120 });
    await unplug(domain, 1);
  });

  it('nothing is left of another one that is destroyed in the middle', async () => {
    const before = await xenUsage(dom0);
    const configuration = vusbConfiguration();
    const victim = await createDomain(dom0, { name: 'victim', configuration });
    await victim.guest.succeed('modprobe -a xen-hcd usb-storage sd_mod');
    const disk = await blockDevice(victim.guest, await plugIn(victim, 3, '1-1'));
    const load = await reading(victim.guest, disk);
    await victim.destroy();
    await load.result(10).catch(() => {});
    await usedAsBefore(dom0, before);
    await blockDevice(domain.guest, await plugIn(domain, 2, '1-1'));
    await unplug(domain, 2);
  });

  it('the gateway stops in peace', async () => {
    await gateway.stop();
  });
});
