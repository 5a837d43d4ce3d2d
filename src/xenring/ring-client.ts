/**
 * The ring for programs of this host: `connectRing` to a gateway that runs `urbgate serve --shm`.
 *
 * A program is a domain of its own in the gateway's folder, with one controller, made by itself: there
 * is no toolstack, and who may open the folder may have its devices. When the gateway has gone, for
 * whatever reason, the devices are gone, and `closed` says so; the program may connect again.
 */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { UserError } from '../core/errors.ts';
import { Frontend } from './frontend.ts';
import { openShmPlatform, type ShmPlatform } from './platform/shm.ts';
import { STORE_SOCKET } from './platform/shm-folder.ts';
import { DOMAIN_MAX } from './platform/store-service.ts';
import type { Domain } from './platform.ts';
import type { RingDevice } from './ring-device.ts';
import { Toolstack } from './toolstack.ts';
import { connectStore, type XenstoreClient } from './xenstore.ts';

export interface RingAddress {
  /** That of `urbgate serve --shm`. */
  readonly folder: string;
  /** Number of this program among those that use the folder, from 1 on; default: a free one. */
  readonly domain?: Domain;
  /** Devices that it may have at a time, 1 to 31; default: 8. */
  readonly ports?: number;
}

const PORTS_DEFAULT = 8;
/** A gateway plugs a device in at once, or never. */
const PLUG_MILLISECONDS = 5000;
/** Numbers are taken at random, so a second try is rare. */
const DOMAIN_ATTEMPTS_MAX = 8;

/** @throws {UserError} if there is no gateway in the folder. */
export async function connectRing(address: RingAddress): Promise<RingClient> {
  const { folder, ports = PORTS_DEFAULT } = address;
  const platform = await openPlatform(address);
  let store: XenstoreClient | null = null;
  try {
    store = await connectStore(join(folder, STORE_SOCKET));
    await store.introduce(0);
    const toolstack = new Toolstack(store);
    const controller = await toolstack.addController(platform.domain, { ports });
    const path = `/local/domain/${platform.domain}/device/vusb/${controller}`;
    const frontend = new Frontend(platform, path);
    const client = new RingClient({ platform, store, toolstack, frontend, controller });
    await frontend.start();
    return client;
  } catch (error) {
    store?.close();
    await platform.close();
    throw error;
  }
}

async function openPlatform({ folder, domain }: RingAddress): Promise<ShmPlatform> {
  if (domain !== undefined) return await openShmPlatform({ folder, domain });
  for (let attempt = 1; ; attempt++) {
    try {
      return await openShmPlatform({ folder, domain: randomInt(1, DOMAIN_MAX + 1) });
    } catch (error) {
      if (attempt === DOMAIN_ATTEMPTS_MAX) throw error;
    }
  }
}

interface Parts {
  readonly platform: ShmPlatform;
  /** As domain 0, for what a toolstack writes. */
  readonly store: XenstoreClient;
  readonly toolstack: Toolstack;
  readonly frontend: Frontend;
  readonly controller: number;
}

/** A connection to a gateway. */
export class RingClient {
  /** Resolves when the gateway has gone, or `close` was called; all transfers are done then. */
  readonly closed: Promise<void>;
  readonly #parts: Parts;
  #closing: Promise<void> | null = null;
  #gone = false;
  #resolveClosed: () => void = () => {};

  /** `connectRing` makes these. */
  constructor(parts: Parts) {
    this.#parts = parts;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    void parts.platform.storeLost.then(() => {
      this.#gone = true;
      return this.close();
    });
  }

  /**
   * Takes a device, by its bus id, until `release`.
   *
   * @throws {UserError} if the gateway does not plug it in.
   */
  async importDevice(busId: string): Promise<RingDevice> {
    const { platform, toolstack, controller, frontend } = this.#parts;
    const port = await toolstack.attachDevice(platform.domain, controller, busId);
    const device = await plugged(frontend, port);
    if (device !== undefined) return device;
    await toolstack.detachDevice(platform.domain, controller, port);
    throw new UserError(
      `Cannot import ${busId}: the gateway has not plugged it in within ${PLUG_MILLISECONDS / 1000} s, ` +
        'wanted an exported device of at most high speed that nobody else has (its log says which)',
    );
  }

  /** Gives a device back; its transfers end as 'shutdown'. */
  async release({ port, closed }: RingDevice): Promise<void> {
    const { platform, toolstack, controller } = this.#parts;
    await toolstack.detachDevice(platform.domain, controller, port);
    await closed;
  }

  /** Gives all devices back, and leaves. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { platform, store, toolstack, frontend, controller } = this.#parts;
    if (this.#gone) frontend.abandon();
    else {
      await frontend.close();
      await toolstack.removeController(platform.domain, controller);
    }
    store.close();
    await platform.close();
    this.#resolveClosed();
  }
}

/** The device at a port when it is there, undefined if it does not come. */
function plugged(frontend: Frontend, port: number): Promise<RingDevice | undefined> {
  const present = frontend.devices.get(port);
  if (present !== undefined) return Promise.resolve(present);
  return new Promise((resolve) => {
    const end = (device?: RingDevice) => {
      clearTimeout(timer);
      frontend.off('plugged', look);
      resolve(device);
    };
    const look = (device: RingDevice) => {
      if (device.port === port) end(device);
    };
    const timer = setTimeout(end, PLUG_MILLISECONDS);
    frontend.on('plugged', look);
  });
}
