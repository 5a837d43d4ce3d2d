/** Clients that load one gateway in turns, in Node and in C, with the same figures of each. */
import { readFileSync } from 'node:fs';
import type { ClientRow } from './node-client.ts';
import { type NodeClient, type Placement, runLoad, type ServerProcess } from './processes.ts';

const WARMUP_SECONDS = 0.2;
/** Clock ticks of /proc/PID/stat. */
const TICKS_PER_SECOND = 100;

export type ClientWork = Pick<ClientRow, 'type' | 'octets' | 'depth'>;

export interface Figures {
  readonly kiloUrbs: number;
  readonly roundTripMicroseconds: number;
  readonly serverCpuMicroseconds: number;
  readonly clientCpuMicroseconds: number;
}

/** Runs one row for so many seconds. */
export type Client = (row: ClientWork, seconds: number) => Promise<Figures>;

/** CPU time that a process has used. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** A client in Node, over a ring or TCP. */
export function nodeClient(client: NodeClient, server: ServerProcess): Client {
  return async ({ type, octets, depth }, seconds) => {
    const before = cpuSeconds(server.pid);
    const result = await client.ask({
      ...{ type, octets, depth, seconds },
      warmupSeconds: WARMUP_SECONDS,
    });
    if (result.problem !== undefined) throw new Error(`Wrong reply: ${result.problem}`);
    // The warm-up is in this; it is of the same work.
    const share = result.seconds / (result.seconds + WARMUP_SECONDS);
    return {
      kiloUrbs: result.urbs / result.seconds / 1000,
      roundTripMicroseconds: result.roundTripMicrosecondsP50,
      serverCpuMicroseconds: (((cpuSeconds(server.pid) - before) * share) / result.urbs) * 1e6,
      clientCpuMicroseconds: (result.cpuSeconds / result.urbs) * 1e6,
    };
  };
}

/** The C client. */
export function nativeClient(
  program: string,
  server: ServerProcess,
  busId: string,
  placement: Placement,
): Client {
  return async ({ type, octets, depth }, seconds) => {
    const args = [
      ...['--type', type, '--size', `${octets}`, '--depth', `${depth}`, '--busid', busId],
      ...['--port', `${server.port}`, '--server-pid', `${server.pid}`],
      ...['--seconds', `${seconds}`, '--warmup', `${WARMUP_SECONDS}`],
    ];
    const result = await runLoad(program, args, seconds + WARMUP_SECONDS, placement);
    return {
      kiloUrbs: result.urbsPerSecond / 1000,
      roundTripMicroseconds: result.roundTripMicrosecondsP50,
      serverCpuMicroseconds: ((result.serverCpuSeconds ?? Number.NaN) / result.urbs) * 1e6,
      clientCpuMicroseconds: (result.ownCpuSeconds / result.urbs) * 1e6,
    };
  };
}
