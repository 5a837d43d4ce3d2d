/**
 * `urbgate attach` in the place of the stock client: with urbgate at either end alone nothing moves
 * behind a failed transfer, whatever is at the other; with the kernel at both ends it does.
 */
import { strict as assert } from 'node:assert';
import { withGateway, withKernel } from './lab/attach-servers.ts';
import { blockDevice, DISK_MODULES } from './lab/block-device.ts';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { exportByKernel } from './lab/kernel-stub.ts';
import { createGadget } from './lab/local-gadget.ts';
import {
  faults,
  type ProbeCase,
  RELAY_CASES,
  SHORT_CASE,
  showsTheHole,
} from './lab/stall-cases.ts';
import { formatProbe, type ProbeResult, runProbe, underLoad } from './lab/stall-probe.ts';
import { type AttachTool, attachWith, shownAttachments, supervise } from './lab/urbgate-attach.ts';
import { detachAll, loadVhci, type UsbipServer } from './lab/usbip.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';

const ROUNDS = 1000;
const ROUNDS_LOADED = 300;
const CONTROL_ROUNDS = 200;
/** What the kernel's gadget can do: it stamps nothing. */
const GADGET_CASE: ProbeCase = { ...SHORT_CASE, spec: '', settings: { stamps: false } };

const QUICK_CASES = [
  'depth 32',
  'stall, cleared while the others are queued',
  'protocol error',
  'bulk OUT, stall',
  'unlink of all, oldest first',
];

const say = (text: string) => console.log(text.replace(/^/gm, '      '));

describe('urbgate attach', function () {
  this.timeout(600_000);
  let cabled: CabledGuest;
  let guest: Guest;

  before(async function () {
    if (process.getuid?.() !== 0) this.skip(); // network cables are root's
    cabled = await bootCabledGuest({ name: 'attach' });
    guest = cabled.guest;
    await loadVhci(guest);
    await guest.succeed(DISK_MODULES);
    await supervise(guest);
  });

  after(() => cabled?.kill());

  afterEach(async function () {
    if (!guest.alive) return;
    await guest.run('umount /mnt 2>/dev/null');
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  async function probe(
    tool: AttachTool,
    server: UsbipServer,
    busid: string,
    { settings }: ProbeCase,
    rounds: number,
    load = false,
  ): Promise<ProbeResult> {
    const { node } = await attachWith(guest, tool, busid, server);
    const measure = () =>
      runProbe(guest, node, { stamps: true, ...settings, rounds }, 60 + rounds / 2);
    return await (load ? underLoad(guest, measure) : measure());
  }

  /** Says whether a thread of vhci could not be watched, so that time had to do. */
  async function assertExactFences(): Promise<void> {
    const [shown] = await shownAttachments(guest);
    say(`${shown?.fences} fences, ${shown?.timedFences} by time`);
    assert.equal(shown?.timedFences, 0);
  }

  describe('stall probe', () => {
    for (const load of [false, true]) {
      const rounds = load ? ROUNDS_LOADED : ROUNDS;
      const how = load ? 'guest loaded' : 'guest idle';

      it(`urbgate attach, urbgate serve, ${rounds} rounds, ${how}`, async () => {
        await withGateway(cabled, [SHORT_CASE.spec], async (server) => {
          const result = await probe('urbgate', server, '1-1', SHORT_CASE, rounds, load);
          say(formatProbe('urbgate attach, urbgate serve', result));
          assert.deepEqual(faults(SHORT_CASE, rounds, result), []);
          if (!load) await assertExactFences();
        });
      });

      it(`urbgate attach, the kernel's server, ${rounds} rounds, ${how}`, async () => {
        const gadget = await sourceSinkGadget(guest, { bulk_buflen: '1000' });
        await withKernel(guest, gadget, async (server) => {
          const result = await probe('urbgate', server, gadget.busid, GADGET_CASE, rounds, load);
          say(formatProbe('urbgate attach, usbip-host', result));
          assert.deepEqual(faults(GADGET_CASE, rounds, result), []);
          if (!load) await assertExactFences();
        });
      });
    }

    it(`urbgate attach --direct, urbgate serve, ${CONTROL_ROUNDS} rounds`, async () => {
      await withGateway(cabled, [SHORT_CASE.spec], async (server) => {
        const result = await probe('urbgate --direct', server, '1-1', SHORT_CASE, CONTROL_ROUNDS);
        say(formatProbe('urbgate attach --direct, urbgate serve', result));
        assert.deepEqual(faults(SHORT_CASE, CONTROL_ROUNDS, result), []);
      });
    });

    // The others are in the soak.
    for (const one of RELAY_CASES.filter(({ name }) => QUICK_CASES.includes(name))) {
      const rounds = Math.min(50, one.rounds);
      it(`${one.name}, urbgate at both ends, ${rounds} rounds`, async () => {
        await withGateway(cabled, [one.spec], async (server) => {
          const result = await probe('urbgate', server, '1-1', one, rounds);
          say(formatProbe(one.name, result));
          assert.deepEqual(faults(one, rounds, result), []);
        });
      });
    }

    it('finds violations, a hang or an oops with the kernel at both ends', async () => {
      const control = await bootGuest({ name: 'attach-control' });
      try {
        await loadVhci(control);
        const gadget = await sourceSinkGadget(control, { bulk_buflen: '1000' });
        const server = await exportByKernel(control, gadget);
        const tool = 'urbgate --direct';
        const { node } = await attachWith(control, tool, gadget.busid, server);
        const result = await runProbe(control, node, { rounds: CONTROL_ROUNDS }, 60);
        say(formatProbe('urbgate attach --direct, usbip-host', result));
        assert(showsTheHole(result), 'the probe finds nothing here: it proves nothing elsewhere');
      } finally {
        await control.kill();
      }
    });
  });

  describe('disk', () => {
    const useDisk = async (disk: string) => {
      await guest.succeed(`mkfs.ext4 -q -F /dev/${disk} && mount /dev/${disk} /mnt`, {
        timeoutSeconds: 120,
      });
      await guest.succeed(
        `for n in $(seq 4); do head -c 2097152 /dev/urandom > /mnt/file$n; done
         cd /mnt && sha256sum file* > /run/sums && sync && cd / && umount /mnt
         echo 3 > /proc/sys/vm/drop_caches
         e2fsck -f -n /dev/${disk} && mount /dev/${disk} /mnt && cd /mnt && sha256sum -c /run/sums
         cd / && umount /mnt`,
        { timeoutSeconds: 120 },
      );
    };

    for (const tool of ['urbgate', 'urbgate --direct'] as const) {
      it(`keeps files: ${tool}, urbgate serve`, async () => {
        await withGateway(cabled, ['virtual:disk,size=64MiB'], async (server) => {
          const device = await attachWith(guest, tool, '1-1', server);
          await useDisk(await blockDevice(guest, device));
        });
      });
    }

    for (const tool of ['urbgate', 'urbgate --direct'] as const) {
      it(`keeps files: ${tool}, the kernel's server`, async () => {
        await guest.succeed('truncate -s 64M /run/medium');
        const gadget = await createGadget(guest, {
          function: 'mass_storage.0',
          attributes: { 'lun.0/file': '/run/medium' },
        });
        await withKernel(guest, gadget, async (server) => {
          const device = await attachWith(guest, tool, gadget.busid, server);
          await useDisk(await blockDevice(guest, device));
        });
      });
    }
  });
});
