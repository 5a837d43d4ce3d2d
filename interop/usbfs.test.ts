/**
 * Devices of a machine, exported through usbfs by a gateway in a guest and attached there again by
 * the stock client: usbtest's cases on gadgets of the kernel's, the stall probe on one of ours.
 */
import { strict as assert } from 'node:assert';
import { passesHaltProbe, passesUsbtest } from './lab/gadget-tests.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { throughGateway, tidyUp } from './lab/own-devices.ts';
import { faults, showsTheHole } from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { stampedGadget } from './lab/stamped-gadget.ts';
import { loadUsbtest } from './lab/testusb.ts';
import { GADGET_CASES, probeStamped } from './lab/usbfs-cases.ts';
import { loadVhci } from './lab/usbip.ts';
import {
  bulkCases,
  INTERRUPT_CASES,
  interruptGadget,
  sourceSinkGadget,
} from './lab/usbtest-gadgets.ts';

/** The soak has ten thousand of each, and as many with the guest loaded. */
const PROBE_ROUNDS = 1000;
const CONTROL_ROUNDS = 100;
const HALT_ROUNDS = 200;

const say = (text: string) => console.log(`      ${text}`);

describe('devices of the machine, through usbfs', function () {
  this.timeout(900_000);
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({ name: 'usbfs', processors: 2 });
    await loadVhci(guest);
  });

  after(() => guest?.kill());

  afterEach(function () {
    return tidyUp(guest, this.currentTest?.isPassed());
  });

  // Pattern 1 has running numbers: what is lost or comes twice shows.
  it('usbtest: control and bulk cases, pattern 1', async () => {
    await loadUsbtest(guest, { pattern: 1 });
    const gadget = await sourceSinkGadget(guest, { pattern: '1' });
    await passesUsbtest(guest, gadget, bulkCases(1));
  });

  for (const one of GADGET_CASES) {
    it(`stall probe: ${one.name}, ${PROBE_ROUNDS} rounds`, async () => {
      const gadget = await stampedGadget(guest, one.device);
      const result = await throughGateway(guest, gadget, (device) =>
        probeStamped(guest, device, one.settings, { rounds: PROBE_ROUNDS }),
      );
      await gadget.remove();
      say(formatProbe(`gadget through usbfs: ${one.name}`, result));
      assert.deepEqual(faults(one, PROBE_ROUNDS, result), []);
    });
  }

  it('stall probe: finds violations when the gateway holds nothing', async () => {
    const gadget = await stampedGadget(guest, { octets: 1000 });
    const result = await throughGateway(
      guest,
      gadget,
      (device) => probeStamped(guest, device, {}, { rounds: CONTROL_ROUNDS }),
      { arguments: ['--stall-hold', '0'] },
    );
    await gadget.remove();
    say(formatProbe('gadget through usbfs, no hold', result));
    assert(showsTheHole(result), 'the probe finds nothing here, so that it proves nothing there');
  });

  it(`halt probe: ${HALT_ROUNDS} rounds of 8 reads in flight at a halted endpoint`, async () => {
    say(await passesHaltProbe(guest, HALT_ROUNDS));
  });

  it('usbtest: interrupt cases', async () => {
    await loadUsbtest(guest, { pattern: 0 });
    const gadget = await interruptGadget(guest);
    await passesUsbtest(guest, gadget, INTERRUPT_CASES);
  });
});
