/**
 * The benchmark: urbgate beside a bare Node echo, row by row.
 *
 *     npm run bench -- [--rounds 5] [--seconds 2] [--only REGEX] [--one-cpu | --free] [--out docs/bench.md]
 *
 * Each round of a row loads the echo and then the gateway with the same messages from the same C
 * program, so that a busy spell of the machine hits both. See bench/README.md.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  buildLoad,
  canPlace,
  type LoadResult,
  type Placement,
  ROOT,
  runLoad,
  runMain,
  type ServerProcess,
  startEcho,
  startGateway,
} from './load/processes.ts';
import { emptySeries, page, type RowResult, type Series, table, verdict } from './report.ts';
import { loadArguments, ONE_CPU_ROWS, ROWS, type Row } from './rows.ts';

const BUS_ID = '1-1';
const WARMUP_SECONDS = 0.3;
/** A run is done again if others kept this much of a CPU busy meanwhile; once a round at most. */
const OTHER_LOAD_MAX = 0.25;

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
      'one-cpu': { type: 'boolean', default: false },
      free: { type: 'boolean', default: false },
      gateway: { type: 'string', default: join(ROOT, 'dist/src/cli/main.js') },
      out: { type: 'string' },
    },
  });
  const only = new RegExp(values.only);
  const chosen = (values['one-cpu'] ? ONE_CPU_ROWS : ROWS).filter(
    (row) => only.test(row.id) || only.test(row.title),
  );
  const rows = values.free || !canPlace() ? withoutPlacement(chosen) : chosen;
  if (rows.length === 0) throw new RangeError(`Cannot find a row for --only: ${values.only}`);
  const rounds = Math.ceil(positive('rounds', values.rounds));
  const seconds = positive('seconds', values.seconds);
  return { rounds, seconds, rows, gateway: values.gateway, out: values.out };
}

/** Leaves the rows on two CPUs to the scheduler, and the others out. */
function withoutPlacement(rows: readonly Row[]): Row[] {
  const free = rows.filter((row) => row.placement === 'apart');
  return free.map((row) => ({ ...row, title: `${row.title}, free`, placement: 'free' }));
}

/** The two servers compared, running until the end. */
interface Pair {
  readonly echo: ServerProcess;
  readonly gateway: ServerProcess;
}

/** Each placement has servers of its own, started when first needed. */
function pairs(script: string): (placement: Placement) => Promise<Pair> {
  const started = new Map<Placement, Pair>();
  return async (placement) => {
    let pair = started.get(placement);
    if (pair === undefined) {
      const echo = await startEcho(placement);
      pair = { echo, gateway: await startGateway(script, [BUS_ID], placement) };
      started.set(placement, pair);
    }
    return pair;
  };
}

/** CPUs that neither client nor server, but something else kept busy during the run. */
function otherLoad(result: LoadResult): number {
  const { machineCpuSeconds, serverCpuSeconds = 0, ownCpuSeconds, seconds } = result;
  if (machineCpuSeconds === undefined) return 0;
  return Math.max(0, machineCpuSeconds - serverCpuSeconds - ownCpuSeconds) / seconds;
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
  let result = await runLoad(program, args, seconds + WARMUP_SECONDS, row.placement);
  if (otherLoad(result) > OTHER_LOAD_MAX) {
    const again = await runLoad(program, args, seconds + WARMUP_SECONDS, row.placement);
    if (otherLoad(again) < otherLoad(result)) result = again;
  }
  series.kiloUrbs.push(result.urbsPerSecond / 1000);
  series.cpuMicroseconds.push(((result.serverCpuSeconds ?? Number.NaN) / result.urbs) * 1e6);
  series.roundTripMicroseconds.push(result.roundTripMicrosecondsP50);
  series.otherLoad.push(otherLoad(result));
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
  const results: RowResult[] = [];
  for (const row of settings.rows) {
    process.stderr.write(`${row.title} ...\n`);
    results.push(await measureRow(program, await pairFor(row.placement), row, settings));
  }
  process.stdout.write(`${table(results)}\n\n${verdict(results)}\n`);
  if (settings.out !== undefined) {
    writeFileSync(settings.out, page(results, settings.rounds, settings.seconds));
  }
  // Rates are no pass or fail on a shared machine; a wrong reply is.
  if (results.some((result) => result.problem !== undefined)) process.exitCode = 1;
}

await runMain(main);
