/**
 * usbtest on a device that `urbgate attach` has attached, from urbgate and from the kernel's own server.
 * A file of its own, since usbtest wants two processors (lab/testusb.ts), and two cost the others time.
 */
import { strict as assert } from 'node:assert';
import { withGateway, withKernel } from './lab/attach-servers.ts';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import type { Guest } from './lab/guest.ts';
import {
  formatUsbtest,
  loadUsbtest,
  runUsbtest,
  USBTEST_PROCESSORS,
  type UsbtestCase,
  usbtestFaults,
} from './lab/testusb.ts';
import { type AttachTool, attachWith, supervise } from './lab/urbgate-attach.ts';
import { detachAll, loadVhci, type UsbipServer } from './lab/usbip.ts';
import { bulkCases, sourceSinkGadget } from './lab/usbtest-gadgets.ts';

/** Those that unlink are more than the kernel's server survives. */
const FATAL: readonly number[] = [11, 12, 24];

const say = (text: string) => console.log(text.replace(/^/gm, '      '));

describe('urbgate attach, usbtest', function () {
  this.timeout(600_000);
  let cabled: CabledGuest;
  let guest: Guest;

  before(async function () {
    if (process.getuid?.() !== 0) this.skip(); // network cables are root's
    cabled = await bootCabledGuest({ name: 'attach-usbtest', processors: USBTEST_PROCESSORS });
    guest = cabled.guest;
    await loadVhci(guest);
    await supervise(guest);
    await loadUsbtest(guest);
  });

  after(() => cabled?.kill());

  afterEach(async function () {
    if (!guest.alive) return;
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  async function passes(
    tool: AttachTool,
    server: UsbipServer,
    busid: string,
    cases: readonly UsbtestCase[],
  ): Promise<void> {
    const { node } = await attachWith(guest, tool, busid, server);
    const results = await runUsbtest(guest, node, cases);
    say(formatUsbtest(results));
    assert.deepEqual(usbtestFaults(results), []);
  }

  for (const tool of ['urbgate', 'urbgate --direct'] as const) {
    it(`passes: ${tool}, urbgate serve`, () =>
      withGateway(cabled, ['virtual:source-sink'], (server) =>
        passes(tool, server, '1-1', bulkCases(0)),
      ));
  }

  it("passes through urbgate attach: the kernel's server", async () => {
    const cases = bulkCases(0).filter(({ number }) => !FATAL.includes(number));
    const gadget = await sourceSinkGadget(guest, { pattern: '0' });
    await withKernel(guest, gadget, (server) => passes('urbgate', server, gadget.busid, cases));
  });
});
