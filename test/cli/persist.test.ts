/**
 * `--persist` against faults in any order, while a device is in use: it is attached again each time,
 * its traffic goes on, and nothing is left over.
 */
import { strict as assert } from 'node:assert';
import { connect, createServer, type Socket } from 'node:net';
import { pino } from 'pino';
import { Supervisor } from '../../src/cli/supervisor.ts';
import type { Clock } from '../../src/core/clock.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { Chance } from '../sim/time.ts';
import { type FakeKernel, FakeVhci } from '../usbip/fake-vhci.ts';
import { IN, setupOctets } from '../usbip/scripted-client.ts';

const HOST = '127.0.0.1';
const FAULTS = 100;
const SEED = Number(process.env.SEED ?? 20_060_412);
/** Pauses between tries pass so many times as fast. */
const HURRY = 8;
const AWAY_MILLISECONDS_MAX = 100;
/** Transfers under way, and how many must end well after a fault before the next. */
const DEPTH = 4;
const PROGRESS = 10;

const HURRIED: Clock = {
  now: () => performance.now() * HURRY,
  after: (milliseconds, call) => {
    const timer = setTimeout(call, milliseconds / HURRY);
    return () => clearTimeout(timer);
  },
};

/** A server behind a wire that can be cut, or falls silent. */
class Place {
  readonly #wires = new Set<Socket>();
  readonly #listener = createServer((near) => {
    const far = connect(this.#target);
    if (!this.#isSilent) near.pipe(far).pipe(near);
    this.#pairs.set(near, far);
    for (const socket of [near, far]) {
      this.#wires.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => {
        near.destroy();
        far.destroy();
        this.#wires.delete(socket);
        this.#pairs.delete(near);
      });
    }
  });
  readonly #pairs = new Map<Socket, Socket>();
  #isSilent = false;
  #target: ListenAddress = { host: HOST, port: 0 };
  #server: UsbipServer | null = null;
  registry = new Registry();

  async listen(): Promise<ListenAddress> {
    await new Promise<void>((resolve) => this.#listener.listen(0, HOST, resolve));
    return { host: HOST, port: (this.#listener.address() as { port: number }).port };
  }

  async start(): Promise<void> {
    this.registry = new Registry();
    this.plug();
    const log = { info: () => {}, warn: () => {} };
    this.#server = new UsbipServer({ registry: this.registry, log });
    this.#target = await this.#server.listen({ host: HOST, port: this.#target.port });
  }

  /** Says goodbye to clients. */
  async stop(): Promise<void> {
    await this.#server?.close();
    this.#server = null;
  }

  plug(): void {
    const device = new VirtualDevice(sourceSink.define({ delay: 1 } as never));
    this.registry.add(device, 'device', '1-1');
  }

  cut(): void {
    for (const socket of this.#wires) socket.resetAndDestroy();
  }

  /** What is sent arrives when it speaks again. */
  silence(): void {
    this.#isSilent = true;
    for (const [near, far] of this.#pairs) {
      near.unpipe(far);
      far.unpipe(near);
    }
  }

  speak(): void {
    this.#isSilent = false;
    for (const [near, far] of this.#pairs) near.pipe(far).pipe(near);
  }

  close(): void {
    this.cut();
    this.#listener.close();
  }
}

/** A driver that reads all the time and now and then takes a transfer back, until the port is gone. */
class Traffic {
  /** Transfers that ended well. */
  progress = 0;
  readonly #kernel: FakeKernel;
  readonly #outstanding = new Set<number>();
  readonly #unlinks = new Map<number, number>();
  #stopped = false;

  constructor(kernel: FakeKernel) {
    this.#kernel = kernel;
    const { wire } = kernel;
    const configure = wire.nextSeqnum();
    kernel.onReply = (reply) => {
      if (reply.type === 'unlink') {
        const victim = this.#unlinks.get(reply.seqnum) ?? 0;
        this.#unlinks.delete(reply.seqnum);
        if (reply.status !== 0 && this.#outstanding.delete(victim)) this.#read();
        return;
      }
      if (reply.seqnum === configure) for (let n = 0; n < DEPTH; n++) this.#read();
      if (!this.#outstanding.delete(reply.seqnum)) return;
      if (reply.status === 0) this.progress++;
      this.#read();
      if (this.progress % 7 === 0) this.#unlinkOne();
    };
    const setup = setupOctets(0, 9, 1);
    kernel.send(wire.submit({ seqnum: configure, direction: 0, endpoint: 0, setup }));
  }

  /** Resolves when every transfer has come back. */
  async stop(): Promise<void> {
    this.#stopped = true;
    while (this.#outstanding.size + this.#unlinks.size > 0) await pause(5);
  }

  #read(): void {
    if (this.#stopped) return;
    const seqnum = this.#kernel.wire.nextSeqnum();
    this.#outstanding.add(seqnum);
    const read = { seqnum, direction: IN, endpoint: 1, octets: 512 };
    this.#kernel.send(this.#kernel.wire.submit(read));
  }

  #unlinkOne(): void {
    const [victim] = [...this.#outstanding].slice(-1);
    if (victim === undefined || this.#stopped) return;
    const seqnum = this.#kernel.wire.nextSeqnum();
    this.#unlinks.set(seqnum, victim);
    this.#kernel.send(this.#kernel.wire.unlink(victim, seqnum));
  }
}

interface Fault {
  readonly name: string;
  /** Whether the device is lost by it; if not, all goes on as before. */
  readonly loses: boolean;
  readonly run: () => Promise<void>;
}

describe('urbgate attach --persist', function () {
  this.timeout(300_000);

  it(`recovers from ${FAULTS} faults in a row, in use (SEED=${SEED})`, async () => {
    const chance = new Chance(SEED);
    const place = new Place();
    const server = await place.listen();
    await place.start();
    const vhci = new FakeVhci();
    let traffic: Traffic | undefined;
    vhci.onAttached = (port) => {
      traffic = new Traffic(vhci.attached.get(port) as FakeKernel);
    };
    const supervisor = new Supervisor(vhci, pino({ level: 'silent' }), undefined, HURRIED);
    const options = { wait: false, persist: true, direct: false };
    await supervisor.attach({ command: 'attach', server, busId: '1-1', ...options });
    const shown = () => supervisor.status().attachments[0];
    const away = () => pause(chance.below(AWAY_MILLISECONDS_MAX));

    const faults: readonly Fault[] = [
      {
        name: 'the server ends and is started again',
        loses: true,
        run: async () => {
          await place.stop();
          await away();
          await place.start();
        },
      },
      {
        name: 'the server is killed and started again',
        loses: true,
        run: async () => {
          const stopped = place.stop(); // its goodbye does not arrive
          place.cut();
          await stopped;
          await away();
          await place.start();
        },
      },
      {
        name: 'the device is unexported and exported again',
        loses: true,
        run: async () => {
          await place.registry.remove('1-1');
          await away();
          place.plug();
        },
      },
      {
        name: 'the connection is cut',
        loses: true,
        run: async () => place.cut(),
      },
      {
        name: 'the connection is cut, and the next one too',
        loses: true,
        run: async () => {
          place.cut();
          await pause(chance.below(40));
          place.cut(); // perhaps in the middle of an import
        },
      },
      {
        name: 'the network is silent for a while',
        loses: false,
        run: async () => {
          place.silence();
          await away();
          place.speak();
        },
      },
      {
        name: 'the network is silent, then the connection is cut',
        loses: true,
        run: async () => {
          place.silence();
          await away();
          place.cut();
          place.speak();
        },
      },
    ];

    for (let n = 0; n < FAULTS; n++) {
      const before = shown()?.attachedCount ?? 0;
      const some = Array.from({ length: 1 + chance.below(2) }, () => chance.pick(faults));
      for (const fault of some) await fault.run();
      const loses = some.some((fault) => fault.loses);
      const what = `fault ${n}, ${some.map(({ name }) => name).join('; ')}`;
      const isBack = () =>
        shown()?.phase === 'attached' && (!loses || (shown()?.attachedCount ?? 0) > before);
      await until(isBack, what);
      // A loss may be noticed only now; so all of it must hold at one time.
      let seen = traffic;
      let since = traffic?.progress ?? 0;
      const isInUse = () => {
        if (seen !== traffic) since = 0;
        seen = traffic;
        return (traffic?.progress ?? 0) >= since + PROGRESS;
      };
      const isInPlace = () => shown()?.port === 0 && vhci.attached.has(0);
      await until(() => isInUse() && isBack() && isInPlace(), what);
      assert.equal(vhci.attached.size, 1, `a port leaks: ${what}`);
      if (!loses) assert.equal(shown()?.attachedCount, before, what);
    }
    await traffic?.stop();
    assert(place.registry.get('1-1')?.holder);
    await supervisor.close();
    await until(() => !place.registry.get('1-1')?.holder, 'the device is not let go of');
    assert.equal(vhci.attached.size, 0);
    assert.deepEqual(supervisor.status().attachments, []);
    place.close();
    await place.stop();
    vhci.remove();
  });
});

async function until(done: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 30_000;
  while (!done()) {
    assert(performance.now() < end, `no end after ${what}`);
    await pause(5);
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
