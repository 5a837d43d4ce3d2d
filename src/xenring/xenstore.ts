/**
 * A client of xenstored, and of `platform/store-server.ts`, which speaks the same protocol.
 *
 * When the connection ends, all that is under way and all that is asked later fails with one and
 * the same error, and `lost` resolves with it.
 */
import { existsSync } from 'node:fs';
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { Store, StoreOperations, StorePermissions, StoreWatch } from './platform.ts';
import { IN_FLIGHT_MAX, StoreRequests } from './xenstore-requests.ts';
import {
  connectSocket,
  openDevice,
  type Transport,
  type TransportEvents,
} from './xenstore-transport.ts';
import {
  checkPath,
  decodePermissions,
  decodeStrings,
  encodePermissions,
  encodeStrings,
  PAYLOAD_OCTETS_MAX,
  STORE_TYPE,
  StoreError,
} from './xenstore-wire.ts';

/** Where xenstored of this machine is, best first. */
const SOCKETS = ['/run/xenstored/socket', '/var/run/xenstored/socket'];
const DEVICES = ['/dev/xen/xenbus', '/proc/xen/xenbus'];

/** How often a transaction is tried. Each failure is somebody else's success. */
const TRANSACTION_ATTEMPTS_MAX = 100;
/** How often a long directory is read anew because it changed while its parts were read. */
const LIST_ATTEMPTS_MAX = 20;
/** Parts of one directory; with nodes of one letter they hold what a domain may have. */
const LIST_PARTS_MAX = 1000;

type WatchCallback = (changed: string) => void;

/** Connects to the store of this machine, or to the socket at `path`. @throws {UserError} */
export async function connectStore(path?: string, clock?: Clock): Promise<XenstoreClient> {
  const socket = path ?? SOCKETS.find((one) => existsSync(one));
  if (socket !== undefined)
    return XenstoreClient.over((events) => connectSocket(socket, events), 'socket', clock);
  return connectStoreDevice();
}

/** Connects through the kernel, as every domain can. @throws {UserError} */
export async function connectStoreDevice(): Promise<XenstoreClient> {
  const device = DEVICES.find((one) => existsSync(one));
  if (device === undefined)
    throw new UserError(
      `Cannot reach the store: ${[...SOCKETS, ...DEVICES].join(', ')} are absent, wanted one of them`,
    );
  return XenstoreClient.over(async (events) => openDevice(device, events), 'device');
}

export class XenstoreClient implements Store {
  /** The socket is there only in the domain where xenstored runs. */
  readonly via: 'socket' | 'device';
  /** Resolves when the connection has gone by itself. */
  readonly lost: Promise<StoreError>;
  readonly #watches = new Map<string, WatchCallback>();
  readonly #requests: StoreRequests;
  readonly #operations: StoreOperations;
  #transport: Transport | null = null;
  #resolveLost: (error: StoreError) => void = () => {};
  #tokens = 0;

  private constructor(via: 'socket' | 'device', clock: Clock) {
    this.via = via;
    this.lost = new Promise((resolve) => {
      this.#resolveLost = resolve;
    });
    this.#requests = new StoreRequests({
      inFlightMax: IN_FLIGHT_MAX[via],
      send: (message) => this.#transport?.send(message),
      onWatchEvent: (changed, token) => this.#watches.get(token)?.(changed),
      clock,
      onSilent: (reason) => this.#lose(reason),
    });
    this.#operations = new Operations(this.#requests, 0);
  }

  static async over(
    connect: (events: TransportEvents) => Promise<Transport>,
    via: 'socket' | 'device',
    clock: Clock = systemClock,
  ): Promise<XenstoreClient> {
    const client = new XenstoreClient(via, clock);
    client.#transport = await connect({
      onData: (chunk) => client.#receive(chunk),
      onLost: (reason) => client.#lose(reason),
    });
    return client;
  }

  get watches(): number {
    return this.#watches.size;
  }

  read = (path: string) => this.#operations.read(path);
  list = (path: string) => this.#operations.list(path);
  write = (path: string, value: string) => this.#operations.write(path, value);
  remove = (path: string) => this.#operations.remove(path);
  permissions = (path: string) => this.#operations.permissions(path);
  setPermissions = (path: string, permissions: StorePermissions) =>
    this.#operations.setPermissions(path, permissions);

  /** Also takes xenstored's "@introduceDomain" and "@releaseDomain". */
  async watch(path: string, onChange: WatchCallback): Promise<StoreWatch> {
    checkPath(path, 'watch');
    this.#tokens++;
    const token = `urbgate-${this.#tokens}`;
    const payload = encodeStrings(path, token);
    // The first event may come before the reply.
    this.#watches.set(token, onChange);
    try {
      await this.#requests.request(STORE_TYPE.watch, 0, payload, `watch ${path}`);
    } catch (error) {
      this.#watches.delete(token);
      throw error;
    }
    return {
      end: async () => {
        if (!this.#watches.delete(token)) return;
        await this.#requests.request(STORE_TYPE.unwatch, 0, payload, `end the watch of ${path}`);
      },
    };
  }

  async transaction<T>(work: (store: StoreOperations) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(work);
      } catch (error) {
        const again = error instanceof StoreError && error.code === 'EAGAIN';
        if (!again || attempt === TRANSACTION_ATTEMPTS_MAX) throw error;
      }
    }
  }

  /** Says to a `store-server.ts` which domain this is; xenstored knows. */
  async introduce(domain: number): Promise<void> {
    const payload = encodeStrings(`${domain}`, '0', '0');
    await this.#requests.request(STORE_TYPE.introduce, 0, payload, `join as domain ${domain}`);
  }

  close(): void {
    this.#requests.fail(new StoreError('ECONNRESET', 'Cannot ask the store: it has been closed'));
    this.#watches.clear();
    this.#transport?.close();
    this.#transport = null;
  }

  async #attempt<T>(work: (store: StoreOperations) => Promise<T>): Promise<T> {
    const { transactionStart, transactionEnd } = STORE_TYPE;
    const started = await this.#requests.request(
      transactionStart,
      0,
      encodeStrings(''),
      'start a transaction',
    );
    const id = Number(decodeStrings(started)[0]);
    const end = (verdict: 'T' | 'F') =>
      this.#requests.request(transactionEnd, id, encodeStrings(verdict), 'end a transaction');
    let result: T;
    try {
      result = await work(new Operations(this.#requests, id));
    } catch (error) {
      // The first error is the one to tell.
      await end('F').catch(() => {});
      throw error;
    }
    await end('T');
    return result;
  }

  #receive(chunk: Buffer): void {
    try {
      this.#requests.receive(chunk);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.#lose(error.message);
    }
  }

  #lose(reason: string): void {
    const message = `Cannot ask the store: the connection has ended (${reason})`;
    const error = new StoreError('ECONNRESET', message);
    this.#transport?.close();
    this.#transport = null;
    this.#watches.clear();
    this.#requests.fail(error);
    this.#resolveLost(error);
  }
}

/** The operations, inside a transaction or (id 0) outside. */
class Operations implements StoreOperations {
  readonly #requests: StoreRequests;
  readonly #transactionId: number;

  constructor(requests: StoreRequests, transactionId: number) {
    this.#requests = requests;
    this.#transactionId = transactionId;
  }

  async read(path: string): Promise<string | undefined> {
    return (await this.#askIfThere(STORE_TYPE.read, path, 'read'))?.toString();
  }

  async list(path: string): Promise<string[] | undefined> {
    try {
      const payload = await this.#askIfThere(STORE_TYPE.directory, path, 'list');
      return payload && decodeStrings(payload);
    } catch (error) {
      if (error instanceof StoreError && error.code === 'E2BIG') return this.#listParts(path);
      throw error;
    }
  }

  async write(path: string, value: string): Promise<void> {
    const payload = Buffer.concat([encodeStrings(path), Buffer.from(value)]);
    if (payload.length > PAYLOAD_OCTETS_MAX)
      throw new StoreError(
        'EMSGSIZE',
        `Cannot write ${path}: ${payload.length} octets with its path, at most ${PAYLOAD_OCTETS_MAX}`,
      );
    await this.#ask(STORE_TYPE.write, path, 'write', payload);
  }

  async remove(path: string): Promise<void> {
    await this.#askIfThere(STORE_TYPE.remove, path, 'remove');
  }

  async permissions(path: string): Promise<StorePermissions | undefined> {
    const payload = await this.#askIfThere(STORE_TYPE.getPermissions, path, 'read permissions of');
    return payload && decodePermissions(decodeStrings(payload));
  }

  async setPermissions(path: string, permissions: StorePermissions): Promise<void> {
    const payload = encodeStrings(path, ...encodePermissions(permissions));
    await this.#ask(STORE_TYPE.setPermissions, path, 'set permissions of', payload);
  }

  /** A directory whose names do not fit one message: parts of one generation of it. */
  async #listParts(path: string): Promise<string[] | undefined> {
    for (let attempt = 0; attempt < LIST_ATTEMPTS_MAX; attempt++) {
      let names = '';
      let generation: string | undefined;
      for (let part = 0; part < LIST_PARTS_MAX; part++) {
        const payload = await this.#askIfThere(
          STORE_TYPE.directoryPart,
          path,
          'list',
          encodeStrings(path, `${Buffer.byteLength(names)}`),
        );
        if (payload === undefined) return undefined;
        const text = payload.toString();
        const cut = text.indexOf('\0');
        generation ??= text.slice(0, cut);
        if (generation !== text.slice(0, cut)) break;
        const more = text.slice(cut + 1);
        // An empty name after the last one says that this is all.
        if (more === '\0' || more.endsWith('\0\0'))
          return decodeStrings(Buffer.from(names + more)).filter((name) => name !== '');
        names += more;
      }
    }
    throw new StoreError('EAGAIN', `Cannot list ${path}: it changes all the time`);
  }

  async #ask(
    type: number,
    path: string,
    verb: string,
    payload = encodeStrings(path),
  ): Promise<Buffer> {
    checkPath(path);
    return this.#requests.request(type, this.#transactionId, payload, `${verb} ${path}`);
  }

  async #askIfThere(
    type: number,
    path: string,
    verb: string,
    payload?: Buffer,
  ): Promise<Buffer | undefined> {
    try {
      return await this.#ask(type, path, verb, payload);
    } catch (error) {
      if (error instanceof StoreError && error.code === 'ENOENT') return undefined;
      throw error;
    }
  }
}
