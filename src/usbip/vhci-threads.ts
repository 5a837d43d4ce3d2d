/**
 * Watches the kernel's vhci_rx and vhci_tx threads of one attached device; for vhci-fence.ts.
 *
 * The threads are those that appear while `attach` is written. If somebody else attaches at that very
 * moment, theirs are among them, and then all must sleep: that errs on the safe side.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { release } from 'node:os';

/** The function in which each sleeps when it has nothing to do. */
const RECEIVER_SLEEPS_IN = /^unix_stream_/;
const SENDER_SLEEPS_IN = /^vhci_tx_loop/;
/** From here on /proc/PID/wchan names a function only while the thread is off the run queue. */
const KERNEL_MIN = [5, 16] as const;

/** Only kernels with PREEMPT_RT have it. */
const REALTIME_FILE = '/sys/kernel/realtime';

/** What `wchan` holds: a function's name, or 0. */
const WCHAN_OCTETS = 64;
const text = Buffer.alloc(WCHAN_OCTETS);

type Role = 'vhci_rx' | 'vhci_tx';

export interface VhciThreads {
  /** Whether all vhci_rx sleep in their read; undefined if that cannot be seen. */
  receiverSleeps(): boolean | undefined;
  /** Whether all vhci_tx sleep with nothing to send. */
  senderSleeps(): boolean | undefined;
  close(): void;
}

/** Process ids of all threads of vhci there are. */
export function vhciThreads(proc = '/proc'): Map<number, Role> {
  const found = new Map<number, Role>();
  for (const name of readdirSync(proc)) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const command = readFileSync(`${proc}/${name}/comm`, 'latin1').trim();
      if (command === 'vhci_rx' || command === 'vhci_tx') found.set(Number(name), command);
    } catch {
      // It has ended since.
    }
  }
  return found;
}

/**
 * Whether this kernel's `wchan` can be relied on. Not with PREEMPT_RT: there a thread that waits for a
 * spinlock is off the run queue too.
 */
export function canWatch(kernel = release(), isRealtime = existsSync(REALTIME_FILE)): boolean {
  if (isRealtime) return false;
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  return major > KERNEL_MIN[0] || (major === KERNEL_MIN[0] && minor >= KERNEL_MIN[1]);
}

/** Watches the threads that are not among `before`. */
export function watchThreads(before: ReadonlyMap<number, Role>, proc = '/proc'): VhciThreads {
  const fds: Record<Role, number[]> = { vhci_rx: [], vhci_tx: [] };
  const fresh = [...vhciThreads(proc)].filter(([pid]) => !before.has(pid));
  for (const [pid, role] of canWatch() ? fresh : []) {
    try {
      fds[role].push(openSync(`${proc}/${pid}/wchan`, 'r'));
    } catch {
      // It has ended, or may not be watched.
    }
  }
  return {
    receiverSleeps: () => allSleep(fds.vhci_rx, RECEIVER_SLEEPS_IN),
    senderSleeps: () => allSleep(fds.vhci_tx, SENDER_SLEEPS_IN),
    close: () => {
      for (const role of ['vhci_rx', 'vhci_tx'] as const) {
        for (const fd of fds[role].splice(0)) closeSync(fd);
      }
    },
  };
}

function allSleep(fds: number[], where: RegExp): boolean | undefined {
  if (fds.length === 0) return undefined;
  for (const fd of [...fds]) {
    const name = sleepsIn(fd);
    if (name === null) fds.splice(fds.indexOf(fd), 1);
    else if (!where.test(name)) return false;
  }
  return fds.length === 0 ? undefined : true;
}

/** The function that a thread sleeps in, "0" if it does not; null if it has ended. */
function sleepsIn(fd: number): string | null {
  try {
    return text.toString('latin1', 0, readSync(fd, text, 0, WCHAN_OCTETS, 0));
  } catch {
    closeSync(fd);
    return null;
  }
}
