/** The stall probe of usbfs.test.ts and usbfs-devices.test.ts for longer: `npm run soak`. */
import { strict as assert } from 'node:assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bootGuest, type Guest } from './lab/guest.ts';
import { findDevice, type GuestUsbDevice } from './lab/local-gadget.ts';
import { throughGateway, tidyUp } from './lab/own-devices.ts';
import { faults, type ProbeCase } from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { stampedGadget } from './lab/stamped-gadget.ts';
import { deviceOf, GADGET_CASES, HARDWARE_CASES, probeStamped } from './lab/usbfs-cases.ts';
import { loadVhci } from './lab/usbip.ts';
import { RedirectedDevice } from './lab/usbredir/redirected-device.ts';

const ROUNDS = 10_000;
/** Of virtual:source-sink. */
const SERIAL = '0001';

const say = (text: string) => console.log(`      ${text}`);

describe('stall probe through usbfs, for long', function () {
  this.timeout(3_600_000);
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-soak-'));
  const path = join(folder, 'ours');
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({
      name: 'usbfs-soak',
      processors: 2,
      qemuArguments: [
        ...['-device', 'qemu-xhci,id=xhci'],
        ...RedirectedDevice.qemuArguments('ours', path, 'xhci.0'),
      ],
    });
    await guest.succeed('modprobe xhci-pci', { timeoutSeconds: 60 });
    await loadVhci(guest);
  });

  after(async () => {
    await guest?.kill();
    rmSync(folder, { recursive: true, force: true });
  });

  afterEach(function () {
    return tidyUp(guest, this.currentTest?.isPassed());
  });

  async function probe(
    device: GuestUsbDevice,
    one: Pick<ProbeCase, 'name' | 'settings' | 'statuses'>,
    load: boolean,
  ): Promise<void> {
    const run = { rounds: ROUNDS, load };
    const result = await throughGateway(guest, device, (attached) =>
      probeStamped(guest, attached, one.settings, run),
    );
    say(formatProbe(one.name, result));
    assert.deepEqual(faults(one, ROUNDS, result), []);
  }

  for (const load of [false, true]) {
    const how = `${ROUNDS} rounds, guest ${load ? 'loaded' : 'idle'}`;

    for (const one of GADGET_CASES) {
      it(`gadget: ${one.name}, ${how}`, async () => {
        const gadget = await stampedGadget(guest, one.device);
        await probe(gadget, one, load);
        await gadget.remove();
      });
    }

    for (const one of HARDWARE_CASES) {
      it(`xHCI: ${one.name}, ${how}`, async () => {
        const device = new RedirectedDevice(deviceOf(one), path);
        await device.plugIn();
        await probe(await findDevice(guest, SERIAL), one, load);
        await device.unplug();
      });
    }
  }
});
