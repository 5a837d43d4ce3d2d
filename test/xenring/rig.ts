/** A gateway in domain 0, guests beside it, and what tests ask of them. */
import { strict as assert } from 'node:assert';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { Backends } from '../../src/xenring/backends.ts';
import { Toolstack } from '../../src/xenring/toolstack.ts';
import type { MemoryPlatform } from './memory-platform.ts';
import { World, type WorldOptions } from './memory-platform.ts';
import { type HcdOptions, XenHcd } from './xen-hcd.ts';

export class Log {
  readonly warnings: string[] = [];
  readonly infos: string[] = [];
  info(message: string): void {
    this.infos.push(message);
  }
  warn(message: string): void {
    this.warnings.push(message);
  }
}

export class RingRig {
  readonly world: World;
  readonly dom0: MemoryPlatform;
  readonly registry = new Registry();
  readonly log = new Log();
  readonly tools: Toolstack;
  backends: Backends;

  constructor(options: WorldOptions = {}) {
    this.world = new World(options);
    this.dom0 = this.world.domain(0);
    this.tools = new Toolstack(this.dom0.store);
    this.backends = this.#newBackends();
  }

  #newBackends(): Backends {
    const { dom0: platform, registry, log } = this;
    return new Backends({ platform, registry, log });
  }

  /** Exports a source-sink; returns it. */
  export(busId: string, options: Record<string, unknown> = {}) {
    const device = new VirtualDevice(sourceSink.define(options as never));
    this.registry.add(device, 'source-sink', busId);
    return device;
  }

  async start(): Promise<void> {
    await this.backends.start();
  }

  /** A guest with a stock front end. */
  async guest(
    domain: number,
    ports = 4,
    options: HcdOptions = {},
    usbVersion = 2,
  ): Promise<XenHcd> {
    const platform = this.world.domain(domain);
    if (!this.world.store.has(`/local/domain/${domain}`)) {
      await this.dom0.store.write(`/local/domain/${domain}`, '');
    }
    const controller = await this.tools.addController(domain, { ports, usbVersion });
    const hcd = new XenHcd(platform, `/local/domain/${domain}/device/vusb/${controller}`, options);
    await hcd.probe();
    await until(() => this.state(domain, controller) === '4', 'the back end connects');
    return hcd;
  }

  state(domain: number, controller = 0): string | undefined {
    return this.world.store.get(`/local/domain/0/backend/vusb/${domain}/${controller}/state`);
  }

  /** As after SIGKILL: nothing is said to the guests, and nothing cleaned up but what a kernel does. */
  kill(): void {
    const { registry } = this;
    this.dom0.die();
    this.dom0.mappedPages = 0;
    for (const { grants } of this.world.platforms.values())
      for (const g of grants.values()) g.mapped = 0;
    registry.removeAllListeners();
  }

  /** The next gateway. After `kill`, its registry has the same devices, free. */
  async restart(killed = false): Promise<void> {
    if (killed) {
      for (const one of this.registry.list()) {
        await one.holder?.session.close();
        one.holder = null;
      }
    }
    this.backends = this.#newBackends();
    await this.start();
  }

  async end(): Promise<void> {
    await this.backends.stop();
    for (const { busId } of this.registry.list()) await this.registry.remove(busId);
    const { mappedPages, channels, watches } = this.dom0.inUse;
    assert.deepEqual(
      { mappedPages, channels, watches },
      { mappedPages: 0, channels: 0, watches: 0 },
    );
  }
}

export const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

export async function until(
  holds: () => boolean,
  what: string,
  milliseconds = 45_000,
): Promise<void> {
  const end = performance.now() + milliseconds;
  while (!holds()) {
    if (performance.now() > end) assert.fail(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Waits for a device at a port, gives it an address and a configuration. */
export async function enumerate(hcd: XenHcd, port: number, alternate = 0): Promise<void> {
  await until(() => hcd.speeds[port] !== 0, `a device at port ${port}`);
  const device = await hcd.control(port, [0x80, 6, 0, 1, 0, 0, 18, 0], 18, undefined, 0);
  assert.equal(device.actual, 18);
  assert.equal((await hcd.control(port, [0, 5, 1, 0, 0, 0, 0, 0], 0, undefined, 0)).status, 0);
  assert.equal((await hcd.control(port, [0, 9, 1, 0, 0, 0, 0, 0])).status, 0);
  if (alternate !== 0) {
    assert.equal((await hcd.control(port, [1, 11, alternate, 0, 0, 0, 0, 0])).status, 0);
  }
}
