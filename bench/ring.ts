/**
 * The ring in shared memory beside TCP on loopback: two processes, one gateway, the same kind of
 * device.
 *
 *     node dist/bench/ring.js [--rounds 7] [--seconds 0.7] [--only REGEX] [--free] [--gateway FILE]
 *
 * In each round of a row three clients take turns at one gateway: a Node client on the ring, the same
 * Node client on TCP, and the C client on TCP (bench/load/usbip-load.c), which costs less CPU than
 * any client in Node. Ratios are taken round by round, so that a busy spell of the machine hits all of
 * them. The exit code says nothing of rates; it is 1 if a reply was wrong.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Client, cpuSeconds, type Figures, nativeClient, nodeClient } from './load/clients.ts';
import {
  buildLoad,
  type NodeClient,
  ROOT,
  runMain,
  type ServerProcess,
  startGateway,
  startNodeClient,
} from './load/processes.ts';
import { printLoadAverage, printTable, tableOptions } from './load/table.ts';
import { median } from './report.ts';

const TCP_BUS_ID = '1-1';
const RING_BUS_ID = '1-2';
const IDLE_SECONDS = 5;

interface Row {
  readonly id: string;
  readonly title: string;
  readonly type: 'control' | 'out' | 'in';
  readonly octets: number;
  readonly depth: number;
  /** What the goal is about: 'round-trip' at most, 'rate' at least so many times that of TCP. */
  readonly measure: 'round-trip' | 'rate';
  readonly goal: number;
}

const ROUND_TRIP = { measure: 'round-trip', goal: 0.5, depth: 1 } as const;
const SMALL = { measure: 'rate', goal: 2, octets: 64, depth: 16 } as const;
const LARGE = { measure: 'rate', goal: 1.5, octets: 60 << 10 } as const;

const ROWS: readonly Row[] = [
  { id: 'control-1', title: 'control 18 B, depth 1', type: 'control', octets: 18, ...ROUND_TRIP },
  { id: 'in-64-1', title: 'bulk in 64 B, depth 1', type: 'in', octets: 64, ...ROUND_TRIP },
  { id: 'out-64-1', title: 'bulk out 64 B, depth 1', type: 'out', octets: 64, ...ROUND_TRIP },
  { id: 'in-64-16', title: 'bulk in 64 B, depth 16', type: 'in', ...SMALL },
  { id: 'out-64-16', title: 'bulk out 64 B, depth 16', type: 'out', ...SMALL },
  { id: 'in-60k-8', title: 'bulk in 60 KiB, depth 8', type: 'in', ...LARGE, depth: 8 },
  { id: 'in-60k-14', title: 'bulk in 60 KiB, depth 14', type: 'in', ...LARGE, depth: 14 },
  { id: 'out-60k-8', title: 'bulk out 60 KiB, depth 8', type: 'out', ...LARGE, depth: 8 },
  { id: 'out-60k-14', title: 'bulk out 60 KiB, depth 14', type: 'out', ...LARGE, depth: 14 },
];

interface Clients {
  readonly ring: Client;
  readonly node: Client;
  readonly native: Client;
}

async function measureRow(
  clients: Clients,
  row: Row,
  rounds: number,
  seconds: number,
): Promise<string> {
  const seen: Record<keyof Clients, Figures[]> = { ring: [], node: [], native: [] };
  const names = Object.keys(seen) as (keyof Clients)[];
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? names : [...names].reverse();
    for (const name of order) seen[name].push(await clients[name](row, seconds));
  }
  const of = (name: keyof Clients, figure: keyof Figures) =>
    median(seen[name].map((each) => each[figure]));
  const figure = row.measure === 'rate' ? 'kiloUrbs' : 'roundTripMicroseconds';
  const ratio = (to: 'node' | 'native') =>
    median(seen.ring.map((each, n) => each[figure] / (seen[to][n]?.[figure] ?? Number.NaN)));
  const met = (value: number) => (row.measure === 'rate' ? value >= row.goal : value <= row.goal);
  const shown = (value: number) => `${value.toFixed(2)}${met(value) ? '' : ' (missed)'}`;
  return [
    row.title,
    row.measure === 'rate' ? 'kURB/s' : 'p50 in µs',
    ...names.map((name) => of(name, figure).toFixed(1)),
    `${row.measure === 'rate' ? '≥' : '≤'} ${row.goal}`,
    shown(ratio('node')),
    shown(ratio('native')),
    ...names.map((name) => of(name, 'serverCpuMicroseconds').toFixed(1)),
    ...names.map((name) => of(name, 'clientCpuMicroseconds').toFixed(1)),
  ].join(' | ');
}

/** CPU seconds that a gateway with connected and idle clients uses. */
async function idleCpu(server: ServerProcess, client: NodeClient): Promise<string> {
  await new Promise((resolve) => setTimeout(resolve, 500)); // what the last row left
  const before = [cpuSeconds(server.pid), cpuSeconds(client.pid)];
  await new Promise((resolve) => setTimeout(resolve, IDLE_SECONDS * 1000));
  const used = [server, client].map((one, n) => cpuSeconds(one.pid) - (before[n] ?? 0));
  const [gateway, front] = used.map((seconds) => `${(seconds * 1000).toFixed(0)} ms`);
  return `Idle for ${IDLE_SECONDS} s with a front end connected: gateway ${gateway} of CPU time, front end ${front}`;
}

const HEADINGS = [
  ...['row', 'figure', 'ring', 'TCP, Node client', 'TCP, C client', 'goal'],
  ...['ring / TCP, Node client', 'ring / TCP, C client'],
  ...['gateway µs CPU/URB: ring', 'TCP Node', 'TCP C'],
  ...['client µs CPU/URB: ring', 'TCP Node', 'TCP C'],
];

async function main(): Promise<void> {
  const options = tableOptions(7, 0.7, join(ROOT, 'dist/src/cli/main.js'));
  const { rounds, seconds, placement } = options;
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-ring-'));
  try {
    const program = await buildLoad();
    const busIds = [TCP_BUS_ID, RING_BUS_ID, '1-3'];
    const server = await startGateway(options.gateway, busIds, placement, ['--shm', folder]);
    const ring = await startNodeClient(['--ring', folder, '--busid', RING_BUS_ID], placement);
    const tcp = ['--tcp', `${server.port}`, '--busid', TCP_BUS_ID];
    const node = await startNodeClient(tcp, placement);
    const clients: Clients = {
      ring: nodeClient(ring, server),
      node: nodeClient(node, server),
      native: nativeClient(program, server, '1-3', placement),
    };
    const measure = (row: Row) => measureRow(clients, row, rounds, seconds);
    await printTable(HEADINGS, ROWS, options.only, measure);
    process.stdout.write(`${await idleCpu(server, ring)}\n`);
    printLoadAverage();
    await Promise.all([ring.stop(), node.stop(), server.stop()]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await runMain(main);
