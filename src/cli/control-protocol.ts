/**
 * What commands ask of a running gateway, and what it answers, without the socket between them.
 *
 * A request is `{ command, ... }`. An answer is `{ ok: true, result }`, or `{ ok: false, message }`
 * with `user` true if the user can put it right. Requests are checked, although only processes of
 * the same user can send any: they may come from another version.
 */
import { isAbsolute } from 'node:path';
import { UserError } from '../core/errors.ts';
import type { ExportStatus, GatewayStatus } from './gateway.ts';

/** The part of `Gateway` that can be commanded. */
export interface Controlled {
  status(): GatewayStatus;
  export(spec: string, folder: string): Promise<ExportStatus[]>;
  unexport(busId: string): Promise<void>;
  kick(busId: string): Promise<string>;
}

/** Request and result of each command. */
export interface Commands {
  status: { request: { command: 'status' }; result: GatewayStatus };
  export: {
    /** `folder` is what relative paths in the spec are relative to. */
    request: { command: 'export'; spec: string; folder: string };
    /** None yet, if the spec waits for devices. */
    result: ExportStatus[];
  };
  unexport: { request: { command: 'unexport'; busId: string }; result: null };
  /** The result names the client. */
  kick: { request: { command: 'kick'; busId: string }; result: string };
}
export type Command = keyof Commands;
export type Request<C extends Command = Command> = Commands[C]['request'];
export type Result<C extends Command = Command> = Commands[C]['result'];

export type Answer =
  | { readonly ok: true; readonly result: unknown }
  | { readonly ok: false; readonly message: string; readonly user: boolean };

/** Carries out a request to a gateway. Never rejects: what goes wrong is in the answer. */
export function answer(
  gateway: Controlled,
  request: unknown,
  onBug?: (error: unknown) => void,
): Promise<Answer> {
  return answerWith(() => carryOut(gateway, parseRequest(request)), onBug);
}

/**
 * The answer to a request that `work` carries out. Never rejects. `onBug` is told what is no user's
 * mistake.
 */
export async function answerWith(
  work: () => Promise<unknown>,
  onBug: (error: unknown) => void = () => {},
): Promise<Answer> {
  try {
    return { ok: true, result: await work() };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (!(error instanceof UserError)) onBug(error);
    return { ok: false, message, user: error instanceof UserError };
  }
}

async function carryOut(gateway: Controlled, request: Request): Promise<Result> {
  switch (request.command) {
    case 'status':
      return gateway.status();
    case 'export':
      return await gateway.export(request.spec, request.folder);
    case 'unexport':
      await gateway.unexport(request.busId);
      return null;
    case 'kick':
      return await gateway.kick(request.busId);
  }
}

/**
 * @throws {UserError} if it is no request.
 */
export function parseRequest(request: unknown): Request {
  const fields = typeof request === 'object' && request !== null ? request : {};
  const { command, spec, folder, busId } = fields as Record<string, unknown>;
  const refuse = (what: string) => new UserError(`Cannot answer control request: ${what}`);
  switch (command) {
    case 'status':
      return { command };
    case 'export':
      if (
        typeof spec !== 'string' ||
        typeof folder !== 'string' ||
        !isAbsolute(folder) ||
        folder.includes('\0')
      ) {
        throw refuse('no spec or no absolute folder in it, wanted both');
      }
      return { command, spec, folder };
    case 'unexport':
    case 'kick':
      if (typeof busId !== 'string') throw refuse('no bus id in it, wanted one');
      return { command, busId };
    default:
      throw refuse('unknown command, wanted status, export, unexport or kick');
  }
}
