/**
 * A USB/IP client of bare bytes for benchmarks: it writes whatever commands it is told to, right or
 * wrong, and parses no replies. src/usbip's own client would refuse to do what an attacker does.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import {
  CmdSubmit,
  CmdUnlink,
  COMMAND,
  DeviceRecord,
  DIRECTION,
  ImportRequest,
  IsoDescriptor,
  OPERATION,
  OpCommon,
  VERSION,
} from '../../src/usbip/protocol.ts';

const IMPORT_REPLY_BYTES = OpCommon.octets + DeviceRecord.octets;
const NO_BYTES = Buffer.alloc(0);

export interface Submit {
  readonly endpoint: number;
  readonly in: boolean;
  /** Length of the transfer buffer; default: that of `data`. */
  readonly length?: number;
  readonly setup?: Buffer;
  readonly data?: Buffer;
  /** Lengths of isochronous packets. */
  readonly packets?: readonly number[];
}

/**
 * Commands that are written again and again, each time with the next sequence numbers. The commands
 * count from 1; `next` moves them behind all that it returned before.
 */
export class Script {
  readonly #parts: Buffer[] = [];
  /** Where in the bytes sequence numbers are. */
  readonly #numbersAt: number[] = [];
  #length = 0;
  #last = 0;
  #bytes: Buffer | null = null;
  #base: number;

  /** `base`: the number before the first. */
  constructor(base = 0) {
    this.#base = base;
  }

  /** The last number used. */
  get last(): number {
    return this.#base + this.#last;
  }

  /** Leaves a gap before the next number. */
  skip(count: number): void {
    this.#last += count;
  }

  /** Returns the sequence number. */
  submit({ endpoint, in: isIn, length, setup, data = NO_BYTES, packets }: Submit): number {
    const seqnum = ++this.#last;
    const header = CmdSubmit.write({
      command: COMMAND.submit,
      seqnum,
      deviceId: 0,
      direction: isIn ? DIRECTION.in : DIRECTION.out,
      endpoint,
      transferFlags: 0,
      transferBufferLength: length ?? data.length,
      startFrame: 0,
      numberOfPackets: packets?.length ?? 0,
      interval: 0,
      setup: setup ?? Buffer.alloc(8),
    });
    this.#numbersAt.push(this.#length + CmdSubmit.offsets.seqnum);
    this.#add(header);
    this.#add(data);
    let offset = 0;
    for (const length of packets ?? []) {
      this.#add(IsoDescriptor.write({ offset, length, actualLength: 0, status: 0 }));
      offset = (offset + length) % 0x1_0000_0000;
    }
    return seqnum;
  }

  unlink(victim: number): void {
    this.#numbersAt.push(this.#length + CmdUnlink.offsets.seqnum);
    this.#numbersAt.push(this.#length + CmdUnlink.offsets.victim);
    this.#add(
      CmdUnlink.write({
        command: COMMAND.unlink,
        seqnum: ++this.#last,
        deviceId: 0,
        direction: 0,
        endpoint: 0,
        victim,
        padding: Buffer.alloc(24),
      }),
    );
  }

  /** All commands, with numbers that were not used before. */
  next(): Buffer {
    this.#bytes ??= Buffer.concat(this.#parts);
    const bytes = Buffer.from(this.#bytes);
    for (const at of this.#numbersAt) bytes.writeUInt32BE(bytes.readUInt32BE(at) + this.#base, at);
    this.#base += this.#last;
    return bytes;
  }

  #add(bytes: Buffer): void {
    this.#parts.push(bytes);
    this.#length += bytes.length;
  }
}

/** Connects; what comes is dropped. */
export async function connectRaw(port: number): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  await once(socket, 'connect');
  return socket;
}

/**
 * Connects and imports a device. The socket is paused.
 *
 * @throws {Error} if the gateway refuses.
 */
export async function importRaw(port: number, busId: string): Promise<Socket> {
  const socket = await connectRaw(port);
  socket.write(operation(OPERATION.requestImport));
  socket.write(ImportRequest.write({ busId }));
  const reply = await readExactly(socket, OpCommon.octets);
  if (OpCommon.read(reply).status !== 0) throw new Error(`Cannot import ${busId}: it is refused`);
  await readExactly(socket, IMPORT_REPLY_BYTES - OpCommon.octets);
  return socket;
}

export function operation(code: number): Buffer {
  return OpCommon.write({ version: VERSION, code, status: 0 });
}

/** Reads from a paused socket. */
export async function readExactly(socket: Socket, count: number): Promise<Buffer> {
  for (;;) {
    const bytes = socket.read(count) as Buffer | null;
    if (bytes !== null) return bytes;
    if (socket.readableEnded || socket.destroyed) throw new Error('Cannot read: it is closed');
    await eventOrClose(socket, 'readable');
  }
}

function eventOrClose(socket: Socket, event: string): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off(event, done).off('close', done);
      resolve();
    };
    socket.on(event, done).on('close', done);
  });
}

/** Writes, and waits until the socket takes more; false once it is closed. */
export async function send(socket: Socket, bytes: Buffer): Promise<boolean> {
  if (socket.destroyed) return false;
  if (socket.write(bytes)) return true;
  await eventOrClose(socket, 'drain');
  return !socket.destroyed;
}

export function setupPacket(
  requestType: number,
  request: number,
  value: number,
  index: number,
  length: number,
): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt8(requestType, 0);
  bytes.writeUInt8(request, 1);
  bytes.writeUInt16LE(value, 2);
  bytes.writeUInt16LE(index, 4);
  bytes.writeUInt16LE(length, 6);
  return bytes;
}
