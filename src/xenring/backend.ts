/**
 * One controller of one guest: store, timers and platform around `Controller`.
 *
 * Whatever changes in the store, everything is looked at afresh, one look at a time
 * (xenbus-state.ts says why that is enough). A front end that breaks the protocol costs its
 * connection and one line in the log; it may connect again.
 */
import { basename, dirname } from 'node:path';
import { type Clock, systemClock } from '../core/clock.ts';
import { logBug } from '../core/containment.ts';
import type { SessionLimits } from '../core/limits.ts';
import type { Registry } from '../core/registry.ts';
import { RingConnection } from './connection.ts';
import { Looks } from './looks.ts';
import { type Platform, PlatformError, type StoreWatch } from './platform.ts';
import type { RingLog } from './port-keeper.ts';
import type { ControllerIdentity, PortMemory } from './port-memory.ts';
import { RingError } from './ring-error.ts';
import { numberOf } from './store-number.ts';
import { PORTS_MAX } from './usbif.ts';
import { backAction, XENBUS_STATE, type XenbusState, xenbusStateOf } from './xenbus-state.ts';
import { StoreError } from './xenstore-wire.ts';

export interface BackendOptions {
  readonly platform: Platform;
  readonly registry: Registry;
  readonly log: RingLog;
  readonly memory: PortMemory;
  readonly clock?: Clock;
  readonly limits?: SessionLimits;
}

/** What the back end's directory says. */
interface Directory {
  readonly own: XenbusState;
  readonly online: boolean;
  readonly domain: number;
  readonly frontend: string;
}

export class Backend {
  readonly #path: string;
  readonly #options: BackendOptions;
  readonly #watches: StoreWatch[] = [];
  /** The front end's path that is watched. */
  #watched = '';
  #connection: RingConnection | null = null;
  readonly #looks = new Looks(() => this.#look());
  /** What the front end did wrong, to be dealt with by the next look. */
  #fault: unknown = null;

  /** @param path The back end's directory, /local/domain/0/backend/vusb/DOMAIN/DEVICE. */
  constructor(path: string, options: BackendOptions) {
    this.#path = path;
    this.#options = options;
  }

  /** Bus ids of what is plugged in, by port; undefined if no front end is connected. */
  get plugged(): ReadonlyMap<number, string> | undefined {
    return this.#connection?.plugged;
  }

  async start(): Promise<void> {
    await this.#watch(this.#path);
  }

  /** Exports have come, gone or become free. */
  exportsChanged(): void {
    this.#connection?.tryPlug();
  }

  /** A domain has ended, perhaps this one. */
  domainReleased(): void {
    this.#looks.ask();
  }

  /**
   * The gateway ends: the guest sees its devices unplugged, and its controller waits for the next
   * gateway. Or the guest is gone: then nobody is to be told.
   */
  async stop(how: 'orderly' | 'at-once' = 'orderly'): Promise<void> {
    this.#looks.stop();
    await this.#looks.ended(); // it may have begun a watch
    for (const watch of this.#watches.splice(0)) await watch.end();
    await this.#release(how);
  }

  async #watch(path: string): Promise<void> {
    this.#watches.push(await this.#options.platform.store.watch(path, () => this.#looks.ask()));
  }

  async #look(): Promise<void> {
    try {
      const fault = this.#fault;
      this.#fault = null;
      if (fault !== null) await this.#failed(fault);
      await this.#lookOnce();
    } catch (error) {
      await this.#failed(error);
    }
  }

  async #lookOnce(): Promise<void> {
    const directory = await this.#read();
    if (directory === undefined) {
      await this.#release('at-once');
      return;
    }
    if (directory.frontend !== this.#watched) {
      this.#watched = directory.frontend;
      await this.#watch(`${directory.frontend}/state`);
    }
    const front = xenbusStateOf(await this.#get(`${directory.frontend}/state`));
    await this.#act(directory, front);
  }

  async #act(directory: Directory, front: XenbusState | undefined): Promise<void> {
    switch (backAction(directory.own, front, directory.online)) {
      case 'announce':
        await this.#release('at-once');
        await this.#put('feature-stall-protocol', '1');
        await this.#recallPorts(directory.domain);
        await this.#setState('init-wait', directory.own);
        break;
      case 'attach':
        if (this.#connection === null) this.#connection = await this.#attach(directory);
        if (this.#connection === null) break;
        await this.#plugPorts(this.#connection, directory.domain);
        await this.#setState('connected', directory.own);
        break;
      case 'quiesce':
        await this.#release('orderly');
        await this.#setState('closing', directory.own);
        break;
      case 'close':
        await this.#release('at-once');
        await this.#setState('closed', directory.own);
        break;
      case 'release':
        await this.#release('at-once');
        await this.#removeIfOrphaned(directory.domain);
        break;
      case 'wait':
        break;
    }
  }

  /** Undefined if the directory is gone, or not yet written. */
  async #read(): Promise<Directory | undefined> {
    const own = xenbusStateOf(await this.#get(`${this.#path}/state`));
    const frontend = await this.#get(`${this.#path}/frontend`);
    const domain = numberOf(await this.#get(`${this.#path}/frontend-id`));
    if (own === undefined || frontend === undefined || domain === undefined) return undefined;
    const online = (await this.#get(`${this.#path}/online`)) !== '0';
    return { own, online, domain, frontend };
  }

  /** Undefined if the guest has no uuid: there are none without a hypervisor. */
  async #identity(domain: number): Promise<ControllerIdentity | undefined> {
    const guest = await this.#get(`/local/domain/${domain}/vm`);
    return guest === undefined ? undefined : { guest, controller: basename(this.#path) };
  }

  async #attach({ domain, frontend }: Directory): Promise<RingConnection> {
    const number = async (path: string) => {
      const text = await this.#get(path);
      const value = numberOf(text);
      if (value !== undefined) return value;
      throw new PlatformError(`Cannot attach ${path}: "${text ?? ''}", wanted a number`);
    };
    const ports = await number(`${this.#path}/num-ports`);
    if (ports < 1 || ports > PORTS_MAX) {
      throw new PlatformError(
        `Cannot attach ${this.#path}: ${ports} ports, wanted 1 to ${PORTS_MAX}`,
      );
    }
    const { platform, registry, log, limits, clock = systemClock } = this.#options;
    return new RingConnection({
      platform,
      registry,
      log,
      clock,
      ...(limits && { limits }),
      domain,
      peer: `dom${domain} vusb ${basename(this.#path)}`,
      ports,
      usbVersion: await number(`${this.#path}/usb-ver`),
      urbRing: await number(`${frontend}/urb-ring-ref`),
      connRing: await number(`${frontend}/conn-ring-ref`),
      eventChannel: await number(`${frontend}/event-channel`),
      stallProtocol: (await this.#get(`${frontend}/stall-protocol`)) === '1',
      onFault: (error) => {
        this.#fault = error;
        this.#looks.ask();
      },
    });
  }

  async #plugPorts(connection: RingConnection, domain: number): Promise<void> {
    const wanted = new Map<number, string>();
    let vanishing = false;
    for (let port = 1; port <= connection.portCount; port++) {
      const busId = await this.#get(`${this.#path}/port/${port}`);
      connection.want(port, busId ?? '');
      if (busId) wanted.set(port, busId);
      vanishing ||= busId === undefined;
    }
    const identity = await this.#identity(domain);
    if (identity !== undefined && !vanishing) {
      this.#options.memory.remember(identity, domain, wanted);
    }
  }

  /** A guest that is back finds in its ports what it had in them. */
  async #recallPorts(domain: number): Promise<void> {
    const identity = await this.#identity(domain);
    if (identity === undefined) return;
    for (const [port, busId] of this.#options.memory.recall(identity, domain)) {
      if ((await this.#get(`${this.#path}/port/${port}`)) !== '') continue;
      await this.#put(`port/${port}`, busId);
      this.#options.log.info(
        `${this.#path}: port ${port}: ${busId} was there before, it is again`,
        'recalled ports',
        this.#path,
      );
    }
  }

  /**
   * Removes the directory of a domain that is no more. `xl` would, but does not when a port names a
   * device that is none of this machine's own (libxl__devices_destroy fails then).
   */
  async #removeIfOrphaned(domain: number): Promise<void> {
    await this.#options.platform.store.transaction(async (store) => {
      if ((await store.list(`/local/domain/${domain}`)) !== undefined) return;
      await store.remove(this.#path);
      const above = dirname(this.#path);
      if ((await store.list(above))?.length === 0) await store.remove(above);
    });
  }

  async #release(how: 'orderly' | 'at-once'): Promise<void> {
    const connection = this.#connection;
    this.#connection = null;
    await connection?.end(how);
  }

  /** The front end's fault, the store's, or a bug: this connection ends. */
  async #failed(error: unknown): Promise<void> {
    const { log } = this.#options;
    if (error instanceof RingError || isOutside(error)) {
      const code = error instanceof RingError ? ` (${error.code})` : '';
      const what = `${this.#path}: connection closed: ${error.message}${code}`;
      log.warn(what, 'faults of front ends', this.#path);
    } else logBug(log, error, `${this.#path}: connection closed by a bug`, this.#path);
    try {
      await this.#release('at-once');
    } catch (second) {
      logBug(log, second, `${this.#path}: cannot let go of a connection`, this.#path);
    }
    try {
      const own = xenbusStateOf(await this.#get(`${this.#path}/state`));
      if (own !== undefined) await this.#setState('closing', own);
    } catch {
      // The store is what failed: there is nobody to tell.
    }
  }

  async #setState(state: XenbusState, own: XenbusState): Promise<void> {
    if (state !== own) await this.#put('state', `${XENBUS_STATE[state]}`);
  }

  #get(path: string): Promise<string | undefined> {
    return this.#options.platform.store.read(path);
  }

  /** Never brings back a directory that the toolstack has removed. */
  async #put(name: string, value: string): Promise<void> {
    await this.#options.platform.store.transaction(async (store) => {
      if ((await store.read(`${this.#path}/state`)) === undefined) return;
      await store.write(`${this.#path}/${name}`, value);
    });
  }
}

/** The platform or the store does not do what is asked: no bug of this process. */
export function isOutside(error: unknown): error is PlatformError | StoreError {
  return error instanceof PlatformError || error instanceof StoreError;
}
