/** What the stall probe is run on: devices that fail in every way, through every kind of server. */

import type { CabledGuest } from './cable.ts';
import { startGatewayInGuest } from './gateway.ts';
import type { Guest } from './guest.ts';
import { exportByKernel } from './kernel-stub.ts';
import { type ProbeResult, type ProbeSettings, runProbe, underLoad } from './stall-probe.ts';
import { loadUsbtest, runUsbtest, usbtestFaults } from './testusb.ts';
import { attach, detachAll, loadVhci, type UsbipServer } from './usbip.ts';
import { bulkCases, sourceSinkGadget } from './usbtest-gadgets.ts';

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
  {
    name: 'unlink of all while they are submitted anew',
    spec: 'virtual:source-sink,delay=2,stamp',
    settings: { unlink: 'restart' },
    rounds: 150,
    statuses: ['0', '-2'],
  },
];

/** A program that unlinks from outside a completion handler has no promise, locally neither. */
export const RELAY_CASES: readonly ProbeCase[] = OTHER_CASES.filter(
  ({ settings }) => settings.unlink !== 'discard',
);

/** How the probe is run on a case. */
export interface ProbeRun {
  rounds: number;
  /** Keeps every processor of the guest busy. */
  load?: boolean;
  /** Of the gateway, e.g. `--stall-hold 0`. */
  gatewayArguments?: readonly string[];
}

/** Runs the probe through a gateway at the other end of the cable. */
export async function probeGateway(
  cabled: CabledGuest,
  one: ProbeCase,
  run: ProbeRun,
): Promise<ProbeResult> {
  const gateway = await cabled.startGateway(gatewayOptions(one, run));
  try {
    const result = await probeAttached(cabled.guest, cabled.serverOf(gateway), one, run);
    await gateway.stop();
    return result;
  } finally {
    await gateway.kill();
  }
}

/** Runs the probe through a gateway in the guest, where no network is between it and the client. */
export async function probeGatewayInGuest(
  guest: Guest,
  one: ProbeCase,
  run: ProbeRun,
): Promise<ProbeResult> {
  const gateway = await startGatewayInGuest(guest, gatewayOptions(one, run));
  const server = { address: '127.0.0.1', port: gateway.port };
  const result = await probeAttached(guest, server, one, run);
  await gateway.stop();
  return result;
}

function gatewayOptions({ spec }: ProbeCase, { gatewayArguments = [] }: ProbeRun) {
  return { exports: [spec], arguments: ['--control', 'none', ...gatewayArguments] };
}

/** Attaches the device of a case, runs the probe on it, and detaches it. */
async function probeAttached(
  guest: Guest,
  server: UsbipServer,
  { settings }: ProbeCase,
  { rounds, load = false }: ProbeRun,
): Promise<ProbeResult> {
  await loadVhci(guest);
  const { node } = await attach(guest, '1-1', server);
  const seconds = 60 + rounds * ROUND_SECONDS_MAX;
  const measure = () => runProbe(guest, node, { stamps: true, ...settings, rounds }, seconds);
  const result = await (load ? underLoad(guest, measure) : measure());
  await detachAll(guest);
  return result;
}

/** On the average, on a slow machine. */
const ROUND_SECONDS_MAX = 0.5;

/** A guest that is not run for some milliseconds unlinks too late; such a round shows nothing. */
const MISSED_SHARE_MAX = 0.1;

/** What is wrong with a result; empty when the guarantee held in every round. */
export function faults(
  { statuses, goesOn }: Pick<ProbeCase, 'statuses' | 'goesOn'>,
  rounds: number,
  result: ProbeResult,
): string[] {
  const wrong: string[] = [];
  const zero = ['violations', 'violationOctets', 'lost', 'duplicated', 'hangs'] as const;
  for (const name of zero) if (result[name] !== 0) wrong.push(`${name}: ${result[name]}, wanted 0`);
  if (result.stopped !== undefined) wrong.push(`stopped: ${result.stopped}`);
  if (result.rounds !== rounds) wrong.push(`${result.rounds} rounds, wanted ${rounds}`);
  const { failed, missed } = result;
  if (failed + missed !== rounds) wrong.push(`${failed} rounds failed, wanted ${rounds - missed}`);
  if (missed > rounds * MISSED_SHARE_MAX) wrong.push(`${missed} rounds were too late to unlink`);
  for (const status of Object.keys(result.statuses)) {
    if (!statuses.includes(status)) wrong.push(`URBs ended with ${status}, wanted ${statuses}`);
  }
  if (goesOn && result.refused > 0) wrong.push(`${result.refused} URBs refused, wanted 0`);
  return wrong;
}

/**
 * Rounds that prove nothing: their first read failed, but the device was never asked. For devices with
 * stamps that fail each read after a packet or more.
 */
export function hollowRounds({ rounds, seen }: ProbeResult): number {
  return Math.max(0, rounds - Math.floor(seen / PACKETS_OF_ROUND));
}

/** Of the 1000 or 1024 octets that a failing read brings. */
const PACKETS_OF_ROUND = 2;

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
  cabled: CabledGuest,
  seconds: number,
): Promise<{ rounds: number; failed: string[] }> {
  const numbers: readonly number[] = UNLINK_CASES;
  const cases = bulkCases(0).filter(({ number }) => numbers.includes(number));
  const end = performance.now() + seconds * 1000;
  const { guest } = cabled;
  await loadVhci(guest);
  const gateway = await cabled.startGateway({
    exports: ['virtual:source-sink'],
    arguments: ['--control', 'none'],
  });
  try {
    await loadUsbtest(guest);
    const { node } = await attach(guest, '1-1', cabled.serverOf(gateway));
    let rounds = 0;
    let failed: string[] = [];
    while (failed.length === 0 && performance.now() < end) {
      failed = usbtestFaults(await runUsbtest(guest, node, cases));
      rounds++;
    }
    await detachAll(guest);
    await gateway.stop();
    return { rounds, failed };
  } finally {
    await gateway.kill();
  }
}
