/**
 * The two ways to xenstored: its UNIX socket, in the domain where it runs, and the kernel's
 * character device /dev/xen/xenbus everywhere else. Both carry the same messages.
 *
 * The device takes one message a write, of at most 4096 octets with its header.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { createConnection } from 'node:net';
import { UserError } from '../core/errors.ts';
import { lastErrno, libc, whenReadable } from './platform/libc.ts';
import { StoreError, type StoreErrorCode } from './xenstore-wire.ts';

export interface Transport {
  /** Sends a whole message. @throws {StoreError} if this message cannot be sent. */
  send(message: Buffer): void;
  /** Nothing is called back after it. */
  close(): void;
}

export interface TransportEvents {
  readonly onData: (chunk: Buffer) => void;
  /** The connection has gone by itself. */
  readonly onLost: (reason: string) => void;
}

const READ_OCTETS = 8192;
/** For a store to read what is left when a connection is closed. */
const GOODBYE_MILLISECONDS = 2_000;

/** @throws {UserError} if nobody listens there. */
export async function connectSocket(path: string, events: TransportEvents): Promise<Transport> {
  const socket = createConnection({ path }); // a path that is a number alone would be a port

  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', (error) => {
      reject(
        new UserError(`Cannot reach the store at ${path}: ${error.message}, wanted its socket`),
      );
    });
  });
  let closed = false;
  const lost = (reason: string): void => {
    if (closed) return;
    closed = true;
    socket.destroy();
    events.onLost(reason);
  };
  socket.removeAllListeners('error');
  socket.on('error', (error) => lost(error.message));
  socket.on('close', () => lost('the store has closed it'));
  socket.on('data', (chunk) => {
    if (!closed) events.onData(chunk);
  });
  return {
    send: (message) => void socket.write(message),
    close() {
      closed = true;
      // What was sent before goes out, if the store reads it.
      socket.end(() => socket.destroy());
      setTimeout(() => socket.destroy(), GOODBYE_MILLISECONDS).unref();
    },
  };
}

/** @throws {UserError} if there is no such device. */
export function openDevice(path: string, events: TransportEvents): Transport {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new UserError(`Cannot reach the store: ${reason}, wanted a Xen domain with xenstored`);
  }
  const { read, write } = libc();
  const buffer = Buffer.alloc(READ_OCTETS);
  let closed = false;
  const close = (): void => {
    if (closed) return;
    closed = true;
    poll.close();
    closeSync(fd);
  };
  const poll = whenReadable(fd, () => {
    if (closed) return;
    const octets = Number(read(fd, buffer, READ_OCTETS));
    if (octets > 0) return events.onData(Buffer.from(buffer.subarray(0, octets)));
    const reason = octets === 0 ? 'end of file' : lastErrno();
    if (reason === 'EAGAIN' || reason === 'EINTR') return;
    close();
    events.onLost(reason);
  });
  return {
    send(message) {
      const written = Number(write(fd, message, message.length));
      if (written === message.length) return;
      const code = (written < 0 ? lastErrno() : 'EIO') as StoreErrorCode;
      throw new StoreError(code, `${path} does not take the message: ${code}`);
    },
    close,
  };
}
