/**
 * The gateway's end of the control socket.
 *
 * What net-ipc (2.2.2) does not do itself is done here:
 * - `start` removes whatever is at the path, a running gateway's socket too: we ask there first.
 * - An error of `listen` is an event; `start` then never settles.
 * - The socket's mode is the umask's.
 * - What a client sends is not bounded: see `boundConnection`.
 */
import type { Socket } from 'node:net';
import { Server } from 'net-ipc';
import { UserError } from '../core/errors.ts';
import { callGateway, NobodyListens } from './control-client.ts';
import { type ControlPath, prepareControlPath } from './control-path.ts';
import { answer, type Controlled } from './control-protocol.ts';
import type { Log } from './log.ts';

/** A request holds a spec, whose characters may take six octets each. */
const REQUEST_OCTETS_MAX = 64 * 1024;
const CONNECTIONS_MAX = 16;
/** A connection serves one command; exports may have to wait for hardware. */
const CONNECTION_MILLISECONDS_MAX = 60_000;
/** A gateway that does not say its process id by then is taken for one that hangs. */
const PROBE_MILLISECONDS = 2_000;

const OTHERS = 0o177;

export interface ControlServer {
  /** Stops listening and removes the socket. */
  close(): void;
}

/**
 * Answers requests on a unix socket.
 *
 * @throws {UserError} if the path cannot be used, or another gateway uses it.
 */
export async function serveControl(
  where: ControlPath,
  gateway: Controlled,
  log: Log,
): Promise<ControlServer> {
  prepareControlPath(where);
  await refuseIfTaken(where.path);
  const server = new Server({ path: where.path, max: CONNECTIONS_MAX, retries: 0 });
  server.on('request', async (request, respond) => {
    const answered = await answer(gateway, request);
    if (!answered.ok) log.debug(`Control request failed: ${answered.message}`);
    await respond(answered).catch((error) => log.debug(`Cannot answer: ${error}`));
  });
  await start(server, where.path);
  const sockets = new Set<Socket>();
  const listener = server.server; // net-ipc forgets it when it is closed
  listener.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    boundConnection(socket, log);
  });
  return {
    close: () => {
      listener.close();
      for (const socket of sockets) socket.destroySoon();
    },
  };
}

async function refuseIfTaken(path: string): Promise<void> {
  const advice = 'wanted a path of its own; use --control PATH or --control none';
  try {
    const { pid } = await callGateway(path, { command: 'status' }, PROBE_MILLISECONDS);
    throw new UserError(
      `Cannot serve: a gateway (pid ${pid}) already listens on control socket ${path}, ${advice}`,
    );
  } catch (error) {
    if (error instanceof NobodyListens) return;
    if (error instanceof UserError) throw error;
    throw new UserError(
      `Cannot serve: something listens on control socket ${path} and does not answer, ${advice}`,
    );
  }
}

async function start(server: Server, path: string): Promise<void> {
  // Node binds inside `start`; the mode must be right from the first moment.
  const umask = process.umask(OTHERS);
  try {
    await new Promise<void>((resolve, reject) => {
      server.on('error', reject as (error: unknown) => void);
      server.start().then(() => resolve(), reject);
    });
  } catch (error) {
    throw new UserError(
      `Cannot serve on control socket ${path}: ${(error as Error).message}, wanted a path to listen on`,
    );
  } finally {
    process.umask(umask);
  }
}

/**
 * Keeps what a client does wrong to its own connection. net-ipc asks the socket for as many octets
 * as a message is said to have; it sets the encodings that a client asks for on the socket; and
 * after an error, which it emits on the socket, it goes on and fails where nobody catches it.
 */
function boundConnection(socket: Socket, log: Log): void {
  const read = socket.read.bind(socket);
  socket.read = (octets?: number) => {
    if (octets !== undefined && octets > REQUEST_OCTETS_MAX) socket.destroy();
    return socket.destroyed ? null : read(octets);
  };
  for (const encoding of ['zlib', 'msgpack']) Object.defineProperty(socket, encoding, {});
  socket.removeAllListeners('error');
  socket.on('error', (error) => {
    log.debug(`Control connection failed: ${error.message}`);
    socket.destroy();
  });
  const timer = setTimeout(() => socket.destroy(), CONNECTION_MILLISECONDS_MAX);
  socket.once('close', () => clearTimeout(timer));
}
