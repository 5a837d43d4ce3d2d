/**
 * A relay that looks at nothing, in the place of relay.ts, which see: what any relay costs.
 *
 *     node bare-relay.js --tcp PORT --busid BUSID --how node | copy:PROGRAM | splice:PROGRAM
 *
 * `node` sends what it has read by a system call of its own, without a copy or a stream; PROGRAM is
 * bare-relay.c, compiled.
 */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import koffi from 'koffi';
import { type Granted, importSocket } from '../../src/usbip/import-socket.ts';
import { deviceIdOf } from '../../src/usbip/operations.ts';
import { DeviceRecord, OpCommon } from '../../src/usbip/protocol.ts';
import { descriptorOf, socketReading } from '../../src/usbip/sockets.ts';
import { unixPair } from '../../src/usbip/unix-pair.ts';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const READ_MEMORY = Buffer.allocUnsafeSlow(256 * 1024);
const send = koffi.load(null).func('intptr_t send(int, const void *, size_t, int)');

const { values } = parseArgs({
  options: {
    tcp: { type: 'string' },
    busid: { type: 'string' },
    how: { type: 'string', default: 'node' },
  },
});

/** What the socket does not take at once waits in its stream. */
function put(socket: Socket, fd: number, chunk: Buffer): void {
  const sent =
    socket.writableLength > 0
      ? 0
      : Number(send(fd, chunk, chunk.length, MSG_DONTWAIT | MSG_NOSIGNAL));
  if (sent < chunk.length) socket.write(Buffer.from(chunk.subarray(Math.max(0, sent))));
}

/** Returns a function that ends it and tells the CPU seconds that it used. */
function relayInNode({ socket, listen }: Granted, ours: number): () => Promise<number> {
  const before = process.cpuUsage();
  const server = descriptorOf(socket);
  const client = socketReading(ours, READ_MEMORY, (chunk) => put(socket, server, chunk));
  for (const each of [client, socket]) each.on('error', () => {});
  listen((chunk) => put(client, ours, chunk));
  return async () => {
    const { user, system } = process.cpuUsage(before);
    client.destroy();
    return (user + system) / 1e6;
  };
}

function relayInC(how: string, { socket }: Granted, ours: number): () => Promise<number> {
  const [mode = '', program = ''] = how.split(':');
  const stdio = ['ignore', 'pipe', 'inherit', descriptorOf(socket), ours] as const;
  const child = spawn(program, [mode], { stdio: [...stdio] });
  const said = text(child.stdout as NodeJS.ReadableStream);
  closeSync(ours);
  return async () => {
    child.kill('SIGTERM');
    return Number(await said);
  };
}

async function run([file = '', ...args]: string[]): Promise<object> {
  const address = { host: '127.0.0.1', port: Number(values.tcp) };
  const granted = await importSocket(address, values.busid ?? '', {});
  const record = DeviceRecord.read(granted.reply, OpCommon.octets);
  const { ours, theirs } = unixPair();
  const all = [...args, '--fd', '3', '--devid', `${deviceIdOf(record)}`];
  const load = spawn(file, all, { stdio: ['ignore', 'pipe', 'inherit', theirs] });
  closeSync(theirs);
  const end =
    values.how === 'node' ? relayInNode(granted, ours) : relayInC(values.how, granted, ours);
  const result = JSON.parse(await text(load.stdout as NodeJS.ReadableStream));
  const relayCpuSeconds = await end();
  granted.socket.destroy();
  return { ...result, relayCpuSeconds };
}

process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(line)))}\n`);
}
process.exit(0);
