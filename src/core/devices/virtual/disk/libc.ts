/**
 * The two system calls on files that Node does not offer: flock(2) and fallocate(2).
 *
 * Where a call does not exist the functions say so and the disk goes without: no lock on Windows,
 * no hole punching outside 64-bit Linux.
 */
import koffi from 'koffi';
import { guarded } from '../../../foreign-calls.ts';

/** <sys/file.h>; the same on Linux, macOS and the BSDs. */
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** <linux/falloc.h> */
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

const hasFlock = process.platform === 'linux' || process.platform === 'darwin';
// Elsewhere off_t may have 32 bits.
const hasFallocate =
  process.platform === 'linux' && ['x64', 'arm64', 'riscv64', 'loong64'].includes(process.arch);

type Flock = (fd: number, operation: number) => number;
type Fallocate = (fd: number, mode: number, offset: number, octets: number) => number;

const libc = hasFlock ? koffi.load(null) : null;
const flock: Flock | null = libc?.func('int flock(int, int)') ?? null;
const fallocate = hasFallocate
  ? libc?.func('int fallocate(int, int, int64_t, int64_t)')
  : undefined;

export type LockAnswer = 'locked' | 'busy' | 'unsupported';

/**
 * Locks an open file until it is closed, or its process dies however it dies.
 *
 * The lock belongs to the open file: a second `open` of the same image conflicts with it, in this
 * process or another. Readers share it.
 */
export function lockFile(fd: number, shared: boolean): LockAnswer {
  if (flock === null) return 'unsupported';
  if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) === 0) return 'locked';
  // Some network file systems have no locks (ENOLCK, EOPNOTSUPP); an image there is still served.
  return koffi.errno() === koffi.os.errno.EWOULDBLOCK ? 'busy' : 'unsupported';
}

/**
 * Whether holes can be punched into an open file: tried behind its end, where nothing changes.
 */
export function canPunchHoles(fd: number, fileOctets: number): boolean {
  if (fallocate === undefined) return false;
  const call: Fallocate = fallocate;
  return call(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, fileOctets, 4096) === 0;
}

/** Frees a range of a file, which reads as zeros then. Only after `canPunchHoles`. */
export function punchHole(
  fd: number,
  offset: number,
  octets: number,
  done: (error: Error | null) => void,
): void {
  fallocate?.async(
    fd,
    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    offset,
    octets,
    (error: Error | null, answer: number) => {
      const failed = error === null && answer !== 0;
      const reason = failed
        ? new Error(`Cannot punch a hole of ${octets} octets at ${offset}`)
        : error;
      guarded(() => done(reason));
    },
  );
}
