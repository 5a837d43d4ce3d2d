/**
 * One attack of attacks.ts in a process of its own, until standard input ends:
 *
 *     node attacker.js --tcp PORT --busid BUSID --attack NAME [--ring FOLDER]
 *
 * It says `ready` when the attack has begun.
 */
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { ImportRequest, OPERATION } from '../../src/usbip/protocol.ts';
import { connectRing } from '../../src/xenring/ring-client.ts';
import { ATTACKS, type Attack } from './attacks.ts';
import { connectRaw, importRaw, operation, Script, send } from './raw-client.ts';

/** Clients at a time, of attacks that are connections. */
const CLIENTS = 16;
/** URBs at a time on the ring, which has 32 slots. */
const RING_DEPTH = 30;

const { values } = parseArgs({
  options: {
    tcp: { type: 'string', default: '' },
    busid: { type: 'string', default: '1-2' },
    attack: { type: 'string', default: '' },
    ring: { type: 'string', default: '' },
  },
});
const port = Number(values.tcp);
const busId = values.busid;

function ready(): void {
  process.stdout.write('ready\n');
}

async function runScript({ begin, repeat, repeatFrom }: Attack): Promise<void> {
  const socket = await importRaw(port, busId);
  socket.resume(); // drops the replies
  const first = new Script();
  begin?.(first);
  await send(socket, first.next());
  const script = new Script(repeatFrom ?? first.last);
  repeat?.(script);
  ready();
  while (await send(socket, script.next()));
  throw new Error('Cannot go on: the gateway has closed the connection');
}

/** Connects, sends one request, waits for the end, and does so again. */
async function runOperation(request: Buffer): Promise<void> {
  ready();
  const client = async () => {
    for (;;) {
      const socket = await connectRaw(port);
      socket.on('error', () => {}).resume();
      socket.write(request);
      await once(socket, 'close');
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
}

async function runClose({ repeat }: Attack): Promise<void> {
  ready();
  for (;;) {
    // The device is busy until the client before has been let go of.
    const socket = await importRaw(port, busId).catch(() => null);
    if (socket === null) continue;
    socket.on('error', () => {}).resume();
    const script = new Script();
    repeat?.(script);
    await send(socket, script.next());
    await new Promise((resolve) => setTimeout(resolve, 100)); // it is all outstanding then
    socket.destroy();
    await once(socket, 'close');
  }
}

async function runRing({ urbs = [] }: Attack): Promise<void> {
  const client = await connectRing({ folder: values.ring, ports: 1 });
  const device = await client.importDevice(busId);
  const setup = Buffer.from([0, 9, 1, 0, 0, 0, 0, 0]);
  await device.transfer({ endpoint: 0, type: 'control', setup });
  let next = 0;
  const submit = () => {
    const {
      endpoint,
      in: isIn,
      length = 0,
      data,
    } = urbs[next++ % urbs.length] ?? {
      endpoint: 0,
      in: true,
    };
    const address = endpoint | (isIn ? 0x80 : 0);
    const what = data === undefined ? { octets: length } : { data };
    device.submit({ endpoint: address, type: 'bulk', ...what }, submit);
  };
  for (let n = 0; n < RING_DEPTH; n++) submit();
  ready();
  await client.closed;
}

async function run(attack: Attack): Promise<void> {
  switch (attack.how) {
    case 'script':
      return await runScript(attack);
    case 'device-list':
      return await runOperation(operation(OPERATION.requestDeviceList));
    case 'imports': {
      const body = ImportRequest.write({ busId: '9-9' });
      return await runOperation(Buffer.concat([operation(OPERATION.requestImport), body]));
    }
    case 'close':
      return await runClose(attack);
    case 'ring':
      return await runRing(attack);
  }
}

process.stdin.resume().once('end', () => process.exit(0));
const attack = ATTACKS[values.attack];
if (attack === undefined) throw new Error(`Cannot attack: there is no "${values.attack}"`);
await run(attack);
