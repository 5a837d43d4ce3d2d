/**
 * A server that behaves on the wire as usbipd-win does, with a virtual device behind it.
 *
 * By reading Usbipd/AttachedClient.cs and AttachedEndpoint.cs (2026-08), and what VBoxUSB makes of it:
 *
 * - Several URBs of an endpoint are at the device's queue; an error does not stop it, but for a halted
 *   pipe, which fails all that comes until the client clears it, sets a configuration or interface.
 * - Replies come in the order of the requests, for each endpoint.
 * - A single URB cannot be cancelled. CMD_UNLINK of a pending one is answered at once with -ECONNRESET
 *   and its RET_SUBMIT swallowed; but only when as many unlinks have come as URBs are pending is the
 *   endpoint aborted. Until then the URB runs on, unseen.
 * - The kind of a transfer is told from the command: endpoint 0, number_of_packets, interval.
 * - number_of_packets is echoed.
 * - A wrong devid, a pending seqnum used again, or isochronous packets that are not together as long
 *   as the buffer, end the connection. (`faults` says what it was.)
 */
import { createServer, type Server, type Socket } from 'node:net';
import { controlEffect } from '../../src/core/control-effect.ts';
import type { DeviceHost, EndpointInfo, TransferType, UsbDevice } from '../../src/core/device.ts';
import { type SetupPacket, Urb } from '../../src/core/urb.ts';
import {
  CmdSubmit,
  CmdUnlink,
  DeviceRecord,
  HEADER_OCTETS,
  ImportRequest,
  IsoDescriptor,
  OpCommon,
  RetSubmit,
  RetUnlink,
} from '../../src/usbip/protocol.ts';
import type { ListenAddress } from '../../src/usbip/server.ts';
import { ERRNO_BY_STATUS } from '../../src/usbip/status.ts';

const BUS_ID = '1-1';
const BUS = 1;
const DEVICE_NUMBER = 2;
const DEVICE_ID = (BUS << 16) | DEVICE_NUMBER;
const IMPORT_OCTETS = OpCommon.octets + ImportRequest.octets;
const SPEED_HIGH = 3;

interface Entry {
  readonly command: CmdSubmit;
  readonly urb: Urb;
  done: boolean;
  /** Its RET_SUBMIT is not sent. */
  swallowed: boolean;
}

/** What Windows has for an endpoint: the requests whose replies are due, in order. */
interface Pipe {
  readonly address: number;
  entries: Entry[];
  running: Entry | null;
  unlinks: number;
  halted: boolean;
}

export class UsbipdWin implements DeviceHost {
  /** Why connections were ended. */
  readonly faults: string[] = [];
  /** The most URBs of one endpoint, but endpoint 0, that were pending at a time. */
  pendingMax = 0;
  /** Endpoints that were aborted, and unlinks of which the URB ran on. */
  aborts = 0;
  runaways = 0;
  readonly #device: UsbDevice;
  readonly #server: Server = createServer({ noDelay: true }, (socket) => this.#serve(socket));
  readonly #pipes = new Map<number, Pipe>();
  #socket: Socket | null = null;

  constructor(device: UsbDevice) {
    this.#device = device;
  }

  async listen(): Promise<ListenAddress> {
    const host = '127.0.0.1';
    await new Promise<void>((resolve) => this.#server.listen(0, host, resolve));
    return { host, port: (this.#server.address() as { port: number }).port };
  }

  async close(): Promise<void> {
    this.#socket?.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  removed(): void {}

  failed(error: unknown): void {
    throw error;
  }

  completed(urb: Urb): void {
    const pipe = [...this.#pipes.values()].find(({ running }) => running?.urb === urb);
    if (pipe?.running == null) return; // aborted
    pipe.running.done = true;
    pipe.running = null;
    if (urb.status === 'stall' && pipe.address !== 0) pipe.halted = true;
    this.#advance(pipe);
  }

  #serve(socket: Socket): void {
    let received: Buffer = Buffer.alloc(0);
    let imported = false;
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      try {
        if (!imported) {
          if (received.length < IMPORT_OCTETS) return;
          const { busId } = ImportRequest.read(received, OpCommon.octets);
          received = received.subarray(IMPORT_OCTETS);
          imported = this.#import(socket, busId);
        }
        for (let octets = this.#command(received); octets > 0; octets = this.#command(received)) {
          received = received.subarray(octets);
        }
      } catch (error) {
        this.faults.push((error as Error).message);
        socket.destroy();
      }
    });
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      for (const pipe of this.#pipes.values()) this.#abort(pipe);
      this.#pipes.clear();
      this.#device.close();
    });
  }

  #import(socket: Socket, busId: string): boolean {
    const common = { version: 0x0111, code: 3, status: 0 };
    if (busId !== BUS_ID || this.#socket !== null) {
      socket.end(OpCommon.write({ ...common, status: 1 }));
      return false;
    }
    const { info } = this.#device;
    const record = DeviceRecord.write({
      ...info,
      path: '',
      busId,
      bus: BUS,
      deviceNumber: DEVICE_NUMBER,
      speed: SPEED_HIGH,
      interfaceCount: info.interfaces.length,
    });
    this.#device.open(this);
    this.#socket = socket;
    socket.write(Buffer.concat([OpCommon.write(common), record]));
    return true;
  }

  /** Carries out the command at the beginning; its octets, or 0 if it is not complete. */
  #command(received: Buffer): number {
    if (this.#socket === null || received.length < HEADER_OCTETS) return 0;
    const submit = CmdSubmit.read(received);
    if (submit.deviceId !== DEVICE_ID) throw new Error(`devid ${submit.deviceId}`);
    if (submit.command === 2) {
      this.#unlink(CmdUnlink.read(received));
      return HEADER_OCTETS;
    }
    if (submit.command !== 1) throw new Error(`command ${submit.command}`);
    const count = typeOf(submit) === 'isochronous' ? submit.numberOfPackets : 0;
    const dataOctets = submit.direction === 0 ? submit.transferBufferLength : 0;
    const octets = HEADER_OCTETS + dataOctets + count * IsoDescriptor.octets;
    if (received.length < octets) return 0;
    const body = Buffer.from(received.subarray(HEADER_OCTETS, octets));
    this.#submit(submit, body.subarray(0, dataOctets), readDescriptors(body, dataOctets, count));
    return octets;
  }

  #submit(command: CmdSubmit, data: Buffer, packets: readonly IsoDescriptor[]): void {
    const { seqnum, transferBufferLength } = command;
    const pending = [...this.#pipes.values()].flatMap(({ entries }) => entries);
    if (pending.some((one) => one.command.seqnum === seqnum)) throw new Error(`seqnum ${seqnum}`);
    const sum = packets.reduce((octets, { length }) => octets + length, 0);
    if (packets.length > 0 && sum !== transferBufferLength) {
      throw new Error(`packets of ${sum} octets in a buffer of ${transferBufferLength}`);
    }
    const pipe = this.#pipeOf(command);
    const endpoint = this.#device.endpoint(pipe.address);
    const type = typeOf(command);
    if (endpoint?.type !== type)
      throw new Error(`${type} to an endpoint that is ${endpoint?.type}`);
    const urb = urbOf(command, endpoint, data, packets);
    pipe.entries.push({ command, urb, done: false, swallowed: false });
    if (type !== 'control') this.pendingMax = Math.max(this.pendingMax, pipe.entries.length);
    if (urb.setup !== null) this.#follow(urb.setup);
    this.#advance(pipe);
  }

  /** Requests that VBoxUSB carries out at the host controller too. */
  #follow(setup: SetupPacket): void {
    const effect = controlEffect(setup);
    if (effect.type === 'none') return;
    for (const pipe of this.#pipes.values()) {
      if (effect.type !== 'clear-halt' || pipe.address === effect.address) pipe.halted = false;
    }
  }

  #unlink({ seqnum, victim }: CmdUnlink): void {
    const isVictim = ({ command, done, swallowed }: Entry) =>
      command.seqnum === victim && !done && !swallowed;
    const pipe = [...this.#pipes.values()].find(({ entries }) => entries.some(isVictim));
    const entry = pipe?.entries.find(isVictim);
    const common = { command: 4, seqnum, deviceId: 0, direction: 0, endpoint: 0 };
    const status = entry === undefined ? 0 : ERRNO_BY_STATUS.unlinked;
    if (pipe !== undefined && entry !== undefined) {
      entry.swallowed = true;
      pipe.unlinks++;
      if (pipe.unlinks >= pipe.entries.filter(({ done }) => !done).length) this.#abort(pipe);
      else this.runaways++;
    }
    this.#socket?.write(RetUnlink.write({ ...common, status, padding: Buffer.alloc(24) }));
  }

  #abort(pipe: Pipe): void {
    this.aborts++;
    pipe.unlinks = 0;
    const { running } = pipe;
    pipe.running = null; // what `completed` says of it is not looked at
    if (running !== null) this.#device.unlink(running.urb);
    for (const entry of pipe.entries) {
      if (!entry.done) entry.urb.status = 'unlinked';
      entry.done = true;
    }
    this.#advance(pipe);
  }

  /** Starts the next, and sends the replies that are due. */
  #advance(pipe: Pipe): void {
    for (;;) {
      const next = pipe.entries.find(({ done }) => !done);
      if (next === undefined || pipe.running !== null) break;
      if (pipe.halted) {
        next.urb.status = 'stall';
        next.done = true;
      } else {
        pipe.running = next;
        this.#device.submit(next.urb);
      }
    }
    while (pipe.entries[0]?.done) this.#reply(pipe.entries.shift() as Entry);
    if (pipe.entries.length === 0) pipe.unlinks = 0;
  }

  #reply({ command, urb, swallowed }: Entry): void {
    if (swallowed) return;
    const { packets, actualOctets } = urb;
    const head = RetSubmit.write({
      command: 3,
      seqnum: command.seqnum,
      deviceId: 0,
      direction: 0,
      endpoint: 0,
      status: ERRNO_BY_STATUS[urb.status],
      actualLength: actualOctets,
      startFrame: packets === null ? 0 : command.startFrame,
      numberOfPackets: command.numberOfPackets,
      errorCount: urb.errorCount,
      padding: Buffer.alloc(8),
    });
    const descriptors = (packets ?? []).map((one) =>
      IsoDescriptor.write({
        offset: one.offset,
        length: one.octets,
        actualLength: one.actualOctets,
        status: ERRNO_BY_STATUS[one.status],
      }),
    );
    const data = urb.in ? urb.dataIn.subarray(0, actualOctets) : Buffer.alloc(0);
    this.#socket?.write(Buffer.concat([head, data, ...descriptors]));
  }

  #pipeOf({ endpoint, direction }: CmdSubmit): Pipe {
    const address = endpoint === 0 ? 0 : endpoint | (direction << 7);
    let pipe = this.#pipes.get(address);
    if (pipe === undefined) {
      pipe = { address, entries: [], running: null, unlinks: 0, halted: false };
      this.#pipes.set(address, pipe);
    }
    return pipe;
  }
}

function setupPacket(octets: Uint8Array): SetupPacket {
  const view = Buffer.from(octets);
  return {
    requestType: view.readUInt8(0),
    request: view.readUInt8(1),
    value: view.readUInt16LE(2),
    index: view.readUInt16LE(4),
    length: view.readUInt16LE(6),
  };
}

function typeOf({ endpoint, numberOfPackets, interval }: CmdSubmit): TransferType {
  if (endpoint === 0) return 'control';
  if (numberOfPackets > 0) return 'isochronous';
  return interval === 0 ? 'bulk' : 'interrupt';
}

function readDescriptors(body: Buffer, at: number, count: number): IsoDescriptor[] {
  return Array.from({ length: count }, (_, n) =>
    IsoDescriptor.read(body, at + n * IsoDescriptor.octets),
  );
}

function urbOf(
  { seqnum, setup, transferBufferLength, transferFlags }: CmdSubmit,
  endpoint: EndpointInfo,
  data: Buffer,
  descriptors: readonly IsoDescriptor[],
): Urb {
  switch (endpoint.type) {
    case 'control':
      return Urb.control(seqnum, endpoint, setupPacket(setup), data);
    case 'isochronous': {
      const packets = descriptors.map(({ offset, length }) => ({
        offset,
        octets: length,
        actualOctets: 0,
        status: 'ok' as const,
      }));
      return Urb.isochronous(seqnum, endpoint, transferBufferLength, packets, data);
    }
    default:
      if (endpoint.direction === 'out') return Urb.write(seqnum, endpoint, data);
      return Urb.read(seqnum, endpoint, transferBufferLength, (transferFlags & 1) !== 0);
  }
}
