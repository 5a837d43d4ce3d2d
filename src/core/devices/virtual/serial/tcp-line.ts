/**
 * A modem whose telephone network is TCP.
 *
 *            raise, give                connect
 *   idle ----------------> dialling ----------------> connected
 *    ^                         | error, time-out          | end, error
 *    |   drop (hang up)        v                          v
 *    +------------------------ lost <---------------------+      raise dials again
 *
 * Octets flow with back-pressure both ways and none is lost while the connection lasts: the host's
 * wait in the socket up to a limit, the peer's in the socket and then in TCP's window. A lost
 * connection ends in silence, as a cable that nobody holds at the other end: what the host sends
 * after that is dropped, so that its writes do not hang.
 *
 * The carrier falls only after the host has read everything that the peer sent, because Linux
 * throws away unread octets when it sees it fall.
 */
import { Socket } from 'node:net';
import { type Clock, systemClock } from '../../../clock.ts';
import type { Line, LineListener } from './line.ts';

export interface TcpAddress {
  readonly host: string;
  readonly port: number;
}

/** Octets of the host that wait for the peer. */
export const TO_PEER_OCTETS_MAX = 64 * 1024;
/** Octets of the peer that wait for the host; the last read may exceed it by its own size. */
export const FROM_PEER_OCTETS_MAX = 64 * 1024;
export const DIAL_MILLISECONDS_MAX = 10_000;
/** How long a connection that was hung up may take to deliver its last octets. */
export const LINGER_MILLISECONDS_MAX = 5_000;
/** The same when the line is closed for good, and its gateway perhaps with it. */
export const CLOSE_MILLISECONDS_MAX = 2_000;
/** Such connections at a time: a host that toggles DTR should not collect sockets. */
export const LINGERING_MAX = 8;

const NO_OCTETS = new Uint8Array(0);

export type TcpPhase = 'idle' | 'dialling' | 'connected' | 'lost';

export class TcpLine implements Line {
  /** Why the last connection was lost, if by an error. */
  lastError: Error | null = null;
  /** Octets of the host that found no connection. */
  droppedOctets = 0;
  readonly #address: TcpAddress;
  readonly #listener: LineListener;
  readonly #clock: Clock;
  #phase: TcpPhase = 'idle';
  #socket: Socket | null = null;
  #cancelDialTimer: (() => void) | null = null;
  /** Hung up, on their way out. */
  readonly #lingering = new Set<Socket>();

  constructor(address: TcpAddress, listener: LineListener, clock: Clock = systemClock) {
    this.#address = address;
    this.#listener = listener;
    this.#clock = clock;
  }

  get phase(): TcpPhase {
    return this.#phase;
  }

  /** Connections that were hung up and are delivering their last octets. */
  get lingeringCount(): number {
    return this.#lingering.size;
  }

  raise(): void {
    if (this.#phase === 'idle' || this.#phase === 'lost') this.#dial();
  }

  drop(): void {
    const hadCarrier = this.#phase === 'connected';
    this.#hangUp('idle');
    if (hadCarrier) this.#listener.carrier(false);
  }

  give(octets: Buffer): number {
    if (this.#phase === 'idle') this.#dial(); // for programs that never raise DTR
    if (this.#phase === 'lost' || this.#socket === null) {
      this.droppedOctets += octets.length;
      return octets.length;
    }
    const count = Math.min(octets.length, TO_PEER_OCTETS_MAX - this.#socket.writableLength);
    if (count <= 0) return 0;
    // A copy, because the host's octets are valid during this call only.
    this.#socket.write(Buffer.from(octets.subarray(0, count)), () => this.#listener.room());
    return count;
  }

  take(octetsMax: number): Uint8Array {
    const socket = this.#socket;
    if (socket === null) return NO_OCTETS;
    const count = Math.min(octetsMax, socket.readableLength);
    const octets = count === 0 ? NO_OCTETS : (socket.read(count) as Buffer);
    if (socket.readableLength === 0) socket.read(0); // lets the peer's end through
    return octets;
  }

  reset(): void {
    this.#hangUp('idle');
    this.lastError = null;
  }

  async close(): Promise<void> {
    this.#hangUp('idle');
    const sockets = [...this.#lingering];
    const closed = sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve)));
    const cancel = this.#clock.after(CLOSE_MILLISECONDS_MAX, () => {
      for (const socket of sockets) socket.destroy();
    });
    await Promise.all(closed);
    cancel();
  }

  #dial(): void {
    const socket = new Socket({
      allowHalfOpen: true,
      highWaterMark: FROM_PEER_OCTETS_MAX,
    } as object);
    this.#socket = socket;
    this.#phase = 'dialling';
    this.lastError = null;
    socket.setNoDelay(true);
    socket.once('connect', () => this.#connected(socket));
    socket.on('readable', () => this.#readable(socket));
    socket.once('end', () => this.#lose(socket, null));
    socket.once('error', (error) => this.#lose(socket, error));
    socket.once('close', () => this.#lose(socket, null));
    this.#cancelDialTimer = this.#clock.after(DIAL_MILLISECONDS_MAX, () =>
      socket.destroy(new Error(`no answer within ${DIAL_MILLISECONDS_MAX} ms`)),
    );
    socket.connect(this.#address);
  }

  #connected(socket: Socket): void {
    if (socket !== this.#socket) return;
    this.#stopDialTimer();
    this.#phase = 'connected';
    this.#listener.carrier(true);
  }

  #readable(socket: Socket): void {
    if (socket !== this.#socket) {
      socket.read(); // hung up: nobody wants it
      return;
    }
    if (socket.readableLength === 0) socket.read(0);
    else this.#listener.octets();
  }

  #lose(socket: Socket, error: Error | null): void {
    if (socket !== this.#socket) return;
    this.lastError = error;
    this.#hangUp('lost');
    this.#listener.carrier(false);
    this.#listener.room(); // for writes that waited: they are dropped now
  }

  #hangUp(next: 'idle' | 'lost'): void {
    const socket = this.#socket;
    this.#socket = null;
    this.#phase = next;
    this.#stopDialTimer();
    if (socket !== null && !socket.destroyed) this.#linger(socket);
  }

  /** Lets the octets under way go out, for a time. */
  #linger(socket: Socket): void {
    socket.read(); // unread octets would turn the end into a reset
    socket.end();
    this.#lingering.add(socket);
    const cancel = this.#clock.after(LINGER_MILLISECONDS_MAX, () => socket.destroy());
    socket.once('close', () => {
      cancel();
      this.#lingering.delete(socket);
    });
    const [oldest] = this.#lingering;
    if (oldest === undefined || this.#lingering.size <= LINGERING_MAX) return;
    this.#lingering.delete(oldest); // its 'close' comes later
    oldest.destroy();
  }

  #stopDialTimer(): void {
    this.#cancelDialTimer?.();
    this.#cancelDialTimer = null;
  }
}
