/**
 * Stands between net-ipc (2.2.2) and a peer that breaks its protocol.
 *
 * net-ipc trusts its peers: it waits for a message of any length (one of 2 GiB throws where nobody
 * catches), decompresses what they ask it to, and several malformed messages throw, too. It takes
 * everything from `socket.read(octets)`, so that is where each piece is checked:
 *
 *   client   `IPC`, one hello that asks for nothing, then requests
 *   server   one hello that grants nothing, then responses
 *
 * Anything else ends the connection.
 */
import type { Socket } from 'node:net';

/** A request holds a spec, whose characters may take six octets each. */
const REQUEST_BYTES_MAX = 64 * 1024;
/** The status of a thousand exports has 0.5 MB; their specs may be long. */
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;
/** Answers that a client does not read. */
const UNREAD_BYTES_MAX = ANSWER_BYTES_MAX;
/** A connection serves one command; exports may have to wait for hardware. */
const CONNECTION_MILLISECONDS_MAX = 60_000;

/** More than any allowed length has. */
const LENGTH_BYTES_MAX = 9;

/** Message types (constants.js of net-ipc). */
const HELLO = 0;
const REQUEST = 2;
const RESPONSE = 3;

/** Something that a connection brings. */
interface Piece {
  readonly name: string;
  readonly is: (octets: Buffer) => boolean;
}

const tag: Piece = { name: 'tag', is: (octets) => octets.toString('latin1') === 'IPC' };

const isPlain = (hello: unknown): boolean => {
  if (typeof hello !== 'object' || hello === null) return false;
  const { compress, messagepack } = hello as Record<string, unknown>;
  return !compress && !messagepack;
};

const clientHello: Piece = {
  name: 'hello',
  is: (octets) => {
    const { t, d } = parseMessage(octets);
    return t === HELLO && isPlain(d) && !(d as { id?: unknown }).id;
  },
};

const serverHello: Piece = {
  name: 'hello',
  is: (octets) => {
    const { t, d } = parseMessage(octets);
    return t === HELLO && isPlain(d);
  },
};

const named = (name: string, type: number): Piece => ({
  name,
  is: (octets) => {
    const { t, n } = parseMessage(octets);
    return t === type && typeof n === 'string';
  },
});

/** What a peer may send. */
interface Rules {
  readonly bytesMax: number;
  /** In order; the last one again and again. */
  readonly pieces: readonly Piece[];
}

const OF_CLIENT: Rules = {
  bytesMax: REQUEST_BYTES_MAX,
  pieces: [tag, clientHello, named('request', REQUEST)],
};
const OF_SERVER: Rules = {
  bytesMax: ANSWER_BYTES_MAX,
  pieces: [serverHello, named('response', RESPONSE)],
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

/** The peer has said that nothing follows; 'end' waits until all is read. */
function hasEnded(socket: Socket): boolean {
  const { _readableState: state } = socket as { _readableState?: { ended?: boolean } };
  return state?.ended === true;
}

/** Checks what `socket.read` gives. `refuse` ends the connection. */
function watch(socket: Socket, { bytesMax, pieces }: Rules, refuse: (why: string) => void): void {
  const read = socket.read.bind(socket);
  let at = 0;
  let reads = 0;
  // net-ipc says nothing about a length that it cannot make out, nor about the end of half a message.
  const look = () => {
    const before = reads;
    setImmediate(() => {
      if (socket.destroyed || socket.readableLength === 0) return;
      if (reads === before && socket.readableLength > LENGTH_BYTES_MAX)
        refuse('a length without an end');
      else if (hasEnded(socket)) refuse('half a message');
    });
  };
  const listen = () => socket.prependListener('readable', look); // before net-ipc reads
  listen();
  socket.read = (octets?: number) => {
    if (!octets) return read(octets); // the stream itself, when it wants more
    reads++;
    if (octets > bytesMax) {
      refuse(`a message of ${octets} octets, at most ${bytesMax}`);
      return null;
    }
    const taken = read(octets);
    // To read may find that the peer has gone, so that no answer could be sent.
    if (taken === null || !socket.writable) return null;
    const { name, is } = pieces[at] as Piece;
    if (!is(taken)) {
      refuse(`something else, wanted a ${name}`);
      return null;
    }
    at = Math.min(at + 1, pieces.length - 1);
    if (name === tag.name) queueMicrotask(listen); // net-ipc removes all listeners now
    return taken;
  };
}

/**
 * Guards a socket that net-ipc's server has just been given.
 *
 * @param onRefused told why the connection has ended.
 */
export function guardServer(socket: Socket, onRefused: (why: string) => void): void {
  const refuse = (why: string) => {
    onRefused(why);
    socket.destroy();
  };
  watch(socket, OF_CLIENT, refuse);
  socket.removeAllListeners('error');
  socket.on('error', (error) => refuse(error.message));
  const write = socket.write.bind(socket) as (message: Buffer) => boolean;
  socket.write = (message: Buffer) => {
    if (socket.writableLength <= UNREAD_BYTES_MAX) return write(message);
    refuse('answers that are not read');
    return false;
  };
  const tooLong = () => refuse(`no end after ${CONNECTION_MILLISECONDS_MAX} ms`);
  const timer = setTimeout(tooLong, CONNECTION_MILLISECONDS_MAX);
  socket.once('close', () => clearTimeout(timer));
}

/** Guards the socket of net-ipc's client, which then fails with why. */
export function guardClient(socket: Socket): void {
  watch(socket, OF_SERVER, (why) => socket.destroy(new Error(why)));
}
