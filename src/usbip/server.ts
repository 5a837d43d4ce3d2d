/**
 * The TCP side of the gateway: sockets around `Connection`.
 *
 * All replies that one turn of the event loop brings forth leave in one gathered write. A client
 * that stops reading is not read from either, once `UNSENT_OCTETS_MAX` wait for it; what it has
 * outstanding is bounded by the session's limits.
 */
import { createServer, type Server as NetServer, type Socket } from 'node:net';
import { type BugLog, Containment, logBug } from '../core/containment.ts';
import { RemoteProtocolError, UserError } from '../core/errors.ts';
import { DEFAULT_LIMITS, type SessionLimits } from '../core/limits.ts';
import type { Registry } from '../core/registry.ts';
import type { SessionOptions } from '../core/session.ts';
import type { Loan } from '../core/urb.ts';
import { BufferPool } from './buffer-pool.ts';
import { Connection, type ConnectionEvent } from './connection.ts';
import { whyNotListening } from './listen-errors.ts';
import { ackedOctets, giveBack, readInto, setUserTimeout, writeGathered } from './sockets.ts';

/** A silent client is probed after this time, then each second; ten probes lost end it. */
const KEEPALIVE_MILLISECONDS = 10_000;
/** Data that a client has not acknowledged for so long ends its connection. */
const USER_TIMEOUT_MILLISECONDS = 20_000;
/** A connection that has imported nothing is closed. */
const OPERATION_TIMEOUT_MILLISECONDS = 30_000;
/** Replies that wait for a client before it is not read from any more. */
const UNSENT_OCTETS_MAX = 1 << 20;
/** Octets asked of the kernel in one read. */
const READ_OCTETS = 256 * 1024;
/** Connections at a time; each costs a descriptor and a little memory before it imports. */
const CONNECTIONS_MAX = 1024;
/** How long a client may take to receive its last replies and to close its end. */
const GOODBYE_MILLISECONDS = 2_000;

export interface ServerLog extends BugLog {
  info(message: string): void;
}

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

export interface ServerOptions {
  readonly registry: Registry;
  readonly log: ServerLog;
  readonly limits?: SessionLimits;
  /** How errors are held back from clients that do not speak the stall protocol. */
  readonly session?: SessionOptions;
}

export class UsbipServer {
  readonly #registry: Registry;
  readonly #log: ServerLog;
  readonly #limits: SessionLimits;
  readonly #session: SessionOptions | undefined;
  readonly #pool = new BufferPool();
  readonly #readMemory = Buffer.allocUnsafeSlow(READ_OCTETS);
  readonly #listeners: NetServer[] = [];
  readonly #clients = new Set<Client>();

  constructor(options: ServerOptions) {
    this.#registry = options.registry;
    this.#log = options.log;
    this.#limits = options.limits ?? DEFAULT_LIMITS;
    this.#session = options.session;
  }

  /** Open connections, importing or not. */
  get clientCount(): number {
    return this.#clients.size;
  }

  /**
   * Listens on one more address; port 0 takes a free one. Resolves to where it listens.
   *
   * @throws {UserError} if the address cannot be had.
   */
  async listen({ host, port }: ListenAddress): Promise<ListenAddress> {
    const listener = createServer(
      {
        noDelay: true,
        keepAlive: true,
        keepAliveInitialDelay: KEEPALIVE_MILLISECONDS,
        pauseOnConnect: true,
      },
      (accepted) => {
        const end = (error: unknown) => {
          logBug(this.#log, error, `Cannot serve ${peerOf(accepted)}`);
          accepted.destroy();
        };
        new Containment(end).run(() => this.#accept(accepted, listener), undefined);
      },
    );
    await new Promise<void>((resolve, reject) => {
      listener.once('error', (error: NodeJS.ErrnoException) => {
        reject(
          new UserError(
            `Cannot listen on ${formatAddress({ host, port })}: ${whyNotListening(error)}`,
          ),
        );
      });
      listener.listen({ host, port }, resolve);
    });
    listener.on('error', (error) => this.#log.warn(`Cannot accept a connection: ${error.message}`));
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
  }

  #accept(accepted: Socket, listener: NetServer): void {
    if (this.#clients.size >= CONNECTIONS_MAX) {
      this.#log.warn(`Cannot serve ${peerOf(accepted)}: ${CONNECTIONS_MAX} connections are open`);
      accepted.destroy();
      return;
    }
    setUserTimeout(accepted, USER_TIMEOUT_MILLISECONDS);
    const socket = readInto(accepted, listener, this.#readMemory, (chunk) => client.receive(chunk));
    const client: Client = new Client(socket, {
      registry: this.#registry,
      limits: this.#limits,
      ...(this.#session && { session: this.#session }),
      pool: this.#pool,
      log: this.#log,
      onClosed: () => this.#clients.delete(client),
    });
    this.#clients.add(client);
  }
}

interface ClientOptions {
  readonly registry: Registry;
  readonly limits: SessionLimits;
  readonly session?: SessionOptions;
  readonly pool: BufferPool;
  readonly log: ServerLog;
  readonly onClosed: () => void;
}

/** One socket and its `Connection`. */
class Client {
  readonly #socket: Socket;
  readonly #connection: Connection;
  readonly #options: ClientOptions;
  readonly #peer: string;
  readonly #containment = new Containment((error) => this.#failed(error));
  readonly #flushLater = this.#containment.guard(() => this.#flush());
  readonly #take = (chunk: Buffer) => this.#taken(chunk);
  readonly #giveBack = (loans: readonly Loan[]) => this.#containment.run(giveBack, loans);
  #flushScheduled = false;
  #lifeTimer: NodeJS.Timeout | undefined;
  /** Resolves when the device is free again. */
  #released: Promise<void> | null = null;

  constructor(socket: Socket, options: ClientOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#peer = peerOf(socket);
    this.#connection = new Connection({
      registry: options.registry,
      peer: this.#peer,
      limits: options.limits,
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
    socket.on('drain', () => socket.resume());
    socket.on('error', (error) => this.#say('warn', `connection lost: ${error.message}`));
    socket.on(
      'close',
      this.#containment.guard(() => this.#closed()),
    );
    this.#limitLife(OPERATION_TIMEOUT_MILLISECONDS);
  }

  /** Says goodbye: what is outstanding comes back, replies are sent, the connection closes. */
  async end(): Promise<void> {
    // It may be closed already, and only its device not released yet.
    const gone =
      this.#socket.closed || new Promise((resolve) => this.#socket.once('close', resolve));
    this.#limitLife(GOODBYE_MILLISECONDS);
    this.#released ??= this.#connection.close();
    await this.#released.catch(() => {}); // `#closed` says so
    this.#flushLater();
    await gone;
  }

  /** Ends the connection, whatever it does, when this time is over; Infinity for never. */
  #limitLife(milliseconds: number): void {
    clearTimeout(this.#lifeTimer);
    if (milliseconds === Number.POSITIVE_INFINITY) return;
    this.#lifeTimer = setTimeout(() => this.#socket.destroy(), milliseconds);
  }

  receive(chunk: Buffer): void {
    this.#containment.run(this.#take, chunk);
  }

  #taken(chunk: Buffer): void {
    try {
      this.#connection.receive(chunk);
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      this.#say('warn', `connection closed: ${error.message} (${error.code})`);
      this.#socket.destroy();
      return;
    }
    this.#flush();
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
      this.#limitLife(GOODBYE_MILLISECONDS);
    } else if (socket.writableLength > UNSENT_OCTETS_MAX) socket.pause();
  }

  #closed(): void {
    clearTimeout(this.#lifeTimer);
    const busId = this.#connection.busId;
    this.#released ??= this.#connection.close();
    const released = this.#released
      .then(
        () => {
          if (busId !== undefined) this.#say('info', `released ${busId}`);
        },
        (error) => this.#say('warn', `cannot release ${busId}: ${error}`),
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
    logBug(this.#options.log, error, `${this.#peer}: connection${whose} closed by a bug`);
    this.#socket.destroy();
  }

  #logEvent(event: ConnectionEvent): void {
    if (event.type === 'imported') {
      this.#limitLife(Number.POSITIVE_INFINITY);
      this.#say('info', `attached ${event.busId}`);
    } else if (event.type === 'listed') this.#say('info', 'listed devices');
    else this.#say('warn', `refused ${event.busId}: ${event.reason}`);
  }

  #say(level: 'info' | 'warn', what: string): void {
    this.#options.log[level](`${this.#peer}: ${what}`);
  }
}

function peerOf(socket: Socket): string {
  return formatAddress({ host: socket.remoteAddress ?? '?', port: socket.remotePort ?? 0 });
}

/** HOST:PORT, with brackets around an IPv6 address. */
export function formatAddress({ host, port }: ListenAddress): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
