/**
 * Runs cases of the kernel's usbtest driver on a device in a guest and reports each one's outcome.
 *
 * `testusb` is the kernel's own front end to the driver. It prints nothing about a case for which
 * the device lacks an endpoint, and the driver says the same (EOPNOTSUPP) when a parameter of a
 * case makes no sense, so "unsupported" may mean either.
 */

import type { Guest } from './guest.ts';
import { testusbProgram } from './kernel.ts';

/**
 * What a guest needs for the cases that unlink: there the driver asks again and again without sleeping
 * until the URB is back (unlink1 of usbtest.c). vhci gives URBs back in a thread, which on one processor
 * may never run: a soft lockup of the guest.
 */
export const USBTEST_PROCESSORS = 2;

/** How to run one case; the letters are testusb's options. */
export interface UsbtestCase {
  number: number;
  /** -c, how often. */
  iterations?: number;
  /** -s, octets of a transfer, or of each entry of a scatter-gather list. */
  transferOctets?: number;
  /** -g, entries of a scatter-gather list, or URBs in flight. */
  queueDepth?: number;
  /** -v, by how many octets the length changes from one transfer to the next. */
  varyOctets?: number;
  timeoutSeconds?: number;
}

/** 'timeout' also stands for a kernel that has failed during the case. */
export type UsbtestOutcome = 'pass' | 'fail' | 'unsupported' | 'timeout';

export interface UsbtestResult {
  case: Required<UsbtestCase>;
  outcome: UsbtestOutcome;
  /** The errno, for 'fail'. */
  errno?: number;
  /** Its text, and what the driver wrote to the kernel's log. */
  reason?: string;
  /** The driver's own figure, for 'pass'. */
  seconds?: number;
}

const DEFAULTS = {
  iterations: 16,
  transferOctets: 2048,
  queueDepth: 8,
  varyOctets: 421,
  timeoutSeconds: 60,
} as const;

/** Settings of the usbtest module. */
export interface UsbtestModule {
  /** The alternate setting of interface 0 to use, rather than the first that has endpoints. */
  alternateSetting?: number;
  /** 0: transfers are all zeroes. 1: octet i is (i modulo the endpoint's packet size) modulo 63. */
  pattern?: 0 | 1;
}

/** Loads usbtest afresh: it reads most settings only when it binds to a device. */
export async function loadUsbtest(guest: Guest, settings: UsbtestModule = {}): Promise<void> {
  const { alternateSetting = -1, pattern = 0 } = settings;
  await guest.succeed(
    `if [ -e /sys/module/usbtest ]; then rmmod usbtest; fi
modprobe usbtest alt=${alternateSetting} pattern=${pattern}`,
  );
}

/**
 * Runs the cases one after another. A case that hangs is given up, and so are those after it, as
 * the driver then holds the device.
 *
 * @param node - the device's file, e.g. /dev/bus/usb/001/002
 */
export async function runUsbtest(
  guest: Guest,
  node: string,
  cases: readonly UsbtestCase[],
): Promise<UsbtestResult[]> {
  const program = await testusbProgram();
  await waitBound(guest, node);
  const results: UsbtestResult[] = [];
  for (const wanted of cases) {
    const full = { ...DEFAULTS, ...wanted };
    const result = await runCase(guest, program, node, full);
    results.push(result);
    if (result.outcome === 'timeout') break;
  }
  return results;
}

/**
 * Waits until usbtest has the device's interface: a device shows its configuration before drivers
 * have been offered its interfaces.
 */
async function waitBound(guest: Guest, node: string): Promise<void> {
  await guest.succeed(
    `device=/sys/dev/char/$(printf '%d:%d' 0x$(stat -c %t ${node}) 0x$(stat -c %T ${node}))
for try in $(seq 100); do
  driver=$(readlink $device/*:1.0/driver)
  [ "\${driver##*/}" = usbtest ] && exit 0
  sleep 0.1
done
echo "Cannot test ${node}: its driver is \${driver##*/}, wanted usbtest" >&2
exit 1`,
  );
}

async function runCase(
  guest: Guest,
  program: string,
  node: string,
  wanted: Required<UsbtestCase>,
): Promise<UsbtestResult> {
  const { number, timeoutSeconds } = wanted;
  const options = `-t ${number} ${sizes(wanted)}`;
  const logged = guest.kernelLog().length;
  let stdout: string;
  try {
    const run = guest.run(`${program} -D ${node} ${options}`, { timeoutSeconds });
    ({ stdout } = await unlessKernelFails(guest, logged, run));
  } catch (error) {
    return { case: wanted, outcome: 'timeout', reason: String(error).split('\n')[0] ?? '' };
  }
  const passed = /test \d+,\s+([\d.]+) secs/.exec(stdout)?.[1];
  if (passed !== undefined) return { case: wanted, outcome: 'pass', seconds: Number(passed) };
  const failed = /test \d+ --> (\d+) \((.*)\)/.exec(stdout);
  if (failed === null) return { case: wanted, outcome: 'unsupported' };
  const reason = [failed[2] ?? '', ...driverMessages(guest.kernelLog().slice(logged))].join('; ');
  return { case: wanted, outcome: 'fail', errno: Number(failed[1]), reason };
}

/** The options of a case, all but its number. */
function sizes(run: Required<UsbtestCase>): string {
  const { iterations, transferOctets, queueDepth, varyOctets } = run;
  return `-c ${iterations} -s ${transferOctets} -g ${queueDepth} -v ${varyOctets}`;
}

/** Gives up soon after an oops, as the case then never ends. */
async function unlessKernelFails<T>(guest: Guest, logged: number, run: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  run.catch(() => {});
  const failure = new Promise<never>((_resolve, reject) => {
    timer = setInterval(() => {
      const [complaint] = guest.kernelComplaints(logged);
      if (complaint !== undefined) reject(new Error(complaint));
    }, 1000);
  });
  try {
    return await Promise.race([run, failure]);
  } finally {
    clearInterval(timer);
  }
}

/** What usbtest says of a failure, without the announcement of the case. */
function driverMessages(log: string): string[] {
  return log
    .split('\n')
    .map((line) => /(?:usbtest|usb) [\d.:-]+: (.*)/.exec(line)?.[1] ?? '')
    .filter((text) => text !== '' && !/^TEST \d|^iso period|^total \d|speed/.test(text));
}

/** A line for each case that did not pass. */
export function usbtestFaults(results: readonly UsbtestResult[]): string[] {
  const failed = results.filter(({ outcome }) => outcome !== 'pass');
  return failed.map(({ case: { number }, outcome, errno, reason }) =>
    [`case ${number}: ${outcome}`, errno, reason].filter(Boolean).join(' '),
  );
}

/** A plain text table, one line a case, for a test's output. */
export function formatUsbtest(results: readonly UsbtestResult[]): string {
  const lines = results.map(({ case: run, outcome, errno, seconds, reason }) => {
    const detail =
      seconds === undefined ? `${errno ?? ''} ${reason ?? ''}` : `${seconds.toFixed(3)} s`;
    const number = String(run.number).padStart(2);
    return `case ${number}  ${sizes(run).padEnd(32)} ${outcome.padEnd(11)} ${detail}`;
  });
  return lines.map((line) => line.trimEnd()).join('\n');
}
