/** Load over a `CrashWorld`, and what must hold whenever the gateway dies: for unit tests and the soak. */
import { strict as assert } from 'node:assert';
import type { Transfer } from '../../src/core/transfer.ts';
import { Frontend } from '../../src/xenring/frontend.ts';
import type { RingDevice } from '../../src/xenring/ring-device.ts';
import { ManualDevice } from '../core/manual-device.ts';
import { type CrashOptions, CrashWorld } from './crash-world.ts';
import { randomOf } from './memory-platform.ts';
import { type HcdUrb, XenHcd } from './xen-hcd.ts';

const DEPTH = 10;
const OCTETS_MAX = 256;
/** A run without progress for so many turns of the event loop, and so long, never will have any. */
const TURNS_MAX = 2000;
/** A stock front end has timers, and is waited for with timers. */
const STUCK_MILLISECONDS = 20_000;

export interface CrashRun extends Omit<CrashOptions, 'device'> {
  readonly seed: number;
  /** Transfers until the load ends. */
  readonly transfers: number;
}

/** Runs a load to its end; returns the steps of each life. */
export type Runner = (run: CrashRun) => Promise<number[]>;

/** The other end is urbgate's. */
export async function runFrontend(run: CrashRun): Promise<number[]> {
  const random = randomOf(run.seed);
  const load = await Load.begin(run, random);
  const frontend = new Frontend(load.world.world.domain(7), FRONT_PATH);
  frontend.on('fault', (error) => load.world.log.warn(`front end: ${error.message}`));
  let device: RingDevice | undefined;
  const submit = (ring: RingDevice) => {
    const done = load.sent();
    const pending = ring.submit(transferOf(random), ({ status }) => {
      done(status === 'ok');
      if (ring.isOpen && load.goesOn) submit(ring);
    });
    if (random() < 0.2) setImmediate(() => ring.unlink(pending));
  };
  frontend.on('plugged', (ring) => {
    device = ring;
    for (let n = 0; n < DEPTH && load.goesOn; n++) submit(ring);
  });
  await frontend.start();
  await load.end(
    () => device?.isOpen === true,
    (done) => device?.submit(WRITE, ({ status }) => done(status === 'ok')),
  );
  await frontend.close();
  return load.tidyUp();
}

/** The other end is a stock one, which cannot connect again. */
export async function runXenHcd(run: CrashRun): Promise<number[]> {
  const random = randomOf(run.seed);
  const load = await Load.begin(run, random);
  const hcd = new XenHcd(load.world.world.domain(7), FRONT_PATH, { lag: () => random() < 0.1 });
  const urbOf = (transfer: Transfer, done: (isOk: boolean) => void): HcdUrb => ({
    ...{ port: 1, type: 'bulk', endpoint: transfer.endpoint & 0xf },
    ...{ in: transfer.data === undefined, shortNotOk: transfer.shortNotOk === true },
    buffer: Buffer.alloc(transfer.data?.length ?? transfer.octets ?? 0),
    done: ({ status }) => done(status === 0),
  });
  const submit = () => {
    const done = load.sent();
    const urb = urbOf(transferOf(random), (isOk) => {
      done(isOk);
      if (hcd.speeds[1] !== 0 && load.goesOn) submit();
    });
    hcd.submit(urb);
    if (random() < 0.2) setImmediate(() => hcd.unlink(urb));
  };
  hcd.onPort = (port, speed) => {
    if (port !== 1 || speed === 0) return;
    for (let n = 0; n < DEPTH && load.goesOn; n++) submit();
  };
  await hcd.probe();
  await load.end(
    () => hcd.speeds[1] !== 0,
    (done) => hcd.submit(urbOf(WRITE, done)),
  );
  assert.equal(hcd.error, null);
  const steps = await load.tidyUp();
  await hcd.disconnect();
  return steps;
}

const FRONT_PATH = '/local/domain/7/device/vusb/0';
const WRITE: Transfer = { endpoint: 0x02, type: 'bulk', data: Buffer.alloc(8) };

function transferOf(random: () => number): Transfer {
  const octets = Math.ceil(random() * OCTETS_MAX);
  const kind = random();
  if (kind < 0.3) return { ...WRITE, data: Buffer.alloc(octets) };
  return { endpoint: 0x81, type: 'bulk', octets, shortNotOk: kind < 0.6 };
}

/** A device that answers now or in a later turn, and short now and then. */
function laterDevice(random: () => number): ManualDevice {
  const device = new ManualDevice();
  device.onSubmit = (urb) => {
    const answer = () => {
      if (!device.atDevice.includes(urb)) return; // unlinked
      if (random() < 0.4) return void setImmediate(answer);
      const isShort = urb.in && random() < 0.2;
      const octets = isShort ? urb.octets >> 1 : urb.octets;
      device.complete(urb, isShort && urb.shortNotOk ? 'short' : 'ok', octets);
    };
    if (random() < 0.3) answer();
    else setImmediate(answer);
  };
  return device;
}

/** Transfers that are counted: each is to come back once. */
class Load {
  readonly world: CrashWorld;
  readonly #transfers: number;
  #sent = 0;
  #back = 0;
  #ok = 0;

  static async begin(run: CrashRun, random: () => number): Promise<Load> {
    const load = new Load(run, random);
    await load.world.begin();
    return load;
  }

  private constructor(run: CrashRun, random: () => number) {
    this.world = new CrashWorld({ ...run, device: () => laterDevice(random) });
    this.#transfers = run.transfers;
  }

  /** Whether more are to be sent. */
  get goesOn(): boolean {
    return this.#sent < this.#transfers;
  }

  /** One is sent; call what it returns when it is back. */
  sent(): (isOk: boolean) => void {
    this.#sent++;
    let isBack = false;
    return (isOk) => {
      assert(!isBack, 'a transfer came back twice');
      isBack = true;
      this.#back++;
      if (isOk) this.#ok++;
    };
  }

  /** All are sent and back, and after that the device works. */
  async end(isThere: () => boolean, write: (done: (isOk: boolean) => void) => void): Promise<void> {
    const allBack = () => this.#back === this.#sent;
    await this.#progress(() => !this.goesOn && allBack());
    const before = this.#ok;
    while (this.#ok === before) {
      await this.#progress(isThere);
      write(this.sent());
      await this.#progress(allBack);
    }
    assert.deepEqual(this.world.log.warnings, [], this.#describe());
  }

  async tidyUp(): Promise<number[]> {
    const steps = this.world.lives.map((life) => life.steps);
    await this.world.calm();
    await this.world.life.backends.stop();
    return steps;
  }

  async #progress(holds: () => boolean): Promise<void> {
    const begin = process.hrtime.bigint();
    for (let turns = 0; !holds(); turns++) {
      const waited = Number(process.hrtime.bigint() - begin) / 1e6;
      const isStuck = turns > TURNS_MAX && waited > STUCK_MILLISECONDS;
      assert(!isStuck, `no progress: ${this.#describe()}`);
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }

  #describe(): string {
    return `${this.#back} of ${this.#sent} are back, ${this.#ok} ok; ${this.world.describe()}`;
  }
}
