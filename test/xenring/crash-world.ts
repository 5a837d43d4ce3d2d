/**
 * A gateway that dies at an exact step, and the next one at the same rings, as after SIGKILL: a life
 * counts everything that it does to what it shares with others (each store into a ring page, each
 * event, copy and operation of the store), and from the wanted step on nothing that its code does
 * reaches them any more.
 *
 * A life sees the pages through buffers of its own over the same memory. That is how its stores are told
 * from the front end's, which runs in the same process.
 */
import { strict as assert } from 'node:assert';
import type { UsbDevice } from '../../src/core/device.ts';
import { Registry } from '../../src/core/registry.ts';
import { Backends } from '../../src/xenring/backends.ts';
import type {
  Domain,
  EventChannel,
  GrantedPages,
  GrantSegment,
  MappedPages,
  Platform,
  PlatformUse,
  Store,
  StoreOperations,
  StoreWatch,
} from '../../src/xenring/platform.ts';
import { Toolstack } from '../../src/xenring/toolstack.ts';
import { type MemoryPlatform, World } from './memory-platform.ts';
import { Log } from './rig.ts';

/** Whose view of the shared memory a buffer is. */
const owners = new WeakMap<object, Life>();

const SETTERS = ['setUint8', 'setUint16', 'setUint32', 'setInt32'] as const;

type Setter = (this: DataView, at: number, value: number, littleEndian?: boolean) => void;

/** What each look at the clock takes: with these, ends of rings always sleep, or stay awake for some turns. */
export const ASLEEP_MILLISECONDS = 1;
export const AWAKE_MILLISECONDS = 0.01;

/** Counts the stores of lives, and has time go by looks at it alone; returns what ends that. */
export function watchStores(lookMilliseconds: number): () => void {
  const ends: (() => void)[] = [];
  const { now } = performance;
  let time = now.call(performance);
  performance.now = () => {
    time += lookMilliseconds;
    return time;
  };
  ends.push(() => {
    performance.now = now;
  });
  for (const name of SETTERS) {
    const views = DataView.prototype as unknown as Record<string, Setter>;
    const real = views[name] as Setter;
    views[name] = function (this: DataView, ...values) {
      if (owners.get(this.buffer)?.step() !== false) real.apply(this, values);
    };
    ends.push(() => {
      views[name] = real;
    });
  }
  const { store } = Atomics;
  Atomics.store = ((words: Int32Array, at: number, value: number) =>
    owners.get(words.buffer)?.step() === false
      ? value
      : store(words, at, value)) as typeof Atomics.store;
  ends.push(() => {
    Atomics.store = store;
  });
  return () => {
    for (const end of ends) end();
  };
}

/** One gateway, until it is killed. */
export class Life {
  steps = 0;
  dead = false;
  readonly platform: Platform;
  readonly backends: Backends;
  /** It dies in place of this step; 0 for never. */
  crashAt: number;
  readonly #onDeath: () => void;

  constructor(
    inner: MemoryPlatform,
    device: UsbDevice,
    log: Log,
    crashAt: number,
    died: () => void,
  ) {
    this.crashAt = crashAt;
    this.#onDeath = died;
    this.platform = new LifePlatform(inner, this);
    const registry = new Registry();
    registry.add(device, 'manual', '1-1');
    const { platform } = this;
    const say = (level: 'info' | 'warn') => (message: string) => this.dead || log[level](message);
    this.backends = new Backends({
      platform,
      registry,
      log: { info: say('info'), warn: say('warn') },
    });
  }

  /** Whether it still does this. */
  step(): boolean {
    if (this.dead) return false;
    this.steps++;
    if (this.steps !== this.crashAt) return true;
    this.dead = true;
    this.#onDeath();
    return false;
  }
}

/** What a life has of the machine. */
class LifePlatform implements Platform {
  readonly domain: Domain;
  readonly store: Store;
  readonly #inner: MemoryPlatform;
  readonly #life: Life;

  constructor(inner: MemoryPlatform, life: Life) {
    this.#inner = inner;
    this.#life = life;
    this.domain = inner.domain;
    this.store = new LifeStore(inner.store, life);
  }

  get inUse(): PlatformUse {
    return this.#inner.inUse;
  }

  grant(): GrantedPages {
    assert.fail('back ends grant nothing');
  }

  map(peer: Domain, references: readonly number[]): MappedPages {
    const life = this.#life;
    const mapped = this.#inner.map(peer, references);
    const { buffer, byteOffset, length } = mapped.memory;
    const own = structuredClone(buffer) as ArrayBuffer; // another object, the same memory
    owners.set(own, life);
    const memory = Buffer.from(own, byteOffset, length);
    return { memory, unmap: () => life.dead || mapped.unmap() };
  }

  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void {
    if (this.#life.step()) this.#inner.copyFrom(peer, segments, target);
  }

  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void {
    if (this.#life.step()) this.#inner.copyTo(peer, segments, source);
  }

  offerChannel(): EventChannel {
    assert.fail('back ends offer nothing');
  }

  bindChannel(peer: Domain, port: number): EventChannel {
    this.#life.step();
    return this.#life.dead
      ? { port: 0, notify() {}, onEvent() {}, close() {} }
      : new LifeChannel(this.#inner.bindChannel(peer, port), this.#life);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

class LifeChannel implements EventChannel {
  onEvent: () => void = () => {};
  readonly #inner: EventChannel;
  readonly #life: Life;

  constructor(inner: EventChannel, life: Life) {
    this.#inner = inner;
    this.#life = life;
    inner.onEvent = () => {
      if (life.step()) this.onEvent();
    };
  }

  get port(): number {
    return this.#inner.port;
  }

  notify(): void {
    if (this.#life.step()) this.#inner.notify();
  }

  close(): void {
    if (!this.#life.dead) this.#inner.close();
  }
}

class LifeOperations implements StoreOperations {
  readonly #operations: StoreOperations;
  readonly #life: Life;

  constructor(operations: StoreOperations, life: Life) {
    this.#operations = operations;
    this.#life = life;
  }

  /** The dead are never answered. */
  protected async ask<T>(call: () => Promise<T>): Promise<T> {
    if (this.#life.step()) {
      const answer = await call();
      if (!this.#life.dead) return answer;
    }
    return new Promise(() => {});
  }

  read = (path: string) => this.ask(() => this.#operations.read(path));
  list = (path: string) => this.ask(() => this.#operations.list(path));
  write = (path: string, value: string) => this.ask(() => this.#operations.write(path, value));
  remove = (path: string) => this.ask(() => this.#operations.remove(path));
  permissions = (path: string) => this.ask(() => this.#operations.permissions(path));
  setPermissions: StoreOperations['setPermissions'] = (path, permissions) =>
    this.ask(() => this.#operations.setPermissions(path, permissions));
}

class LifeStore extends LifeOperations implements Store {
  readonly #store: Store;
  readonly #owner: Life;

  constructor(store: Store, life: Life) {
    super(store, life);
    this.#store = store;
    this.#owner = life;
  }

  watch(path: string, onChange: (changed: string) => void): Promise<StoreWatch> {
    const told = (changed: string) => {
      if (this.#owner.step()) onChange(changed);
    };
    return this.ask(() => this.#store.watch(path, told));
  }

  transaction<T>(work: (store: StoreOperations) => Promise<T>): Promise<T> {
    return this.ask(() =>
      this.#store.transaction(async (inside) => {
        const result = await work(new LifeOperations(inside, this.#owner));
        return this.ask(async () => result);
      }),
    );
  }
}

export interface CrashOptions {
  /** For each life, the step at which it dies; those after them live. */
  readonly crashes: readonly number[];
  /** Turns of the event loop between a death and the next life. */
  readonly pauseTurns: number;
  readonly device: () => UsbDevice;
}

/** Domain 0 with one gateway after the other, and a controller for guest 7. */
export class CrashWorld {
  readonly world = new World();
  readonly log = new Log();
  readonly tools: Toolstack;
  readonly lives: Life[] = [];
  readonly #options: CrashOptions;
  #calm = false;

  constructor(options: CrashOptions) {
    this.#options = options;
    this.tools = new Toolstack(this.world.domain(0).store);
  }

  get life(): Life {
    return this.lives.at(-1) as Life;
  }

  async begin(): Promise<void> {
    await this.world.domain(0).store.write('/local/domain/7', '');
    await this.tools.addController(7, { ports: 2 });
    await this.tools.attachDevice(7, 0, '1-1');
    this.#live();
  }

  /** Nobody dies any more; resolves when a gateway is alive. */
  async calm(): Promise<void> {
    this.#calm = true;
    this.life.crashAt = 0;
    while (this.life.dead) await new Promise((resolve) => setImmediate(resolve));
  }

  /** For messages: each end's view of the rings, and the store. */
  describe(): string {
    const steps = this.lives.map((life) => life.steps);
    const nodes = [...this.world.store].filter(([path]) => /\/(state|1|2)$/.test(path));
    const pages = [...this.world.domain(7).grants.values()].slice(0, 2).map(({ page }) => {
      return [0, 4, 8, 12].map((at) => page.readUInt32LE(at)).join(' ');
    });
    return `steps of each life: ${steps}; ${JSON.stringify(nodes)}; indexes: ${pages.join(' | ')}; ${this.log.warnings}`;
  }

  #live(): void {
    const { crashes, device } = this.#options;
    const dom0 = this.world.domain(0);
    const crashAt = this.#calm ? 0 : (crashes[this.lives.length] ?? 0);
    const life = new Life(dom0, device(), this.log, crashAt, () => this.#died());
    this.lives.push(life);
    void life.backends.start();
  }

  #died(): void {
    const dom0 = this.world.domain(0);
    dom0.die();
    dom0.mappedPages = 0;
    for (const { grants } of this.world.platforms.values()) {
      for (const grant of grants.values()) grant.mapped = 0;
    }
    let turns = this.#options.pauseTurns;
    const wait = () => (turns-- > 0 ? setImmediate(wait) : this.#live());
    setImmediate(wait);
  }
}
