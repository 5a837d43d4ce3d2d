/**
 * Stands between net-ipc (2.2.2) and a client that breaks its protocol.
 *
 * net-ipc trusts its clients: it waits for a message of any length, decompresses what they ask it
 * to, and several malformed messages throw where nobody catches, which would end the gateway. It
 * takes everything from `socket.read(octets)`, so that is where each piece is checked: `IPC`, one
 * hello that asks for nothing, then requests. Anything else ends the connection.
 */
import type { Socket } from 'node:net';

/** A request holds a spec, whose characters may take six octets each. */
const MESSAGE_OCTETS_MAX = 64 * 1024;
/** A connection serves one command; exports may have to wait for hardware. */
const CONNECTION_MILLISECONDS_MAX = 60_000;

/** Message types (constants.js of net-ipc). */
const HELLO = 0;
const REQUEST = 2;

/** What a connection brings, in order; the last one again and again. */
type Piece = 'tag' | 'hello' | 'request';

const NEXT: Readonly<Record<Piece, Piece>> = { tag: 'hello', hello: 'request', request: 'request' };

const IS: Readonly<Record<Piece, (octets: Buffer) => boolean>> = {
  tag: (octets) => octets.toString('latin1') === 'IPC',
  hello: (octets) => {
    const { t, d } = parseMessage(octets);
    if (t !== HELLO || typeof d !== 'object' || d === null) return false;
    const { compress, messagepack, id } = d as Record<string, unknown>;
    return !compress && !messagepack && !id;
  },
  request: (octets) => {
    const { t, n } = parseMessage(octets);
    return t === REQUEST && typeof n === 'string';
  },
};

/** The message behind its length, whose last octet is the one with bit 7 set. */
function parseMessage(octets: Buffer): Record<string, unknown> {
  const lengthOctets = octets.findIndex((octet) => octet > 127) + 1;
  try {
    return JSON.parse(octets.toString('utf8', lengthOctets)) ?? {};
  } catch {
    return {};
  }
}

/**
 * Guards a socket that net-ipc has just been given.
 *
 * @param onRefused told why the connection has ended.
 */
export function guard(socket: Socket, onRefused: (why: string) => void): void {
  const refuse = (why: string): null => {
    onRefused(why);
    socket.destroy();
    return null;
  };
  const read = socket.read.bind(socket);
  let expected: Piece = 'tag';
  socket.read = (octets?: number) => {
    if (!octets) return read(octets); // the stream itself, when it wants more
    if (octets > MESSAGE_OCTETS_MAX) {
      return refuse(`a message of ${octets} octets, at most ${MESSAGE_OCTETS_MAX}`);
    }
    const taken = read(octets);
    // To read may find that the client has gone, so that no answer could be sent.
    if (taken === null || !socket.writable) return null;
    if (!IS[expected](taken)) return refuse(`something else, wanted a ${expected}`);
    expected = NEXT[expected];
    return taken;
  };
  socket.removeAllListeners('error');
  socket.on('error', (error) => refuse(error.message));
  const tooLong = () => refuse(`no end after ${CONNECTION_MILLISECONDS_MAX} ms`);
  const timer = setTimeout(tooLong, CONNECTION_MILLISECONDS_MAX);
  socket.once('close', () => clearTimeout(timer));
}
