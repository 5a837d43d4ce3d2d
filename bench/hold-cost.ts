/**
 * What the stall guarantee costs while nothing fails: urbgate as it is beside urbgate with
 * `--stall-hold 0`, whose queues stop for nothing and keep no books of errors.
 *
 *     node dist/bench/hold-cost.js [--rounds 11] [--seconds 1]
 *
 * The two alternate, first one first, then the other, and the ratio is taken round by round: a busy
 * spell of the machine then hits both. The goal is a median within 5 %, of the rate or of the CPU
 * time a URB; the latter depends less on what else runs. The exit code says nothing of rates.
 */

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  buildLoad,
  ROOT,
  runLoad,
  runMain,
  type ServerProcess,
  startGateway,
} from './load/processes.ts';
import { median } from './report.ts';
import { loadArguments, ONE_CPU_ROWS, ROWS, type Row } from './rows.ts';

const BUS_ID = '1-1';
const WARMUP_SECONDS = 0.3;
const GOAL = 0.05;
const CHOSEN = [
  'control-32-one-cpu',
  'out-64-16-one-cpu',
  'in-64-16-one-cpu',
  'in-16384-16-one-cpu',
  'control-1-one-cpu',
];

interface Figures {
  readonly rate: number;
  readonly cpuMicroseconds: number;
}

async function measure(
  program: string,
  server: ServerProcess,
  row: Row,
  seconds: number,
): Promise<Figures> {
  const result = await runLoad(
    program,
    [
      ...loadArguments(row),
      ...['--port', String(server.port), '--server-pid', String(server.pid), '--busid', BUS_ID],
      ...['--seconds', String(seconds), '--warmup', String(WARMUP_SECONDS)],
    ],
    seconds + WARMUP_SECONDS,
    row.placement,
  );
  const cpuMicroseconds = ((result.serverCpuSeconds ?? Number.NaN) / result.urbs) * 1e6;
  return { rate: result.urbsPerSecond, cpuMicroseconds };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '11' },
      seconds: { type: 'string', default: '1' },
    },
  });
  const program = await buildLoad();
  const script = join(ROOT, 'dist/src/cli/main.js');
  const holding = await startGateway(script, [BUS_ID], 'together');
  const plain = await startGateway(script, [BUS_ID], 'together', ['--stall-hold', '0']);
  process.stdout.write('| row | rate, with / without | CPU a URB, with / without | within 5 % |\n');
  process.stdout.write('| --- | --- | --- | --- |\n');
  const rows = new Map([...ROWS, ...ONE_CPU_ROWS].map((row) => [row.id, row]));
  for (const row of CHOSEN.map((id) => rows.get(id) as Row)) {
    const rates: number[] = [];
    const costs: number[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      const order = round % 2 === 0 ? [holding, plain] : [plain, holding];
      const figures = new Map<ServerProcess, Figures>();
      for (const server of order) {
        figures.set(server, await measure(program, server, row, Number(values.seconds)));
      }
      const [one, other] = [figures.get(holding), figures.get(plain)] as [Figures, Figures];
      rates.push(one.rate / other.rate);
      costs.push(one.cpuMicroseconds / other.cpuMicroseconds);
    }
    const [rate, cost] = [median(rates), median(costs)];
    const met = rate >= 1 - GOAL || cost <= 1 + GOAL;
    const cells = [row.title, rate.toFixed(3), cost.toFixed(3), met ? 'yes' : '**no**'];
    process.stdout.write(`| ${cells.join(' | ')} |\n`);
  }
}

await runMain(main);
