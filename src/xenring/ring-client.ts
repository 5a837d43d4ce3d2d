/**
 * The ring for programs of this host: `connectRing` to a gateway that runs `urbgate serve --shm`.
 *
 * A program is a domain of its own in the gateway's folder, with one controller, made by itself: there
 * is no toolstack, and who may open the folder may have its devices. When the gateway has gone, for
 * whatever reason, the devices are gone, and `closed` says so; the program may connect again.
 */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import { within } from '../core/within.ts';
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
/** For a gateway to unplug a device. */
const UNPLUG_MILLISECONDS = 5000;
/** For an orderly end: the back end may take 5 s of it, and the toolstack's part as long. */
const CLOSE_MILLISECONDS = 15_000;
/** Numbers are taken at random, so a second try is rare. */
const DOMAIN_ATTEMPTS_MAX = 8;

/**
 * Another clock is for tests.
 *
 * @throws {UserError} if there is no gateway in the folder.
 */
export async function connectRing(
  address: RingAddress,
  clock: Clock = systemClock,
): Promise<RingClient> {
  const { folder, ports = PORTS_DEFAULT } = address;
  const platform = await openPlatform(address, clock);
  let store: XenstoreClient | null = null;
  try {
    store = await connectStore(join(folder, STORE_SOCKET), clock);
    await store.introduce(0);
    const toolstack = new Toolstack(store, 0, clock);
    const controller = await toolstack.addController(platform.domain, { ports });
    const path = `/local/domain/${platform.domain}/device/vusb/${controller}`;
    const frontend = new Frontend(platform, path, clock);
    const client = new RingClient({ platform, store, toolstack, frontend, controller, clock });
    await frontend.start();
    return client;
  } catch (error) {
    store?.close();
    await platform.close();
    throw error;
  }
}

async function openPlatform({ folder, domain }: RingAddress, clock: Clock): Promise<ShmPlatform> {
  if (domain !== undefined) return await openShmPlatform({ folder, domain, clock });
  for (let attempt = 1; ; attempt++) {
    try {
      return await openShmPlatform({ folder, domain: randomInt(1, DOMAIN_MAX + 1), clock });
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
  readonly clock: Clock;
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
  async release(device: RingDevice): Promise<void> {
    const { platform, toolstack, controller, clock } = this.#parts;
    await toolstack.detachDevice(platform.domain, controller, device.port);
    await within(device.closed, UNPLUG_MILLISECONDS, () => device.giveUp(), clock);
  }

  /** Gives all devices back, and leaves. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { platform, store, frontend, clock } = this.#parts;
    const abandon = () => frontend.abandon();
    try {
      if (this.#gone) abandon();
      else await within(this.#leave(), CLOSE_MILLISECONDS, abandon, clock);
    } catch (error) {
      abandon();
      if (!this.#gone) throw error; // else: that is why
    } finally {
      store.close();
      await platform.close();
      this.#resolveClosed();
    }
  }

  async #leave(): Promise<void> {
    const { platform, toolstack, frontend, controller } = this.#parts;
    await frontend.close();
    await toolstack.removeController(platform.domain, controller);
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
