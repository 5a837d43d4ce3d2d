/** attach.test.ts and attach-life.test.ts for longer: `npm run soak`. */
import { strict as assert } from 'node:assert';
import { randomInt } from 'node:crypto';
import { withGateway, withKernel } from './lab/attach-servers.ts';
import { FailingServer, failAtRandom, recovered } from './lab/attachment-faults.ts';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import type { Guest } from './lab/guest.ts';
import { faults, type ProbeCase, RELAY_CASES, SHORT_CASE } from './lab/stall-cases.ts';
import { formatProbe, runProbe, underLoad } from './lab/stall-probe.ts';
import { attachWith, shownAttachments, urbgateCommand } from './lab/urbgate-attach.ts';
import { detachAll, loadVhci, ports, type UsbipServer } from './lab/usbip.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';

const ROUNDS = 10_000;
const FAULTS = 100;
const AWAY_MILLISECONDS_MAX = 5000;
const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));

const say = (text: string) => console.log(`      ${text}`);

describe('urbgate attach, for long', function () {
  this.timeout(3_600_000);
  let cabled: CabledGuest;
  let guest: Guest;

  before(async () => {
    cabled = await bootCabledGuest({ name: 'attach-soak', processors: 2 });
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

  function probeServed(one: ProbeCase, load: boolean, rounds?: number): Promise<void> {
    return withGateway(cabled, [one.spec], (server) => probe(server, '1-1', one, load, rounds));
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
      const one = { ...SHORT_CASE, settings: { stamps: false } };
      await withKernel(guest, gadget, (server) => probe(server, gadget.busid, one, load));
    });
  }

  it(`--persist after ${FAULTS} random faults (SEED=${SEED})`, async () => {
    const server = new FailingServer(cabled);
    try {
      const at = await server.start();
      const { port } = await attachWith(guest, 'urbgate', server.busId, at, '--persist');
      const faults = { count: FAULTS, seed: SEED, awayMillisecondsMax: AWAY_MILLISECONDS_MAX };
      await failAtRandom(server, faults, (after) => recovered(guest, port, after));
      assert.equal((await ports(guest)).length, 1, 'a port is left behind');
    } finally {
      await server.kill();
    }
  });
});
