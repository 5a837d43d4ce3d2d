/**
 * The folder in which the domains of `shm.ts` meet, and who is alive in it.
 *
 *   store.lock      held by the process that serves the store    store.socket     the store
 *   domain-N.lock   held by the process that is domain N         domain-N.pages   its memory
 *                                                                domain-N.events  its doorbell, a FIFO
 *
 * The kernel lets go of a lock when its process ends, however it ends. So a name whose lock can be
 * had belongs to nobody, and what lies there under that name is left over.
 *
 * The folder is of mode 0700: whoever can open these files is trusted with the host user's processes
 * anyway. What a peer writes into shared memory is not trusted.
 */
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmSync,
  type Stats,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../core/errors.ts';
import { APPEND_NO_LINK, openRegularFile } from '../../core/files.ts';
import { LOCK_DO_NOT_WAIT, LOCK_EXCLUSIVE, lastErrno, libc } from './libc.ts';
import { markEnded } from './shm-segment.ts';

/** sun_path holds 108 octets with its NUL (struct sockaddr_un, man 7 unix). */
const SOCKET_PATH_OCTETS_MAX = 107;
/** A lock file that vanishes between opening and locking it is tried again this often. */
const LOCK_ATTEMPTS_MAX = 100;

/** The store's, in the folder. */
export const STORE_SOCKET = 'store.socket';

export class ShmFolder {
  readonly path: string;

  /** Makes the folder if need be. @throws {UserError} if others could get at what is in it. */
  constructor(path: string) {
    this.path = path;
    const octets = Buffer.byteLength(this.socket);
    if (octets > SOCKET_PATH_OCTETS_MAX)
      throw new UserError(
        `Cannot put a socket at ${this.socket}: ${octets} octets, at most ${SOCKET_PATH_OCTETS_MAX}`,
      );
    const { uid, mode } = ownFolder(path);
    if (uid !== process.geteuid?.() || (mode & 0o077) !== 0)
      throw cannotShare(
        path,
        `it is of user ${uid} and mode ${(mode & 0o777).toString(8)}, wanted this user's and 700`,
      );
  }

  get socket(): string {
    return join(this.path, STORE_SOCKET);
  }

  pages(domain: number): string {
    return join(this.path, `domain-${domain}.pages`);
  }

  events(domain: number): string {
    return join(this.path, `domain-${domain}.events`);
  }

  /** Takes the name for this process and removes what an earlier owner left. */
  lock(name: string): FolderLock | null {
    const path = join(this.path, `${name}.lock`);
    for (let attempt = 0; attempt < LOCK_ATTEMPTS_MAX; attempt++) {
      const use = { action: 'lock', wanted: 'a file that nobody else has made' };
      const fd = openRegularFile(path, APPEND_NO_LINK, use, { mode: 0o600 });
      if (libc().flock(fd, LOCK_EXCLUSIVE | LOCK_DO_NOT_WAIT) !== 0) {
        const reason = lastErrno();
        closeSync(fd);
        if (reason === 'EAGAIN' || reason === 'EWOULDBLOCK') return null;
        throw new UserError(`Cannot lock ${path}: ${reason}`);
      }
      // Its owner removes the file when it ends: then this is the lock of nothing.
      if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) {
        try {
          this.#removeFiles(name);
        } catch (error) {
          closeSync(fd);
          throw cannotShare(this.path, `${(error as Error).message}, wanted it empty`);
        }
        return { release: () => this.#release(name, path, fd) };
      }
      closeSync(fd);
    }
    throw new UserError(`Cannot lock ${path}: others take and leave it all the time`);
  }

  /** One whose files cannot be removed is not known to be dead. */
  isAlive(domain: number): boolean {
    try {
      const lock = this.lock(`domain-${domain}`);
      lock?.release();
      return lock === null;
    } catch (error) {
      if (error instanceof UserError) return true;
      throw error;
    }
  }

  /** Removes what dead processes left. */
  sweep(): void {
    for (const file of readdirSync(this.path)) {
      const domain = /^domain-(\d+)\.lock$/.exec(file)?.[1];
      if (domain !== undefined) this.isAlive(Number(domain));
    }
  }

  #release(name: string, path: string, fd: number): void {
    this.#removeFiles(name);
    rmSync(path, { force: true });
    closeSync(fd);
  }

  #removeFiles(name: string): void {
    markEnded(join(this.path, `${name}.pages`));
    for (const kind of ['pages', 'pages.new', 'events', 'socket'])
      rmSync(join(this.path, `${name}.${kind}`), { force: true });
  }
}

/** Makes the folder if need be. A link that another user has laid may lead elsewhere tomorrow. */
function ownFolder(path: string): Stats {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const { uid } = lstatSync(path);
    if (uid !== process.geteuid?.() && uid !== 0) throw new Error(`it is of user ${uid}`);
    return statSync(path);
  } catch (error) {
    throw cannotShare(path, `${(error as Error).message}, wanted a folder of this user's`);
  }
}

export function cannotShare(path: string, what: string): UserError {
  return new UserError(`Cannot share memory in "${path}": ${what}`);
}

export interface FolderLock {
  /** Removes all files of that name. */
  release(): void;
}
