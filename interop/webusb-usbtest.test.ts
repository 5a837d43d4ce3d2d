/**
 * usbtest on a gadget of a guest, exported through the npm package `usb`. A file of its own, since usbtest wants
 * two processors (lab/testusb.ts), and two cost the others time.
 */
import { passesUsbtest } from './lab/gadget-tests.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { tidyUp } from './lab/own-devices.ts';
import { loadUsbtest, USBTEST_PROCESSORS } from './lab/testusb.ts';
import { loadVhci } from './lab/usbip.ts';
import { bulkCases, sourceSinkGadget } from './lab/usbtest-gadgets.ts';

const ITERATIONS = 4;

describe('usbtest through the usb package', function () {
  this.timeout(600_000);
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({ name: 'webusb-usbtest', processors: USBTEST_PROCESSORS });
    await loadVhci(guest);
  });

  after(() => guest?.kill());

  afterEach(function () {
    return tidyUp(guest, this.currentTest?.isPassed());
  });

  it('control and bulk cases', async () => {
    await loadUsbtest(guest, { pattern: 0 });
    const gadget = await sourceSinkGadget(guest, { pattern: '0' });
    const cases = bulkCases(0).map((one) => ({ ...one, iterations: ITERATIONS }));
    await passesUsbtest(guest, gadget, cases, { backend: 'webusb' });
  });
});
