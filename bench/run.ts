/**
 * The benchmark: urbgate beside a bare Node echo, row by row.
 *
 *     npm run bench -- [--rounds 5] [--seconds 2] [--only REGEX] [--pinned] [--out docs/bench.md]
 *
 * Each round of a row loads the echo and then the gateway with the same messages from the same C
 * program, so that a busy spell of the machine hits both. See bench/README.md.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  buildLoad,
  ROOT,
  runLoad,
  runMain,
  type ServerProcess,
  startEcho,
  startGateway,
} from './load/processes.ts';
import { emptySeries, goalsMissed, page, type RowResult, type Series, table } from './report.ts';
import { loadArguments, onOneCpu, ROWS, type Row } from './rows.ts';

const BUS_ID = '1-1';
const WARMUP_SECONDS = 0.3;

interface Settings {
  readonly rounds: number;
  readonly seconds: number;
  readonly rows: readonly Row[];
  readonly gateway: string;
  readonly out: string | undefined;
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new RangeError(`Cannot use --${name}: ${text}, wanted a number above 0`);
  return value;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '2' },
      only: { type: 'string', default: '' },
      pinned: { type: 'boolean', default: false },
      gateway: { type: 'string', default: join(ROOT, 'dist/src/cli/main.js') },
      out: { type: 'string' },
    },
  });
  const only = new RegExp(values.only);
  // With --pinned the one-CPU rows would come twice.
  const all = values.pinned ? ROWS.filter((row) => !row.oneCpu).map(onOneCpu) : ROWS;
  const rows = all.filter((row) => only.test(row.id) || only.test(row.title));
  if (rows.length === 0) throw new RangeError(`Cannot find a row for --only: ${values.only}`);
  const rounds = Math.ceil(positive('rounds', values.rounds));
  const seconds = positive('seconds', values.seconds);
  return { rounds, seconds, rows, gateway: values.gateway, out: values.out };
}

function hasTaskset(): boolean {
  try {
    execFileSync('taskset', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** The two servers compared, running until the end. */
interface Pair {
  readonly echo: ServerProcess;
  readonly gateway: ServerProcess;
}

/** Pinned and free rows have servers of their own, started when first needed. */
function pairs(script: string): (oneCpu: boolean) => Promise<Pair> {
  const started = new Map<boolean, Pair>();
  return async (oneCpu) => {
    let pair = started.get(oneCpu);
    if (pair === undefined) {
      const echo = await startEcho(oneCpu);
      pair = { echo, gateway: await startGateway(script, [BUS_ID], oneCpu) };
      started.set(oneCpu, pair);
    }
    return pair;
  };
}

async function measure(
  program: string,
  server: ServerProcess,
  row: Row,
  seconds: number,
  extra: string[],
  series: Series,
): Promise<void> {
  const args = [
    ...loadArguments(row),
    ...['--port', String(server.port), '--server-pid', String(server.pid)],
    ...['--seconds', String(seconds), '--warmup', String(WARMUP_SECONDS), ...extra],
  ];
  const result = await runLoad(program, args, seconds + WARMUP_SECONDS, row.oneCpu);
  series.kiloUrbs.push(result.urbsPerSecond / 1000);
  series.cpuMicroseconds.push(((result.serverCpuSeconds ?? Number.NaN) / result.urbs) * 1e6);
  series.roundTripMicroseconds.push(result.roundTripMicrosecondsP50);
}

async function measureRow(
  program: string,
  pair: Pair,
  row: Row,
  settings: Settings,
): Promise<RowResult> {
  const echo = emptySeries();
  const gateway = emptySeries();
  try {
    for (let round = 0; round < settings.rounds; round++) {
      await measure(program, pair.echo, row, settings.seconds, ['--echo'], echo);
      await measure(program, pair.gateway, row, settings.seconds, ['--busid', BUS_ID], gateway);
    }
  } catch (error) {
    return { row, echo, gateway, problem: error instanceof Error ? error.message : String(error) };
  }
  return { row, echo, gateway };
}

async function main(): Promise<void> {
  const settings = readSettings();
  const program = await buildLoad();
  const pairFor = pairs(settings.gateway);
  const taskset = hasTaskset();
  const results: RowResult[] = [];
  for (const row of settings.rows) {
    if (row.oneCpu && !taskset) {
      process.stderr.write(`Skipped ${row.title}: no taskset(1)\n`);
      continue;
    }
    process.stderr.write(`${row.title} ...\n`);
    results.push(await measureRow(program, await pairFor(row.oneCpu), row, settings));
  }
  process.stdout.write(`${table(results)}\n`);
  if (settings.out !== undefined) {
    writeFileSync(settings.out, page(results, settings.rounds, settings.seconds));
  }
  const missed = goalsMissed(results);
  process.stdout.write(`\n${results.length - missed} of ${results.length} goals met\n`);
  // Rates are no pass or fail on a shared machine; a wrong reply is.
  if (results.some((result) => result.problem !== undefined)) process.exitCode = 1;
}

await runMain(main);
