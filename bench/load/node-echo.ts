/**
 * A bare Node TCP answerer: the ceiling of the socket path, for usbip-load's `--echo`.
 *
 * A connection's first 8 octets name the octets of a request and of a reply (u32, network order).
 * Then every request's worth of octets read is answered by a reply's worth of zeros; nobody looks at
 * the data. All requests that one read brought are answered by one gathered write, or with
 * `--write-each` by one write each.
 *
 * Prints `Listening on 127.0.0.1:PORT`; ends with SIGTERM or when standard input ends.
 */
import { createServer, type Socket } from 'node:net';

const SIZES_OCTETS = 8;
/** Replies up to this size are sent as one piece of a larger buffer, others by writev. */
const SMALL_REPLY_OCTETS = 4096;
const ZEROS = Buffer.alloc(1 << 20);
const REPLY_OCTETS_MAX = 32 << 20;

const writeEach = process.argv.includes('--write-each');

function sendReplies(socket: Socket, reply: Buffer, count: number): void {
  if (writeEach) {
    for (let i = 0; i < count; i++) socket.write(reply);
  } else if (reply.length <= SMALL_REPLY_OCTETS) {
    const perWrite = Math.floor(ZEROS.length / reply.length);
    for (let left = count; left > 0; left -= perWrite) {
      socket.write(ZEROS.subarray(0, Math.min(left, perWrite) * reply.length));
    }
  } else {
    socket.cork();
    for (let i = 0; i < count; i++) socket.write(reply);
    socket.uncork();
  }
}

function serve(socket: Socket): void {
  let requestOctets = 0;
  let reply = ZEROS;
  let pending: Buffer = Buffer.alloc(0);
  let pendingOctets = 0;
  socket.setNoDelay(true);
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: Buffer) => {
    pendingOctets += chunk.length;
    if (requestOctets === 0) {
      pending = Buffer.concat([pending, chunk]);
      if (pending.length < SIZES_OCTETS) return;
      requestOctets = pending.readUInt32BE(0);
      const replyOctets = pending.readUInt32BE(4);
      if (requestOctets === 0 || replyOctets === 0 || replyOctets > REPLY_OCTETS_MAX) {
        socket.destroy();
        return;
      }
      reply = Buffer.alloc(replyOctets);
      pendingOctets -= SIZES_OCTETS;
    }
    const count = Math.floor(pendingOctets / requestOctets);
    pendingOctets -= count * requestOctets;
    if (count > 0) sendReplies(socket, reply, count);
  });
}

const server = createServer(serve);
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (address !== null && typeof address === 'object') {
    process.stdout.write(`Listening on 127.0.0.1:${address.port}\n`);
  }
});
process.stdin.on('end', () => process.exit(0)).resume();
process.on('SIGTERM', () => process.exit(0));
