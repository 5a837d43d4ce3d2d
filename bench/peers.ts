/**
 * What other userspace USB/IP servers reached, measured 2026, see bench/README.md: loopback, a
 * software source/sink device each, the same kind of load generator, medians of 5 rounds of 5 seconds.
 *
 * Rates differ from machine to machine and day to day. What carries over is the ratio to a Node echo
 * measured in the same sitting, so compare a peer's ratio to `echo` here with urbgate's to the echo
 * that bench/run.ts measures beside it.
 */

/** Peers in the order of the tables below. */
const PEERS = [
  'jiegec/usbip (Rust)',
  'usbipdcpp (C++)',
  'VIIPER (Go)',
  'usbip-python',
  'lcgamboa (C, with nodelay)',
  'ntchjb (Go)',
  'jdh104 (Node)',
] as const;

/** null: not measured. */
type Figures = readonly (number | null)[];

interface PeerRow {
  /** The Node echo of that sitting: thousand URBs a second, and CPU microseconds an URB. */
  readonly echo: { readonly kiloUrbs: number; readonly cpuMicroseconds: number | null };
  /** Thousand URBs a second of each peer. */
  readonly kiloUrbs: Figures;
  /** CPU microseconds (user and system) an URB of each peer. */
  readonly cpuMicroseconds: Figures;
}

function peerRow(echo: [number, number | null], kiloUrbs: Figures, cpu: Figures): PeerRow {
  return { echo: { kiloUrbs: echo[0], cpuMicroseconds: echo[1] }, kiloUrbs, cpuMicroseconds: cpu };
}

const NONE: Figures = PEERS.map(() => null);

/** By the row's id of rows.ts. */
// biome-ignore format: one line of the measured tables each
export const PEER_ROWS: Readonly<Record<string, PeerRow>> = {
  'control-1': peerRow([12.4, 38.1], [12.7, 13.4, 14.6, 12.7, 13.7, 11.9, 11.4], [38.1, 41.1, 40.1, 39.0, 31.6, 62.2, 50.4]),
  'control-32': peerRow([360.1, 1.4], [60.4, 53.1, 62.4, 58.8, 85.6, 74.8, 125.5], [17.6, 22.9, 17.4, 16.7, 11.6, 14.4, 7.8]),
  // Only the range of the others was recorded: 56 to 80.
  'control-32-single': peerRow([189, null], [null, null, null, null, null, null, 114], NONE),
  'control-1-one-cpu': peerRow([50.7, 10.5], [42.0, 34.9, 34.3, 32.0, 42.2, 43.6, 34.2], [14.9, 17.4, 17.4, 16.9, 12.4, 14.2, 19.1]),
  'control-32-one-cpu': peerRow([1420.8, 0.4], [44.1, 83.6, 66.9, 52.9, 95.7, 81.5, 52.2], [14.3, 9.3, 10.7, 11.6, 6.5, 9.5, 11.1]),
  'out-64-1': peerRow([15.6, 30.7], [12.9, 14.4, 14.4, 13.7, 13.7, 10.2, null], [37.3, 37.4, 38.2, 34.0, 30.9, 70.4, null]),
  'out-64-16': peerRow([203.5, 2.4], [56.8, 88.6, 89.1, 88.3, 108.3, 64.5, null], [20.6, 11.5, 11.4, 11.2, 7.4, 14.0, null]),
  'out-16384-1': peerRow([11.9, 42.2], [12.2, 15.1, 14.2, 11.0, 13.0, 11.5, null], [38.5, 34.8, 38.4, 41.5, 31.2, 67.2, null]),
  'out-16384-16': peerRow([179.7, 5.5], [54.7, 79.4, 77.3, 73.6, 103.4, null, null], [16.3, 13.5, 13.0, 13.4, 8.4, null, null]),
  'out-262144-16': peerRow([13.6, 67.7], [16.5, 8.7, 18.1, 18.5, 15.6, null, null], [38.9, 97.3, 42.8, 45.3, 33.6, null, null]),
  'in-64-16': peerRow([208.9, 2.3], [56.2, 58.6, 56.5, 59.5, 78.7, 81.2, 99.1], [21.9, 20.4, 19.3, 15.4, 11.2, 12.8, 10.0]),
  'in-16384-16': peerRow([186.9, 4.6], [47.5, 43.8, 38.5, 49.8, 66.5, 32.7, 45.5], [25.6, 27.5, 28.4, 18.7, 14.7, 34.2, 21.4]),
  'in-262144-16': peerRow([12.2, 61.5], [8.9, 7.1, 5.7, 8.6, 10.7, 4.1, 4.9], [112.2, 139.2, 191.6, 100.4, 88.8, 311.6, 186.2]),
};

/** The best peer of a row: its rate by ratio to the echo, and the least CPU any peer needed. */
export interface BestPeer {
  readonly name: string;
  readonly ratio: number;
  readonly kiloUrbs: number;
  readonly cpuMicrosecondsMin: number | null;
}

/** Returns null for a row that was not measured with peers. */
export function bestPeer(rowId: string): BestPeer | null {
  const row = PEER_ROWS[rowId];
  if (row === undefined) return null;
  const rates = row.kiloUrbs.map((rate) => rate ?? 0);
  const kiloUrbs = Math.max(...rates);
  const name = PEERS[rates.indexOf(kiloUrbs)] ?? '';
  const cpu = row.cpuMicroseconds.filter((value) => value !== null);
  const cpuMicrosecondsMin = cpu.length > 0 ? Math.min(...cpu) : null;
  return { name, ratio: kiloUrbs / row.echo.kiloUrbs, kiloUrbs, cpuMicrosecondsMin };
}
