/**
 * Where the control socket is, and who may reach it.
 *
 * Whoever can connect may export any file that the gateway can read. So the socket has mode 0600,
 * in a folder of mode 0700 unless the user chose the place.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
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
  const chosen = option || environment[variable];
  if (chosen === 'none') return null;
  if (chosen) return { path: resolve(chosen), chosen: true };
  return {
    path: join(defaultFolder(environment.XDG_RUNTIME_DIR, uid), file),
    chosen: false,
  };
}

function defaultFolder(runtimeFolder: string | undefined, uid: number | undefined): string {
  if (uid === 0 && process.platform === 'linux') return '/run/urbgate';
  if (runtimeFolder) return join(runtimeFolder, 'urbgate');
  return join(tmpdir(), `urbgate-${uid ?? 'user'}`);
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
  const { uid, mode } = lstatSync(folder);
  const isOwn = uid === process.getuid?.() && (mode & WRITABLE_BY_OTHERS) === 0;
  if (!chosen && !isOwn && process.platform !== 'win32') {
    throw refuse(`others can write to ${folder}, wanted a folder of one's own; use --control`);
  }
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
    throw refuse('there is a file that is no socket, wanted another path');
  }
}
