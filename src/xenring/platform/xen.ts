/**
 * The platform on a real hypervisor: the devices of Linux's Xen drivers and xenstored.
 */
import { UserError } from '../../core/errors.ts';
import type {
  Domain,
  EventChannel,
  GrantedPages,
  GrantSegment,
  MappedPages,
  Platform,
  PlatformUse,
} from '../platform.ts';
import { connectStore, type XenstoreClient } from '../xenstore.ts';
import type { StoreError } from '../xenstore-wire.ts';
import { XenChannels } from './xen-channels.ts';
import { XenGrants } from './xen-grants.ts';

/** @throws {UserError} if this is no Xen domain, or its devices or store cannot be used. */
export async function openXenPlatform(): Promise<XenPlatform> {
  const grants = new XenGrants();
  let channels: XenChannels | null = null;
  let store: XenstoreClient | null = null;
  try {
    channels = new XenChannels();
    store = await connectStore();
    return new XenPlatform(await domainOf(store), grants, channels, store);
  } catch (error) {
    grants.close();
    channels?.close();
    store?.close();
    throw error;
  }
}

/** A path that is not absolute is below this domain's own home. */
async function domainOf(store: XenstoreClient): Promise<Domain> {
  const text = await store.read('domid');
  // xenstored's own domain has its number from xen-init-dom0, which may not have run yet.
  if (text === undefined && store.via === 'socket') return 0;
  const domain = Number(text);
  if (text === undefined || !Number.isInteger(domain) || domain < 0)
    throw new UserError(`Cannot use Xen: domid is ${text ?? 'absent'}, wanted a number`);
  return domain;
}

export class XenPlatform implements Platform {
  readonly domain: Domain;
  readonly store: XenstoreClient;
  readonly #grants: XenGrants;
  readonly #channels: XenChannels;

  constructor(domain: Domain, grants: XenGrants, channels: XenChannels, store: XenstoreClient) {
    this.domain = domain;
    this.store = store;
    this.#grants = grants;
    this.#channels = channels;
  }

  /** Resolves when the connection to xenstored has gone. */
  get storeLost(): Promise<StoreError> {
    return this.store.lost;
  }

  get inUse(): PlatformUse {
    return {
      grantedPages: this.#grants.grantedPages,
      mappedPages: this.#grants.mappedPages,
      channels: this.#channels.size,
      watches: this.store.watches,
    };
  }

  grant(peer: Domain, pages: number): GrantedPages {
    return this.#grants.grant(peer, pages);
  }

  map(peer: Domain, references: readonly number[]): MappedPages {
    return this.#grants.map(peer, references);
  }

  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void {
    this.#grants.copyFrom(peer, segments, target);
  }

  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void {
    this.#grants.copyTo(peer, segments, source);
  }

  offerChannel(peer: Domain): EventChannel {
    return this.#channels.offer(peer);
  }

  bindChannel(peer: Domain, port: number): EventChannel {
    return this.#channels.bind(peer, port);
  }

  async close(): Promise<void> {
    this.#channels.close();
    this.#grants.close();
    this.store.close();
  }
}
