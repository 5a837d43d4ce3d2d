/** What benchmarks that compare row by row have in common: their options, and the table they print. */
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { canPlace, type Placement } from './processes.ts';

export interface TableOptions {
  readonly rounds: number;
  readonly seconds: number;
  /** Rows to run, by id. */
  readonly only: RegExp;
  readonly placement: Placement;
  /** The gateway's `main.js`. */
  readonly gateway: string;
  /** attach.ts only: the relay to measure in the place of urbgate's; see bare-relay.ts. */
  readonly bare: string | undefined;
}

/** Reads --rounds, --seconds, --only, --one-cpu, --free, --gateway and --bare. */
export function tableOptions(rounds: number, seconds: number, gateway: string): TableOptions {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: `${rounds}` },
      seconds: { type: 'string', default: `${seconds}` },
      only: { type: 'string', default: '' },
      'one-cpu': { type: 'boolean', default: false },
      free: { type: 'boolean', default: false },
      gateway: { type: 'string', default: gateway },
      bare: { type: 'string' },
    },
  });
  const placed = values['one-cpu'] ? 'together' : 'apart';
  return {
    rounds: Number(values.rounds),
    seconds: Number(values.seconds),
    only: new RegExp(values.only),
    placement: values.free || !canPlace() ? 'free' : placed,
    gateway: values.gateway,
    bare: values.bare,
  };
}

/** Prints a line for each row as soon as it is measured. */
export async function printTable<R extends { readonly id: string }>(
  headings: readonly string[],
  rows: readonly R[],
  only: RegExp,
  measure: (row: R) => Promise<string>,
): Promise<void> {
  process.stdout.write(`| ${headings.join(' | ')} |\n|${' --- |'.repeat(headings.length)}\n`);
  for (const row of rows.filter(({ id }) => only.test(id))) {
    process.stdout.write(`| ${await measure(row)} |\n`);
  }
  process.stdout.write('\n');
}

export function printLoadAverage(): void {
  const loads = loadavg().map((load) => load.toFixed(1));
  process.stdout.write(`Load average at the end, 1, 5 and 15 min: ${loads.join(', ')}\n`);
}
