/** The benchmark's table, from medians to Markdown. */
import { execFileSync } from 'node:child_process';
import { cpus, release, totalmem } from 'node:os';
import { ROOT } from './load/processes.ts';
import { bestPeer } from './peers.ts';
import type { Row } from './rows.ts';

/** Of one server in one row: a figure a round. */
export interface Series {
  readonly kiloUrbs: number[];
  readonly cpuMicroseconds: number[];
  readonly roundTripMicroseconds: number[];
  /** CPUs that others kept busy meanwhile. */
  readonly otherLoad: number[];
}

export interface RowResult {
  readonly row: Row;
  readonly echo: Series;
  readonly gateway: Series;
  /** Why the row broke off, if it did. */
  readonly problem?: string;
}

export function emptySeries(): Series {
  return { kiloUrbs: [], cpuMicroseconds: [], roundTripMicroseconds: [], otherLoad: [] };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? Number.NaN) + high) / 2;
}

/**
 * At depth 1 on two CPUs a round trip is mostly the wake-up of the other one, so being within the noise
 * of the echo (20 %) is all that can be asked.
 */
const DEPTH_ONE_RATIO_MIN = 0.8;

/** `met` is null if nothing is asked of the row. */
interface Goal {
  readonly text: string;
  readonly met: boolean | null;
}

function goalOf(row: Row, ratio: number, cpuMicroseconds: number): Goal {
  const peer = bestPeer(row.id);
  const wakesOther = row.depth === 1 && row.placement !== 'together';
  const parts: string[] = [];
  let met = true;
  if (wakesOther) {
    parts.push(`ratio ≥ ${DEPTH_ONE_RATIO_MIN}`);
    met = ratio >= DEPTH_ONE_RATIO_MIN;
  } else if (peer !== null) {
    parts.push(`ratio > ${peer.ratio.toFixed(2)}`);
    met = ratio > peer.ratio;
  }
  if (row.cpuMicrosecondsMax !== undefined) {
    parts.push(`≤ ${row.cpuMicrosecondsMax} µs`);
    met = met && cpuMicroseconds <= row.cpuMicrosecondsMax;
  }
  return parts.length > 0 ? { text: parts.join(', '), met } : { text: '-', met: null };
}

const HEADINGS = [
  'row',
  'echo kURB/s',
  'urbgate kURB/s',
  'ratio',
  'goal',
  'met',
  'echo µs CPU/URB',
  'urbgate µs CPU/URB',
  'urbgate round trip p50 µs',
  'spread',
  'other load',
  'best peer: ratio to its echo',
  'best peer: µs CPU/URB',
];

function line(result: RowResult): string[] {
  const { row, echo, gateway, problem } = result;
  if (problem !== undefined) return [row.title, `FAILED: ${problem.replaceAll('|', '/')}`];
  const ratio = median(gateway.kiloUrbs) / median(echo.kiloUrbs);
  const cpu = median(gateway.cpuMicroseconds);
  const goal = goalOf(row, ratio, cpu);
  const peer = bestPeer(row.id);
  return [
    row.title,
    median(echo.kiloUrbs).toFixed(1),
    median(gateway.kiloUrbs).toFixed(1),
    ratio.toFixed(2),
    goal.text,
    goal.met === null ? '-' : goal.met ? 'yes' : '**no**',
    median(echo.cpuMicroseconds).toFixed(1),
    cpu.toFixed(1),
    median(gateway.roundTripMicroseconds).toFixed(0),
    `${(Math.max(...gateway.kiloUrbs) / Math.min(...gateway.kiloUrbs)).toFixed(2)}x`,
    Math.max(...echo.otherLoad, ...gateway.otherLoad).toFixed(1),
    peer === null ? '-' : `${peer.ratio.toFixed(2)} ${peer.name}`,
    peer?.cpuMicrosecondsMin?.toFixed(1) ?? '-',
  ];
}

/** The table of what is there so far. */
export function table(results: readonly RowResult[]): string {
  const lines = [HEADINGS, HEADINGS.map(() => '---'), ...results.map(line)];
  return lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** `N of M goals met`; a failed row missed its goal. */
export function verdict(results: readonly RowResult[]): string {
  const judged = results.map((result) => line(result)[5]).filter((met) => met !== '-');
  return `${judged.filter((met) => met === 'yes').length} of ${judged.length} goals met`;
}

function commit(): string {
  try {
    const git = ['-C', ROOT, 'rev-parse', '--short', 'HEAD'];
    return execFileSync('git', git, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return 'unknown';
  }
}

/** The page for `--out`: where, when and how it was measured, then the table. */
export function page(results: readonly RowResult[], rounds: number, seconds: number): string {
  const processors = cpus();
  const gibibytes = (totalmem() / 2 ** 30).toFixed(1);
  return `# Benchmark

Written by \`npm run bench -- --out\`; bench/README.md says what each row and column means and how far to trust it.

- Date: ${new Date().toISOString().slice(0, 10)}, commit ${commit()}
- Machine: ${processors.length} x ${processors[0]?.model.trim() ?? 'unknown CPU'}, ${gibibytes} GiB, Linux ${release()}
- Node ${process.version}; ${rounds} rounds of ${seconds} s a row, echo and urbgate alternating, medians

${table(results)}
`;
}
