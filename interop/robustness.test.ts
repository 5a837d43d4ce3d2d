/**
 * Many devices, many attachments, and what is left when either side dies in the middle.
 */
import { strict as assert } from 'node:assert';
import { blockDevice, DISK_MODULES } from './lab/block-device.ts';
import { type Gateway, startGateway } from './lab/gateway.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { loadUsbtest, runUsbtest } from './lab/testusb.ts';
import { attach, detach, detachAll, loadVhci, ports, waitFree } from './lab/usbip.ts';

const ATTACHMENTS = 100;
/** A device is free again so soon after its client has vanished. */
const RELEASE_SECONDS = 30;

function gatewayFor(...exports: string[]): Promise<Gateway> {
  return startGateway({ exports, arguments: ['--control', 'none'] });
}

async function prepare(guest: Guest): Promise<void> {
  await loadVhci(guest);
  await guest.succeed(DISK_MODULES);
}

describe('robustness', function () {
  this.timeout(600_000);
  let guest: Guest;

  before(async () => {
    guest = await sharedGuest();
    await prepare(guest);
  });

  it('serves 8 devices at once under load', async () => {
    const disks = 6;
    const gateway = await gatewayFor(
      ...Array(disks).fill('virtual:disk,size=16MiB'),
      ...Array(2).fill('virtual:source-sink'),
    );
    try {
      guest.forward(gateway.port);
      await loadUsbtest(guest, { pattern: 0 });
      const devices = [];
      for (let n = 1; n <= disks + 2; n++) devices.push(await attach(guest, `1-${n}`));
      const diskLoads = devices.slice(0, disks).map(async (device) => {
        const disk = await blockDevice(guest, device);
        await guest.succeed(
          `head -c 4194304 /dev/urandom > /run/${disk} &&
           dd if=/run/${disk} of=/dev/${disk} bs=64k oflag=direct 2>/dev/null &&
           dd if=/dev/${disk} bs=64k count=64 iflag=direct 2>/dev/null | cmp - /run/${disk} &&
           rm /run/${disk}`,
          { timeoutSeconds: 300 },
        );
      });
      const cases = [1, 2, 3, 5, 6, 27, 28].map((number) => ({ number, varyOctets: 512 }));
      const testLoads = devices.slice(disks).map(async (device) => {
        const results = await runUsbtest(guest, device.node, cases);
        assert.deepEqual(
          results.map(({ outcome }) => outcome),
          cases.map(() => 'pass'),
        );
      });
      await Promise.all([...diskLoads, ...testLoads]);
      await detachAll(guest);
      await gateway.stop();
      assert.deepEqual(guest.kernelComplaints(), []);
    } finally {
      await gateway.kill();
    }
  });

  it(`attaches and detaches ${ATTACHMENTS} times in a row`, async () => {
    const gateway = await gatewayFor('virtual:keyboard');
    try {
      guest.forward(gateway.port);
      for (let n = 0; n < ATTACHMENTS; n++) {
        const device = await attach(guest, '1-1');
        const from = gateway.log().length;
        await detach(guest, device.port);
        // The gateway hears of it after the guest: until then the device is busy, rightly.
        await gateway.printed(/released 1-1/, 10, from);
      }
      assert.deepEqual(await ports(guest), []);
      await gateway.stop();
      assert.deepEqual(guest.kernelComplaints(), []);
    } finally {
      await gateway.kill();
    }
  });

  it('leaves a healthy client when the gateway is killed in the middle', async () => {
    const gateway = await gatewayFor('virtual:disk,size=64MiB');
    guest.forward(gateway.port);
    const device = await attach(guest, '1-1');
    const disk = await blockDevice(guest, device);
    const logged = guest.kernelLog().length;
    const load = guest.start(`dd if=/dev/zero of=/dev/${disk} bs=64k oflag=direct`);
    load.end();
    await guest.succeed(
      `until [ "$(awk '{print $7}' /sys/block/${disk}/stat)" -gt 2000 ]; do sleep 0.05; done`,
      { timeoutSeconds: 60 },
    );
    await gateway.kill();
    await waitFree(guest, [device.port]);
    const { code } = await load.result(60);
    assert.notEqual(code, 0, 'dd wrote on to a disk that is gone');
    // Longer than the guest's hung-task limit, so that one would show.
    await guest.succeed('sleep 35', { timeoutSeconds: 60 });
    assert.deepEqual(guest.kernelComplaints(logged), []);
    const next = await gatewayFor('virtual:disk,size=8MiB');
    try {
      guest.forward(next.port);
      await blockDevice(guest, await attach(guest, '1-1'));
      await detachAll(guest);
    } finally {
      await next.kill();
    }
  });

  it('frees the device of a client machine that is killed in the middle', async () => {
    const gateway = await gatewayFor('virtual:disk,size=64MiB');
    const doomed = await bootGuest({ name: 'doomed' });
    try {
      await prepare(doomed);
      doomed.forward(gateway.port);
      const disk = await blockDevice(doomed, await attach(doomed, '1-1'));
      const load = doomed.start(`dd if=/dev/zero of=/dev/${disk} bs=64k oflag=direct`);
      load.end();
      await doomed.succeed(
        `until [ "$(awk '{print $7}' /sys/block/${disk}/stat)" -gt 2000 ]; do sleep 0.05; done`,
        { timeoutSeconds: 60 },
      );
      await doomed.kill();
      await load.result(10).catch(() => {}); // it died with its machine
      await gateway.printed(/released 1-1/, RELEASE_SECONDS);
      guest.forward(gateway.port);
      await blockDevice(guest, await attach(guest, '1-1'));
      await detachAll(guest);
      await gateway.stop();
    } finally {
      await doomed.kill();
      await gateway.kill();
    }
  });
});
