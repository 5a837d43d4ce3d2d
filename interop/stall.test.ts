/**
 * The error contract through a stock client: when a transfer fails, nothing behind it on its
 * endpoint moves data until the driver has had its say. See lab/stall-probe.c for what is measured
 * and lab/stall-cases.ts for the cases; stall.soak.ts runs them for longer.
 */
import { strict as assert } from 'node:assert';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import { bootGuest } from './lab/guest.ts';
import {
  faults,
  OTHER_CASES,
  probeGateway,
  probeGatewayInGuest,
  probeKernelServer,
  probeLocally,
  SHORT_CASE,
  showsTheHole,
  UNLINK_CASES,
  usbtestThroughGateway,
} from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { detachAll, loadVhci } from './lab/usbip.ts';

const REFERENCE_ROUNDS = 100;
const CONTROL_ROUNDS = 200;
/** With the gateway in the guest too, where no network is between it and the client. */
const GUEST_ROUNDS = 200;
const USBTEST_SECONDS = 60;

const say = (text: string) => console.log(`      ${text}`);

describe('stall probe', function () {
  this.timeout(600_000);
  let cabled: CabledGuest;

  before(async function () {
    if (process.getuid?.() !== 0) this.skip(); // network cables are root's
    cabled = await bootCabledGuest({ name: 'stall', processors: 2 });
    await loadVhci(cabled.guest);
  });

  after(() => cabled?.kill());

  afterEach(async function () {
    const { guest } = cabled;
    if (guest.alive) await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  it("finds no violation on the kernel's own controller", async () => {
    const result = await probeLocally(cabled.guest, REFERENCE_ROUNDS);
    say(formatProbe('dummy_hcd', result));
    assert.deepEqual(faults(SHORT_CASE, REFERENCE_ROUNDS, result), []);
  });

  it("finds violations, a hang or an oops with the kernel's own server", async () => {
    const control = await bootGuest({ name: 'stall-control' });
    try {
      const result = await probeKernelServer(control, CONTROL_ROUNDS);
      say(formatProbe('usbip-host', result));
      assert(showsTheHole(result), 'the probe finds nothing here, so that it proves nothing there');
    } finally {
      await control.kill();
    }
  });

  for (const load of [false, true]) {
    const how = load ? 'guest loaded' : 'guest idle';

    it(`${SHORT_CASE.name}, ${SHORT_CASE.rounds} rounds, ${how}`, async () => {
      const result = await probeGateway(cabled, SHORT_CASE, { rounds: SHORT_CASE.rounds, load });
      say(formatProbe(`${SHORT_CASE.name}, ${how}`, result));
      assert.deepEqual(faults(SHORT_CASE, SHORT_CASE.rounds, result), []);
    });

    it(`${SHORT_CASE.name}, ${GUEST_ROUNDS} rounds, ${how} with the gateway in it`, async () => {
      const run = { rounds: GUEST_ROUNDS, load };
      const result = await probeGatewayInGuest(cabled.guest, SHORT_CASE, run);
      say(formatProbe(`${SHORT_CASE.name}, ${how}, gateway in it`, result));
      assert.deepEqual(faults(SHORT_CASE, GUEST_ROUNDS, result), []);
    });
  }

  for (const one of OTHER_CASES) {
    it(`${one.name}, ${one.rounds} rounds`, async () => {
      const result = await probeGateway(cabled, one, { rounds: one.rounds });
      say(formatProbe(one.name, result));
      assert.deepEqual(faults(one, one.rounds, result), []);
    });
  }

  it(`usbtest ${UNLINK_CASES.join(', ')} for ${USBTEST_SECONDS} s`, async () => {
    const { rounds, failed } = await usbtestThroughGateway(cabled, USBTEST_SECONDS);
    say(`usbtest: ${rounds} rounds of ${UNLINK_CASES.length} cases`);
    assert.deepEqual(failed, []);
  });
});
