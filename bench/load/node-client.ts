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

const SAMPLES_MAX = 1 << 20;
const ZEROS = Buffer.alloc(1 << 20);
const GET_DESCRIPTOR = Buffer.from([0x80, 6, 0, 1, 0, 0, 18, 0]);
const SET_CONFIGURATION = Buffer.from([0, 9, 1, 0, 0, 0, 0, 0]);

function requestOf({ type, octets }: ClientRow): Request {
  if (type === 'control') return { endpoint: 0, type, octets, setup: GET_DESCRIPTOR };
  if (type === 'in') return { endpoint: 0x81, type: 'bulk', octets };
  return { endpoint: 0x02, type: 'bulk', data: ZEROS.subarray(0, octets) };
}

/** Keeps `depth` requests out until the time is over. */
function run(device: Device, row: ClientRow): Promise<ClientResult> {
  const request = requestOf(row);
  const samples = new Float64Array(SAMPLES_MAX);
  const begin = performance.now() + row.warmupSeconds * 1000;
  const end = begin + row.seconds * 1000;
  let cpu = process.cpuUsage();
  let warm = false;
  let urbs = 0;
  let out = 0;
  let problem = '';
  return new Promise((resolve) => {
    const finish = (now: number) => {
      const { user, system } = process.cpuUsage(cpu);
      const sorted = samples.subarray(0, Math.min(urbs, SAMPLES_MAX)).sort();
      const quantile = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
      resolve({
        urbs,
        seconds: (now - begin) / 1000,
        roundTripMicrosecondsP50: quantile(0.5) * 1000,
        roundTripMicrosecondsP99: quantile(0.99) * 1000,
        cpuSeconds: (user + system) / 1e6,
        ...(problem !== '' && { problem }),
      });
    };
    const submit = (request: Request) => {
      const sent = performance.now();
      out++;
      device.submit(request, (result) => {
        const now = performance.now();
        out--;
        problem ||= wrong(row, result);
        if (now >= begin) {
          if (!warm) cpu = process.cpuUsage();
          warm = true;
          samples[urbs % SAMPLES_MAX] = now - sent;
          urbs++;
        }
        if (now < end && problem === '') submit(request);
        else if (out === 0) finish(now);
      });
    };
    // Each has its own memory for data that comes, as a driver's URBs have.
    for (let n = 0; n < row.depth; n++) submit({ ...request, into: Buffer.alloc(row.octets) });
  });
}

function wrong({ type, octets }: ClientRow, result: Result): string {
  if (result.status !== 'ok') return `status ${result.status}`;
  if (result.actualOctets !== octets) return `${result.actualOctets} octets, wanted ${octets}`;
  if (type !== 'in') return '';
  return result.data.compare(ZEROS, 0, octets) === 0 ? '' : 'not all octets are 0';
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
