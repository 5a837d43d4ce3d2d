/**
 * The gateway behind a ring is killed again and again while a front end in another process keeps it busy:
 * each URB comes back once, and the next gateway goes on. `npm run soak`, or with RESTARTS=10000 for longer.
 */
import { strict as assert } from 'node:assert';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { openShmPlatform, type ShmPlatform } from '../src/xenring/platform/shm.ts';
import { Toolstack } from '../src/xenring/toolstack.ts';
import { connectStore, type XenstoreClient } from '../src/xenring/xenstore.ts';
import { runFrontend, runXenHcd } from '../test/xenring/crash-runs.ts';
import {
  ASLEEP_MILLISECONDS,
  AWAKE_MILLISECONDS,
  watchStores,
} from '../test/xenring/crash-world.ts';
import { randomOf } from '../test/xenring/memory-platform.ts';
import { dumpRing } from '../test/xenring/ring-dump.ts';
import { ShmRemote } from '../test/xenring/shm-remote.ts';

const RESTARTS = Number(process.env.RESTARTS ?? 1500);
const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));
/** Runs with several deaths on the memory platform, for each front end. */
const MODEL_RUNS = RESTARTS * 2;
/** The store is served here; the front end is in a process of its own. */
const HERE = 9;
const FRONT = 5;
const DEVICE = { delay: 1 };
/** Stores and bells of a gateway until it has answered some dozens of URBs. */
const STEPS = 800;
/** Each so many deaths a gateway lives until it has answered URBs. */
const LIVES = 5;
const ANSWERED = 50;
const STUCK_MILLISECONDS = 60_000;
/** What a gateway may do before it is killed, from its first microseconds on. */
const LIFE_MILLISECONDS_MAX = 400;
const STOP_MILLISECONDS_MAX = 50;
const LOOK_MILLISECONDS = 5;
const BUSY_LOOPS = 2;

describe(`the gateway behind a ring is killed, seed ${SEED}`, function () {
  this.timeout(7_200_000);
  const random = randomOf(SEED);
  let folder: string;
  let here: ShmPlatform;
  let store: XenstoreClient;
  let load: ShmRemote;
  let gateway: ShmRemote;
  const loops: ChildProcess[] = [];

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'urbgate-restart-'));
    here = await openShmPlatform({ folder, domain: HERE, serveStore: true });
    store = await connectStore(join(folder, 'store.socket'));
    await store.introduce(0);
    load = await ShmRemote.start('load', folder, FRONT);
    const tools = new Toolstack(store);
    await tools.addController(FRONT, { controller: 0 });
    await tools.attachDevice(FRONT, 0, '1-1');
    await load.counts(); // it begins
  });

  afterEach(async () => {
    for (const loop of loops.splice(0)) loop.kill('SIGKILL');
    await ShmRemote.killAll();
    store.close();
    await here.close();
    rmSync(folder, { recursive: true });
  });

  /** A gateway lives until it has answered URBs. */
  async function goesOn(what: string): Promise<void> {
    gateway = ShmRemote.dyingGateway(folder, DEVICE, 0);
    await gateway.says();
    const before = await load.counts();
    const end = performance.now() + STUCK_MILLISECONDS;
    for (let now = before; now.ok < before.ok + ANSWERED; now = await load.counts()) {
      const isStuck = performance.now() > end;
      if (isStuck) assert.fail(`${what}: no progress\n${await dump()}`);
      assert.deepEqual([now.doubled, now.faults], [0, []], what);
      await pause(LOOK_MILLISECONDS);
    }
    const { warnings } = await gateway.use();
    assert.deepEqual(warnings, [], what);
  }

  async function dump(): Promise<string> {
    return `${JSON.stringify(await load.counts())}\n${await dumpRing(folder, store, FRONT)}`;
  }

  /** One of both ends stands still for a moment. */
  async function standstill(): Promise<void> {
    const one = random() < 0.5 ? gateway : load;
    one.signal('SIGSTOP');
    await pause(random() * STOP_MILLISECONDS_MAX);
    one.signal('SIGCONT');
  }

  for (const isBusy of [false, true]) {
    it(`${RESTARTS} times, at any moment${isBusy ? ', with busy loops beside it' : ''}`, async () => {
      for (let n = 0; isBusy && n < BUSY_LOOPS; n++) {
        loops.push(spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }));
      }
      for (let round = 1; round <= RESTARTS; round++) {
        if (round % LIVES === 0) await goesOn(`restart ${round}`);
        else gateway = ShmRemote.dyingGateway(folder, DEVICE, 0);
        if (random() < 0.2) await standstill();
        // Short lives as often as long ones.
        await pause(LIFE_MILLISECONDS_MAX ** random() - 1);
        if (random() < 0.2) await standstill();
        await gateway.kill();
      }
      await goesOn('the end');
    });
  }

  it(`at each of its first ${STEPS} stores and bells`, async () => {
    for (let step = 1; step <= STEPS; step++) {
      gateway = ShmRemote.dyingGateway(folder, DEVICE, step);
      await Promise.race([gateway.ended, pause(STUCK_MILLISECONDS, undefined, { ref: false })]);
      await gateway.kill();
      if (step % LIVES !== 0) continue;
      await goesOn(`step ${step}`);
      await gateway.kill();
    }
    await goesOn('the end');
  });

  it(`${MODEL_RUNS} runs with several deaths at chosen steps, each front end`, async () => {
    for (let n = 0; n < MODEL_RUNS; n++) {
      const seed = (SEED + n) >>> 0;
      const draw = randomOf(seed);
      const crashes = Array.from(
        { length: 1 + Math.floor(draw() * 4) },
        () => 1 + Math.floor((draw() < 0.5 ? 80 : 600) * draw()),
      );
      const run = { seed, crashes, transfers: 40, pauseTurns: Math.floor(30 * draw() * draw()) };
      const unwatch = watchStores(n % 2 === 0 ? ASLEEP_MILLISECONDS : AWAKE_MILLISECONDS);
      try {
        await runFrontend(run);
        await runXenHcd(run);
      } catch (error) {
        assert.fail(`${JSON.stringify(run)}: ${(error as Error).message}`);
      } finally {
        unwatch();
      }
    }
  });
});
