/**
 * A pair of connected AF_UNIX stream sockets, one end for the kernel's vhci and one for us, and the
 * few questions about them that Node has no call for. Linux only.
 *
 * vhci takes any stream socket, by the number of a descriptor of the process that writes to its
 * `attach` file. It keeps the socket itself, so its end can stay open here too: that is how we see
 * what it has not read yet.
 */
import koffi from 'koffi';

/** <bits/socket.h>, as on all architectures that Node runs on. */
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
/** <asm-generic/ioctls.h>: octets that wait to be read. */
const FIONREAD = 0x541b;

type SocketPair = (domain: number, type: number, protocol: number, pair: Int32Array) => number;
type Ioctl = (fd: number, request: number, value: Int32Array) => number;

const libc = process.platform === 'linux' ? koffi.load(null) : null;
const socketpair: SocketPair | undefined = libc?.func(
  'int socketpair(int domain, int type, int protocol, _Out_ int *pair)',
);
const ioctl: Ioctl | undefined = libc?.func(
  'int ioctl(int fd, unsigned long request, _Out_ int *value)',
);

export interface UnixPair {
  readonly ours: number;
  readonly theirs: number;
}

/**
 * Both ends are the caller's to close.
 *
 * @throws {Error} if the system has none to give.
 */
export function unixPair(): UnixPair {
  const pair = new Int32Array(2);
  if (socketpair === undefined) throw new Error('Cannot make a socket pair: this is not Linux');
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) !== 0) {
    throw new Error(`Cannot make a socket pair: errno ${koffi.errno()}, wanted two descriptors`);
  }
  return { ours: pair[0] as number, theirs: pair[1] as number };
}

const count = new Int32Array(1);

/** Octets that have arrived at a socket and are not read; 0 if it cannot be told. */
export function unreadOctets(fd: number): number {
  if (ioctl === undefined || ioctl(fd, FIONREAD, count) !== 0) return 0;
  return count[0] as number;
}
