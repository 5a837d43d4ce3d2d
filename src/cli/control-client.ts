/**
 * A command's end of the control socket: one connection, one request, one answer.
 *
 * net-ipc's client connects again and again unless told not to, and leaves promises open when the
 * connection ends; so everything here is a race with its 'close'.
 */
import type { Socket } from 'node:net';
import { UserError } from '../core/errors.ts';
import { guardClient } from './control-guard.ts';
import { type ControlPath, checkControlPath, controlPath } from './control-path.ts';
import type { Command, Request, Result } from './control-protocol.ts';
import { type Check, GATEWAY_RESULTS, isAnswer } from './control-results.ts';
import { Client } from './net-ipc.ts';

/** Longer than an export may take (OPEN_MILLISECONDS), and an unexport of a device that does not let go. */
const ANSWER_MILLISECONDS = 45_000;

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
  return await callGateway<C>(where, request, ANSWER_MILLISECONDS);
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
  where: ControlPath,
  request: Request<C> & { readonly command: C },
  millisecondsMax: number,
): Promise<Result<C>> {
  const isResult = GATEWAY_RESULTS[request.command];
  return (await callControl(where, request, millisecondsMax, GATEWAY, isResult)) as Result<C>;
}

/**
 * Sends a request to whoever listens on a control socket.
 *
 * @param isResult tells whether its result can be used.
 * @throws {NobodyListens} if nobody does; {UserError} if it refuses, does not answer, or may not be
 * believed.
 */
export async function callControl(
  where: ControlPath,
  request: { readonly command: string },
  millisecondsMax: number,
  peer: Peer,
  isResult: Check,
): Promise<unknown> {
  checkControlPath(where, `Cannot reach the ${peer.name}`);
  const { path } = where;
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
    const connected = client.connect();
    guardClient((client as unknown as { connection: Socket }).connection);
    const answered: unknown = await Promise.race([
      ended,
      connected.then(() => client.request(request, 0)),
    ]);
    if (!isAnswer(answered, isResult)) throw failed(path, NOT_AN_ANSWER, peer);
    if (answered.ok) return answered.result;
    if (answered.user) throw new UserError(answered.message);
    throw new Error(`The ${peer.name} failed: ${answered.message}`);
  } finally {
    clearTimeout(timer);
    client.destroy();
  }
}

const NOT_AN_ANSWER = new Error('an answer of another form, perhaps of another version');

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
