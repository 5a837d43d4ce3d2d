/**
 * Opens files whose paths users name, or that lie where another local user may have put something else.
 *
 * To open a FIFO waits for its other end, to open a device may set it going, and some files never end. A
 * gateway is one thread and would stand still, deaf to SIGTERM. So a path is looked at before it is opened
 * (for devices), opened without waiting, and looked at again (it may have been exchanged meanwhile).
 *
 * A network file system whose server is silent makes any of these calls wait: nothing here helps then.
 */
import fs from 'node:fs';
import { UserError } from './errors.ts';

/** Absent on Windows. */
const { O_NONBLOCK = 0, O_NOCTTY = 0, O_NOFOLLOW = 0 } = fs.constants;
const { O_RDONLY, O_WRONLY, O_APPEND, O_CREAT } = fs.constants;

/** Reads; a symbolic link is followed, as nothing can be lost by that. */
export const READ = O_RDONLY;
/** Writes to a file that may be new. A link would let whoever made it choose what is overwritten. */
export const WRITE_NO_LINK = O_WRONLY | O_CREAT | O_NOFOLLOW;
export const APPEND_NO_LINK = WRITE_NO_LINK | O_APPEND;
/** Appends, through links too: for folders that only their owner can write to. */
export const APPEND = O_WRONLY | O_CREAT | O_APPEND;

const CHUNK_BYTES = 64 * 1024;

/** There is something else at the path. */
export class NotRegular extends Error {
  constructor(stat: fs.Stats) {
    super(`it is ${kindOf(stat)}`);
  }
}

export interface OpenOptions {
  /** Of a new file, less the umask. */
  readonly mode?: number;
  /** Whether a block device will do. */
  readonly blockDevice?: boolean;
}

/**
 * Opens a regular file and never waits.
 *
 * @param flags of open(2); O_TRUNC is not among them, as it would act before the file is looked at.
 * @throws {NotRegular} if it is something else; {Error} of `openSync`, with its code.
 */
export function openRegular(path: string, flags: number, options: OpenOptions = {}): number {
  const { mode = 0o666, blockDevice = false } = options;
  const isWanted = (stat: fs.Stats) => stat.isFile() || (blockDevice && stat.isBlockDevice());
  const look = O_NOFOLLOW !== 0 && (flags & O_NOFOLLOW) !== 0 ? fs.lstatSync : fs.statSync;
  const before = look(path, { throwIfNoEntry: false });
  if (before !== undefined && !isWanted(before)) throw new NotRegular(before);
  const fd = fs.openSync(path, flags | O_NONBLOCK | O_NOCTTY, mode);
  try {
    const stat = fs.fstatSync(fd);
    if (!isWanted(stat)) throw new NotRegular(stat);
    if (!stat.isBlockDevice()) return fd;
    // O_NONBLOCK has a meaning for drives with a medium: it would not be looked for. This is Linux.
    const again = fs.openSync(`/proc/self/fd/${fd}`, flags);
    fs.closeSync(fd);
    return again;
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** For messages: "Cannot <action> <path>: <what is>, wanted <wanted>". */
export interface FileUse {
  readonly action: string;
  readonly wanted: string;
}

/** The same for a file that a user has named. @throws {UserError} */
export function openRegularFile(
  path: string,
  flags: number,
  use: FileUse,
  options?: OpenOptions,
): number {
  return forUser(path, use, () => openRegular(path, flags, options));
}

/** A whole file. @throws {UserError} if it is no regular file, or has more than `bytesMax`. */
export function readRegularFile(path: string, bytesMax: number, use: FileUse): Buffer {
  return forUser(path, use, () => readRegular(path, bytesMax));
}

/** A whole file. @throws {Error} if it is no regular file, or has more than `bytesMax`. */
export function readRegular(path: string, bytesMax: number): Buffer {
  const fd = openRegular(path, READ);
  try {
    const { size } = fs.fstatSync(fd);
    if (size > bytesMax) throw new Error(`it has ${size} bytes, at most ${bytesMax} are read`);
    return readToEnd(fd, size, bytesMax);
  } finally {
    fs.closeSync(fd);
  }
}

/** Files of /proc have no size, and some have no end. */
function readToEnd(fd: number, size: number, bytesMax: number): Buffer {
  const chunks: Buffer[] = [];
  const chunkBytes = Math.max(CHUNK_BYTES, size);
  for (let total = 0; ; ) {
    const chunk = Buffer.allocUnsafe(total === 0 ? chunkBytes : CHUNK_BYTES);
    const count = fs.readSync(fd, chunk, 0, chunk.length, null);
    if (count === 0) return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
    total += count;
    if (total > bytesMax) throw new Error(`it has no end after ${bytesMax} bytes, the most`);
    chunks.push(chunk.subarray(0, count));
  }
}

function forUser<T>(path: string, { action, wanted }: FileUse, act: () => T): T {
  try {
    return act();
  } catch (error) {
    throw new UserError(`Cannot ${action} ${path}: ${(error as Error).message}, wanted ${wanted}`);
  }
}

function kindOf(stat: fs.Stats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isSymbolicLink()) return 'a symbolic link';
  if (stat.isFIFO()) return 'a named pipe';
  if (stat.isSocket()) return 'a socket';
  return stat.isBlockDevice() ? 'a block device' : 'a character device';
}
