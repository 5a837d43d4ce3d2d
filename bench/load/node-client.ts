/**
 * A client in Node that keeps D URBs in flight at a source/sink device, over TCP or over a ring, with
 * urbgate's own front end for either: the same program, so that the two can be set side by side.
 *
 *     node node-client.js --tcp PORT --busid BUSID
 *     node node-client.js --ring FOLDER --domain N --busid BUSID
 *
 * It says `ready` when it has the device. Then each line of standard input is a `ClientRow`, answered
 * by a line, a `ClientResult`. Standard input's end is its own. Every reply is checked: status,
 * length, and that what came is zeros.
 */
import { performance } from 'node:perf_hooks'; // the global one is looked up at each use
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { importDevice } from '../../src/usbip/client.ts';
import { connectRing } from '../../src/xenring/ring-client.ts';

export interface ClientRow {
  readonly type: 'control' | 'out' | 'in';
  readonly octets: number;
  readonly depth: number;
  readonly seconds: number;
  readonly warmupSeconds: number;
}

export interface ClientResult {
  readonly urbs: number;
  readonly seconds: number;
  readonly roundTripMicrosecondsP50: number;
  readonly roundTripMicrosecondsP99: number;
  readonly cpuSeconds: number;
  /** Why it is none. */
  readonly problem?: string;
}

interface Request {
  readonly endpoint: number;
  readonly type: 'control' | 'bulk';
  readonly octets?: number;
  readonly data?: Buffer;
  readonly setup?: Buffer;
  readonly into?: Buffer;
}

interface Result {
  readonly status: string;
  readonly actualOctets: number;
  readonly data: Buffer;
}

interface Device {
  submit(request: Request, done: (result: Result) => void): unknown;
  transfer(request: Request): Promise<Result>;
}

const ZEROS = Buffer.alloc(1 << 20);
const GET_DESCRIPTOR = Buffer.from([0x80, 6, 0, 1, 0, 0, 18, 0]);
const SET_CONFIGURATION = Buffer.from([0, 9, 1, 0, 0, 0, 0, 0]);

function requestOf({ type, octets }: ClientRow): Request {
  if (type === 'control') return { endpoint: 0, type, octets, setup: GET_DESCRIPTOR };
  if (type === 'in') return { endpoint: 0x81, type: 'bulk', octets };
  return { endpoint: 0x02, type: 'bulk', data: ZEROS.subarray(0, octets) };
}

/** One in so many looks at the clock: to look at it twice for each would be a tenth of the work. No divisor of a depth. */
const TIMED_EVERY = 17;

/** Keeps `depth` requests out until the time is over. */
function run(device: Device, row: ClientRow): Promise<ClientResult> {
  const request = requestOf(row);
  const zeros = ZEROS.subarray(0, row.octets);
  const samples: number[] = [];
  const begin = performance.now() + row.warmupSeconds * 1000;
  const end = begin + row.seconds * 1000;
  let cpu: NodeJS.CpuUsage | undefined;
  let isOver = false;
  let count = 0;
  let urbs = 0;
  let out = 0;
  let problem = '';
  return new Promise((resolve) => {
    const finish = () => {
      const seconds = (performance.now() - begin) / 1000;
      const { user, system } = process.cpuUsage(cpu);
      samples.sort((one, other) => one - other);
      const quantile = (part: number) => samples[Math.floor(samples.length * part)] ?? Number.NaN;
      resolve({
        urbs,
        seconds,
        roundTripMicrosecondsP50: quantile(0.5) * 1000,
        roundTripMicrosecondsP99: quantile(0.99) * 1000,
        cpuSeconds: (user + system) / 1e6,
        ...(problem !== '' && { problem }),
      });
    };
    const back = (request: Request, result: Result) => {
      out--;
      if (cpu !== undefined) urbs++;
      problem ||= wrong(row, result, zeros);
      if (!isOver && problem === '') submit(request);
      else if (out === 0) finish();
    };
    const timedBack = (request: Request, result: Result, sent: number) => {
      const now = performance.now();
      if (cpu !== undefined) samples.push(now - sent);
      else if (now >= begin) cpu = process.cpuUsage();
      isOver = now >= end;
      back(request, result);
    };
    const submit = (request: Request) => {
      out++;
      if (++count % TIMED_EVERY === 0) {
        const sent = performance.now();
        device.submit(request, (result) => timedBack(request, result, sent));
      } else {
        device.submit(request, (result) => back(request, result));
      }
    };
    // Each has its own memory for data that comes, as a driver's URBs have.
    for (let n = 0; n < row.depth; n++) submit({ ...request, into: Buffer.alloc(row.octets) });
  });
}

function wrong({ type, octets }: ClientRow, result: Result, zeros: Buffer): string {
  if (result.status !== 'ok') return `status ${result.status}`;
  if (result.actualOctets !== octets) return `${result.actualOctets} octets, wanted ${octets}`;
  if (type !== 'in') return '';
  return result.data.equals(zeros) ? '' : 'not all octets are 0';
}

async function ringDevice(folder: string, domain: number, busId: string): Promise<Device> {
  const gateway = await connectRing({ folder, domain, ports: 1 });
  return await gateway.importDevice(busId);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      tcp: { type: 'string' },
      ring: { type: 'string' },
      domain: { type: 'string', default: '1' },
      busid: { type: 'string', default: '1-1' },
    },
  });
  const device: Device =
    values.ring === undefined
      ? await importDevice({ host: '127.0.0.1', port: Number(values.tcp) }, values.busid)
      : await ringDevice(values.ring, Number(values.domain), values.busid);
  await device.transfer({ endpoint: 0, type: 'control', setup: SET_CONFIGURATION });
  process.stdout.write('ready\n');
  for await (const line of createInterface({ input: process.stdin })) {
    const result = await run(device, JSON.parse(line) as ClientRow);
    process.stdout.write(`${JSON.stringify(result)}\n`);
  }
  process.exit(0);
}

await main();
