/**
 * Controllers and devices as `xl usbctrl-attach` and `xl usbdev-attach` make them with type=vusb: the
 * nodes that a toolstack writes, each time in one transaction, for a front end that finds half a
 * directory fails for good.
 *
 * Source: Xen 4.17 tools/libs/light/libxl_usb.c and libxl_device.c (libxl__device_generic_add).
 * Three directories make a controller: the back end's, the front end's, and libxl's own record of
 * both, so that `xl usb-list` and `xl destroy` know of it.
 */
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { Domain, Store, StoreOperations, StorePermissions } from './platform.ts';
import { PORTS_MAX } from './usbif.ts';

/** How long a back end may take to let go of a controller. */
const REMOVE_MILLISECONDS = 10_000;
/** Controllers of one domain. */
const CONTROLLERS_MAX = 64;
const STATE_INITIALISING = '1';
const STATE_CLOSING = '5';
const STATE_CLOSED = '6';

export interface ControllerSpec {
  /** 1 to 31; default 8. */
  readonly ports?: number;
  /** 1 or 2; default 2. */
  readonly usbVersion?: number;
  /** Device id; the first free one if absent. */
  readonly controller?: number;
}

export interface ControllerListing {
  readonly domain: Domain;
  readonly controller: number;
  readonly usbVersion: number;
  /** xenbus states, as numbers. */
  readonly backState: number;
  readonly frontState: number;
  /** Bus ids by port, from port 1 on; '' for a free port. */
  readonly ports: readonly string[];
}

export class Toolstack {
  readonly #store: Store;
  readonly #backDomain: Domain;
  readonly #clock: Clock;

  /** @param backDomain The domain that the gateway runs in. */
  constructor(store: Store, backDomain: Domain = 0, clock: Clock = systemClock) {
    this.#store = store;
    this.#backDomain = backDomain;
    this.#clock = clock;
  }

  /**
   * Adds a controller; returns its number.
   *
   * @throws {UserError} if that is impossible.
   */
  addController(domain: Domain, spec: ControllerSpec = {}): Promise<number> {
    const { ports = 8, usbVersion = 2 } = spec;
    const what = `Cannot add a controller to domain ${domain}`;
    if (!Number.isInteger(ports) || ports < 1 || ports > PORTS_MAX) {
      throw new UserError(`${what}: ${ports} ports, wanted 1 to ${PORTS_MAX}`);
    }
    if (usbVersion !== 1 && usbVersion !== 2) {
      throw new UserError(`${what}: USB version ${usbVersion}, wanted 1 or 2`);
    }
    return this.#store.transaction(async (store) => {
      if ((await store.list(`/local/domain/${domain}`)) === undefined) {
        throw new UserError(`${what}: there is no such domain`);
      }
      const number = spec.controller ?? (await this.#freeNumber(store, domain, what));
      if ((await store.read(`${this.#frontPath(domain, number)}/backend`)) !== undefined) {
        throw new UserError(`${what}: it has a controller ${number}, wanted a free number`);
      }
      await this.#writeController(store, domain, number, ports, usbVersion);
      return number;
    });
  }

  /**
   * Takes a controller away: asks the back end to let go of it, and removes its nodes when it has,
   * or when it takes too long.
   */
  async removeController(domain: Domain, controller: number): Promise<void> {
    const back = this.#backPath(domain, controller);
    await this.#store.transaction(async (store) => {
      await this.#mustExist(store, domain, controller, 'remove it');
      await store.write(`${back}/online`, '0');
      if ((await store.read(`${back}/state`)) !== STATE_CLOSED) {
        await store.write(`${back}/state`, STATE_CLOSING);
      }
    });
    await this.#closed(`${back}/state`);
    await this.#store.transaction(async (store) => {
      await store.remove(this.#frontPath(domain, controller));
      await store.remove(back);
      await store.remove(recordPath(domain, controller));
    });
  }

  /**
   * Plugs a device in, at the first free port if none is given; returns the port.
   *
   * @throws {UserError} if that is impossible.
   */
  attachDevice(domain: Domain, controller: number, busId: string, port?: number): Promise<number> {
    const what = `attach ${busId}`;
    return this.#store.transaction(async (store) => {
      const ports = await this.#mustExist(store, domain, controller, what);
      const place = port ?? ports.indexOf('') + 1;
      if (place === 0) {
        throw new UserError(
          `Cannot ${what} to controller ${controller} of domain ${domain}: its ${ports.length} ports are taken, wanted a free one`,
        );
      }
      const present = ports[place - 1];
      if (present !== '') {
        const is = present === undefined ? 'there is no such port' : `${present} is there`;
        throw new UserError(
          `Cannot ${what} to port ${place} of controller ${controller} of domain ${domain}: ${is}, wanted a free one of 1 to ${ports.length}`,
        );
      }
      await store.write(`${this.#backPath(domain, controller)}/port/${place}`, busId);
      return place;
    });
  }

  /** Unplugs what is at a port. */
  detachDevice(domain: Domain, controller: number, port: number): Promise<void> {
    return this.#store.transaction(async (store) => {
      const ports = await this.#mustExist(store, domain, controller, `detach port ${port}`);
      if (!ports[port - 1]) {
        throw new UserError(
          `Cannot detach port ${port} of controller ${controller} of domain ${domain}: nothing is there, wanted a port with a device`,
        );
      }
      await store.write(`${this.#backPath(domain, controller)}/port/${port}`, '');
    });
  }

  /** All controllers that the gateway's domain is to serve. */
  async list(): Promise<ControllerListing[]> {
    const store = this.#store;
    const root = `/local/domain/${this.#backDomain}/backend/vusb`;
    const found: ControllerListing[] = [];
    for (const domain of (await store.list(root)) ?? []) {
      for (const controller of (await store.list(`${root}/${domain}`)) ?? []) {
        const back = `${root}/${domain}/${controller}`;
        const front = (await store.read(`${back}/frontend`)) ?? '';
        const number = async (path: string) => Number((await store.read(path)) ?? 0);
        found.push({
          domain: Number(domain),
          controller: Number(controller),
          usbVersion: await number(`${back}/usb-ver`),
          backState: await number(`${back}/state`),
          frontState: front === '' ? 0 : await number(`${front}/state`),
          ports: await portsOf(store, back),
        });
      }
    }
    return found;
  }

  async #writeController(
    store: StoreOperations,
    domain: Domain,
    number: number,
    ports: number,
    usbVersion: number,
  ): Promise<void> {
    const back = this.#backPath(domain, number);
    const front = this.#frontPath(domain, number);
    const record = recordPath(domain, number);
    for (const path of [front, back, record]) await store.remove(path);
    const shown: [string, string][] = [
      ['frontend', front],
      ['frontend-id', `${domain}`],
      ['online', '1'],
      ['state', STATE_INITIALISING],
      ['type', 'vusb'],
      ['usb-ver', `${usbVersion}`],
      ['num-ports', `${ports}`],
      ['port', ''],
    ];
    for (let port = 1; port <= ports; port++) shown.push([`port/${port}`, '']);
    const own = (owner: Domain, reader: Domain): StorePermissions => ({
      owner,
      others: 'none',
      exceptions: [{ domain: reader, access: 'read' }],
    });
    await writeAll(store, record, { owner: 0, others: 'none' }, [['backend', back], ...shown]);
    await writeAll(store, back, own(this.#backDomain, domain), shown);
    await writeAll(store, front, own(domain, this.#backDomain), [
      ['backend', back],
      ['backend-id', `${this.#backDomain}`],
      ['state', STATE_INITIALISING],
    ]);
  }

  async #freeNumber(store: StoreOperations, domain: Domain, what: string): Promise<number> {
    const taken = (await store.list(`/local/domain/${domain}/device/vusb`)) ?? [];
    for (let number = 0; number < CONTROLLERS_MAX; number++) {
      if (!taken.includes(`${number}`)) return number;
    }
    throw new UserError(`${what}: it has ${CONTROLLERS_MAX}, at most so many`);
  }

  /** Returns what is at the ports of a controller that must be there. */
  async #mustExist(
    store: StoreOperations,
    domain: Domain,
    controller: number,
    what: string,
  ): Promise<string[]> {
    const back = this.#backPath(domain, controller);
    if ((await store.read(`${back}/state`)) !== undefined) return portsOf(store, back);
    throw new UserError(
      `Cannot ${what}: domain ${domain} has no controller ${controller}, wanted one made by "urbgate xen ctrl-add" or "xl usbctrl-attach"`,
    );
  }

  /** Resolves when the node says closed, is gone, or time is over. */
  async #closed(path: string): Promise<void> {
    let end = () => {};
    const closed = new Promise<void>((resolve) => {
      end = resolve;
    });
    const watch = await this.#store.watch(path, () => {
      void this.#store.read(path).then((state) => {
        if (state === STATE_CLOSED || state === undefined) end();
      }, end);
    });
    const cancel = this.#clock.after(REMOVE_MILLISECONDS, end);
    await closed;
    cancel();
    await watch.end();
  }

  #backPath(domain: Domain, controller: number): string {
    return `/local/domain/${this.#backDomain}/backend/vusb/${domain}/${controller}`;
  }

  #frontPath(domain: Domain, controller: number): string {
    return `/local/domain/${domain}/device/vusb/${controller}`;
  }
}

/** Where libxl keeps what it knows of a controller. */
function recordPath(domain: Domain, controller: number): string {
  return `/libxl/${domain}/device/vusb/${controller}`;
}

async function portsOf(store: StoreOperations, back: string): Promise<string[]> {
  const count = Number((await store.read(`${back}/num-ports`)) ?? 0);
  const ports: string[] = [];
  for (let port = 1; port <= Math.min(count, PORTS_MAX); port++) {
    ports.push((await store.read(`${back}/port/${port}`)) ?? '');
  }
  return ports;
}

/** Nodes are made with the permissions of the one above, but stores need not do that. */
async function writeAll(
  store: StoreOperations,
  path: string,
  permissions: StorePermissions,
  nodes: readonly [string, string][],
): Promise<void> {
  await store.write(path, '');
  await store.setPermissions(path, permissions);
  for (const [name, value] of nodes) {
    await store.write(`${path}/${name}`, value);
    await store.setPermissions(`${path}/${name}`, permissions);
  }
}
