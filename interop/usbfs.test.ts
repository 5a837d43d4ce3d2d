/**
 * Devices of a machine, exported through usbfs by a gateway in a guest and attached there again by
 * the stock client: usbtest's cases on gadgets of the kernel's, the stall probe on one of ours.
 */
import { strict as assert } from 'node:assert';
import { bootGuest, type Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import type { Gadget } from './lab/local-gadget.ts';
import { faults, SHORT_CASE, showsTheHole } from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { stampedGadget } from './lab/stamped-gadget.ts';
import { formatUsbtest, loadUsbtest, runUsbtest, type UsbtestCase } from './lab/testusb.ts';
import { GADGET_CASES, probeStamped, throughGateway } from './lab/usbfs-cases.ts';
import { detachAll, loadVhci } from './lab/usbip.ts';
import {
  bulkCases,
  INTERRUPT_CASES,
  interruptGadget,
  sourceSinkGadget,
} from './lab/usbtest-gadgets.ts';

const PROBE_ROUNDS = 1000;
/** Of the other cases: the soak has ten thousand of each, and as many with the guest loaded. */
const OTHER_ROUNDS = 300;
const CONTROL_ROUNDS = 100;
const HALT_ROUNDS = 200;

/** In emulation, with the gateway in the guest too. */
const CASE_SECONDS = 120;

const say = (text: string) => console.log(`      ${text}`);

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

  async function usbtest(gadget: Gadget, cases: readonly UsbtestCase[]): Promise<void> {
    const results = await throughGateway(guest, gadget, ({ node }) =>
      runUsbtest(
        guest,
        node,
        cases.map((one) => ({ ...one, timeoutSeconds: CASE_SECONDS })),
      ),
    );
    const failed = results.filter(({ outcome }) => outcome !== 'pass');
    assert.equal(failed.length, 0, `\n${formatUsbtest(results)}`);
  }

  // Pattern 1 has running numbers: what is lost or comes twice shows.
  it('usbtest: control and bulk cases, pattern 1', async () => {
    await loadUsbtest(guest, { pattern: 1 });
    const gadget = await sourceSinkGadget(guest, { pattern: '1' });
    await usbtest(gadget, bulkCases(1));
    await gadget.remove();
  });

  for (const one of GADGET_CASES) {
    const rounds = one.name === SHORT_CASE.name ? PROBE_ROUNDS : OTHER_ROUNDS;
    it(`stall probe: ${one.name}, ${rounds} rounds`, async () => {
      const gadget = await stampedGadget(guest, one.device);
      const result = await throughGateway(guest, gadget, (device) =>
        probeStamped(guest, device, one.settings, { rounds }),
      );
      await gadget.remove();
      say(formatProbe(`gadget through usbfs: ${one.name}`, result));
      assert.deepEqual(faults(one, rounds, result), []);
    });
  }

  it('stall probe: finds violations when the gateway holds nothing', async () => {
    const gadget = await stampedGadget(guest, { octets: 1000 });
    const result = await throughGateway(
      guest,
      gadget,
      (device) => probeStamped(guest, device, {}, { rounds: CONTROL_ROUNDS }),
      ['--stall-hold', '0'],
    );
    await gadget.remove();
    say(formatProbe('gadget through usbfs, no hold', result));
    assert(showsTheHole(result), 'the probe finds nothing here, so that it proves nothing there');
  });

  it(`halt probe: ${HALT_ROUNDS} rounds of 8 reads in flight at a halted endpoint`, async () => {
    await guest.run('rmmod usbtest');
    const program = await compiled(labSource('halt-probe.c'), ['-static']);
    const gadget = await sourceSinkGadget(guest, { pattern: '2' });
    const printed = await throughGateway(guest, gadget, ({ node }) =>
      guest.succeed(`${program} ${node} 81 8 ${HALT_ROUNDS}`, { timeoutSeconds: 300 }),
    );
    await gadget.remove();
    say(printed.trim());
    assert.deepEqual(JSON.parse(printed), {
      rounds: HALT_ROUNDS,
      stalls: HALT_ROUNDS,
      violations: 0,
      lost: 0,
      ends: { 2: HALT_ROUNDS * 7 },
    });
  });

  it('usbtest: interrupt cases', async () => {
    await loadUsbtest(guest, { pattern: 0 });
    const gadget = await interruptGadget(guest);
    await usbtest(gadget, INTERRUPT_CASES);
    await gadget.remove();
  });
});
