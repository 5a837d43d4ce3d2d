/**
 * usbtest on the kernel's own controller: the reference for what a gateway must pass, and proof
 * that the cases are run with parameters under which a sound device passes them.
 */

import assert from 'node:assert/strict';
import type { Guest } from './lab/guest.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { formatUsbtest, loadUsbtest, runUsbtest, type UsbtestResult } from './lab/testusb.ts';
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

function expectPass(results: readonly UsbtestResult[]): void {
  const table = formatUsbtest(results);
  console.log(table.replaceAll(/^/gm, '      '));
  assert(
    results.every(({ outcome }) => outcome === 'pass'),
    `Cannot pass usbtest:\n${table}`,
  );
}
