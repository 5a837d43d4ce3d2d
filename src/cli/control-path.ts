/**
 * Where the control socket is, and who may reach it.
 *
 * Whoever can connect may export any file that the gateway can read. So the socket has mode 0600,
 * in a folder of mode 0700 unless the user chose the place.
 */
import { lstatSync, mkdirSync, type Stats, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { Option } from 'commander';
import { UserError } from '../core/errors.ts';

const FOLDER_MODE = 0o700;
const WRITABLE_BY_OTHERS = 0o022;
/** What fits sun_path, its NUL left out (unix(7); 104 with the NUL on BSD and macOS). */
const PATH_OCTETS_MAX = process.platform === 'linux' ? 107 : 103;

export interface ControlPath {
  readonly path: string;
  /** Whether the user has named it, by `--control` or URBGATE_CONTROL. */
  readonly chosen: boolean;
}

export interface Surroundings {
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly uid: number | undefined;
}

export const ACTUAL: Surroundings = { environment: process.env, uid: process.getuid?.() };

/** `--control` of the commands about attachments. */
export function attachControlOption(): Option {
  return new Option(
    '--control <path>',
    "control socket of the supervisor (default: $URBGATE_ATTACH_CONTROL, or the user's own)",
  );
}

/** `--control`, the same for every command of the gateway. */
export function controlOption(forServer: boolean): Option {
  const none = forServer ? ', or none for no control socket' : '';
  return new Option(
    '--control <path>',
    `control socket${none} (default: $URBGATE_CONTROL, or the user's own)`,
  );
}

/** Which process listens there. */
export interface ControlName {
  readonly file: string;
  readonly variable: string;
}

export const GATEWAY_CONTROL: ControlName = { file: 'control.sock', variable: 'URBGATE_CONTROL' };
/** The process that looks after a machine's attachments. */
export const ATTACH_CONTROL: ControlName = {
  file: 'attach.sock',
  variable: 'URBGATE_ATTACH_CONTROL',
};

/** The path to use; null if the user wants none. */
export function controlPath(
  option: string | undefined,
  { environment, uid }: Surroundings = ACTUAL,
  { file, variable }: ControlName = GATEWAY_CONTROL,
): ControlPath | null {
  if (option === '') throw new UserError('Cannot use control socket "": wanted a path');
  const chosen = option ?? environment[variable];
  if (chosen === 'none') return null;
  if (chosen?.includes('\0')) throw new UserError('Cannot use a control socket: NUL in its path');
  if (chosen) return { path: resolve(chosen), chosen: true };
  return {
    path: join(defaultFolder(environment.XDG_RUNTIME_DIR, uid), file),
    chosen: false,
  };
}

function defaultFolder(runtimeFolder: string | undefined, uid: number | undefined): string {
  if (uid === 0 && process.platform === 'linux') return '/run/urbgate';
  // XDG Base Directory Specification: a relative path is to be ignored.
  if (runtimeFolder && isAbsolute(runtimeFolder)) return join(runtimeFolder, 'urbgate');
  return resolve(tmpdir(), `urbgate-${uid ?? 'user'}`);
}

/**
 * Makes a path ready to be listened on: its folder is there, and nothing but a socket is in the way.
 *
 * @throws {UserError} if the socket could not be there, or not be safe there.
 */
export function prepareControlPath({ path, chosen }: ControlPath): void {
  const refuse = (what: string) => new UserError(`Cannot serve on control socket ${path}: ${what}`);
  const octets = Buffer.byteLength(path);
  if (octets > PATH_OCTETS_MAX) throw refuse(`${octets} octets, at most ${PATH_OCTETS_MAX}`);
  const folder = dirname(path);
  try {
    mkdirSync(folder, { recursive: true, mode: FOLDER_MODE });
  } catch (error) {
    throw refuse(`${(error as Error).message}, wanted a folder of one's own; use --control`);
  }
  // In a shared place such as /tmp, another user may have been here first.
  if (!chosen && !isOwnFolder(lstatSync(folder))) {
    throw refuse(`others can write to ${folder}, wanted a folder of one's own; use --control`);
  }
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
    throw refuse('there is a file that is no socket, wanted another path');
  }
}

/**
 * Looks at a path before a command connects to it: where another user could have put the socket, that
 * user would be told what this one wants, and be believed.
 *
 * @param cannot how the message begins.
 * @throws {UserError} if it may not be connected to. That nothing is there is no reason.
 */
export function checkControlPath({ path, chosen }: ControlPath, cannot: string): void {
  const refuse = (what: string) => new UserError(`${cannot}: ${what}`);
  const octets = Buffer.byteLength(path);
  if (octets > PATH_OCTETS_MAX)
    throw refuse(`${path} has ${octets} octets, wanted at most ${PATH_OCTETS_MAX}`);
  const folder = lookAt(lstatSync, dirname(path));
  if (!chosen && folder !== undefined && !isOwnFolder(folder)) {
    throw refuse(
      `${dirname(path)} is not a folder that only its user can write to, wanted one; use --control`,
    );
  }
  const socket = lookAt(statSync, path);
  if (socket !== undefined && !isOwnOrRoots(socket)) {
    throw refuse(`${path} is of user ${socket.uid}, wanted a socket of this user or of root`);
  }
}

/** Undefined if it cannot be seen: who connects is told why. */
function lookAt(look: typeof statSync, path: string): Stats | undefined {
  try {
    return look(path);
  } catch {
    return undefined;
  }
}

/** A link is none: whoever made it may let it lead elsewhere. */
function isOwnFolder(stat: Stats): boolean {
  if (process.platform === 'win32') return true;
  const isOwn = stat.uid === process.getuid?.() && (stat.mode & WRITABLE_BY_OTHERS) === 0;
  return isOwn && stat.isDirectory();
}

function isOwnOrRoots({ uid }: Stats): boolean {
  return process.platform === 'win32' || uid === process.getuid?.() || uid === 0;
}
