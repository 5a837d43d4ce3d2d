/** `--persist` against faults in any order: it is attached again each time, and nothing is left over. */
import { strict as assert } from 'node:assert';
import { connect, createServer, type Socket } from 'node:net';
import { pino } from 'pino';
import { Supervisor } from '../../src/cli/supervisor.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { FakeVhci } from '../usbip/fake-vhci.ts';

const HOST = '127.0.0.1';
const FAULTS = 25;
const SEED = Number(process.env.SEED ?? 20_060_412);

/** Numbers from 0 to 1 that a seed gives again. */
function chances(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A server behind a wire that can be cut. */
class Place {
  readonly #wires = new Set<Socket>();
  readonly #listener = createServer((near) => {
    const far = connect(this.#target);
    near.pipe(far).pipe(near);
    for (const socket of [near, far]) {
      this.#wires.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => {
        near.destroy();
        far.destroy();
        this.#wires.delete(socket);
      });
    }
  });
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

  async stop(): Promise<void> {
    await this.#server?.close();
    this.#server = null;
  }

  plug(): void {
    this.registry.add(new VirtualDevice(sourceSink.define({} as never)), 'device', '1-1');
  }

  cut(): void {
    for (const socket of this.#wires) socket.resetAndDestroy();
  }

  close(): void {
    this.cut();
    this.#listener.close();
  }
}

describe('urbgate attach --persist', function () {
  this.timeout(120_000);

  it(`recovers from ${FAULTS} faults in a row (SEED=${SEED})`, async () => {
    const chance = chances(SEED);
    const place = new Place();
    const server = await place.listen();
    await place.start();
    const vhci = new FakeVhci();
    const supervisor = new Supervisor(vhci, pino({ level: 'silent' }));
    const options = { wait: false, persist: true, direct: false };
    await supervisor.attach({ command: 'attach', server, busId: '1-1', ...options });
    const shown = () => supervisor.status().attachments[0];

    const faults: (() => Promise<void>)[] = [
      async () => {
        await place.stop();
        await pause(chance() * 400);
        await place.start();
      },
      async () => {
        await place.registry.remove('1-1');
        await pause(chance() * 400);
        place.plug();
      },
      async () => place.cut(),
      async () => {
        place.cut();
        await pause(chance() * 20);
        place.cut(); // perhaps in the middle of the next import
      },
    ];
    for (let n = 0; n < FAULTS; n++) {
      const before = shown()?.attachedCount ?? 0;
      await faults[Math.floor(chance() * faults.length)]?.();
      const isBack = () => shown()?.phase === 'attached' && (shown()?.attachedCount ?? 0) > before;
      while (!isBack()) await pause(10);
      assert.equal(shown()?.port, 0);
      assert.deepEqual([...vhci.attached.keys()], [0], 'a port leaks');
    }
    assert(place.registry.get('1-1')?.holder);
    await supervisor.close();
    while (place.registry.get('1-1')?.holder) await pause(10);
    assert.equal(vhci.attached.size, 0);
    assert.deepEqual(supervisor.status().attachments, []);
    place.close();
    await place.stop();
    vhci.remove();
  });
});

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
