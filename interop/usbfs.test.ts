/**
 * Devices of a machine, exported through usbfs by a gateway in a guest and attached there again by
 * the stock client: usbtest's cases and the stall probe on a gadget of the kernel's.
 */
import { strict as assert } from 'node:assert';
import { startGatewayInGuest } from './lab/gateway.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import type { Gadget } from './lab/local-gadget.ts';
import { formatUsbtest, loadUsbtest, runUsbtest, type UsbtestCase } from './lab/testusb.ts';
import { type AttachedDevice, attach, detachAll, loadVhci } from './lab/usbip.ts';
import {
  bulkCases,
  INTERRUPT_CASES,
  interruptGadget,
  sourceSinkGadget,
} from './lab/usbtest-gadgets.ts';

/** In emulation, with the gateway in the guest too. */
const CASE_SECONDS = 120;

describe('devices of the machine, through usbfs', function () {
  this.timeout(900_000);
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({ name: 'usbfs' });
    await loadVhci(guest);
  });

  after(() => guest?.kill());

  afterEach(async function () {
    if (guest.alive) await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  /** Exports a device of the guest, attaches it in the same guest, and tidies up. */
  async function throughGateway<T>(
    gadget: Gadget,
    work: (device: AttachedDevice) => Promise<T>,
  ): Promise<T> {
    const gateway = await startGatewayInGuest(guest, {
      exports: [`usb:${gadget.busid}`],
      arguments: ['--control', 'none'],
    });
    const server = { address: '127.0.0.1', port: gateway.port };
    const result = await work(await attach(guest, gadget.busid, server));
    await detachAll(guest);
    await gateway.stop();
    return result;
  }

  async function usbtest(gadget: Gadget, cases: readonly UsbtestCase[]): Promise<void> {
    const results = await throughGateway(gadget, ({ node }) =>
      runUsbtest(
        guest,
        node,
        cases.map((one) => ({ ...one, timeoutSeconds: CASE_SECONDS })),
      ),
    );
    const failed = results.filter(({ outcome }) => outcome !== 'pass');
    assert.equal(failed.length, 0, `\n${formatUsbtest(results)}`);
  }

  for (const pattern of [0, 1] as const) {
    it(`usbtest: control and bulk cases, pattern ${pattern}`, async () => {
      await loadUsbtest(guest, { pattern });
      const gadget = await sourceSinkGadget(guest, { pattern: `${pattern}` });
      await usbtest(gadget, bulkCases(pattern));
      await gadget.remove();
    });
  }

  it('usbtest: interrupt cases', async () => {
    await loadUsbtest(guest, { pattern: 0 });
    const gadget = await interruptGadget(guest);
    await usbtest(gadget, INTERRUPT_CASES);
    await gadget.remove();
  });
});
