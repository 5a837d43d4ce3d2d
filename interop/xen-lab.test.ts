/** Tests of the lab's Xen: if these fail, no test of the shared-ring fast path means anything. */

import assert from 'node:assert/strict';
import { startGatewayInGuest } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { findDevice } from './lab/local-gadget.ts';
import { checkoutFolder } from './lab/paths.ts';
import { showsTheHole } from './lab/stall-cases.ts';
import { formatProbe, runProbe } from './lab/stall-probe.ts';
import { until } from './lab/until.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';
import { bootXen } from './lab/xen.ts';
import { createDomain, type Domain, prepareXen } from './lab/xen-domain.ts';
import { xenUsage } from './lab/xen-usage.ts';
import { qusbConfiguration } from './lab/xen-usb.ts';

const CONTROL_ROUNDS = 20;
/** A round takes some milliseconds, under emulation too. */
const HANG_MILLISECONDS = 8000;
/** The probe itself may hang, as the kernel below it does not let go of the transfers. */
const CONTROL_SECONDS = 30;
const LAST_WORDS_SECONDS = 5;

const say = (text: string) => console.log(`      ${text}`);

/** Opens what the gateway needs of Xen, in dom0, and makes an event channel with koffi. */
const OPEN_DEVICES = `
const { openSync } = require('node:fs');
const { connect } = require('node:net');
const koffi = require('koffi');
for (const name of ['gntdev', 'gntalloc', 'xenbus']) openSync('/dev/xen/' + name, 'r+');
const channels = openSync('/dev/xen/evtchn', 'r+');
const ioctl = koffi.load(null).func('int ioctl(int, unsigned long, void *)');
const BIND_UNBOUND_PORT = 0x44502; // _IOC(_IOC_NONE, 'E', 2, 4)
const port = ioctl(channels, BIND_UNBOUND_PORT, new Uint32Array([0]));
const store = connect('/run/xenstored/socket', () => {
  console.log('port ' + port);
  store.destroy();
});
`;

describe('A real Xen', function () {
  this.timeout(600_000);

  let dom0: Guest;
  before(async () => {
    await prepareXen();
    dom0 = await bootXen({ name: 'xen-lab' });
    say(`dom0 is up after ${dom0.bootSeconds.toFixed(1)} s`);
  });
  after(() => dom0?.kill());

  afterEach(function () {
    if (this.currentTest?.isPassed()) assert.deepEqual(dom0.kernelComplaints(), []);
  });

  it('has Debian as dom0, with a working xl', async () => {
    assert.match(await dom0.succeed('xl info'), /xen_version +: 4\.17/);
  });

  it('lets Node open its devices and talk to xenstored', async () => {
    const input = OPEN_DEVICES;
    const printed = await dom0.succeed(
      `cd '${checkoutFolder()}' && '${process.execPath}' --input-type=commonjs -`,
      { input, timeoutSeconds: 60 },
    );
    assert.match(printed, /^port [1-9]/);
  });

  describe('and a domain', () => {
    let domain: Domain;
    let complaintsSince = 0;
    before(async () => {
      domain = await createDomain(dom0, { name: 'lab-domain' });
      say(`domain ${domain.id} is up after ${domain.guest.bootSeconds.toFixed(1)} s`);
    });
    after(async () => {
      assert.deepEqual(domain?.guest.kernelComplaints(complaintsSince), []);
      await domain.destroy();
    });

    it('which runs commands with input, output and exit codes', async () => {
      const input = Buffer.alloc(100_000, 'a\r\n\0\x03\x04\x11\x13\x1a\xff', 'latin1');
      const { code, stdout, stderr } = await domain.guest.run('base64 -w 0; echo err >&2; exit 7', {
        input,
      });
      assert.deepEqual({ code, stderr }, { code: 7, stderr: 'err\n' });
      assert.equal(stdout, input.toString('base64'));
    });

    it('several at a time', async () => {
      const first = domain.guest.start('read line; echo $line');
      assert.equal(await domain.guest.succeed('echo second'), 'second\n');
      first.end('first\n');
      assert.equal((await first.result(10)).stdout, 'first\n');
    });

    it('which loads the front end driver', async () => {
      await domain.guest.succeed('modprobe xen-hcd && [ -e /sys/module/xen_hcd ]');
    });

    it('which is stopped and goes on', async () => {
      domain.guest.pause();
      await dom0.succeed(`for i in $(seq 100); do
  xl list ${domain.id} | grep -q -- '--p---' && exit 0; sleep 0.1
done; exit 1`);
      const late = domain.guest.run('echo on', { timeoutSeconds: 30 });
      domain.guest.resume();
      assert.equal((await late).stdout, 'on\n');
    });

    it('which is saved and restored under another number', async () => {
      const before = domain.id;
      await domain.guest.succeed('echo kept > /run/kept');
      complaintsSince = await domain.saveAndRestore();
      assert.notEqual(domain.id, before);
      assert.equal(await domain.guest.succeed('cat /run/kept'), 'kept\n');
    });
  });

  it('has nothing left of a domain that was destroyed, or that went by itself', async () => {
    const before = await xenUsage(dom0);
    const first = await createDomain(dom0, { name: 'destroyed' });
    const during = await xenUsage(dom0);
    assert(during.mappedGrants.length > before.mappedGrants.length);
    assert(during.channels.length > before.channels.length);
    await first.destroy();
    assert.deepEqual(await xenUsage(dom0), before);
    const second = await createDomain(dom0, { name: 'rebooting' });
    second.guest.start('reboot -f').end();
    await second.gone();
    await second.guest.ended;
    assert.deepEqual(await xenUsage(dom0), before);
  });

  it('notices a domain that crashes, and has its last words', async () => {
    const { guest } = await createDomain(dom0, { name: 'crashing' });
    await assert.rejects(guest.run('echo c > /proc/sysrq-trigger'), /the guest has ended/);
    // They come by dom0, and may come after the news of the end.
    const said = () => /Kernel panic - not syncing: sysrq/.exec(guest.kernelComplaints().join());
    await until(
      LAST_WORDS_SECONDS,
      () => said() ?? undefined,
      () => `Cannot find the panic: the console has ${guest.consoleTail()}`,
    );
  });

  it('says why a domain cannot be created', async () => {
    const configuration = ["disk=['absent']"];
    const wrong = createDomain(dom0, { name: 'wrong', configuration });
    await assert.rejects(wrong, /Cannot run xl create .* in xen-lab: .*absent/s);
    await assert.rejects(createDomain(dom0, { name: 'empty', bootTimeoutSeconds: 1 }), /no answer/);
    assert.deepEqual((await xenUsage(dom0)).domains, ['Domain-0']);
  });

  it('runs a gateway in dom0', async () => {
    const options = { exports: ['virtual:source-sink'], arguments: ['--control', 'none'] };
    const gateway = await startGatewayInGuest(dom0, options);
    await gateway.stop();
  });

  it("shows the hole in the back end of Xen's QEMU", async () => {
    const gadget = await sourceSinkGadget(dom0, { bulk_buflen: '1000' });
    const configuration = qusbConfiguration(gadget);
    const domain = await createDomain(dom0, { name: 'control', configuration });
    try {
      await domain.guest.succeed('modprobe xen-hcd');
      const { node } = await findDevice(domain.guest, gadget.serialNumber);
      const settings = { rounds: CONTROL_ROUNDS, limit: HANG_MILLISECONDS };
      const healthy = { ...settings, shortOk: true, unlink: 'none' } as const;
      const reference = await runProbe(domain.guest, node, healthy, CONTROL_SECONDS);
      say(formatProbe("Xen's QEMU, nothing fails", reference));
      assert.deepEqual(reference.statuses, { 0: CONTROL_ROUNDS * 8 });
      const result = await runProbe(domain.guest, node, settings, CONTROL_SECONDS);
      say(formatProbe("Xen's QEMU", result));
      assert(showsTheHole(result), 'the probe finds nothing here, so that it proves nothing there');
    } finally {
      await domain.destroy();
    }
  });
});
