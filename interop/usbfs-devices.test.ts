/**
 * More devices behind emulated host controllers, exported by a gateway in the guest and attached
 * there with the stock client: one of ours that fails on request, at an xHCI that does not stop on a short
 * packet (see lab/usbfs-cases.ts); and what kernel drivers and libusb programs of other people make of
 * a tablet, a network card, a smart-card reader and a camera.
 */
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bootGuest, type Guest } from './lab/guest.ts';
import { installTools } from './lab/guest-tools.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { findDevice, type GuestUsbDevice } from './lab/local-gadget.ts';
import { throughGateway, tidyUp } from './lab/own-devices.ts';
import { QemuMonitor } from './lab/qemu-monitor.ts';
import { CARD_RESET_ANSWER, cardDigest, cardText, SmartCard } from './lab/smart-card.ts';
import { faults, type ProbeCase, SHORT_CASE, showsTheHole } from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { deviceOf, HARDWARE_CASES, probeStamped } from './lab/usbfs-cases.ts';
import { plugCycles } from './lab/usbfs-cycles.ts';
import { detachAll, loadVhci } from './lab/usbip.ts';
import { RedirectedDevice } from './lab/usbredir/redirected-device.ts';

/** The soak has ten thousand of each, and as many with the guest loaded. */
const PROBE_ROUNDS = 1000;
const CONTROL_ROUNDS = 100;
/** Of virtual:source-sink. */
const SERIAL = '0001';
const IDS = '0525:a4a0';
const PLUG_CYCLES = 200;
const NETWORK_OCTETS = 512 * 1024;
const FILE_OCTETS = 512 * 1024;
/** As linux/input-event-codes.h has them: EV_ABS with ABS_X, ABS_Y; EV_KEY with BTN_LEFT. */
const ABSOLUTE_X = '3 0';
const ABSOLUTE_Y = '3 1';
const LEFT_BUTTON = '1 272';

const say = (text: string) => console.log(`      ${text}`);

describe('more hardware through usbfs', function () {
  this.timeout(900_000);
  const monitor = new QemuMonitor();
  const path = (name: string) => join(monitor.folder, name);
  const card = new SmartCard(path('card'));
  const photograph = randomBytes(FILE_OCTETS);
  let guest: Guest;

  before(async () => {
    mkdirSync(path('camera'));
    writeFileSync(join(path('camera'), 'photograph.jpg'), photograph);
    guest = await bootGuest({
      name: 'usbfs-devices',
      qemuArguments: [
        ...monitor.qemuArguments,
        ...['-device', 'qemu-xhci,id=xhci', '-device', 'usb-ehci,id=ehci'],
        ...RedirectedDevice.qemuArguments('ours', path('ours'), 'xhci.0'),
        ...['-device', 'usb-tablet,bus=ehci.0,serial=TABLET'],
        ...['-netdev', 'user,id=far,net=10.0.9.0/24,restrict=on,guestfwd=tcp:10.0.9.9:7-cmd:cat'],
        ...['-device', 'usb-net,bus=xhci.0,netdev=far,serial=NETWORK'],
        ...SmartCard.qemuArguments(path('card'), 'xhci.0', 'READER'),
        ...['-device', `usb-mtp,bus=xhci.0,rootdir=${path('camera')},serial=CAMERA`],
      ],
    });
    await monitor.open();
    await guest.succeed('modprobe -a xhci-pci ehci-pci', { timeoutSeconds: 60 });
    await guest.succeed('modprobe -a usbhid hid-generic evdev cdc_ether', { timeoutSeconds: 60 });
    await loadVhci(guest);
  });

  after(async () => {
    monitor.close();
    await guest?.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  });

  afterEach(function () {
    return tidyUp(guest, this.currentTest?.isPassed());
  });

  /** Plugs the device of a case into the xHCI. */
  async function withHardware<T>(
    one: ProbeCase,
    work: (device: GuestUsbDevice) => Promise<T>,
  ): Promise<T> {
    const device = new RedirectedDevice(deviceOf(one), path('ours'));
    await device.plugIn();
    const local = await findDevice(guest, SERIAL);
    try {
      return await work(local);
    } finally {
      await device.unplug();
      await guest.succeed(`while [ -e ${local.sysfs} ]; do sleep 0.1; done`);
    }
  }

  for (const one of HARDWARE_CASES) {
    it(`stall probe at xHCI: ${one.name}, ${PROBE_ROUNDS} rounds`, async () => {
      const run = { rounds: PROBE_ROUNDS };
      const result = await withHardware(one, (local) =>
        throughGateway(guest, local, (device) => probeStamped(guest, device, one.settings, run)),
      );
      say(formatProbe(`xHCI through usbfs: ${one.name}`, result));
      assert.deepEqual(faults(one, PROBE_ROUNDS, result), []);
    });
  }

  it('stall probe at xHCI: finds violations without a gateway, and with one that holds nothing', async () => {
    const run = { rounds: CONTROL_ROUNDS };
    await withHardware(SHORT_CASE, async (local) => {
      const alone = await probeStamped(guest, local, {}, run);
      say(formatProbe('xHCI, no gateway', alone));
      assert(showsTheHole(alone), 'this xHCI stops on a short packet, so that it proves nothing');
      const holding = { arguments: ['--stall-hold', '0'] };
      const result = await throughGateway(
        guest,
        local,
        (device) => probeStamped(guest, device, {}, run),
        holding,
      );
      say(formatProbe('xHCI through usbfs, no hold', result));
      assert(showsTheHole(result), 'the probe finds nothing here, so that it proves nothing there');
    });
  });

  it(`${PLUG_CYCLES} times plugged in and out: exported each time, memory as before`, () =>
    plugCycles(guest, new RedirectedDevice(deviceOf(SHORT_CASE), path('ours')), IDS, PLUG_CYCLES));

  it('tablet: where the pen is, and its button', async () => {
    const reader = await compiled(labSource('input-events.c'));
    const local = await findDevice(guest, 'TABLET');
    const stdout = await throughGateway(guest, local, async () => {
      const events = guest.start(`exec ${reader} 'QEMU QEMU USB Tablet'`);
      events.end();
      await events.printed(/ready .*\n/, 60);
      const absolute = (axis: 'x' | 'y', value: number) => ({ type: 'abs', data: { axis, value } });
      const button = (down: boolean) => ({ type: 'btn', data: { button: 'left', down } });
      for (const spot of [1000, 20_000, 32_767]) {
        const moved = [absolute('x', spot), absolute('y', 32_767 - spot)];
        await monitor.command('input-send-event', { events: moved });
        await events.printed(new RegExp(`^${ABSOLUTE_X} ${spot}$`, 'm'), 30);
        await monitor.command('input-send-event', { events: [button(true)] });
        await monitor.command('input-send-event', { events: [button(false)] });
      }
      await events.printed(new RegExp(`(${LEFT_BUTTON} 0[^]*){3}`), 30);
      await detachAll(guest);
      return (await events.result(30)).stdout;
    });
    const values = (what: string) =>
      [...stdout.matchAll(new RegExp(`^${what} (\\d+)$`, 'gm'))].map(([, value]) => Number(value));
    assert.deepEqual(values(ABSOLUTE_X), [1000, 20_000, 32_767]);
    assert.deepEqual(values(ABSOLUTE_Y), [31_767, 12_767, 0]);
    assert.deepEqual(values(LEFT_BUTTON), [1, 0, 1, 0, 1, 0]);
  });

  /** Sends to the echo at the far end of a device's network, and compares what comes back. */
  const exchange = (sysfs: string) => `
for try in $(seq 100); do
  card=$(ls ${sysfs}/*/net 2> /dev/null) && break
  sleep 0.1
done
basename $(readlink ${sysfs}/*/net/$card/device/driver)
ip address add 10.0.9.15/24 dev $card && ip link set $card up
head -c ${NETWORK_OCTETS} /dev/urandom > /run/sent
exec 3<> /dev/tcp/10.0.9.9/7
cat /run/sent >&3 &
head -c ${NETWORK_OCTETS} <&3 | cmp - /run/sent && echo equal`;

  it('network card: what is sent comes back', async () => {
    const local = await findDevice(guest, 'NETWORK');
    const printed = await throughGateway(guest, local, ({ sysfs }) =>
      guest.succeed('bash -s', { input: exchange(sysfs), timeoutSeconds: 180 }),
    );
    assert.match(printed, /^cdc_\w+\nequal\n$/);
  });

  describe('programs that use libusb', () => {
    before(() => installTools(guest));

    it('lsusb reads all descriptors, and they are those of the device', async () => {
      const local = await findDevice(guest, 'READER');
      const shown = ({ node }: GuestUsbDevice) =>
        guest.succeed(`lsusb -v -D ${node} 2>&1 | grep -v '^Device:'`, { timeoutSeconds: 60 });
      const wanted = await shown(local);
      assert.match(wanted, /ChipCard Interface Descriptor/);
      assert.equal(await throughGateway(guest, local, shown), wanted);
    });

    it('pcscd talks to a smart card', async () => {
      card.insert();
      const local = await findDevice(guest, 'READER');
      const given = Buffer.from('what the card is given');
      const commands = [
        '80:CB:00:00:F0',
        `80:CE:00:00:${hexadecimal(Buffer.from([given.length]))}:${hexadecimal(given)}:20`,
      ];
      const printed = await throughGateway(guest, local, async () => {
        const daemon = guest.start('exec pcscd --foreground --error');
        daemon.end();
        const asked = commands.map((command) => `-s ${command}`).join(' ');
        const answer = await guest.succeed(
          `for try in $(seq 60); do opensc-tool -l 2> /dev/null | grep -q '^0 *Yes' && break; sleep 0.5; done
           opensc-tool -l; opensc-tool -a; opensc-tool -c default ${asked}`,
          { timeoutSeconds: 120 },
        );
        daemon.signal('SIGTERM');
        await daemon.result(20);
        return answer;
      });
      assert(printed.toUpperCase().includes(hexadecimal(CARD_RESET_ANSWER)), printed);
      const answers = printed.split('Received').slice(1).map(readDump);
      const wanted = [cardText(0xf0), cardDigest(given)];
      assert.deepEqual(answers, wanted, printed);
    });

    it('mtp-tools fetch a file from a camera', async () => {
      const local = await findDevice(guest, 'CAMERA');
      const digest = await throughGateway(guest, local, () =>
        guest.succeed(
          `id=$(mtp-files 2> /dev/null | sed -n 's/^File ID: //p' | head -1)
           mtp-getfile $id /run/photograph > /dev/null 2>&1; sha256sum < /run/photograph`,
          { timeoutSeconds: 180 },
        ),
      );
      assert.equal(digest.split(' ')[0], cardDigest(photograph).toString('hex'));
    });
  });
});

/** As opensc-tool writes octets. */
function hexadecimal(octets: Uint8Array): string {
  return [...octets].map((octet) => octet.toString(16).padStart(2, '0').toUpperCase()).join(':');
}

/** The octets of "Received (SW1=...):" and the lines of hexadecimal and text below. */
function readDump(text: string): Buffer {
  const lines = text.split('\n').slice(1);
  const octets = lines.flatMap((line) => /^((?:[0-9A-F]{2} ?){1,16})/.exec(line)?.[1] ?? []);
  return Buffer.from(octets.join('').replaceAll(' ', ''), 'hex');
}
