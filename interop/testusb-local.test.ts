/**
 * usbtest on the kernel's own controller: the reference for what a gateway must pass, and proof
 * that the cases are run with parameters under which a sound device passes them.
 */

import assert from 'node:assert/strict';
import { bootGuest, type Guest } from './lab/guest.ts';
import { exportByKernel } from './lab/kernel-stub.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { formatUsbtest, loadUsbtest, runUsbtest, type UsbtestResult } from './lab/testusb.ts';
import { attach, loadVhci } from './lab/usbip.ts';
import {
  bulkCases,
  INTERRUPT_CASES,
  interruptGadget,
  sourceSinkGadget,
} from './lab/usbtest-gadgets.ts';

describe('usbtest on dummy_hcd', function () {
  this.timeout(120_000);

  let guest: Guest;
  before(async () => {
    guest = await sharedGuest();
  });
  afterEach(() => {
    assert.deepEqual(guest.kernelComplaints(), []);
  });

  for (const pattern of [0, 1] as const) {
    it(`passes every bulk and control case with pattern ${pattern}`, async () => {
      await loadUsbtest(guest, { pattern });
      const gadget = await sourceSinkGadget(guest, { pattern: `${pattern}` });
      try {
        expectPass(await runUsbtest(guest, gadget.node, bulkCases(pattern)));
      } finally {
        await gadget.remove();
      }
    });
  }

  it('passes the interrupt cases', async () => {
    await loadUsbtest(guest);
    const gadget = await interruptGadget(guest);
    try {
      expectPass(await runUsbtest(guest, gadget.node, INTERRUPT_CASES));
    } finally {
      await gadget.remove();
    }
  });

  it('has no isochronous endpoint to test', async () => {
    await loadUsbtest(guest);
    const gadget = await sourceSinkGadget(guest);
    try {
      const cases = [15, 16, 22, 23].map((number) => ({ number }));
      const results = await runUsbtest(guest, gadget.node, cases);
      assert.deepEqual(
        results.map(({ outcome }) => outcome),
        Array(4).fill('unsupported'),
      );
    } finally {
      await gadget.remove();
    }
  });
});

describe("usbtest over the kernel's own USB/IP server", function () {
  this.timeout(300_000);

  // The control: what stock software makes of the same device, and no more than a table, as the
  // server oopses in the cases that unlink, sooner or later.
  it('is reported', async () => {
    const guest = await bootGuest({ name: 'kernel-server' });
    try {
      await loadUsbtest(guest);
      await loadVhci(guest);
      const gadget = await sourceSinkGadget(guest);
      const server = await exportByKernel(guest, gadget);
      const { node } = await attach(guest, gadget.busid, server);
      const unlinking = [11, 12, 24];
      const cases = bulkCases(0).filter(({ number }) => !unlinking.includes(number));
      cases.push(...unlinking.map((number) => ({ number })));
      const limited = cases.map((run) => ({ ...run, timeoutSeconds: 20 }));
      print(formatUsbtest(await runUsbtest(guest, node, limited)));
      for (const complaint of guest.kernelComplaints()) print(complaint);
    } finally {
      await guest.kill();
    }
  });
});

function print(text: string): void {
  console.log(text.replaceAll(/^/gm, '      '));
}

function expectPass(results: readonly UsbtestResult[]): void {
  const table = formatUsbtest(results);
  print(table);
  assert(
    results.every(({ outcome }) => outcome === 'pass'),
    `Cannot pass usbtest:\n${table}`,
  );
}
