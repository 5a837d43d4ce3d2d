/**
 * A USB/IP server whose every answer is the test's: one device, as bytes. What it is asked is counted.
 */
import { createServer, type Server, type Socket } from 'node:net';

const HEADER_BYTES = 48;
const REQUEST_IMPORT = 0x8003;
const IMPORT_BYTES = 40;
const LIST_BYTES = 8;
const SUBMIT = 1;

/** What the server says of its device, and how it answers what the device is asked. */
export interface HostileDevice {
  /** The device descriptor. */
  readonly device?: Buffer;
  readonly configurations?: readonly Buffer[];
  /** String descriptors by index. */
  readonly strings?: Readonly<Record<number, Buffer>>;
  /** bConfigurationValue as GET_CONFIGURATION tells it. */
  readonly active?: Buffer;
  /** Changes the record of the import reply, which begins with the path. */
  readonly record?: (record: Buffer) => void;
  /** The whole reply to OP_REQ_DEVLIST. */
  readonly list?: Buffer;
  /** Answers a control request in place of the above; undefined: it does not. */
  readonly control?: (setup: Buffer) => Buffer | number | undefined;
}

/** An answer that is not data: a status, such as -32 for a stall. */
const STALL = -32;

export class HostileServer {
  hostile: HostileDevice;
  /** Control requests since this was set to 0. */
  requests = 0;
  /** Answers the commands of the client in place of `hostile`. */
  onCommand: ((header: Buffer, socket: Socket) => void) | undefined;
  /** Whether the stall protocol is granted to who offers it. */
  stallProtocol = false;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(hostile: HostileDevice) {
    this.hostile = hostile;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(hostile: HostileDevice = {}): Promise<HostileServer> {
    const server = new HostileServer(hostile);
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get address(): { host: string; port: number } {
    return { host: '127.0.0.1', port: (this.#server.address() as { port: number }).port };
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    let rest = Buffer.alloc(0);
    let isImported = false;
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      if (!isImported) {
        if (rest.length < LIST_BYTES) return;
        if (rest.readUInt16BE(2) !== REQUEST_IMPORT) {
          socket.write(this.hostile.list ?? listReply([recordOf({})]));
          return;
        }
        if (rest.length < IMPORT_BYTES) return;
        const offered = rest.indexOf('URB\x01', 0, 'latin1') >= 0;
        socket.write(this.#granted(offered));
        rest = rest.subarray(IMPORT_BYTES);
        isImported = true;
      }
      while (rest.length >= HEADER_BYTES) {
        const isOut = rest.readUInt32BE(0) === SUBMIT && rest.readUInt32BE(12) === 0;
        const bytes = HEADER_BYTES + (isOut ? rest.readUInt32BE(24) : 0);
        if (rest.length < bytes) return;
        const header = rest.subarray(0, HEADER_BYTES);
        rest = rest.subarray(bytes);
        if (this.onCommand !== undefined) this.onCommand(header, socket);
        else this.#answer(header, socket);
      }
    });
  }

  #granted(offered: boolean): Buffer {
    const head = Buffer.from([0x01, 0x11, 0, 3, 0, 0, 0, 0]);
    const record = recordOf(this.hostile);
    if (offered && this.stallProtocol) {
      const at = record.indexOf(0) + 1;
      record.write('URB\x01', at, 'latin1');
      record.writeUInt32BE(1, at + 4);
    }
    return Buffer.concat([head, record]);
  }

  #answer(header: Buffer, socket: Socket): void {
    if (header.readUInt32BE(0) !== SUBMIT) return;
    this.requests++;
    const setup = header.subarray(40, 48);
    const answer = (this.hostile.control ?? ((asked) => this.#described(asked)))(setup);
    if (answer === undefined) return;
    const data = typeof answer === 'number' ? Buffer.alloc(0) : answer;
    const status = typeof answer === 'number' ? answer : 0;
    socket.write(submitReply(header.readUInt32BE(4), status, data));
  }

  #described(setup: Buffer): Buffer | number {
    const { device = deviceBytes(), configurations = [configurationBytes()] } = this.hostile;
    const { strings = {}, active = Buffer.from([1]) } = this.hostile;
    const [type, request, index = 0, kind] = setup;
    const cut = (bytes: Buffer | undefined) => bytes?.subarray(0, setup.readUInt16LE(6)) ?? STALL;
    if (type === 0x80 && request === 8) return active;
    if (type === 0x81 && request === 10) return Buffer.from([0]);
    if (type !== 0x80 || request !== 6) return Buffer.alloc(0);
    if (kind === 1) return cut(device);
    if (kind === 2) return cut(configurations[Math.min(index, configurations.length - 1)]);
    return cut(strings[index]);
  }
}

/** RET_SUBMIT with data. */
export function submitReply(seqnum: number, status: number, data: Buffer): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(3, 0);
  header.writeUInt32BE(seqnum, 4);
  header.writeInt32BE(status, 20);
  header.writeUInt32BE(data.length, 24);
  return Buffer.concat([header, data]);
}

/** struct usbip_usb_device of a high-speed device at 1-1. */
export function recordOf({ record }: Pick<HostileDevice, 'record'>, busId = '1-1'): Buffer {
  const bytes = Buffer.alloc(312);
  bytes.write('/sys/devices/x', 0);
  bytes.write(busId, 256);
  for (const [value, at] of [
    [1, 288],
    [2, 292],
    [3, 296],
  ] as const) {
    bytes.writeUInt32BE(value, at);
  }
  bytes.writeUInt16BE(0x1234, 300);
  bytes.writeUInt16BE(0x5678, 302);
  record?.(bytes);
  return bytes;
}

/** OP_REP_DEVLIST; records with their interfaces behind them. */
export function listReply(records: readonly Buffer[], count = records.length): Buffer {
  const head = Buffer.from([0x01, 0x11, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
  head.writeUInt32BE(count, 8);
  return Buffer.concat([head, ...records]);
}

/** A device descriptor with `count` configurations. */
export function deviceBytes(count = 1): Buffer {
  const bytes = Buffer.from([18, 1, 0, 2, 0, 0, 0, 64, 0x34, 0x12, 0x78, 0x56, 0, 1, 1, 2, 3, 0]);
  bytes.writeUInt8(count, 17);
  return bytes;
}

/** A configuration with these descriptors in it; `total` is its wTotalLength. */
export function configurationBytes(
  parts: readonly Buffer[] = [interfaceBytes(0), endpointBytes(0x81)],
  { total, value = 1 }: { total?: number; value?: number } = {},
): Buffer {
  const bytes = Buffer.concat([Buffer.from([9, 2, 0, 0, 1, value, 0, 0x80, 50]), ...parts]);
  bytes.writeUInt16LE(Math.min(0xffff, total ?? bytes.length), 2);
  return bytes;
}

export function interfaceBytes(number: number, alternate = 0, name = 0): Buffer {
  return Buffer.from([9, 4, number & 0xff, alternate & 0xff, 1, 0xff, 0, 0, name]);
}

export function endpointBytes(
  address: number,
  { attributes = 2, maxPacket = 512, interval = 0 } = {},
): Buffer {
  return Buffer.from([7, 5, address, attributes, maxPacket & 0xff, maxPacket >> 8, interval]);
}

/** A string descriptor; `length` is its bLength. */
export function stringBytes(text: string, length?: number): Buffer {
  const bytes = Buffer.from(text, 'utf16le');
  return Buffer.concat([Buffer.from([length ?? Math.min(254, bytes.length + 2), 3]), bytes]);
}

/** As many as asked for, each made from its place. */
export function many(count: number, make: (at: number) => Buffer): Buffer[] {
  return Array.from({ length: count }, (_, at) => make(at));
}
