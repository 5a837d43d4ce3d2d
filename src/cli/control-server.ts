/**
 * The gateway's end of the control socket.
 *
 * What net-ipc (2.2.2) does not do itself is done here:
 * - `start` removes whatever is at the path, a running gateway's socket too: we ask there first.
 * - An error of `listen` is an event; `start` then never settles.
 * - The socket's mode is the umask's.
 * - What a client sends is not checked: see control-guard.ts.
 */
import type { Socket } from 'node:net';
import { UserError } from '../core/errors.ts';
import { callControl, NobodyListens } from './control-client.ts';
import { guardServer } from './control-guard.ts';
import { type ControlPath, prepareControlPath } from './control-path.ts';
import { type Answer, answer, type Controlled } from './control-protocol.ts';
import { isProcess } from './control-results.ts';
import { type Log, peerLines } from './log.ts';
import { Server } from './net-ipc.ts';

const CONNECTIONS_MAX = 16;
/** A gateway that does not say its process id by then is taken for one that hangs. */
const PROBE_MILLISECONDS = 2_000;

const OTHERS = 0o177;

export interface ControlServer {
  /** Stops listening and removes the socket. */
  close(): void;
}

/**
 * Answers requests to a gateway on a unix socket.
 *
 * @throws {UserError} if the path cannot be used, or another gateway uses it.
 */
export function serveControl(
  where: ControlPath,
  gateway: Controlled,
  log: Log,
): Promise<ControlServer> {
  return serveRequests(where, (request) => answer(gateway, request, bugsOf(log)), log);
}

/** Where bugs of requests go: who asked is told the message alone. */
export function bugsOf(log: Log): (error: unknown) => void {
  return (error) => log.error({ err: error }, 'A control request failed');
}

/**
 * Answers requests on a unix socket. Among them must be `{ command: 'status' }`, whose result has
 * the process id as `pid`: another process that wants the same path asks for it.
 *
 * @throws {UserError} if the path cannot be used, or another process uses it.
 */
export async function serveRequests(
  where: ControlPath,
  answerer: (request: unknown) => Promise<Answer>,
  log: Log,
): Promise<ControlServer> {
  const lines = peerLines(log, 'debug');
  const say = (kind: string, message: string) => lines.info(message, kind, where.path);
  prepareControlPath(where);
  await refuseIfTaken(where);
  const server = new Server({ path: where.path, max: CONNECTIONS_MAX, retries: 0 });
  server.on('request', async (request, respond) => {
    const answered = await answerer(request);
    if (!answered.ok) say('failed requests', `Control request failed: ${answered.message}`);
    await respond(answered).catch((error) => say('lost answers', `Cannot answer: ${error}`));
  });
  await start(server, where.path);
  const sockets = new Set<Socket>();
  const listener = server.server; // net-ipc forgets it when it is closed
  listener.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    guardServer(socket, (why) =>
      say('refused control connections', `Control connection closed: ${why}`),
    );
  });
  return {
    close: () => {
      listener.close();
      for (const socket of sockets) socket.destroySoon();
    },
  };
}

async function refuseIfTaken(where: ControlPath): Promise<void> {
  const { path } = where;
  const advice = 'wanted a path of its own; use --control PATH or --control none';
  try {
    const peer = { name: 'gateway', advice: '' };
    const request = { command: 'status' };
    const status = await callControl(where, request, PROBE_MILLISECONDS, peer, isProcess);
    const { pid } = status as { pid: number };
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
