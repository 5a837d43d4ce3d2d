/** The rows of the benchmark: what is sent, how deep, and what urbgate must reach. */

import type { Placement } from './load/processes.ts';

/** One row. `id` is what `--only` selects and what peers.ts is keyed by. */
export interface Row {
  readonly id: string;
  readonly title: string;
  readonly type: 'control' | 'out' | 'in';
  readonly octets: number;
  readonly depth: number;
  /** Together on one CPU, no round trip waits for another core to wake up. */
  readonly placement: Placement;
  /** The client sends each URB by itself, as the kernel's vhci_hcd does. */
  readonly single: boolean;
  /** Server CPU per URB to stay under, in microseconds. */
  readonly cpuMicrosecondsMax?: number;
}

/** Small URBs at depth must cost the server no more than this. */
const SMALL_URB_CPU_MICROSECONDS_MAX = 5;
const DESCRIPTOR_OCTETS = 18;

function control(depth: number, options: { oneCpu?: boolean; single?: boolean } = {}): Row {
  const { oneCpu = false, single = false } = options;
  const goal = depth > 1 ? { cpuMicrosecondsMax: SMALL_URB_CPU_MICROSECONDS_MAX } : {};
  return {
    id: `control-${depth}${oneCpu ? '-one-cpu' : ''}${single ? '-single' : ''}`,
    title:
      `control GET_DESCRIPTOR, depth ${depth}` +
      (oneCpu ? ', one CPU' : '') +
      (single ? ', URBs sent one by one' : ''),
    type: 'control',
    octets: DESCRIPTOR_OCTETS,
    depth,
    placement: oneCpu ? 'together' : 'apart',
    single,
    ...goal,
  };
}

function bulk(type: 'out' | 'in', octets: number, depth: number): Row {
  const small = octets <= 64 && depth > 1;
  const goal = small ? { cpuMicrosecondsMax: SMALL_URB_CPU_MICROSECONDS_MAX } : {};
  return {
    id: `${type}-${octets}-${depth}`,
    title: `bulk ${type} ${octets < 1024 ? `${octets} B` : `${octets / 1024} KiB`}, depth ${depth}`,
    type,
    octets,
    depth,
    placement: 'apart',
    single: false,
    ...goal,
  };
}

const BULK_OCTETS = [64, 16 << 10, 256 << 10];
const BULK_DEPTHS = [1, 16];

export const ROWS: readonly Row[] = [
  control(1),
  control(32),
  control(32, { single: true }),
  control(1, { oneCpu: true }),
  control(32, { oneCpu: true }),
  ...(['out', 'in'] as const).flatMap((type) =>
    BULK_OCTETS.flatMap((octets) => BULK_DEPTHS.map((depth) => bulk(type, octets, depth))),
  ),
];

/** All rows with client and server on one CPU (`--one-cpu`). */
export const ONE_CPU_ROWS: readonly Row[] = ROWS.filter((row) => row.placement === 'apart').map(
  (row) => ({
    ...row,
    id: `${row.id}-one-cpu`,
    title: `${row.title}, one CPU`,
    placement: 'together',
  }),
);

/** The row's options for usbip-load, less address and duration. */
export function loadArguments(row: Row): string[] {
  const args = ['--type', row.type, '--size', String(row.octets), '--depth', String(row.depth)];
  return row.single ? [...args, '--single'] : args;
}
