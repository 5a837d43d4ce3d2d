/**
 * The ring between two processes of one host: a gateway in a process of its own, front ends here (and
 * one in a third process, to be killed). The same suites as in one process, with real waiting, real
 * events and memory that two processors write to.
 */
import { strict as assert } from 'node:assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Transfer } from '../../src/core/transfer.ts';
import { Frontend } from '../../src/xenring/frontend.ts';
import { openShmPlatform, type ShmPlatform } from '../../src/xenring/platform/shm.ts';
import type { Platform } from '../../src/xenring/platform.ts';
import { Toolstack } from '../../src/xenring/toolstack.ts';
import { connectStore, type XenstoreClient } from '../../src/xenring/xenstore.ts';
import { FaultyEvents } from './faulty-events.ts';
import { allKinds, plugged, probe } from './front-driver.ts';
import { pause } from './platform/until.ts';
import { enumerate, until } from './rig.ts';
import { dumpRing, withDump } from './ring-dump.ts';
import { ShmHcdPlatform } from './shm-hcd-platform.ts';
import { type GatewayUse, ShmRemote } from './shm-remote.ts';
import { type HcdResult, XenHcd } from './xen-hcd.ts';

const HERE = 9;
const THIRD = 5;
const PROBE_ROUNDS = 200;
const PROBE_DEPTH = 8;
const DENSE_MILLISECONDS = 1000;
/** Before mocha's time is over, so that the failure says what both ends wait for. */
const STUCK_MILLISECONDS = 150_000;
const LET_GO_MILLISECONDS = 45_000;
const LOOK_MILLISECONDS = 5;
const READ: Transfer = { endpoint: 0x81, type: 'bulk', octets: 512 };

describe('the ring between two processes', function () {
  this.timeout(180_000); // on a busy machine it takes seconds to start a process
  let folder: string;
  /** Domain 9, which also serves the store: a gateway may be killed. */
  let here: ShmPlatform;
  let store: XenstoreClient;
  let tools: Toolstack;
  let gateway: ShmRemote;
  let idle: { watches: number };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'urbgate-two-'));
    here = await openShmPlatform({ folder, domain: HERE, serveStore: true });
    store = await connectStore(join(folder, 'store.socket'));
    await store.introduce(0);
    tools = new Toolstack(store);
  });

  afterEach(async () => {
    await ShmRemote.killAll();
    store.close();
    await here.close();
    rmSync(folder, { recursive: true });
  });

  async function serve(device: Record<string, unknown>, seed = 0): Promise<void> {
    gateway = await ShmRemote.gateway(folder, [device], seed);
    idle = await gateway.use();
  }

  /** Makes a controller with the device, and connects urbgate's front end to it. */
  async function connect(platform: Platform = here): Promise<Frontend> {
    await tools.addController(HERE);
    await tools.attachDevice(HERE, 0, '1-1');
    const frontend = new Frontend(platform, `/local/domain/${HERE}/device/vusb/0`);
    await frontend.start();
    return frontend;
  }

  /** Waits until the gateway has let go, as `letGo` sees it, and returns what it has then. */
  async function released(letGo: (use: GatewayUse) => boolean): Promise<GatewayUse> {
    let use = await gateway.use();
    for (const end = performance.now() + LET_GO_MILLISECONDS; !letGo(use); ) {
      assert(performance.now() < end, `the gateway does not let go: ${JSON.stringify(use)}`);
      await pause(LOOK_MILLISECONDS);
      use = await gateway.use();
    }
    return use;
  }

  /** The gateway holds nothing of a front end any more, and has complained of nothing. */
  async function nothingHeld(): Promise<void> {
    const wanted = { grantedPages: 0, mappedPages: 0, channels: 0, held: 0, warnings: [] };
    const use = await released(
      ({ mappedPages, channels, held }) => mappedPages + channels + held === 0,
    );
    const { watches, cpuMilliseconds: _, ...rest } = use;
    assert.deepEqual(rest, wanted);
    assert(watches <= idle.watches + 2, `${watches} watches`);
  }

  function nothingInUse(): void {
    assert.deepEqual(here.inUse, { grantedPages: 0, mappedPages: 0, channels: 0, watches: 0 });
  }

  it('all kinds of transfers', async () => {
    await serve({ pattern: 1 });
    const frontend = await connect();
    await allKinds(await plugged(frontend));
    await frontend.close();
    nothingInUse();
    await nothingHeld();
  });

  it('both sleep when there is nothing to do, right after dense traffic', async () => {
    await serve({});
    const frontend = await connect();
    const ring = await plugged(frontend);
    // A machine that is busy with others may need milliseconds for each.
    const end = performance.now() + DENSE_MILLISECONDS;
    while (performance.now() < end) await ring.transfer(READ);
    await pause(50);
    const [before, own] = [await gateway.use(), process.cpuUsage()];
    await pause(2000);
    const used = (await gateway.use()).cpuMilliseconds - before.cpuMilliseconds;
    const { user, system } = process.cpuUsage(own);
    assert(used < 60, `the gateway used ${used} ms of CPU time in 2 s`);
    assert(user + system < 200_000, `the front end used ${(user + system) / 1000} ms`);
    await frontend.close();
    await nothingHeld();
  });

  for (const [what, unlinks] of [
    ['unlinks all', () => true],
    ['unlinks none', () => false],
    ['unlinks every other', (n: number) => n % 2 === 0],
  ] as const) {
    it(`the stall guarantee, urbgate's front end: a driver that ${what}`, async () => {
      await serve({ short: 1000, stamp: true });
      const frontend = await connect();
      const ring = await plugged(frontend);
      const { violations, lost } = await probe(ring, PROBE_ROUNDS, PROBE_DEPTH, unlinks);
      assert.deepEqual({ violations, lost }, { violations: 0, lost: 0 });
      await frontend.close();
      nothingInUse();
      await nothingHeld();
    });
  }

  for (const seed of [0, 1, 2]) {
    it(`the stall guarantee, stock front end${seed ? `, faults of seed ${seed}` : ''}`, async () => {
      await serve({ short: 1000, stamp: true }, seed);
      await tools.addController(HERE);
      await tools.attachDevice(HERE, 0, '1-1');
      const platform = seed === 0 ? here : new FaultyEvents(here, seed + 100);
      const hcd = new XenHcd(new ShmHcdPlatform(platform), `/local/domain/${HERE}/device/vusb/0`);
      await hcd.probe();
      await enumerate(hcd, 1);
      const rounds = seed === 0 ? PROBE_ROUNDS : PROBE_ROUNDS / 4;
      assert.deepEqual(await stockProbe(hcd, rounds), { violations: 0, lost: 0 });
      assert.equal(hcd.error, null);
      await hcd.disconnect();
      await nothingHeld();
    });
  }

  it('the gateway is killed and started again under load: each URB comes back once', async () => {
    let stage = 'start';
    let counts = () => '';
    const body = async () => {
      await serve({ delay: 1 });
      const frontend = await connect();
      let ring = await plugged(frontend);
      for (let round = 0; round < 3; round++) {
        let [sent, back, doubled, ended] = [0, 0, 0, false];
        counts = () => `round ${round}: ${back} of ${sent} are back; device open: ${ring.isOpen}`;
        const read = () => {
          let done = false;
          sent++;
          ring.submit(READ, ({ status }) => {
            if (done) doubled++;
            done = true;
            back++;
            if (status === 'ok' && !ended) read();
          });
        };
        for (let n = 0; n < 30; n++) read();
        stage = 'load';
        await until(() => back > 100, 'the load is on');
        stage = 'kill';
        await gateway.kill();
        const lost = ring;
        stage = 'next gateway';
        await serve({ delay: 1 });
        stage = 'the front end hears of it';
        await lost.closed;
        ended = true;
        await until(() => back === sent, 'all are back');
        assert.equal(doubled, 0);
        stage = 'the device again';
        ring = await plugged(frontend);
      }
      stage = 'end';
      await frontend.close();
      nothingInUse();
      await nothingHeld();
    };
    await withDump(body, STUCK_MILLISECONDS, async () =>
      [stage, counts(), await dumpRing(folder, store, HERE)].join('\n'),
    );
  });

  it('a front end is killed under load: the device is free, and nothing in use', async () => {
    await serve({});
    const frontend = await connect();
    for (let round = 0; round < 2; round++) {
      const third = await ShmRemote.start('front', folder, THIRD);
      const loaded = third.says();
      await tools.addController(THIRD, { controller: 0 });
      await tools.detachDevice(HERE, 0, 1).catch(() => {});
      await tools.attachDevice(THIRD, 0, '1-1');
      third.tell();
      await loaded;
      await third.kill();
      await store.remove(`/local/domain/0/backend/vusb/${THIRD}`);
      await released(({ held }) => held === 0); // until then it would be refused, with a warning
      await tools.attachDevice(HERE, 0, '1-1');
      const ring = await plugged(frontend);
      assert.equal((await ring.transfer(READ)).status, 'ok');
    }
    await frontend.close();
    nothingInUse();
    await nothingHeld();
  });

  for (const seed of [1, 2, 3]) {
    it(`events that are late, doubled or for nothing, seed ${seed}`, async () => {
      await serve({ short: 1000, stamp: true }, seed);
      const frontend = await connect(new FaultyEvents(here, seed + 100));
      const ring = await plugged(frontend);
      const { violations, lost } = await probe(ring, 50, PROBE_DEPTH, (n) => n % 2 === 0);
      assert.deepEqual({ violations, lost }, { violations: 0, lost: 0 });
      await frontend.close();
      nothingInUse();
      await nothingHeld();
    });
  }
});

/** Reads behind a short one, which the handler of the short one unlinks. */
async function stockProbe(hcd: XenHcd, rounds: number) {
  const seen = { violations: 0, lost: 0 };
  let stamp = -1;
  for (let round = 0; round < rounds; round++) {
    await new Promise<void>((resolve) => {
      let back = 0;
      const urbs = Array.from({ length: PROBE_DEPTH }, (_, n) => ({
        ...{ port: 1, endpoint: 1, type: 'bulk' as const, in: true, shortNotOk: true },
        buffer: Buffer.alloc(4096),
        done: ({ actual, data }: HcdResult) => {
          if (n > 0 && actual > 0) seen.violations++;
          for (let at = 0; at + 4 <= actual; at += 512) {
            const now = data.readUInt32LE(at);
            if (now !== stamp + 1) seen.lost++;
            stamp = now;
          }
          if (n === 0) for (const urb of urbs.slice(1)) hcd.unlink(urb);
          if (++back === PROBE_DEPTH) resolve();
        },
      }));
      for (const urb of urbs) hcd.submit(urb);
    });
  }
  return seen;
}
