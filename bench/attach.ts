/**
 * A device through the relay of `urbgate attach` beside one through `--direct`, where the kernel itself
 * has the connection to the server.
 *
 *     node dist/bench/attach.js [--rounds 9] [--seconds 0.7] [--only REGEX] [--one-cpu] [--free]
 *                               [--bare node|copy|splice]
 *
 * The C client plays the kernel's vhci both times: it has a TCP connection to `urbgate serve`, or one
 * end of the relay's socket pair. The server is on one CPU, client and relay on another, as if the two were
 * machines. `--bare` measures in the relay's place one that looks at nothing: in Node, or in C with or without
 * splice(2). They take turns; ratios are taken round by round. The exit code says nothing of rates; it is 1
 * if a reply was wrong.
 */
import { join } from 'node:path';
import type { ClientWork } from './load/clients.ts';
import {
  buildLoad,
  type LoadResult,
  ROOT,
  runLoad,
  runMain,
  startGateway,
  startRelay,
} from './load/processes.ts';
import { printLoadAverage, printTable, tableOptions } from './load/table.ts';
import { median } from './report.ts';

const WARMUP_SECONDS = 0.3;

interface Row extends ClientWork {
  readonly id: string;
  readonly title: string;
  /** Relay by direct: of the round trips at most, or of the rates at least. */
  readonly measure: 'round-trip' | 'rate';
  readonly goal: number;
}

const ROUND_TRIP = { depth: 1, measure: 'round-trip', goal: 1.6 } as const;
const RATE = { octets: 65536, measure: 'rate', goal: 0.7 } as const;

const ROWS: readonly Row[] = [
  { id: 'control-1', title: 'control 18 B, depth 1', type: 'control', octets: 18, ...ROUND_TRIP },
  { id: 'in-64-1', title: 'bulk in 64 B, depth 1', type: 'in', octets: 64, ...ROUND_TRIP },
  { id: 'out-64-1', title: 'bulk out 64 B, depth 1', type: 'out', octets: 64, ...ROUND_TRIP },
  { id: 'in-64k-1', title: 'bulk in 64 KiB, depth 1', type: 'in', depth: 1, ...RATE },
  { id: 'in-64k-8', title: 'bulk in 64 KiB, depth 8', type: 'in', depth: 8, ...RATE },
  { id: 'out-64k-8', title: 'bulk out 64 KiB, depth 8', type: 'out', depth: 8, ...RATE },
];

type Run = (row: Row, seconds: number) => Promise<LoadResult>;

function loadOf({ type, octets, depth }: Row, seconds: number): string[] {
  const load = ['--type', type, '--size', `${octets}`, '--depth', `${depth}`];
  return [...load, '--seconds', `${seconds}`, '--warmup', `${WARMUP_SECONDS}`];
}

async function measureRow(
  run: { readonly relay: Run; readonly direct: Run },
  row: Row,
  rounds: number,
  seconds: number,
): Promise<string> {
  const names = ['relay', 'direct'] as const;
  const seen = { relay: [] as LoadResult[], direct: [] as LoadResult[] };
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? names : names.toReversed();
    for (const name of order) seen[name].push(await run[name](row, seconds));
  }
  const isRate = row.measure === 'rate';
  const figure = (one: LoadResult) =>
    isRate ? one.urbsPerSecond / 1000 : one.roundTripMicrosecondsP50;
  const ratios = seen.relay.map((one, n) => figure(one) / figure(seen.direct[n] as LoadResult));
  const ratio = median(ratios);
  const met = isRate ? ratio >= row.goal : ratio <= row.goal;
  const cpu = seen.relay.map((one) => ((one.relayCpuSeconds ?? Number.NaN) / one.urbs) * 1e6);
  return [
    row.title,
    isRate ? 'kURB/s' : 'p50 in µs',
    ...[seen.direct, seen.relay].map((each) => median(each.map(figure)).toFixed(1)),
    `${ratio.toFixed(2)}${met ? '' : ' (missed)'}`,
    `${isRate ? '≥' : '≤'} ${row.goal}`,
    median(cpu).toFixed(1),
  ].join(' | ');
}

const HEADINGS = ['row', 'figure', 'direct', 'relay', 'relay / direct', 'goal', 'relay µs CPU/URB'];

async function main(): Promise<void> {
  const options = tableOptions(9, 0.7, join(ROOT, 'dist/src/cli/main.js'));
  const { rounds, seconds, placement } = options;
  const program = await buildLoad();
  const server = await startGateway(options.gateway, ['1-1', '1-2'], placement);
  const relay = await startRelay(server.port, '1-1', placement, options.bare);
  const run = {
    relay: (row: Row, seconds: number) => relay.ask([program, ...loadOf(row, seconds)]),
    direct: (row: Row, seconds: number) => {
      const where = ['--port', `${server.port}`, '--busid', '1-2'];
      return runLoad(program, [...where, ...loadOf(row, seconds)], seconds, placement);
    },
  };
  const measure = (row: Row) => measureRow(run, row, rounds, seconds);
  await printTable(HEADINGS, ROWS, options.only, measure);
  printLoadAverage();
  await Promise.all([relay.stop(), server.stop()]);
}

await runMain(main);
