/**
 * Sockets read into given memory, and what Node.js has no public call for.
 *
 * Reading: a 'data' listener costs a fresh 64 KiB allocation a read and never gets more in one
 * read. The `onread` option of `net.Socket` reads into a given buffer, which halves the cost of
 * large writes (docs/decisions/0004), but exists only for sockets that one constructs oneself; so
 * the accepted handle moves to such a socket. Where that handle is not what it is today, 'data'
 * serves as well, only slower.
 *
 * Dead peers: TCP keepalive notices a silent peer only while nothing is under way; data that is never
 * acknowledged is sent again for a quarter of an hour. TCP_USER_TIMEOUT (tcp(7)) bounds that.
 */
import {
  connect,
  type Server,
  Socket,
  type SocketConstructorOpts,
  type TcpNetConnectOpts,
} from 'node:net';
import koffi from 'koffi';
import type { Loan } from '../core/urb.ts';

/** A silent client is probed after this time, then each second; ten probes lost end it. */
const KEEPALIVE_MILLISECONDS = 10_000;
/** Data that a client has not acknowledged for so long ends its connection. */
const USER_TIMEOUT_MILLISECONDS = 20_000;

const IPPROTO_TCP = 6;
const TCP_USER_TIMEOUT = 18;

const TCP_INFO = 11;
/** Octets of struct tcp_info (linux/tcp.h) up to and with tcpi_bytes_acked, which is the last. */
const TCP_INFO_OCTETS = 128;
const BYTES_ACKED_OFFSET = 120;

type GetSockOpt = (
  fd: number,
  level: number,
  name: number,
  value: Buffer,
  octets: Buffer,
) => number;
type SetSockOpt = (
  fd: number,
  level: number,
  name: number,
  value: Buffer,
  octets: number,
) => number;

const libc = process.platform === 'linux' ? koffi.load(null) : null;
const setsockopt: SetSockOpt | undefined = libc?.func(
  'int setsockopt(int fd, int level, int name, const void *value, uint32_t octets)',
);
const getsockopt: GetSockOpt | undefined = libc?.func(
  'int getsockopt(int fd, int level, int name, void *value, void *octets)',
);

interface Handle {
  readonly fd?: number;
  readonly readStart?: unknown;
}
interface Internals {
  _handle?: Handle | null;
  server?: Server;
  _server?: Server;
}

/**
 * Moves an accepted socket (paused: `pauseOnConnect`) to one that calls `receive` with a view of
 * `memory` for each read. `memory` may be shared by any number of sockets: it is filled and
 * consumed in one turn.
 */
export function readInto(
  accepted: Socket,
  server: Server,
  memory: Buffer,
  receive: (chunk: Buffer) => void,
): Socket {
  const inside = accepted as unknown as Internals;
  const handle = inside._handle;
  if (typeof handle?.readStart !== 'function') {
    accepted.on('data', (chunk: Buffer) => receive(chunk));
    accepted.resume();
    return accepted;
  }
  inside._handle = null;
  const options = { handle, onread: onReadOf(memory, receive) };
  const socket = new Socket(options as SocketConstructorOpts);
  // As net.js does for what it accepts: the server counts its connections by this.
  Object.assign(socket as unknown as Internals, { server, _server: server });
  socket.resume();
  return socket;
}

/**
 * Connects, and calls `receive` with a view of `memory` for each read. Any number of sockets may share
 * the memory: it is filled and consumed in one turn.
 */
export function connectReading(
  options: TcpNetConnectOpts,
  memory: Buffer,
  receive: (chunk: Buffer) => void,
): Socket {
  return connect({ ...options, onread: onReadOf(memory, receive) });
}

/** The same for a descriptor that is connected; it is the socket's then. */
export function socketReading(
  fd: number,
  memory: Buffer,
  receive: (chunk: Buffer) => void,
): Socket {
  const options = { fd, readable: true, writable: true, onread: onReadOf(memory, receive) };
  const socket = new Socket(options as SocketConstructorOpts);
  socket.resume();
  return socket;
}

function onReadOf(memory: Buffer, receive: (chunk: Buffer) => void) {
  const callback = (octets: number) => {
    receive(memory.subarray(0, octets));
    return true;
  };
  return { buffer: memory, callback };
}

/**
 * Writes in one system call; a single piece needs no cork for that. `loans` are given back when the
 * system has a copy of all pieces, or the socket has failed; with loans there are pieces. `give`
 * does that: a turn of its own, where nobody catches.
 */
export function writeGathered(
  socket: Socket,
  pieces: readonly Uint8Array[],
  loans: readonly Loan[] = [],
  give = giveBack,
): void {
  if (pieces.length > 1) socket.cork();
  let left = pieces.length;
  for (const piece of pieces) {
    if (--left === 0 && loans.length > 0) socket.write(piece, () => give(loans));
    else socket.write(piece);
  }
  if (pieces.length > 1) socket.uncork();
}

export function giveBack(loans: readonly Loan[]): void {
  for (const loan of loans) loan.giveBack();
}

/** The descriptor behind a socket; Node.js keeps it in an undocumented place. */
export function descriptorOf(socket: Socket): number {
  const handle = (socket as unknown as Internals)._handle;
  return handle?.fd ?? -1;
}

/** What a client's connection needs that lasts; for a stranger's these system calls would be for nothing. */
export function prepareForUrbs(socket: Socket): void {
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEPALIVE_MILLISECONDS);
  setUserTimeout(socket, USER_TIMEOUT_MILLISECONDS);
}

/** Ends the connection when data stays unacknowledged for so long. Elsewhere than Linux: nothing. */
export function setUserTimeout(socket: Socket, milliseconds: number): void {
  const fd = descriptorOf(socket);
  if (setsockopt === undefined || fd < 0) return;
  const value = Buffer.alloc(4);
  value.writeUInt32LE(milliseconds);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, value, value.length);
}

const info = Buffer.alloc(TCP_INFO_OCTETS);
const infoOctets = Buffer.alloc(4);

/**
 * Octets that the peer's TCP has acknowledged since the connection began (tcpi_bytes_acked, Linux
 * 4.1); undefined where that cannot be told. One system call.
 */
export function ackedOctets(socket: Socket): number | undefined {
  const fd = descriptorOf(socket);
  if (getsockopt === undefined || fd < 0) return undefined;
  infoOctets.writeUInt32LE(TCP_INFO_OCTETS);
  const failed = getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, infoOctets) !== 0;
  if (failed || infoOctets.readUInt32LE() < TCP_INFO_OCTETS) return undefined;
  return Number(info.readBigUInt64LE(BYTES_ACKED_OFFSET));
}
