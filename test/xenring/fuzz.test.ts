/**
 * A front end that writes anything anywhere into its pages, at random. Whatever it does, the
 * controller reports at most one fault, touches nothing afterwards, never answers more than was
 * asked, ends, and gives every URB back to itself.
 *
 * Seeds are fixed: the first is `SEED` million, and each front end has the next one. `FUZZ_SECONDS` and
 * `FUZZ_ROUNDS` say when to stop, whichever comes last. A failure prints the seed.
 */
import { strict as assert } from 'node:assert';
import type { Clock } from '../../src/core/clock.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { DeviceSession } from '../../src/core/session.ts';
import { Controller } from '../../src/xenring/controller.ts';
import { type GrantSegment, PlatformError } from '../../src/xenring/platform.ts';
import { RingError } from '../../src/xenring/ring-error.ts';
import { FakeClock } from '../examples/rig.ts';
import { randomOf } from './memory-platform.ts';

const ROUNDS = Number(process.env.FUZZ_ROUNDS ?? 300);
const SECONDS = Number(process.env.FUZZ_SECONDS ?? 0);
const SEED = Number(process.env.SEED ?? 1);
const PORTS = 3;

class Fuzz {
  readonly random: () => number;
  readonly urbPage = Buffer.from(new ArrayBuffer(4096));
  readonly connPage = Buffer.from(new ArrayBuffer(4096));
  readonly pages = new Map<number, Buffer>();
  readonly clock = new FakeClock();
  readonly sessions: DeviceSession[] = [];
  readonly faults: unknown[] = [];
  readonly controller: Controller;
  produced = 0;
  answeredDue = false;
  /** Chance that a field is spoiled. */
  readonly malice: number;

  constructor(seed: number) {
    this.random = randomOf(seed);
    this.malice = [0, 0.002, 0.02, 0.3][seed % 4] ?? 0;
    for (const page of [this.urbPage, this.connPage]) {
      page.writeUInt32LE(1, 4);
      page.writeUInt32LE(1, 12);
    }
    for (let reference = 1; reference < 20; reference++) {
      this.pages.set(reference, Buffer.alloc(4096));
    }
    const granted = (segments: readonly GrantSegment[]) =>
      segments.map(({ reference, offset, octets }) => {
        const page = this.pages.get(reference);
        if (page === undefined) throw new PlatformError(`Cannot use grant ${reference}`);
        assert(offset + octets <= 4096, 'a segment leaves its page');
        return page.subarray(offset, offset + octets);
      });
    this.controller = new Controller(this.urbPage, this.connPage, {
      ports: PORTS,
      stallProtocol: seed % 3 === 0,
      guest: {
        copyFrom: (segments, target) => {
          assert.equal(Buffer.concat(granted(segments)).copy(target), target.length);
        },
        copyTo: (segments, source) => {
          const room = granted(segments).reduce((sum, { length }) => sum + length, 0);
          assert(source.length <= room, 'more is copied than there is room');
        },
      },
      notify: () => {},
      onAnswered: () => {
        this.answeredDue = true;
      },
      onFault: (error) => this.faults.push(error),
    });
    this.#plug(1, { short: 1000 });
    this.#plug(2, { delay: 2 });
  }

  #plug(port: number, options: Record<string, unknown>): void {
    const clock: Clock = this.clock;
    const device = new VirtualDevice(sourceSink.define(options as never), {
      clock,
      onFault: (error) => assert.fail(`the device fails: ${error}`),
    });
    const client = this.controller.client(() => {});
    const { recovery } = this.controller;
    const session = new DeviceSession(device, client, { recovery, clock });
    client.session = session;
    this.sessions.push(session);
    this.controller.plug(port, session, 'high');
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  number(): number {
    const numbers = [0, 1, 2, 15, 16, 17, 32, 63, 64, 512, 1000, 4095, 4096, 65_535, 0x7fff_ffff];
    return this.random() < 0.7 ? (numbers[this.below(numbers.length)] ?? 0) : this.below(2 ** 32);
  }

  /** A request that is mostly sound, put where the next one belongs. */
  request(): void {
    const slot = Buffer.alloc(148);
    slot.writeUInt16LE(this.malice > 0 ? this.below(24) : this.produced & 0xffff, 0);
    const type = this.below(4);
    const endpoints = [
      [3, 4],
      [5, 6],
      [0, 0],
      [1, 2],
    ][type] ?? [0, 0];
    const isIn = this.random() < 0.5;
    const unlink = this.random() < 0.2 ? 0x20 : 0;
    const endpoint = (endpoints[isIn ? 0 : 1] ?? 0) << 15;
    const port = 1 + this.below(PORTS);
    slot.writeUInt32LE(((type << 30) | endpoint | (isIn ? 0x80 : 0) | unlink | port) >>> 0, 4);
    const segments = this.below(5);
    slot.writeUInt16LE(segments, 2);
    slot.writeUInt16LE(this.below(2) | (this.random() < 0.2 ? 0x8000 : 0), 8);
    const setups = [
      [0x80, 6, 0, 1, 0, 0, 18, 0],
      [0, 9, 1, 0, 0, 0, 0, 0],
      [1, 11, 1, 0, 0, 0, 0, 0],
      [0, 5, 3, 0, 0, 0, 0, 0],
      [2, 1, 0, 0, 0x81, 0, 0, 0],
      [0x23, 3, 4, 0, 1, 0, 0, 0],
    ];
    if (unlink) slot.writeUInt16LE((this.produced - this.below(16)) & 0xffff, 12);
    else if (type === 2) slot.set(setups[this.below(setups.length)] ?? [], 12);
    else if (type === 0) slot.writeUInt16LE(this.below(4), 16);
    for (let n = 0; n < 16; n++) {
      slot.writeUInt32LE(1 + this.below(19), 20 + 8 * n);
      slot.writeUInt16LE(this.below(2048), 24 + 8 * n);
      slot.writeUInt16LE(this.below(2048), 26 + 8 * n);
    }
    if (this.random() < this.malice) slot.writeUInt16LE(this.number() & 0xffff, 2 * this.below(74));
    this.urbPage.set(slot, 64 + (this.produced & 15) * 148);
    this.produced++;
    this.urbPage.writeUInt32LE(this.produced >>> 0, 0);
  }

  /** Requests published and not answered. */
  get room(): boolean {
    return (this.produced - this.urbPage.readUInt32LE(8)) >>> 0 < 16;
  }

  step(): void {
    const dice = this.random();
    if (dice < 0.6) {
      if (this.room) this.request();
    } else if (dice < 0.7) this.clock.advance(this.below(4));
    else if (dice < 0.9) {
      // As xen-hcd does when it has handled all.
      this.urbPage.writeUInt32LE((this.urbPage.readUInt32LE(8) + 1) >>> 0, 12);
    } else if (this.random() < this.malice) this.scribble();
    if (this.random() < 0.6) this.work();
  }

  scribble(): void {
    const page = this.random() < 0.7 ? this.urbPage : this.connPage;
    const inHeader = this.random() < 0.5;
    page.writeUInt32LE(this.number() >>> 0, 4 * this.below(inHeader ? 16 : 1024));
    if (this.random() < 0.1) this.pages.delete(1 + this.below(19));
  }

  work(): void {
    const before = this.urbPage.readUInt32LE(8);
    const broken = this.faults.length > 0;
    const next = this.controller.work();
    if (!broken) return;
    assert.equal(next, 'nothing');
    assert.equal(this.urbPage.readUInt32LE(8), before, 'it answers after a fault');
  }

  async end(): Promise<void> {
    for (const session of this.sessions) await session.close();
    for (const session of this.sessions) assert.equal(session.outstandingCount, 0);
    this.work();
    assert(this.faults.length <= 1, 'a fault is reported once');
    for (const fault of this.faults) {
      assert(fault instanceof RingError || fault instanceof PlatformError, `a bug: ${fault}`);
    }
  }
}

describe('ring memory, fuzzed', () => {
  it(`${SECONDS} s, at least ${ROUNDS} front ends`, async function () {
    this.timeout(120_000 + SECONDS * 1000);
    const end = performance.now() + SECONDS * 1000;
    let faults = 0;
    let sound = 0;
    let round = 0;
    for (; round < ROUNDS || performance.now() < end; round++) {
      const seed = SEED * 1_000_000 + round;
      try {
        const fuzz = new Fuzz(seed);
        for (let step = 0; step < 300; step++) fuzz.step();
        await fuzz.end();
        faults += fuzz.faults.length;
        if (fuzz.malice > 0) continue;
        sound++;
        assert.deepEqual(fuzz.faults, [], 'a sound front end is faulted');
        assert.equal(fuzz.urbPage.readUInt32LE(8), fuzz.produced >>> 0, 'all is answered');
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
    if (SECONDS > 0) console.log(`      ${round} front ends, ${faults} of them shut out`);
    assert(faults > round / 10 && sound > round / 10, `${faults} faults, ${sound} sound`);
  });
});
