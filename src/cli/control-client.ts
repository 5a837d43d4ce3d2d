/**
 * A command's end of the control socket: one connection, one request, one answer.
 *
 * net-ipc's client connects again and again unless told not to, and leaves promises open when the
 * connection ends; so everything here is a race with its 'close'.
 */
import { Client } from 'net-ipc';
import { UserError } from '../core/errors.ts';
import { controlPath } from './control-path.ts';
import { type Command, parseAnswer, type Request, type Result } from './control-protocol.ts';

/** Long enough for an export that has to wait for hardware or for another server. */
const ANSWER_MILLISECONDS = 30_000;

/** No gateway is there: no socket, or one that a gateway has left behind. */
export class NobodyListens extends UserError {}

/** Somebody was there, and has gone or says nothing. */
export class NoAnswer extends UserError {}

/**
 * Asks the gateway behind `--control` or the default path.
 *
 * @throws {UserError} if there is none, or it refuses.
 */
export async function askGateway<C extends Command>(
  option: string | undefined,
  request: Request<C> & { readonly command: C },
): Promise<Result<C>> {
  const where = controlPath(option);
  if (where === null) {
    throw new UserError('Cannot reach the gateway: the control socket is "none", wanted a path');
  }
  return await callGateway<C>(where.path, request, ANSWER_MILLISECONDS);
}

/** Whom a command asks, for messages. */
export interface Peer {
  readonly name: string;
  /** What to do if nobody is there. */
  readonly advice: string;
}

const GATEWAY: Peer = { name: 'gateway', advice: 'start one with urbgate serve' };

/**
 * Sends a request to a gateway and waits for its result.
 *
 * @throws {NobodyListens} if nobody does; {UserError} if the gateway refuses or does not answer.
 */
export async function callGateway<C extends Command>(
  path: string,
  request: Request<C> & { readonly command: C },
  millisecondsMax: number,
): Promise<Result<C>> {
  return (await callControl(path, request, millisecondsMax, GATEWAY)) as Result<C>;
}

/**
 * Sends a request to whoever listens on a control socket; the result is its to define.
 *
 * @throws {NobodyListens} if nobody does; {UserError} if it refuses or does not answer.
 */
export async function callControl(
  path: string,
  request: { readonly command: string },
  millisecondsMax: number,
  peer: Peer,
): Promise<unknown> {
  const client = new Client({ path, reconnect: false });
  let failure: NodeJS.ErrnoException | undefined;
  client.on('error', (error: unknown) => {
    failure = error as NodeJS.ErrnoException;
  });
  let timer: NodeJS.Timeout | undefined;
  const ended = new Promise<never>((_, reject) => {
    client.on('close', () => reject(failed(path, failure, peer)));
    timer = setTimeout(() => reject(failed(path, undefined, peer)), millisecondsMax);
  });
  try {
    const received: unknown = await Promise.race([
      ended,
      client.connect().then(() => client.request(request, 0)),
    ]);
    const answered = parseAnswer(received);
    if (answered === undefined) throw failed(path, undefined, peer);
    if (answered.ok) return answered.result;
    if (answered.user) throw new UserError(answered.message);
    throw new Error(`The ${peer.name} failed: ${answered.message}`);
  } finally {
    clearTimeout(timer);
    client.destroy();
  }
}

function failed(path: string, error: NodeJS.ErrnoException | undefined, peer: Peer): UserError {
  const { name, advice } = peer;
  switch (error?.code) {
    case 'ENOENT':
    case 'ECONNREFUSED':
      return new NobodyListens(`Cannot reach the ${name}: nothing listens on ${path}, ${advice}`);
    case 'EACCES':
      return new UserError(
        `Cannot reach the ${name}: ${path} belongs to another user, wanted one's own ${name}`,
      );
    default:
      return new NoAnswer(
        `Cannot reach the ${name}: ${path} gives ${error?.message ?? 'no answer'}, wanted an answer`,
      );
  }
}
