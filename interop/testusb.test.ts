/**
 * usbtest through urbgate: every case that passes on the kernel's own controller passes through the
 * gateway with the same parameters, and the isochronous ones, which dummy_hcd does not have.
 *
 * The kernel's own usbip-host runs beside it for comparison, in a guest that it may wreck.
 */
import { strict as assert } from 'node:assert';
import { startGateway } from './lab/gateway.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { exportByKernel } from './lab/kernel-stub.ts';
import {
  loadUsbtest,
  runUsbtest,
  USBTEST_PROCESSORS,
  type UsbtestCase,
  type UsbtestResult,
  usbtestFaults,
} from './lab/testusb.ts';
import { attach, detachAll, loadVhci, type UsbipServer } from './lab/usbip.ts';
import {
  bulkCases,
  INTERRUPT_CASES,
  interruptGadget,
  sourceSinkGadget,
} from './lab/usbtest-gadgets.ts';

const ROUNDS = 3;
/** In `alt=1`; one URB a millisecond, so what these take is the device's own time. */
const ISOCHRONOUS_CASES: readonly UsbtestCase[] = [15, 16, 22, 23].map((number) => ({ number }));

/** Outcome by system and case, for the table at the end. */
const outcomes = new Map<number, Record<string, string>>();

function note(system: string, results: readonly UsbtestResult[]): void {
  for (const { case: run, outcome, errno } of results) {
    const row = outcomes.get(run.number) ?? {};
    const cell = outcome === 'fail' ? `errno ${errno}` : outcome;
    // Several rounds share a cell: the worst one shows.
    if (row[system] === undefined || row[system] === 'pass') row[system] = cell;
    outcomes.set(run.number, row);
  }
}

describe('usbtest through urbgate', function () {
  this.timeout(600_000);
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({ name: 'testusb', processors: USBTEST_PROCESSORS });
    await loadVhci(guest);
  });

  after(async () => {
    await guest?.kill();
    const systems = ['local', 'urbgate', 'usbip-host'];
    const line = (cells: string[]) =>
      `      | ${cells.map((cell) => cell.padEnd(11)).join(' | ')} |`;
    console.log(
      [
        line(['case', ...systems]),
        ...[...outcomes.entries()]
          .toSorted(([one], [other]) => one - other)
          .map(([number, row]) => line([`${number}`, ...systems.map((name) => row[name] ?? '-')])),
      ].join('\n'),
    );
  });

  async function throughUrbgate(
    spec: string,
    module: Parameters<typeof loadUsbtest>[1],
    cases: readonly UsbtestCase[],
  ): Promise<UsbtestResult[]> {
    const gateway = await startGateway({ exports: [spec], arguments: ['--control', 'none'] });
    try {
      guest.forward(gateway.port);
      await loadUsbtest(guest, module);
      const device = await attach(guest, '1-1');
      const results: UsbtestResult[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        results.push(...(await runUsbtest(guest, device.node, cases)));
      }
      await detachAll(guest);
      await gateway.stop();
      assert.deepEqual(guest.kernelComplaints(), []);
      return results;
    } finally {
      await gateway.kill();
    }
  }

  it('knows what passes locally', async () => {
    const runs = [
      { pattern: 0, make: sourceSinkGadget, cases: bulkCases(0) },
      { pattern: 1, make: sourceSinkGadget, cases: bulkCases(1) },
      { pattern: 0, make: interruptGadget, cases: INTERRUPT_CASES },
    ] as const;
    for (const { pattern, make, cases } of runs) {
      await loadUsbtest(guest, { pattern });
      const gadget = await make(guest, { pattern: `${pattern}` });
      const results = await runUsbtest(guest, gadget.node, cases);
      await gadget.remove();
      note('local', results);
      assert.deepEqual(usbtestFaults(results), []);
    }
  });

  for (const pattern of [0, 1] as const) {
    it(`passes the control and bulk cases with pattern ${pattern}, ${ROUNDS} rounds`, async () => {
      const spec = `virtual:source-sink,pattern=${pattern}`;
      const results = await throughUrbgate(spec, { pattern }, bulkCases(pattern));
      note('urbgate', results);
      assert.deepEqual(usbtestFaults(results), []);
    });

    it(`passes the isochronous and interrupt cases with pattern ${pattern}`, async () => {
      const cases = [...ISOCHRONOUS_CASES, ...INTERRUPT_CASES];
      const spec = `virtual:source-sink,pattern=${pattern}`;
      const results = await throughUrbgate(spec, { pattern, alternateSetting: 1 }, cases);
      note('urbgate', results);
      assert.deepEqual(usbtestFaults(results), []);
    });
  }

  it('runs on usbip-host for comparison, as far as that survives', async () => {
    const control = await bootGuest({ name: 'usbip-host', processors: USBTEST_PROCESSORS });
    try {
      await loadVhci(control);
      const gadget = await sourceSinkGadget(control);
      const server: UsbipServer = await exportByKernel(control, gadget);
      await loadUsbtest(control, { pattern: 0 });
      const device = await attach(control, gadget.busid, server);
      for (const one of bulkCases(0)) {
        const results = await runUsbtest(control, device.node, [{ ...one, timeoutSeconds: 20 }]);
        const oops = control.kernelComplaints().length > 0;
        note('usbip-host', oops ? results.map((each) => ({ ...each, outcome: 'fail' })) : results);
        if (oops || results.some(({ outcome }) => outcome === 'timeout')) break;
      }
    } finally {
      await control.kill();
    }
  });
});
