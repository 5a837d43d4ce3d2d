/** Runs stall-probe.c in a guest; that file says what it does and counts. */

import type { Guest } from './guest.ts';
import { compiled, labSource } from './kernel.ts';

/** How what is behind the failed URB is unlinked; see stall-probe.c. */
export type ProbeUnlink = 'continuation' | 'discard' | 'none' | 'first' | 'all' | 'restart';

/** The settings of stall-probe.c; what is left out has its default there. */
export interface ProbeSettings {
  /** Address; 0x81 by default. */
  endpoint?: number;
  interrupt?: boolean;
  /** Alternate setting of interface 0 to choose. */
  alternate?: number;
  /** URBs in a round, 8 by default. */
  depth?: number;
  /** Octets of a URB, 4096 by default. */
  octets?: number;
  /** wMaxPacketSize, 512 by default. */
  packet?: number;
  /** 100 by default. */
  rounds?: number;
  /** No new round begins after so long. */
  seconds?: number;
  /** A round without progress for so many milliseconds hangs, 30000 by default. */
  limit?: number;
  unlink?: ProbeUnlink;
  /** The device stamps and counts its packets. */
  stamps?: boolean;
  shortOk?: boolean;
  clear?: boolean;
  beside?: number;
}

export interface ProbeCounts {
  rounds: number;
  submitted: number;
  /** URBs that usbfs itself has refused, as the first one had failed already. */
  refused: number;
  /** Rounds in which unlinks were too late: nothing was left to be taken back. */
  missed: number;
  /** Rounds in which a URB failed. */
  failed: number;
  /** URBs behind the failed one that moved data. */
  violations: number;
  violationOctets: number;
  /** Packets that the device has moved and nobody was told of. */
  lost: number;
  /** Packets that came twice or out of order. */
  duplicated: number;
  /** IN packets received, OUT packets reported as moved. */
  seen: number;
  sent: number;
  hangs: number;
  /** URBs of the second endpoint, and the longest that a round of them took, in milliseconds. */
  besides: number;
  besideWorst: number;
  seconds: number;
  /** How many URBs ended with each errno. */
  statuses: Record<string, number>;
  /** Of a round, in milliseconds: mean, median, 99th percentile, worst. When it is done. */
  roundMilliseconds?: [number, number, number, number];
  /** The same, from the first submit to the first URB that came back. */
  firstMilliseconds?: [number, number, number, number];
}

export interface ProbeResult extends ProbeCounts {
  /** Why the probe did not come to its end: a hang, an oops. */
  stopped?: string;
}

const NOTHING: ProbeCounts = {
  rounds: 0,
  submitted: 0,
  refused: 0,
  missed: 0,
  failed: 0,
  violations: 0,
  violationOctets: 0,
  lost: 0,
  duplicated: 0,
  seen: 0,
  sent: 0,
  hangs: 0,
  besides: 0,
  besideWorst: 0,
  seconds: 0,
  statuses: {},
};

/** Exit code of the probe. */
const DEVICE_GONE = 3;
/** How often the kernel's log is looked at while the probe runs. */
const LOOK_MILLISECONDS = 500;

/** The program, at the same path in a guest. */
export function stallProbeProgram(): Promise<string> {
  return compiled(labSource('stall-probe.c'), ['-static', '-pthread']);
}

/**
 * Runs the probe on a device of a guest.
 *
 * It returns also when the kernel underneath fails or the probe hangs: `stopped` then says how, and
 * the counts are those of the last second before.
 *
 * @param node - the device's file, e.g. /dev/bus/usb/001/002
 * @throws Error if the probe could not measure: no such endpoint, say
 */
export async function runProbe(
  guest: Guest,
  node: string,
  settings: ProbeSettings,
  timeoutSeconds: number,
): Promise<ProbeResult> {
  const program = await stallProbeProgram();
  const logged = guest.kernelLog().length;
  const probe = guest.start(`exec ${program} ${node} ${settingsText(settings)}`);
  probe.end();
  let timer: NodeJS.Timeout | undefined;
  const oops = new Promise<string>((resolve) => {
    timer = setInterval(() => {
      const [complaint] = guest.kernelComplaints(logged);
      if (complaint !== undefined) resolve(complaint.split('\n')[0] ?? '');
    }, LOOK_MILLISECONDS);
  });
  const end = probe.result(timeoutSeconds).catch((error: Error) => error.message);
  const ended = await Promise.race([end, oops]).finally(() => clearInterval(timer));
  const lines = probe.stdout.split('\n').filter((line) => /^\{.*\}$/.test(line));
  const last = lines.at(-1);
  const counts: ProbeCounts & { done?: number } = last === undefined ? NOTHING : JSON.parse(last);
  if (typeof ended === 'string') {
    probe.signal('SIGKILL');
    return { ...counts, stopped: ended.split('\n')[0] ?? ended };
  }
  if (ended.code === DEVICE_GONE && last !== undefined) {
    return { ...counts, stopped: 'the device has gone' };
  }
  if (ended.code !== 0 || last === undefined) {
    throw new Error(`Cannot probe ${node}: exit code ${ended.code}\n${ended.stderr}`);
  }
  return counts.done === 1 ? counts : { ...counts, stopped: 'a round did not end' };
}

function settingsText({ shortOk, ...rest }: ProbeSettings): string {
  return Object.entries({ ...rest, 'short-ok': shortOk })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${typeof value === 'boolean' ? Number(value) : value}`)
    .join(' ');
}

/** Does something while every processor of the guest is busy. */
export async function underLoad<T>(guest: Guest, work: () => Promise<T>): Promise<T> {
  const processors = Number(await guest.succeed('nproc'));
  const loops = Array.from({ length: processors }, (_, processor) => {
    const loop = guest.start(`exec taskset -c ${processor} sh -c 'while :; do :; done'`);
    loop.end();
    return loop;
  });
  try {
    return await work();
  } finally {
    for (const loop of loops) if (guest.alive) loop.signal('SIGKILL');
    for (const loop of loops) await loop.result(10).catch(() => {});
  }
}

/** One line for people. */
export function formatProbe(name: string, result: ProbeResult): string {
  const { rounds, violations, violationOctets, lost, duplicated, hangs, seconds } = result;
  const [mean, , , worst] = result.roundMilliseconds ?? [0, 0, 0, 0];
  const columns = [
    name.padEnd(44),
    `${rounds} rounds`.padStart(12),
    `${violations} violations (${violationOctets} octets)`,
    `${lost} lost, ${duplicated} doubled`,
    `${hangs} hangs`,
    `${seconds.toFixed(1)} s, ${mean.toFixed(1)} ms a round, at most ${worst.toFixed(0)}`,
  ];
  if (result.stopped !== undefined) columns.push(`stopped: ${result.stopped}`);
  return columns.join('  ');
}
