/**
 * Watches the kernel's vhci_rx and vhci_tx threads of one attached device; for vhci-fence.ts.
 *
 * The threads are those that appear while `attach` is written. If somebody else attaches at that very
 * moment, theirs are among them, and then all must sleep: that errs on the safe side.
 *
 * With PREEMPT_RT a thread that waits for a spinlock is off the run queue too, and `wchan` names the same function. Its
 * state tells: the kernel shows such a wait as D (__task_state_index in include/linux/sched.h), and both threads
 * sleep as S. State and function are of one moment if the thread has not run in between, which
 * its count of runs tells (the third number of /proc/PID/schedstat, Documentation/scheduler/sched-stats.rst).
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

/** More than `wchan`, `schedstat`, or the beginning of `stat` needs. */
const TEXT_BYTES = 128;
const text = Buffer.alloc(TEXT_BYTES);

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

/** Whether this kernel's `wchan` can be relied on. */
export function canWatch(kernel = release()): boolean {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  return major > KERNEL_MIN[0] || (major === KERNEL_MIN[0] && minor >= KERNEL_MIN[1]);
}

/** Open files of one thread. */
interface Watched {
  readonly wchan: number;
  /** With PREEMPT_RT alone. */
  readonly stat?: number;
  readonly schedstat?: number;
}

type Files = { -readonly [name in keyof Watched]?: number };

/** Watches the threads that are not among `before`. */
export function watchThreads(
  before: ReadonlyMap<number, Role>,
  proc = '/proc',
  isRealtime = existsSync(REALTIME_FILE),
): VhciThreads {
  const watched: Record<Role, Watched[]> = { vhci_rx: [], vhci_tx: [] };
  const fresh = [...vhciThreads(proc)].filter(([pid]) => !before.has(pid));
  for (const [pid, role] of canWatch() ? fresh : []) {
    const thread = watch(`${proc}/${pid}`, isRealtime);
    if (thread !== null) watched[role].push(thread);
  }
  return {
    receiverSleeps: () => allSleep(watched.vhci_rx, RECEIVER_SLEEPS_IN),
    senderSleeps: () => allSleep(watched.vhci_tx, SENDER_SLEEPS_IN),
    close: () => {
      for (const role of ['vhci_rx', 'vhci_tx'] as const) watched[role].splice(0).forEach(unwatch);
    },
  };
}

/** Null if the thread has ended, or may not be watched. */
function watch(folder: string, isRealtime: boolean): Watched | null {
  const names = isRealtime ? (['wchan', 'stat', 'schedstat'] as const) : (['wchan'] as const);
  const files: Files = {};
  try {
    for (const name of names) files[name] = openSync(`${folder}/${name}`, 'r');
    return files as Watched;
  } catch {
    unwatch(files);
    return null;
  }
}

function unwatch(files: Files): void {
  for (const fd of Object.values(files)) closeSync(fd);
}

function allSleep(threads: Watched[], where: RegExp): boolean | undefined {
  for (const thread of [...threads]) {
    const sleeps = sleepsIn(thread, where);
    if (sleeps === null) threads.splice(threads.indexOf(thread), 1);
    else if (!sleeps) return false;
  }
  return threads.length === 0 ? undefined : true;
}

/** Whether a thread sleeps in such a function; null if it has ended. */
function sleepsIn(thread: Watched, where: RegExp): boolean | null {
  const { wchan, stat, schedstat } = thread;
  try {
    if (stat === undefined || schedstat === undefined) return where.test(read(wchan));
    const runs = runsOf(read(schedstat));
    const isWaiting = stateOf(read(stat)) === 'S';
    const isThere = where.test(read(wchan));
    return isWaiting && isThere && runs > 0 && runsOf(read(schedstat)) === runs;
  } catch {
    unwatch(thread);
    return null;
  }
}

function read(fd: number): string {
  return text.toString('latin1', 0, readSync(fd, text, 0, TEXT_BYTES, 0));
}

/** How often a thread was given a processor, from its `schedstat`; 0 on kernels that do not count. */
function runsOf(schedstat: string): number {
  return Number(schedstat.split(' ')[2] ?? 0);
}

/** The third field of `stat`, behind a name in parentheses. */
function stateOf(stat: string): string | undefined {
  return /\) (\w)/.exec(stat)?.[1];
}
