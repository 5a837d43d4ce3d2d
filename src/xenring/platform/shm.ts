/**
 * The platform between processes, or worker threads, of one Linux host: no hypervisor needed.
 *
 * All that belongs to it is in one folder, best on tmpfs. Pages are in files that peers map,
 * doorbells are FIFOs (`shm-channels.ts`), and the store is served by domain 0 on a socket in the
 * folder, in xenstored's own protocol. See `shm-folder.ts` for who is trusted with what.
 *
 * A domain that dies is noticed by its home in the store, /local/domain/ID, which vanishes; that of
 * domain 0, which serves the store, by `storeLost`.
 */
import { randomInt } from 'node:crypto';
import { assert } from '../../core/assert.ts';
import type { Clock } from '../../core/clock.ts';
import { UserError } from '../../core/errors.ts';
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
} from '../platform.ts';
import { connectStore, type XenstoreClient } from '../xenstore.ts';
import type { StoreError } from '../xenstore-wire.ts';
import { MappedMemory } from './mapped-memory.ts';
import { ShmChannels } from './shm-channels.ts';
import { cannotShare, type FolderLock, ShmFolder } from './shm-folder.ts';
import { ShmGrants } from './shm-grants.ts';
import { type ShmPeer, ShmPeers } from './shm-peers.ts';
import { ShmSegment } from './shm-segment.ts';
import { StoreServer } from './store-server.ts';
import { DOMAIN_MAX } from './store-service.ts';

export interface ShmOptions {
  /** Where the domains meet; made if it is not there. */
  readonly folder: string;
  readonly domain: Domain;
  /** Pages that this domain may have granted at a time. Memory is used when it is touched. */
  readonly pages?: number;
  /** Whether this process serves the store; default is that domain 0 does. */
  readonly serveStore?: boolean;
  /**
   * A bug has ended the connection of one client of the store. Default: its error goes where
   * exceptions go.
   */
  readonly onBug?: (error: unknown) => void;
  /** Another clock is for tests. */
  readonly clock?: Clock;
}

const PAGES_DEFAULT = 16_384;
/** A peer that looks whether this domain is alive has its lock for a moment, on a busy machine for long. */
const LOCK_ATTEMPTS_MAX = 100;
const LOCK_PAUSE_MILLISECONDS = 20;

/** @throws {UserError} if the folder, the domain or the store cannot be had. */
export async function openShmPlatform(options: ShmOptions): Promise<ShmPlatform> {
  const { domain, pages = PAGES_DEFAULT, serveStore = domain === 0 } = options;
  assert(Number.isInteger(domain) && domain >= 0 && domain <= DOMAIN_MAX, 'Cannot be that domain');
  const folder = new ShmFolder(options.folder);
  const lock = await lockDomain(folder, domain);
  let server: StoreServer | null = null;
  let store: XenstoreClient | null = null;
  let platform: ShmPlatform | null = null;
  try {
    if (serveStore) server = await StoreServer.start(folder, options.onBug);
    store = await connectStore(folder.socket, options.clock);
    // Everything is there before the others are told of it.
    platform = new ShmPlatform({ folder, domain, pages, lock, server, store });
    await store.introduce(domain);
    return platform;
  } catch (error) {
    if (platform !== null) await platform.close();
    else {
      store?.close();
      await server?.close();
      lock.release();
    }
    // No room, no pipes on this file system, ...: all that the kernel may say of a folder.
    const isOfFolder =
      error instanceof PlatformError || (error instanceof Error && 'code' in error);
    if (!isOfFolder) throw error;
    throw cannotShare(folder.path, `${error.message}, wanted a folder such as one in /dev/shm`);
  }
}

async function lockDomain(folder: ShmFolder, domain: Domain): Promise<FolderLock> {
  for (let attempt = 0; attempt < LOCK_ATTEMPTS_MAX; attempt++) {
    const lock = folder.lock(`domain-${domain}`);
    if (lock !== null) return lock;
    await new Promise((resolve) => setTimeout(resolve, LOCK_PAUSE_MILLISECONDS));
  }
  throw new UserError(
    `Cannot be domain ${domain} in ${folder.path}: another process is, wanted one only`,
  );
}

interface Parts {
  readonly folder: ShmFolder;
  readonly domain: Domain;
  readonly pages: number;
  readonly lock: FolderLock;
  readonly server: StoreServer | null;
  readonly store: XenstoreClient;
}

export class ShmPlatform implements Platform {
  readonly domain: Domain;
  readonly store: XenstoreClient;
  readonly #parts: Parts;
  readonly #segment: ShmSegment;
  readonly #peers: ShmPeers;
  readonly #grants: ShmGrants;
  readonly #channels: ShmChannels;
  readonly #mapped = new Set<MappedPages>();
  #mappedPages = 0;

  constructor(parts: Parts) {
    const { folder, domain, pages, store } = parts;
    this.#parts = parts;
    this.domain = domain;
    this.store = store;
    this.#peers = new ShmPeers(folder);
    this.#segment = ShmSegment.create(folder.pages(domain), pages, randomInt(1, 0x7fff_ffff));
    this.#grants = new ShmGrants(this.#segment, (peer) => folder.isAlive(peer));
    const events = folder.events(domain);
    this.#channels = new ShmChannels(domain, this.#segment, this.#peers, events);
  }

  /** Resolves when the process that serves the store has gone. */
  get storeLost(): Promise<StoreError> {
    return this.store.lost;
  }

  get inUse(): PlatformUse {
    return {
      grantedPages: this.#grants.pages,
      mappedPages: this.#mappedPages,
      channels: this.#channels.size,
      watches: this.store.watches,
    };
  }

  grant(peer: Domain, pages: number): GrantedPages {
    assert(pages > 0, 'Cannot grant pages: none are wanted');
    return this.#grants.grant(peer, pages);
  }

  map(peer: Domain, references: readonly number[]): MappedPages {
    assert(references.length > 0, 'Cannot map pages: none are wanted');
    const link = this.#peers.fresh(peer);
    const counted: number[] = [];
    try {
      for (const reference of references) {
        if (!link.segment.countMap(reference, this.domain)) throw notGranted(peer, reference);
        counted.push(reference);
      }
      const offsets = references.map((reference) => link.segment.pageAt(reference));
      return this.#keep(link, references, MappedMemory.mapPages(link.segment.fd, offsets));
    } catch (error) {
      for (const reference of counted) link.segment.countUnmap(reference);
      throw error;
    }
  }

  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void {
    const { segment } = this.#linkFor(peer, segments);
    let done = 0;
    let from = 0;
    let end = 0;
    // Neighbours, as the pages of one buffer mostly are, are copied in one go.
    for (const { reference, offset, octets } of segments) {
      const at = segment.pageAt(reference) + offset;
      assert(done + octets <= target.length, 'Cannot copy: the target is too short');
      if (at !== end) {
        if (end > from) segment.memory.copy(target, done - (end - from), from, end);
        from = at;
        end = at;
      }
      end += octets;
      done += octets;
    }
    segment.memory.copy(target, done - (end - from), from, end);
  }

  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void {
    const { segment } = this.#linkFor(peer, segments);
    const octetsOf = Buffer.isBuffer(source)
      ? source
      : Buffer.from(source.buffer, source.byteOffset, source.byteLength);
    let done = 0;
    let to = 0;
    let end = 0;
    for (const { reference, offset, octets } of segments) {
      const at = segment.pageAt(reference) + offset;
      if (at !== end) {
        if (end > to) octetsOf.copy(segment.memory, to, done - (end - to), done);
        to = at;
        end = at;
      }
      const more = Math.min(octets, octetsOf.length - done);
      end += more;
      done += more;
      if (more < octets) break;
    }
    octetsOf.copy(segment.memory, to, done - (end - to), done);
  }

  offerChannel(peer: Domain): EventChannel {
    return this.#channels.offer(peer);
  }

  bindChannel(peer: Domain, port: number): EventChannel {
    return this.#channels.bind(peer, port);
  }

  async close(): Promise<void> {
    for (const mapped of this.#mapped) mapped.unmap();
    this.#grants.endAll();
    this.#channels.closeAll();
    this.#peers.close();
    this.#segment.close();
    this.store.close();
    await this.#parts.server?.close();
    this.#parts.lock.release();
  }

  #keep(link: ShmPeer, references: readonly number[], memory: MappedMemory): MappedPages {
    link.hold();
    this.#mappedPages += references.length;
    const mapped: MappedPages = {
      memory: memory.memory,
      unmap: () => {
        assert(this.#mapped.delete(mapped), 'Cannot unmap pages: they have been unmapped');
        this.#mappedPages -= references.length;
        memory.release();
        for (const reference of references) link.segment.countUnmap(reference);
        link.release();
      },
    };
    this.#mapped.add(mapped);
    return mapped;
  }

  /** The peer, if it has granted all of them. @throws {PlatformError} */
  #linkFor(peer: Domain, segments: readonly GrantSegment[]): ShmPeer {
    const known = this.#peers.known(peer);
    if (this.#firstWrong(known, segments) === undefined) return known;
    const fresh = this.#peers.fresh(peer);
    const wrong = this.#firstWrong(fresh, segments);
    if (wrong !== undefined) throw notGranted(peer, wrong.reference);
    return fresh;
  }

  #firstWrong(link: ShmPeer, segments: readonly GrantSegment[]): GrantSegment | undefined {
    for (const segment of segments) {
      const { reference, offset, octets } = segment;
      const inside = offset >= 0 && octets >= 0 && offset + octets <= PAGE_OCTETS;
      if (!inside || !link.segment.isGranted(reference, this.domain)) return segment;
    }
    return undefined;
  }
}

function notGranted(peer: Domain, reference: number): PlatformError {
  return new PlatformError(
    `Cannot use reference ${reference} of domain ${peer}: it is not granted, or not so much of it`,
  );
}
