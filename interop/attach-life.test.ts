/**
 * Attachments of `urbgate attach` over time: they end as the stock tool's do, and those that are to
 * come back do, whatever happens to server, device and network.
 */
import { strict as assert } from 'node:assert';
import { FailingServer, failAtRandom, recovered } from './lab/attachment-faults.ts';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import type { Guest } from './lab/guest.ts';
import {
  attachWith,
  START_SECONDS,
  shownAttachments,
  supervise,
  urbgateCommand,
} from './lab/urbgate-attach.ts';
import { detachAll, loadVhci, ports, waitConfigured, waitFree } from './lab/usbip.ts';

const RESTARTS = 3;
const REPLUGS = 3;
const CUT_SECONDS = [1, 10, 60];
/** test/cli/persist.test.ts has a hundred, with a kernel of ours; attach.soak.ts with the real one. */
const FAULTS = 25;
const AWAY_MILLISECONDS_MAX = 2000;
const SEED = Number(process.env.SEED ?? 20_261_128);

const say = (text: string) => console.log(`      ${text}`);

describe('attachments over time', function () {
  this.timeout(900_000);
  let cabled: CabledGuest;
  let guest: Guest;
  let server: FailingServer;

  before(async function () {
    if (process.getuid?.() !== 0) this.skip(); // network cables are root's
    cabled = await bootCabledGuest({ name: 'attach-life' });
    guest = cabled.guest;
    server = new FailingServer(cabled);
    await loadVhci(guest);
    await supervise(guest);
  });

  after(() => cabled?.kill());

  afterEach(async function () {
    await server?.kill();
    if (!guest?.alive) return;
    await detachAll(guest);
    if (!this.currentTest?.isPassed()) return;
    assert.deepEqual(await ports(guest), []);
    assert.deepEqual(guest.kernelComplaints(), []);
  });

  async function attach(options = '') {
    const where = await server.start();
    const { port } = await attachWith(guest, 'urbgate', server.busId, where, options);
    return { port, where };
  }

  /** Attaches so that it comes back, does something to the server, and looks at the port. */
  async function persists(work: (recover: (after: string) => Promise<void>) => Promise<void>) {
    const { port } = await attach('--persist');
    await work((after) => recovered(guest, port, after));
    const [shown, ...others] = await shownAttachments(guest);
    say(`attached ${shown?.attachedCount} times`);
    assert.deepEqual([shown?.phase, shown?.port, others], ['attached', port, []]);
    assert.equal((await ports(guest)).length, 1, 'a port is left behind');
    // Before the server goes, or it would come back in the next test.
    await guest.succeed(urbgateCommand('detach all'), { timeoutSeconds: START_SECONDS });
  }

  it('stock usbip port and usbip detach work on its ports', async () => {
    const { port, where } = await attach('--persist');
    const shown = await guest.succeed('usbip port');
    assert.match(shown, new RegExp(`usbip://${where.address}:${where.port}/1-1`));
    await guest.succeed(`usbip detach -p ${port}`);
    await waitFree(guest, [port]);
    await guest.succeed('sleep 1');
    assert.deepEqual(await shownAttachments(guest), [], 'it was detached: a wish');
  });

  it('--persist comes back to the same port after the server was killed and restarted', () =>
    persists(async (recover) => {
      for (let n = 0; n < RESTARTS; n++) {
        await server.restart(0);
        await recover(`restart ${n}`);
      }
    }));

  it('and after the device was unplugged and plugged in again', () =>
    persists(async (recover) => {
      for (let n = 0; n < REPLUGS; n++) {
        await server.replug(500);
        await recover(`replug ${n}`);
      }
    }));

  for (const seconds of CUT_SECONDS) {
    it(`and after a network that was away for ${seconds} s`, () =>
      persists(async (recover) => {
        await server.cut(seconds * 1000);
        await recover(`a cut of ${seconds} s`);
      }));
  }

  it(`and after ${FAULTS} random faults (SEED=${SEED})`, () =>
    persists((recover) => {
      const faults = { count: FAULTS, seed: SEED, awayMillisecondsMax: AWAY_MILLISECONDS_MAX };
      return failAtRandom(server, faults, recover);
    }));

  it('--saved: comes up when the server does, and again when its supervisor was killed', async () => {
    const { address, port } = await server.start();
    await server.kill(); // its port is free, and stays ours: there is nobody else
    await guest.succeed(`cat > /run/attachments <<END
# what is wanted at boot
-r ${address}:${port} -b 1-1
-r ${address}:${port} -d 0525:a4a0   # the other one
END`);
    // As a service would.
    const boot = () =>
      supervise(
        guest,
        'attach --saved --foreground --control /run/saved.sock',
        'URBGATE_ATTACHMENTS=/run/attachments',
      );
    let supervisor = await boot();
    try {
      await supervisor.printed(/Waiting for [\s\S]*Waiting for/, START_SECONDS);
      await server.start();
      const both = /attached to vhci port[\s\S]*attached to vhci port/;
      const attached = /1-1 attached to vhci port (\d+)/;
      for (let round = 0; round < 2; round++) {
        await supervisor.printed(both, START_SECONDS);
        const place = Number(attached.exec(supervisor.stdout)?.[1]);
        await waitConfigured(guest, '1-1', place, 20);
        supervisor.signal('SIGKILL');
        await supervisor.result(10);
        await waitFree(guest, [place]);
        if (round === 0) supervisor = await boot();
      }
    } finally {
      supervisor.signal('SIGKILL');
    }
  });

  it('a supervisor that is killed leaves its ports free, and the next attach starts another', async () => {
    const { port, where } = await attach();
    const other = await attachWith(guest, 'urbgate', server.otherBusId, where);
    await guest.succeed("kill -9 $(pgrep -f '[a]ttach --foreground')");
    await waitFree(guest, [port, other.port]);
    await attachWith(guest, 'urbgate', '1-1', where);
    await guest.succeed(urbgateCommand('detach all'), { timeoutSeconds: START_SECONDS });
  });
});
