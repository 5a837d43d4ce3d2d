/** Reaching the supervisor, and starting it in the background if there is none. */
import { spawn } from 'node:child_process';
import { fstatSync, ftruncateSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UserError } from '../core/errors.ts';
import { APPEND_NO_LINK, openRegularFile } from '../core/files.ts';
import type {
  AttachmentStatus,
  AttachRequest,
  SupervisorRequest,
  SupervisorStatus,
} from './attach-protocol.ts';
import { callControl, NoAnswer, NobodyListens, type Peer } from './control-client.ts';
import {
  ACTUAL,
  ATTACH_CONTROL,
  type ControlPath,
  controlPath,
  prepareControlPath,
} from './control-path.ts';
import { isProcess, SUPERVISOR_RESULTS } from './control-results.ts';

const SUPERVISOR: Peer = { name: 'supervisor', advice: 'urbgate attach starts it' };
/** An attach may look at several devices for a serial number, import one and read its descriptors. */
const ANSWER_MILLISECONDS = 50_000;
const START_MILLISECONDS = 30_000;
const PROBE_MILLISECONDS = 2_000;
const LOOK_MILLISECONDS = 50;
const TRIES_MAX = 3;
/** A longer log is begun anew when a supervisor is started. */
const LOG_BYTES_MAX = 1024 * 1024;

interface Results {
  status: SupervisorStatus;
  attach: AttachmentStatus;
  detach: string[];
}

/**
 * @throws {UserError} if the user wants no control socket: there must be one.
 */
export function supervisorPath(option: string | undefined): ControlPath {
  const where = controlPath(option, ACTUAL, ATTACH_CONTROL);
  if (where !== null) return where;
  throw new UserError('Cannot reach the supervisor: the control socket is "none", wanted a path');
}

/**
 * @throws {NobodyListens} if there is no supervisor; {UserError} if it refuses.
 */
export async function askSupervisor<R extends SupervisorRequest>(
  where: ControlPath,
  request: R,
): Promise<Results[R['command']]> {
  const isResult = SUPERVISOR_RESULTS[request.command];
  const result = await callControl(where, request, ANSWER_MILLISECONDS, SUPERVISOR, isResult);
  return result as Results[R['command']];
}

/**
 * Asks the supervisor, which is started if there is none. One that has nothing to do ends by itself,
 * perhaps at this very moment: then another is started and asked.
 *
 * @throws {UserError} if it cannot be started or refuses.
 */
export async function attachBySupervisor(
  where: ControlPath,
  request: AttachRequest,
): Promise<AttachmentStatus> {
  for (let tries = 1; ; tries++) {
    await ensureSupervisor(where);
    try {
      return await askSupervisor(where, request);
    } catch (error) {
      const hasGone = error instanceof NobodyListens || error instanceof NoAnswer;
      if (!hasGone || tries === TRIES_MAX || (await isThere(where))) throw error;
    }
  }
}

/** Makes sure that there is a supervisor. Its log lies beside its socket. */
async function ensureSupervisor(where: ControlPath): Promise<void> {
  if (await isThere(where)) return;
  prepareControlPath(where);
  const log = join(dirname(where.path), 'attach.log');
  const descriptor = openLog(log);
  const main = fileURLToPath(new URL(`main${import.meta.filename.slice(-3)}`, import.meta.url));
  const args = [...process.execArgv, main, 'attach', '--background', '--control', where.path];
  const child = spawn(process.execPath, args, {
    detached: true,
    stdio: ['ignore', descriptor, descriptor],
    cwd: '/',
  });
  let ended = false;
  child.once('exit', () => {
    ended = true;
  });
  child.unref();
  const end = performance.now() + START_MILLISECONDS;
  while (!(await isThere(where))) {
    if (ended && !(await isThere(where)))
      throw new UserError(`${CANNOT_START} it ended, see ${log}`);
    if (performance.now() > end) throw new UserError(`${CANNOT_START} no answer, see ${log}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MILLISECONDS));
  }
}

/** @throws {UserError} if something else than a file is there. */
export function openLog(path: string): number {
  const use = { action: "open the supervisor's log", wanted: 'a file to append to' };
  const fd = openRegularFile(path, APPEND_NO_LINK, use, { mode: 0o600 });
  if (fstatSync(fd).size > LOG_BYTES_MAX) ftruncateSync(fd, 0);
  return fd;
}

const CANNOT_START = 'Cannot start the supervisor:';

async function isThere(where: ControlPath): Promise<boolean> {
  try {
    const request = { command: 'status' };
    await callControl(where, request, PROBE_MILLISECONDS, SUPERVISOR, isProcess);
    return true;
  } catch (error) {
    if (error instanceof NobodyListens || error instanceof NoAnswer) return false;
    throw error;
  }
}
