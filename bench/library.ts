/**
 * The client library beside a client in C, each keeping URBs in flight at the same gateway over TCP.
 *
 *     node dist/bench/library.js [--rounds 9] [--seconds 0.5] [--only REGEX] [--one-cpu] [--free]
 *
 * The two take turns, first one first, then the other; ratios are taken round by round, so that a busy
 * spell of the machine hits both. The C client (bench/load/usbip-load.c) has no event loop, no objects
 * and no garbage: what is left to reach. The exit code says nothing of rates; it is 1 if a reply
 * was wrong.
 */
import { join } from 'node:path';
import {
  type Client,
  type ClientWork,
  type Figures,
  nativeClient,
  nodeClient,
} from './load/clients.ts';
import { buildLoad, ROOT, runMain, startGateway, startNodeClient } from './load/processes.ts';
import { printLoadAverage, printTable, tableOptions } from './load/table.ts';
import { median } from './report.ts';

/** Of the C client's rate. */
const GOAL = 0.8;

interface Row extends ClientWork {
  readonly id: string;
  readonly title: string;
}

const ROWS: readonly Row[] = [
  { id: 'control-32', title: 'control 18 B, depth 32', type: 'control', octets: 18, depth: 32 },
  { id: 'in-64-1', title: 'bulk in 64 B, depth 1', type: 'in', octets: 64, depth: 1 },
  { id: 'in-64-16', title: 'bulk in 64 B, depth 16', type: 'in', octets: 64, depth: 16 },
  { id: 'out-64-16', title: 'bulk out 64 B, depth 16', type: 'out', octets: 64, depth: 16 },
  { id: 'in-16k-16', title: 'bulk in 16 KiB, depth 16', type: 'in', octets: 16384, depth: 16 },
  { id: 'out-16k-16', title: 'bulk out 16 KiB, depth 16', type: 'out', octets: 16384, depth: 16 },
];

async function measureRow(
  node: Client,
  native: Client,
  row: Row,
  rounds: number,
  seconds: number,
): Promise<string> {
  const seen = { node: [] as Figures[], native: [] as Figures[] };
  for (let round = 0; round < rounds; round++) {
    const turns = [
      async () => seen.node.push(await node(row, seconds)),
      async () => seen.native.push(await native(row, seconds)),
    ];
    for (const turn of round % 2 === 0 ? turns : turns.reverse()) await turn();
  }
  const of = (who: keyof typeof seen, figure: keyof Figures) =>
    median(seen[who].map((each) => each[figure]));
  const ratio = median(
    seen.node.map((each, n) => each.kiloUrbs / (seen.native[n]?.kiloUrbs ?? Number.NaN)),
  );
  return [
    row.title,
    ...[of('node', 'kiloUrbs'), of('native', 'kiloUrbs')].map((rate) => rate.toFixed(1)),
    `${ratio.toFixed(2)}${ratio >= GOAL ? '' : ' (missed)'}`,
    of('node', 'clientCpuMicroseconds').toFixed(1),
    of('native', 'clientCpuMicroseconds').toFixed(1),
  ].join(' | ');
}

const HEADINGS = [
  ...['row', 'library kURB/s', 'C kURB/s', `library / C (goal: ${GOAL})`],
  ...['library µs CPU/URB', 'C µs CPU/URB'],
];

async function main(): Promise<void> {
  const options = tableOptions(9, 0.5, join(ROOT, 'dist/src/cli/main.js'));
  const { rounds, seconds, placement } = options;
  const program = await buildLoad();
  const server = await startGateway(options.gateway, ['1-1', '1-2'], placement);
  const library = await startNodeClient(['--tcp', `${server.port}`, '--busid', '1-1'], placement);
  const node = nodeClient(library, server);
  const native = nativeClient(program, server, '1-2', placement);
  const measure = (row: Row) => measureRow(node, native, row, rounds, seconds);
  await printTable(HEADINGS, ROWS, options.only, measure);
  printLoadAverage();
  await Promise.all([library.stop(), server.stop()]);
}

await runMain(main);
