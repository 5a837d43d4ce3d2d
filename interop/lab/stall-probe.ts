/** Runs stall-probe.c in a guest; that file says what it does and counts. */

import { startGateway, startGatewayInGuest } from './gateway.ts';
import type { Guest } from './guest.ts';
import { compiled, labSource } from './kernel.ts';
import { exportByKernel } from './kernel-stub.ts';
import { loadUsbtest, runUsbtest, type UsbtestResult } from './testusb.ts';
import { attach, detachAll, loadVhci, type UsbipServer } from './usbip.ts';
import { bulkCases, sourceSinkGadget } from './usbtest-gadgets.ts';

/** How what is behind the failed URB is unlinked; see stall-probe.c. */
export type ProbeUnlink = 'continuation' | 'discard' | 'none' | 'first' | 'all';

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
  const program = await compiled(labSource('stall-probe.c'), ['-static']);
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

/** A device that fails transfers in some way, and how the probe is run on it. */
export interface ProbeCase {
  name: string;
  /** What the gateway exports. */
  spec: string;
  settings: ProbeSettings;
  /** How many rounds of it are worth the time in `npm test`. */
  rounds: number;
  /** The errnos that URBs end with, and no others. */
  statuses: readonly string[];
  /** Without this, URBs behind the failed one must all come back unlinked. */
  goesOn?: boolean;
}

const SHORT = 'virtual:source-sink,short=1000,stamp';
const failing = (end: string) => `virtual:source-sink,short=1024,end=${end},stamp`;
const refusing = (end: string) => `virtual:source-sink,take=1024,end=${end},stamp`;

/** The case that everything else varies: eight URBs, the first of which ends short. */
export const SHORT_CASE: ProbeCase = {
  name: 'short packet',
  spec: SHORT,
  settings: {},
  rounds: 1000,
  statuses: ['-121', '-104'],
};

export const OTHER_CASES: readonly ProbeCase[] = [
  { ...SHORT_CASE, name: 'depth 2', settings: { depth: 2 }, rounds: 200 },
  { ...SHORT_CASE, name: 'depth 32', settings: { depth: 32 }, rounds: 200 },
  {
    name: 'stall, cleared',
    spec: failing('stall'),
    settings: { clear: true },
    rounds: 150,
    statuses: ['-32', '-104'],
  },
  {
    name: 'stall, cleared while the others are queued',
    spec: failing('stall'),
    settings: { clear: true, unlink: 'none' },
    rounds: 25,
    statuses: ['-32'],
    goesOn: true,
  },
  {
    name: 'babble',
    spec: failing('babble'),
    settings: {},
    rounds: 150,
    statuses: ['-75', '-104'],
  },
  {
    name: 'protocol error',
    spec: failing('protocol-error'),
    settings: {},
    rounds: 150,
    statuses: ['-71', '-104'],
  },
  {
    name: 'bulk OUT, stall',
    spec: refusing('stall'),
    settings: { endpoint: 0x02, clear: true },
    rounds: 150,
    statuses: ['-32', '-104'],
  },
  {
    name: 'bulk OUT, protocol error',
    spec: refusing('protocol-error'),
    settings: { endpoint: 0x02 },
    rounds: 150,
    statuses: ['-71', '-104'],
  },
  {
    name: 'interrupt endpoint',
    spec: SHORT,
    settings: { endpoint: 0x85, interrupt: true, alternate: 1, packet: 1024, unlink: 'discard' },
    rounds: 150,
    statuses: ['-121', '-2'],
  },
  {
    name: 'two endpoints, one fails',
    spec: SHORT,
    settings: { beside: 0x02, unlink: 'discard' },
    rounds: 150,
    statuses: ['-121', '-2'],
  },
  {
    name: 'driver that does not unlink',
    spec: SHORT,
    settings: { unlink: 'none' },
    rounds: 25,
    statuses: ['-121'],
    goesOn: true,
  },
  {
    name: 'unlink of the first',
    spec: 'virtual:source-sink,delay=5,stamp',
    settings: { unlink: 'first' },
    rounds: 50,
    statuses: ['0', '-2'],
    goesOn: true,
  },
  {
    name: 'unlink of all, oldest first',
    spec: 'virtual:source-sink,delay=5,stamp',
    settings: { unlink: 'all' },
    rounds: 150,
    statuses: ['0', '-2'],
  },
];

/** Where the gateway runs. */
export type GatewayPlace = 'host' | 'guest';

/** Starts a gateway for a case, attaches its device, runs the probe, and takes all of it down. */
export async function probeGateway(
  guest: Guest,
  { spec, settings }: ProbeCase,
  rounds: number,
  { load = false, place = 'host' as GatewayPlace } = {},
): Promise<ProbeResult> {
  const options = { exports: [spec], arguments: ['--control', 'none'] };
  const run = async (server?: UsbipServer) => {
    const { node } = await attach(guest, '1-1', server);
    const seconds = 60 + rounds * ROUND_SECONDS_MAX;
    const measure = () => runProbe(guest, node, { stamps: true, ...settings, rounds }, seconds);
    return load ? underLoad(guest, measure) : measure();
  };
  await loadVhci(guest);
  if (place === 'guest') {
    const gateway = await startGatewayInGuest(guest, options);
    const result = await run({ address: '127.0.0.1', port: gateway.port });
    await detachAll(guest);
    await gateway.stop();
    return result;
  }
  const gateway = await startGateway(options);
  try {
    guest.forward(gateway.port);
    const result = await run();
    await detachAll(guest);
    await gateway.stop();
    return result;
  } finally {
    await gateway.kill();
  }
}

/** On the average, on a slow machine. */
const ROUND_SECONDS_MAX = 0.5;

/** What is wrong with a result; empty when the guarantee held in every round. */
export function faults(
  { statuses, goesOn }: ProbeCase,
  rounds: number,
  result: ProbeResult,
): string[] {
  const wrong: string[] = [];
  const zero = ['violations', 'violationOctets', 'lost', 'duplicated', 'hangs'] as const;
  for (const name of zero) if (result[name] !== 0) wrong.push(`${name}: ${result[name]}, wanted 0`);
  if (result.stopped !== undefined) wrong.push(`stopped: ${result.stopped}`);
  if (result.rounds !== rounds) wrong.push(`${result.rounds} rounds, wanted ${rounds}`);
  if (result.failed !== rounds) wrong.push(`${result.failed} rounds failed, wanted ${rounds}`);
  for (const status of Object.keys(result.statuses)) {
    if (!statuses.includes(status)) wrong.push(`URBs ended with ${status}, wanted ${statuses}`);
  }
  if (goesOn && result.refused > 0) wrong.push(`${result.refused} URBs refused, wanted 0`);
  return wrong;
}

/** Octets that the gadget's transfers end short after; no whole packets. */
const GADGET_OCTETS = '1000';

/** The probe on the kernel's own controller, where the guarantee holds: the reference. */
export async function probeLocally(guest: Guest, rounds: number): Promise<ProbeResult> {
  const gadget = await sourceSinkGadget(guest, { bulk_buflen: GADGET_OCTETS });
  try {
    return await runProbe(guest, gadget.node, { rounds }, 60 + rounds / 10);
  } finally {
    await gadget.remove();
  }
}

/**
 * The probe over the kernel's own server: the control. The guest may be past use afterwards, so it
 * should be one of its own.
 */
export async function probeKernelServer(guest: Guest, rounds: number): Promise<ProbeResult> {
  await loadVhci(guest);
  const gadget = await sourceSinkGadget(guest, { bulk_buflen: GADGET_OCTETS });
  const server = await exportByKernel(guest, gadget);
  const { node } = await attach(guest, gadget.busid, server);
  return runProbe(guest, node, { rounds }, 60);
}

/** Whether a result shows that a server lets transfers run behind a failed one. */
export function showsTheHole(result: ProbeResult): boolean {
  return result.violations > 0 || result.hangs > 0 || result.stopped !== undefined;
}

/** The cases of usbtest that queue, unlink and fail: those that other servers do not survive. */
export const UNLINK_CASES = [9, 10, 11, 12, 13, 14, 24] as const;

/**
 * Runs those cases through a gateway again and again.
 *
 * @returns how many rounds there were, and what failed in the last one
 */
export async function usbtestThroughGateway(
  guest: Guest,
  seconds: number,
): Promise<{ rounds: number; failed: UsbtestResult[] }> {
  const numbers: readonly number[] = UNLINK_CASES;
  const cases = bulkCases(0).filter(({ number }) => numbers.includes(number));
  const end = performance.now() + seconds * 1000;
  await loadVhci(guest);
  const gateway = await startGateway({
    exports: ['virtual:source-sink'],
    arguments: ['--control', 'none'],
  });
  try {
    guest.forward(gateway.port);
    await loadUsbtest(guest);
    const { node } = await attach(guest, '1-1');
    let rounds = 0;
    let failed: UsbtestResult[] = [];
    while (failed.length === 0 && performance.now() < end) {
      const results = await runUsbtest(guest, node, cases);
      failed = results.filter(({ outcome }) => outcome !== 'pass');
      rounds++;
    }
    await detachAll(guest);
    await gateway.stop();
    return { rounds, failed };
  } finally {
    await gateway.kill();
  }
}
