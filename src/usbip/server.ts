/**
 * The TCP side of the gateway: sockets around `Connection`.
 *
 * All replies that one turn of the event loop brings forth leave in one gathered write. A client
 * that stops reading is not read from either, once `UNSENT_OCTETS_MAX` wait for it; what it has
 * outstanding is bounded by the session's limits.
 */
import { createServer, type Server as NetServer, type Socket } from 'node:net';
import { type Clock, systemClock } from '../core/clock.ts';
import { Containment, logBug } from '../core/containment.ts';
import { RemoteProtocolError, UserError } from '../core/errors.ts';
import { DEFAULT_LIMITS, type SessionLimits } from '../core/limits.ts';
import { clientsMemory } from '../core/machine-memory.ts';
import type { MemoryBudget } from '../core/memory-budget.ts';
import { PeerLines, type PeerLog } from '../core/peer-log.ts';
import type { Registry } from '../core/registry.ts';
import type { SessionOptions } from '../core/session.ts';
import type { Loan } from '../core/urb.ts';
import { formatAddress, type ListenAddress, whyNotListening } from './address.ts';
import { BufferPool } from './buffer-pool.ts';
import { Connection, type ConnectionEvent } from './connection.ts';
import { Door, type DoorOptions, type Place } from './door.ts';
import { Lifetime } from './lifetime.ts';
import { ReadTurns } from './read-turns.ts';
import { ackedOctets, giveBack, prepareForUrbs, readInto, writeGathered } from './sockets.ts';

/** Replies that wait for a client before it is not read from any more. */
const UNSENT_OCTETS_MAX = 1 << 20;
/** Octets asked of the kernel in one read. */
const READ_OCTETS = 256 * 1024;
/** Connections that the kernel keeps for us: it lets a flood wait there, and others behind it (somaxconn is less). */
const BACKLOG = 4096;
/** How long a client may take to receive its last replies and to close its end. */
const GOODBYE_MILLISECONDS = 2_000;

export { formatAddress, type ListenAddress } from './address.ts';

export interface ServerLog {
  warn(message: string): void;
  /** A bug; default: a warning with the stack. */
  bug?(error: unknown, what: string): void;
  info(message: string): void;
}

export interface ServerOptions {
  readonly registry: Registry;
  readonly log: ServerLog;
  readonly limits?: SessionLimits;
  /** What all clients together may hold; default: a share of the machine's (limits.ts). */
  readonly memory?: MemoryBudget;
  /** How errors are held back from clients that do not speak the stall protocol. */
  readonly session?: SessionOptions;
  /** For the time that an operation may take; not for sessions. */
  readonly clock?: Clock;
  readonly door?: DoorOptions;
}

export class UsbipServer {
  readonly #registry: Registry;
  readonly #log: PeerLines;
  readonly #limits: SessionLimits;
  readonly #memory: MemoryBudget;
  readonly #session: SessionOptions | undefined;
  readonly #clock: Clock;
  readonly #door: Door;
  readonly #pool = new BufferPool();
  readonly #readMemory = Buffer.allocUnsafeSlow(READ_OCTETS);
  readonly #listeners: NetServer[] = [];
  readonly #clients = new Set<Client>();

  constructor(options: ServerOptions) {
    this.#registry = options.registry;
    this.#log = new PeerLines(options.log);
    this.#limits = options.limits ?? DEFAULT_LIMITS;
    this.#memory = options.memory ?? clientsMemory();
    this.#session = options.session;
    this.#clock = options.clock ?? systemClock;
    this.#door = new Door(this.#log, this.#clock, options.door);
  }

  /** Open connections, importing or not. */
  get clientCount(): number {
    return this.#clients.size;
  }

  /** Of those, how many have no device. */
  get strangerCount(): number {
    return this.#door.strangerCount;
  }

  /**
   * Listens on one more address; port 0 takes a free one. Resolves to where it listens.
   *
   * @throws {UserError} if the address cannot be had.
   */
  async listen({ host, port }: ListenAddress): Promise<ListenAddress> {
    const listener = createServer({ pauseOnConnect: true }, (accepted) => {
      const end = (error: unknown) => {
        this.#log.bug(error, `Cannot serve ${peerOf(accepted)}`, accepted.remoteAddress ?? '?');
        accepted.destroy();
      };
      new Containment(end).run(() => this.#accept(accepted, listener), undefined);
    });
    await new Promise<void>((resolve, reject) => {
      listener.once('error', (error: NodeJS.ErrnoException) => {
        reject(
          new UserError(
            `Cannot listen on ${formatAddress({ host, port })}: ${whyNotListening(error)}`,
          ),
        );
      });
      listener.listen({ host, port, backlog: BACKLOG }, resolve);
    });
    listener.on('error', ({ message }) => {
      this.#log.warn(`Cannot accept a connection: ${message}`, 'failed accepts', '?');
    });
    this.#listeners.push(listener);
    const bound = listener.address();
    if (bound === null || typeof bound === 'string') throw new TypeError('Cannot find the port');
    return { host: bound.address, port: bound.port };
  }

  /** Stops listening, gives back every URB, sends what is left, and closes each connection. */
  async close(): Promise<void> {
    const closed = this.#listeners.map(
      (listener) => new Promise<void>((resolve) => listener.close(() => resolve())),
    );
    await Promise.all([...this.#clients].map((client) => client.end()));
    await Promise.all(closed);
    this.#log.flush();
  }

  #accept(accepted: Socket, listener: NetServer): void {
    const place: Place = {
      name: peerOf(accepted),
      address: accepted.remoteAddress ?? '?',
      drop: () => client.drop(),
    };
    if (!this.#door.enter(place)) {
      accepted.resetAndDestroy(); // without a goodbye, the kernel has nothing to remember of it
      return;
    }
    const socket = readInto(accepted, listener, this.#readMemory, (chunk) => client.receive(chunk));
    const client: Client = new Client(socket, {
      registry: this.#registry,
      limits: this.#limits,
      memory: this.#memory,
      ...(this.#session && { session: this.#session }),
      pool: this.#pool,
      log: this.#log,
      clock: this.#clock,
      place,
      onImported: () => this.#door.leave(place),
      onClosed: () => {
        this.#door.leave(place);
        this.#clients.delete(client);
      },
    });
    this.#clients.add(client);
  }
}

interface ClientOptions {
  readonly registry: Registry;
  readonly limits: SessionLimits;
  readonly memory: MemoryBudget;
  readonly session?: SessionOptions;
  readonly pool: BufferPool;
  readonly log: PeerLog;
  readonly clock: Clock;
  readonly place: Place;
  readonly onImported: () => void;
  readonly onClosed: () => void;
}

/** One socket and its `Connection`. */
class Client {
  readonly #socket: Socket;
  readonly #connection: Connection;
  readonly #options: ClientOptions;
  readonly #containment = new Containment((error) => this.#failed(error));
  readonly #flushLater = this.#containment.guard(() => this.#flush());
  readonly #work = (chunk: Buffer | null) => this.#worked(chunk);
  readonly #giveBack = (loans: readonly Loan[]) => this.#containment.run(giveBack, loans);
  readonly #turns: ReadTurns;
  #flushScheduled = false;
  readonly #lifetime: Lifetime;
  /** Resolves when the device is free again. */
  #released: Promise<void> | null = null;

  constructor(socket: Socket, options: ClientOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#connection = new Connection({
      registry: options.registry,
      peer: options.place.name,
      limits: options.limits,
      memory: options.memory,
      pool: options.pool,
      network: {
        unsentOctets: () => socket.writableLength,
        ackedOctets: () => ackedOctets(socket),
      },
      ...(options.session && { session: options.session }),
      containment: this.#containment,
      onOutput: () => this.#scheduleFlush(),
      onEvent: (event) => this.#logEvent(event),
    });
    socket.on('drain', this.#flushLater); // what has left does not count as the client's memory
    this.#turns = new ReadTurns({
      socket,
      connection: this.#connection,
      readBytesMax: READ_OCTETS,
      unsentBytesMax: UNSENT_OCTETS_MAX,
      goOn: () => this.#containment.run(this.#work, null),
    });
    socket.on('error', (error) => {
      this.#say('warn', 'lost connections', `connection lost: ${error.message}`);
    });
    socket.on(
      'close',
      this.#containment.guard(() => this.#closed()),
    );
    this.#lifetime = new Lifetime({
      clock: options.clock,
      isWaiting: () => this.#connection.isWaiting,
      end: () => socket.destroy(),
    });
  }

  /** Says goodbye: what is outstanding comes back, replies are sent, the connection closes. */
  async end(): Promise<void> {
    // It may be closed already, and only its device not released yet.
    const gone =
      this.#socket.closed || new Promise((resolve) => this.#socket.once('close', resolve));
    this.#lifetime.limit(GOODBYE_MILLISECONDS);
    this.#released ??= this.#connection.close();
    await this.#released.catch(() => {}); // `#closed` says so
    this.#flushLater();
    await gone;
  }

  /** Closes it at once, for somebody else. */
  drop(): void {
    this.#socket.resetAndDestroy();
  }

  receive(chunk: Buffer): void {
    this.#containment.run(this.#work, chunk);
  }

  /** A chunk, or what the connection has left of one. */
  #worked(chunk: Buffer | null): void {
    try {
      if (chunk === null) this.#connection.goOn();
      else this.#connection.receive(chunk, this.#turns.isSameTurn);
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      const what = `connection closed: ${error.message} (${error.code})`;
      this.#say('warn', 'connections closed for a protocol error', what);
      this.#socket.destroy();
      return;
    }
    this.#flush();
    this.#turns.worked(chunk?.length ?? 0);
  }

  #scheduleFlush(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    process.nextTick(this.#flushLater);
  }

  #flush(): void {
    this.#flushScheduled = false;
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded) return;
    const pieces = this.#connection.takeOutput();
    writeGathered(socket, pieces, this.#connection.takeLoans(), this.#giveBack);
    if (this.#connection.ending) {
      socket.end();
      this.#lifetime.limit(GOODBYE_MILLISECONDS);
    } else if (socket.writableLength > UNSENT_OCTETS_MAX) socket.pause();
  }

  #closed(): void {
    this.#lifetime.stop();
    const busId = this.#connection.busId;
    this.#released ??= this.#connection.close();
    const released = this.#released
      .then(
        () => {
          if (busId !== undefined) this.#say('info', 'released devices', `released ${busId}`);
        },
        (error) => this.#say('warn', 'failed releases', `cannot release ${busId}: ${error}`),
      )
      .finally(() => {
        this.#options.onClosed();
        this.#connection.takeOutput();
        this.#giveBack(this.#connection.takeLoans()); // nobody will send it
      });
    this.#containment.watch(released);
  }

  /** A bug ends this connection and its device's session. */
  #failed(error: unknown): void {
    const { busId } = this.#connection;
    const whose = busId === undefined ? '' : ` of ${busId}`;
    const { log, place } = this.#options;
    logBug(log, error, `${place.name}: connection${whose} closed by a bug`, place.address);
    this.#socket.destroy();
  }

  #logEvent(event: ConnectionEvent): void {
    if (event.type === 'imported') {
      this.#lifetime.imported();
      this.#options.onImported();
      prepareForUrbs(this.#socket);
      this.#say('info', 'attached devices', `attached ${event.busId}`);
    } else if (event.type === 'listed') this.#say('info', 'lists', 'listed devices');
    else this.#say('warn', 'refused imports', `refused ${event.busId}: ${event.reason}`);
  }

  #say(level: 'info' | 'warn', kind: string, what: string): void {
    const { log, place } = this.#options;
    log[level](`${place.name}: ${what}`, kind, place.address);
  }
}

function peerOf(socket: Socket): string {
  return formatAddress({ host: socket.remoteAddress ?? '?', port: socket.remotePort ?? 0 });
}
