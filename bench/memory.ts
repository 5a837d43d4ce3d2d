/**
 * The memory goals of `urbgate serve`, on 16 source/sink devices with a client attached to each:
 *
 *     node dist/bench/memory.js                 idle clients, then 64 MiB each way through one device:
 *                                               the resident set stays under 150 MiB
 *     node dist/bench/memory.js --minutes 10    then mixed traffic over ever new connections: no growth
 *
 * The resident set comes from /proc/PID/status (VmRSS, and VmHWM for the peak). Exit code 1 if the
 * first goal is missed, a reply is wrong, or the resident set grows.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  attachIdle,
  buildLoad,
  ROOT,
  residentKibibytes,
  runLoad,
  runMain,
  type ServerProcess,
  startGateway,
} from './load/processes.ts';

const CLIENTS = 16;
const RESIDENT_MEBIBYTES_MAX = 150;
const TRAFFIC_MEBIBYTES = 64;
const LARGE_OCTETS = 256 << 10;

const SAMPLE_SECONDS = 10;
/** V8's heap and the buffer pools settle first: at least so long, and at least 1/5 of the run. */
const WARMUP_SECONDS = 60;
/**
 * The least resident set of the second half may be this much above that of the first. The garbage
 * collector makes a sawtooth of some 20 MiB, so a slope alone says little about a short run; a leak of
 * one octet a URB would show as about 15 MiB a minute.
 */
const GROWTH_MEBIBYTES_MAX = 8;

/** What the long run repeats, a new connection each. */
const MIX = [
  ['--type', 'control', '--depth', '32'],
  ['--type', 'out', '--size', '64', '--depth', '16'],
  ['--type', 'in', '--size', '64', '--depth', '16', '--single'],
  ['--type', 'out', '--size', String(16 << 10), '--depth', '16'],
  ['--type', 'in', '--size', String(16 << 10), '--depth', '16'],
  ['--type', 'out', '--size', String(LARGE_OCTETS), '--depth', '16'],
  ['--type', 'in', '--size', String(LARGE_OCTETS), '--depth', '16'],
];
const MIX_SECONDS = 2;

interface Bench {
  readonly program: string;
  readonly server: ServerProcess;
}

interface Sample {
  readonly minutes: number;
  readonly mebibytes: number;
}

function residentMebibytes(server: ServerProcess): { now: number; peak: number } {
  const { now, peak } = residentKibibytes(server.pid);
  return { now: now / 1024, peak: peak / 1024 };
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Attaches to all devices, then moves 64 MiB out and 64 MiB in through the first. */
async function checkPeak({ program, server }: Bench, busIds: string[]): Promise<boolean> {
  say(`after start: ${residentMebibytes(server).now.toFixed(1)} MiB`);
  const clients = [];
  for (const id of busIds) clients.push(await attachIdle(program, server.port, id));
  say(`${busIds.length} idle clients: ${residentMebibytes(server).now.toFixed(1)} MiB`);
  await clients[0]?.release();

  const urbs = String((TRAFFIC_MEBIBYTES << 20) / LARGE_OCTETS);
  for (const type of ['out', 'in']) {
    const args = ['--port', String(server.port), '--busid', busIds[0] ?? '', '--type', type];
    args.push('--size', String(LARGE_OCTETS), '--depth', '16', '--urbs', urbs, '--warmup', '0');
    await runLoad(program, args, 0);
    const { now, peak } = residentMebibytes(server);
    say(`${TRAFFIC_MEBIBYTES} MiB ${type}: ${now.toFixed(1)} MiB, peak ${peak.toFixed(1)} MiB`);
  }
  const { peak } = residentMebibytes(server);
  const met = peak < RESIDENT_MEBIBYTES_MAX;
  say(
    `peak ${peak.toFixed(1)} MiB, goal under ${RESIDENT_MEBIBYTES_MAX}: ${met ? 'met' : 'MISSED'}`,
  );
  return met;
}

/** The slope of the least-squares line through the samples, in MiB a minute. */
function slope(samples: readonly Sample[]): number {
  const count = samples.length;
  const meanX = samples.reduce((sum, { minutes }) => sum + minutes, 0) / count;
  const meanY = samples.reduce((sum, { mebibytes }) => sum + mebibytes, 0) / count;
  let above = 0;
  let below = 0;
  for (const { minutes, mebibytes } of samples) {
    above += (minutes - meanX) * (mebibytes - meanY);
    below += (minutes - meanX) ** 2;
  }
  return above / below;
}

function floor(samples: readonly Sample[]): number {
  return Math.min(...samples.map(({ mebibytes }) => mebibytes));
}

/** Runs the mix for so many minutes; the other clients stay attached. */
async function checkGrowth(bench: Bench, busId: string, minutes: number): Promise<boolean> {
  const { program, server } = bench;
  const samples: Sample[] = [];
  const start = performance.now();
  const elapsedMinutes = () => (performance.now() - start) / 60_000;
  const timer = setInterval(() => {
    const sample = { minutes: elapsedMinutes(), mebibytes: residentMebibytes(server).now };
    samples.push(sample);
    say(`${sample.minutes.toFixed(2)} min: ${sample.mebibytes.toFixed(1)} MiB`);
  }, SAMPLE_SECONDS * 1000);
  let urbs = 0;
  let connections = 0;
  try {
    while (elapsedMinutes() < minutes) {
      const mix = MIX[connections++ % MIX.length] ?? [];
      const args = [...mix, '--port', String(server.port), '--busid', busId, '--warmup', '0'];
      args.push('--seconds', String(MIX_SECONDS));
      urbs += (await runLoad(program, args, MIX_SECONDS)).urbs;
    }
  } finally {
    clearInterval(timer);
  }
  const warmupMinutes = Math.max(WARMUP_SECONDS / 60, minutes / 5);
  const settled = samples.filter((sample) => sample.minutes > warmupMinutes);
  say(`${urbs} URBs over ${connections} connections`);
  if (settled.length < 4) {
    say(`growth: not judged, ${settled.length} samples after ${warmupMinutes.toFixed(1)} min`);
    return true;
  }
  const half = settled.length >> 1;
  const growth = floor(settled.slice(half)) - floor(settled.slice(0, half));
  const met = growth < GROWTH_MEBIBYTES_MAX;
  const { peak } = residentMebibytes(server);
  say(`slope: ${slope(settled).toFixed(2)} MiB a minute over ${settled.length} samples`);
  say(
    `growth of the floor: ${growth.toFixed(1)} MiB from first half to second, ` +
      `goal under ${GROWTH_MEBIBYTES_MAX}: ${met ? 'met' : 'MISSED'}; peak ${peak.toFixed(1)} MiB`,
  );
  return met;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '0' },
      gateway: { type: 'string', default: join(ROOT, 'dist/src/cli/main.js') },
    },
  });
  const minutes = Number(values.minutes);
  if (!(minutes >= 0))
    throw new RangeError(`Cannot use --minutes: ${values.minutes}, wanted 0 or more`);
  const busIds = Array.from({ length: CLIENTS }, (_, index) => `1-${index + 1}`);
  const program = await buildLoad();
  const bench = { program, server: await startGateway(values.gateway, busIds) };
  const peakMet = await checkPeak(bench, busIds);
  const growthMet = minutes === 0 || (await checkGrowth(bench, busIds[0] ?? '', minutes));
  if (!peakMet || !growthMet) process.exitCode = 1;
}

await runMain(main);
