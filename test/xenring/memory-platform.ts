/**
 * A hypervisor in one process: domains that share `Buffer`s. Grants are checked, events are
 * delivered when `deliver` says so or from `setImmediate`, and can be late, doubled or merged, as a
 * seed has it.
 */
import { strict as assert } from 'node:assert';
import {
  type Domain,
  type EventChannel,
  type GrantedPages,
  type GrantSegment,
  type MappedPages,
  PAGE_OCTETS,
  type Platform,
  PlatformError,
  type PlatformUse,
  type Store,
  type StoreOperations,
  type StorePermissions,
  type StoreWatch,
} from '../../src/xenring/platform.ts';

/** Numbers from 0 to 1 that a seed brings forth (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

export interface WorldOptions {
  /** Deliver events only by `deliver`. */
  readonly byHand?: boolean;
  /** Faults of event delivery. */
  readonly faults?: { readonly seed: number };
}

interface Grant {
  readonly to: Domain;
  readonly page: Buffer;
  mapped: number;
}

export class World {
  readonly store = new Map<string, string>();
  readonly permissions = new Map<string, StorePermissions>();
  readonly watches = new Set<{ path: string; onChange: (changed: string) => void }>();
  readonly platforms = new Map<Domain, MemoryPlatform>();
  readonly options: WorldOptions;
  readonly pending = new Set<MemoryChannel>();
  version = 0;
  eventCount = 0;
  #scheduled = false;
  readonly #random: () => number;

  constructor(options: WorldOptions = {}) {
    this.options = options;
    this.#random = randomOf(options.faults?.seed ?? 0);
  }

  domain(id: Domain): MemoryPlatform {
    const platform = this.platforms.get(id) ?? new MemoryPlatform(this, id);
    this.platforms.set(id, platform);
    return platform;
  }

  /** A domain dies: its pages and channels are gone, the toolstack removes its nodes. */
  destroy(id: Domain): void {
    this.platforms.get(id)?.die();
    for (const path of [...this.store.keys()]) {
      if (path.startsWith(`/local/domain/${id}/`) || path === `/local/domain/${id}`)
        this.change(path, null);
      if (path.includes(`/backend/vusb/${id}/`)) this.change(path, null);
    }
  }

  raise(channel: MemoryChannel): void {
    this.pending.add(channel);
    this.#schedule();
  }

  #schedule(): void {
    if (this.options.byHand || this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.deliver();
    });
  }

  /** Delivers what is pending, once; with faults some of it later, and some for nothing. */
  deliver(): number {
    const now = [...this.pending];
    this.pending.clear();
    let count = 0;
    for (const channel of now) {
      if (this.options.faults && this.#random() < 0.3) {
        this.pending.add(channel);
        continue;
      }
      count++;
      this.eventCount++;
      channel.onEvent();
      if (this.options.faults && this.#random() < 0.1) channel.onEvent();
    }
    if (this.pending.size > 0) this.#schedule();
    return count;
  }

  change(path: string, value: string | null): void {
    this.version++;
    if (value === null) this.store.delete(path);
    else this.store.set(path, value);
    for (const watch of this.watches) {
      if (path === watch.path || path.startsWith(`${watch.path}/`)) {
        setImmediate(() => this.watches.has(watch) && watch.onChange(path));
      }
    }
  }
}

class MemoryChannel implements EventChannel {
  readonly port: number;
  readonly owner: MemoryPlatform;
  readonly peer: Domain;
  other: MemoryChannel | null = null;
  onEvent: () => void = () => {};
  notifyCount = 0;

  constructor(owner: MemoryPlatform, port: number, peer: Domain) {
    this.owner = owner;
    this.port = port;
    this.peer = peer;
  }

  notify(): void {
    this.notifyCount++;
    if (this.other !== null) this.owner.world.raise(this.other);
  }

  close(): void {
    this.owner.channels.delete(this.port);
    this.owner.world.pending.delete(this);
    if (this.other !== null) this.other.other = null;
    this.other = null;
    this.onEvent = () => {};
  }
}

export class MemoryPlatform implements Platform {
  readonly world: World;
  readonly domain: Domain;
  readonly store: MemoryStore;
  readonly grants = new Map<number, Grant>();
  readonly channels = new Map<number, MemoryChannel>();
  mappedPages = 0;
  /** Copies made through grants. */
  copyCount = 0;
  #next = 8;

  constructor(world: World, domain: Domain) {
    this.world = world;
    this.domain = domain;
    this.store = new MemoryStore(world);
  }

  grant(peer: Domain, pages: number): GrantedPages {
    const memory = this.pages(pages);
    const references: number[] = [];
    const end = () => {
      for (const one of references) this.endGrant(one);
    };
    for (let n = 0; n < pages; n++) {
      const page = memory.subarray(n * PAGE_OCTETS, (n + 1) * PAGE_OCTETS);
      references.push(this.grantPage(peer, page));
    }
    return { memory, references, end };
  }

  /** Memory for `grantPage`; shared, so that another view of it can be told apart (crash-world.ts). */
  pages(count: number): Buffer {
    return Buffer.from(new SharedArrayBuffer(count * PAGE_OCTETS));
  }
  grantPage(peer: Domain, page: Buffer): number {
    const reference = this.#next++;
    this.grants.set(reference, { to: peer, page, mapped: 0 });
    return reference;
  }

  endGrant(reference: number): void {
    assert.equal(this.grants.get(reference)?.mapped ?? 0, 0, 'a grant ends that is in use');
    this.grants.delete(reference);
  }

  map(peer: Domain, references: readonly number[]): MappedPages {
    assert.equal(references.length, 1, 'only single pages are mapped here');
    const grant = this.#granted(peer, references[0] ?? 0);
    grant.mapped++;
    this.mappedPages++;
    let mapped = true;
    return {
      memory: grant.page,
      unmap: () => {
        assert(mapped, 'a page is unmapped twice');
        mapped = false;
        grant.mapped--;
        this.mappedPages--;
      },
    };
  }

  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void {
    let at = 0;
    this.copyCount++;
    for (const { reference, offset, octets } of segments) {
      const { page } = this.#granted(peer, reference);
      at += page.copy(target, at, offset, offset + octets);
    }
  }

  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void {
    let at = 0;
    this.copyCount++;
    for (const { reference, offset, octets } of segments) {
      const { page } = this.#granted(peer, reference);
      if (at >= source.length) break;
      page.set(source.subarray(at, at + octets), offset);
      at += octets;
    }
    assert(at >= source.length, 'more is copied than the segments hold');
  }

  #granted(peer: Domain, reference: number): Grant {
    const grant = this.world.platforms.get(peer)?.grants.get(reference);
    if (grant === undefined || grant.to !== this.domain) {
      throw new PlatformError(`Cannot use grant ${reference} of dom${peer}: it is not granted`);
    }
    return grant;
  }

  offerChannel(peer: Domain): EventChannel {
    const channel = new MemoryChannel(this, this.#next++, peer);
    this.channels.set(channel.port, channel);
    return channel;
  }

  bindChannel(peer: Domain, port: number): EventChannel {
    const offered = this.world.platforms.get(peer)?.channels.get(port);
    if (offered === undefined || offered.other !== null || offered.peer !== this.domain) {
      throw new PlatformError(`Cannot bind port ${port} of dom${peer}: it is not offered`);
    }
    const channel = new MemoryChannel(this, this.#next++, peer);
    this.channels.set(channel.port, channel);
    channel.other = offered;
    offered.other = channel;
    return channel;
  }

  get inUse(): PlatformUse {
    return {
      grantedPages: this.grants.size,
      mappedPages: this.mappedPages,
      channels: this.channels.size,
      watches: this.store.watchCount,
    };
  }

  /** As when the process or the domain is killed: nothing is said to anybody. */
  die(): void {
    for (const channel of [...this.channels.values()]) channel.close();
    this.grants.clear();
    this.store.endAll();
  }

  async close(): Promise<void> {
    this.die();
  }
}

class MemoryStore implements Store {
  readonly #world: World;
  readonly #own = new Set<{ path: string; onChange: (changed: string) => void }>();

  constructor(world: World) {
    this.#world = world;
  }

  get watchCount(): number {
    return this.#own.size;
  }

  endAll(): void {
    for (const watch of this.#own) this.#world.watches.delete(watch);
    this.#own.clear();
  }

  async read(path: string): Promise<string | undefined> {
    return this.#world.store.get(path);
  }

  async list(path: string): Promise<string[] | undefined> {
    return childrenOf(this.#world.store, path);
  }

  async write(path: string, value: string): Promise<void> {
    for (const above of parentsOf(path)) {
      if (!this.#world.store.has(above)) this.#world.change(above, '');
    }
    this.#world.change(path, value);
  }

  async remove(path: string): Promise<void> {
    for (const one of [...this.#world.store.keys()]) {
      if (one === path || one.startsWith(`${path}/`)) this.#world.change(one, null);
    }
  }

  async permissions(path: string): Promise<StorePermissions | undefined> {
    return this.#world.permissions.get(path);
  }

  async setPermissions(path: string, permissions: StorePermissions): Promise<void> {
    assert(this.#world.store.has(path), `permissions for ${path}, which is not there`);
    this.#world.permissions.set(path, permissions);
  }

  async watch(path: string, onChange: (changed: string) => void): Promise<StoreWatch> {
    const watch = { path, onChange };
    this.#own.add(watch);
    this.#world.watches.add(watch);
    setImmediate(() => this.#own.has(watch) && onChange(path));
    return {
      end: async () => {
        this.#own.delete(watch);
        this.#world.watches.delete(watch);
      },
    };
  }

  async transaction<T>(work: (store: StoreOperations) => Promise<T>): Promise<T> {
    for (;;) {
      const before = this.#world.version;
      const changes: [string, string | null][] = [];
      const permissions: [string, StorePermissions][] = [];
      const copy = new Map(this.#world.store);
      const result = await work(overlay(copy, changes, permissions, this.#world));
      if (this.#world.version !== before) continue;
      for (const [path, value] of changes) this.#world.change(path, value);
      for (const [path, one] of permissions) this.#world.permissions.set(path, one);
      return result;
    }
  }
}

function overlay(
  copy: Map<string, string>,
  changes: [string, string | null][],
  permissions: [string, StorePermissions][],
  world: World,
): StoreOperations {
  const set = (path: string, value: string) => {
    copy.set(path, value);
    changes.push([path, value]);
  };
  return {
    read: async (path) => copy.get(path),
    list: async (path) => childrenOf(copy, path),
    write: async (path, value) => {
      for (const above of parentsOf(path)) if (!copy.has(above)) set(above, '');
      set(path, value);
    },
    remove: async (path) => {
      for (const one of [...copy.keys()]) {
        if (one !== path && !one.startsWith(`${path}/`)) continue;
        copy.delete(one);
        changes.push([one, null]);
      }
    },
    permissions: async (path) => world.permissions.get(path),
    setPermissions: async (path, one) => {
      assert(copy.has(path), `permissions for ${path}, which is not there`);
      permissions.push([path, one]);
    },
  };
}

function childrenOf(nodes: ReadonlyMap<string, string>, path: string): string[] | undefined {
  if (!nodes.has(path)) return undefined;
  const children = new Set<string>();
  for (const one of nodes.keys()) {
    if (one.startsWith(`${path}/`)) children.add(one.slice(path.length + 1).split('/')[0] ?? '');
  }
  return [...children];
}

function parentsOf(path: string): string[] {
  const parts = path.split('/').slice(1, -1);
  return parts.map((_, n) => `/${parts.slice(0, n + 1).join('/')}`);
}
