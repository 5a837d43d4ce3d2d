/** attach.test.ts for longer, and networks that fail: `npm run soak`. */
import { strict as assert } from 'node:assert';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import type { Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { exportByKernel } from './lab/kernel-stub.ts';
import { faults, type ProbeCase, RELAY_CASES, SHORT_CASE } from './lab/stall-cases.ts';
import { formatProbe, runProbe, underLoad } from './lab/stall-probe.ts';
import { attachWith, shownAttachments, urbgateCommand } from './lab/urbgate-attach.ts';
import { detachAll, loadVhci, type UsbipServer } from './lab/usbip.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';

const ROUNDS = 10_000;
const CUT_SECONDS = [1, 10, 60];
const RECOVERY_SECONDS = 60;

const say = (text: string) => console.log(`      ${text}`);

describe('urbgate attach, for long', function () {
  this.timeout(3_600_000);
  let cabled: CabledGuest;
  let guest: Guest;

  before(async () => {
    cabled = await bootCabledGuest({ name: 'attach-soak' });
    guest = cabled.guest;
    await loadVhci(guest);
  });

  after(() => cabled?.kill());

  afterEach(async function () {
    await guest.run(urbgateCommand('detach all'), { timeoutSeconds: 30 });
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  async function probe(
    server: UsbipServer,
    busid: string,
    one: ProbeCase,
    load: boolean,
    rounds = ROUNDS,
  ) {
    const { node } = await attachWith(guest, 'urbgate', busid, server);
    const settings = { stamps: true, ...one.settings, rounds };
    const measure = () => runProbe(guest, node, settings, 60 + rounds / 2);
    const result = await (load ? underLoad(guest, measure) : measure());
    say(formatProbe(load ? 'guest loaded' : 'guest idle', result));
    const [shown] = await shownAttachments(guest);
    say(`${shown?.fences} fences, ${shown?.timedFences} by time`);
    assert.deepEqual(faults(one, rounds, result), []);
  }

  async function probeServed(one: ProbeCase, load: boolean, rounds?: number): Promise<void> {
    const exports = [one.spec];
    const gateway = await cabled.startGateway({ exports, arguments: ['--control', 'none'] });
    try {
      await probe(cabled.serverOf(gateway), '1-1', one, load, rounds);
    } finally {
      await gateway.kill();
    }
  }

  for (const one of RELAY_CASES) {
    it(`${one.name}, urbgate at both ends, ${one.rounds} rounds`, () =>
      probeServed(one, false, one.rounds));
  }

  for (const load of [false, true]) {
    const how = `${ROUNDS} rounds, guest ${load ? 'loaded' : 'idle'}`;

    it(`urbgate serve, ${how}`, () => probeServed(SHORT_CASE, load));

    it(`the kernel's server, ${how}`, async () => {
      const gadget = await sourceSinkGadget(guest, { bulk_buflen: '1000' });
      const server = await exportByKernel(guest, gadget);
      try {
        await probe(server, gadget.busid, { ...SHORT_CASE, settings: { stamps: false } }, load);
      } finally {
        await guest.run(urbgateCommand('detach all'), { timeoutSeconds: 30 });
        await guest.run(`usbip unbind -b ${gadget.busid}`);
        await gadget.remove();
      }
    });
  }

  for (const seconds of CUT_SECONDS) {
    it(`--persist after a network that was away for ${seconds} s`, async () => {
      const gateway = await cabled.startGateway({
        exports: ['virtual:serial'],
        arguments: ['--control', 'none'],
      });
      const server = cabled.serverOf(gateway);
      try {
        const { port } = await attachWith(guest, 'urbgate', '1-1', server, '--persist');
        await guest.succeed(
          `card=$(ip -o route get ${server.address} | grep -o 'dev [^ ]*' | cut -d' ' -f2)
           ip link set $card down; sleep ${seconds}; ip link set $card up`,
          { timeoutSeconds: seconds + 30 },
        );
        await recovered(port);
      } finally {
        await gateway.kill();
      }
    });
  }

  /** The port is the one it was, and a request goes through to the device. */
  async function recovered(port: number): Promise<void> {
    const program = await compiled(labSource('control-in.c'));
    const end = performance.now() + RECOVERY_SECONDS * 1000;
    for (;;) {
      const [shown] = await shownAttachments(guest);
      const asked = await guest.run(
        `cd /sys/bus/usb/devices/${shown?.localBusId} || exit 1
         node=$(printf /dev/bus/usb/%03d/%03d $(cat busnum) $(cat devnum))
         timeout 25 ${program} $node 0x80 6 0x0100 0 18`,
        { timeoutSeconds: 30 },
      );
      if (shown?.phase === 'attached' && asked.stdout.length >= 36) {
        say(`attached ${shown.attachedCount} times`);
        assert.equal(shown.port, port);
        return;
      }
      assert(performance.now() < end, `not there again: ${JSON.stringify(shown)}`);
    }
  }
});
