/**
 * Imports a device from a USB/IP server and gives it to a program.
 *
 * The server is asked for the stall protocol (extension.ts). One that refuses the request may have
 * compared all 32 octets of the bus id, so it is asked once more without.
 */
import { connect, type Socket } from 'node:net';
import { RemoteProtocolError, UserError } from '../core/errors.ts';
import { BufferPool } from './buffer-pool.ts';
import {
  CAPABILITIES_KNOWN,
  CAPABILITY,
  readCapabilities,
  writeCapabilities,
} from './extension.ts';
import { Framer } from './framer.ts';
import { FrontEnd, type Pending } from './front-end.ts';
import { hex, pathOf } from './operations.ts';
import {
  DeviceRecord,
  ImportRequest,
  OPERATION,
  OPERATION_STATUS,
  OpCommon,
  VERSION,
} from './protocol.ts';
import { formatAddress, type ListenAddress } from './server.ts';
import type { Transfer, TransferResult } from './transfer.ts';

/** For connecting and importing. */
const IMPORT_MILLISECONDS = 10_000;
const REPLY_OCTETS = OpCommon.octets + DeviceRecord.octets;

export interface ImportOptions {
  /** Offer the stall protocol; default true. */
  readonly stallProtocol?: boolean;
}

/** A device of a server, imported by this program. */
export class RemoteDevice {
  readonly record: DeviceRecord;
  /** Whether the server keeps the queues stopped by itself. */
  readonly stallProtocol: boolean;
  /** Resolves when the connection is gone, for whatever reason; all transfers are done then. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #frontEnd: FrontEnd;

  /** Use `importDevice`. */
  constructor(socket: Socket, reply: Buffer, rest: Buffer) {
    this.#socket = socket;
    this.record = DeviceRecord.read(reply, OpCommon.octets);
    const agreed = readCapabilities(pathOf(reply)) ?? 0;
    this.stallProtocol = (agreed & CAPABILITY.stallProtocol) !== 0;
    this.#frontEnd = new FrontEnd({
      deviceId: (this.record.bus << 16) | this.record.deviceNumber,
      stallProtocol: this.stallProtocol,
      send: (octets) => this.#send(octets),
    });
    const framer = new Framer(this.#frontEnd, new BufferPool());
    const receive = (chunk: Buffer) => {
      try {
        framer.receive(chunk);
      } catch (error) {
        // A handler's own exception is the program's: it goes where exceptions go.
        socket.destroy();
        if (!(error instanceof RemoteProtocolError)) throw error;
      }
    };
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#frontEnd.lost();
        resolve();
      });
    });
    socket.on('data', receive);
    if (rest.length > 0) receive(rest);
  }

  /** Begins a transfer; `done` is called once with its result. */
  submit(transfer: Transfer, done: (result: TransferResult) => void): Pending {
    return this.#frontEnd.submit(transfer, done);
  }

  /** The same as a promise: for whoever does not queue. */
  transfer(transfer: Transfer): Promise<TransferResult> {
    return new Promise((resolve) => this.submit(transfer, resolve));
  }

  /** Asks for a transfer back; it is done once, as 'unlinked' or as it had ended before. */
  unlink(pending: Pending): void {
    this.#frontEnd.unlink(pending);
  }

  /** Lets go of the device; outstanding transfers end as 'shutdown'. */
  async close(): Promise<void> {
    this.#socket.destroy();
    await this.closed;
  }

  /** Commands of one turn leave in one gathered write. */
  #send(octets: Uint8Array): void {
    const socket = this.#socket;
    if (socket.writableCorked === 0) {
      socket.cork();
      process.nextTick(() => socket.uncork());
    }
    socket.write(octets);
  }
}

/**
 * Imports a device.
 *
 * @throws {UserError} if the server cannot be reached or refuses.
 */
export async function importDevice(
  address: ListenAddress,
  busId: string,
  options: ImportOptions = {},
): Promise<RemoteDevice> {
  const request = ImportRequest.write({ busId });
  const plain = Buffer.from(request);
  const offered = options.stallProtocol !== false && writeCapabilities(request, CAPABILITIES_KNOWN);
  const answer = await ask(address, busId, request);
  if (answer.device !== null) return answer.device;
  const again = offered && answer.status !== OPERATION_STATUS.busy;
  const second = again ? await ask(address, busId, plain) : answer;
  if (second.device !== null) return second.device;
  throw new UserError(
    `Cannot import ${busId} from ${formatAddress(address)}: ${reasonOf(second.status)}`,
  );
}

interface Answer {
  readonly device: RemoteDevice | null;
  readonly status: number;
}

/** One connection, one import. */
function ask(address: ListenAddress, busId: string, body: Buffer): Promise<Answer> {
  const common = { version: VERSION, code: OPERATION.requestImport, status: 0 };
  const what = `Cannot import ${busId} from ${formatAddress(address)}`;
  return new Promise((resolve, reject) => {
    const socket = connect({ ...address, noDelay: true, keepAlive: true });
    let received: Buffer = Buffer.alloc(0);
    const fail = (why: string) => {
      socket.destroy();
      reject(new UserError(`${what}: ${why}`));
    };
    const timer = setTimeout(() => fail('no answer in time'), IMPORT_MILLISECONDS);
    const onData = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < OpCommon.octets) return;
      const { version, code, status } = OpCommon.read(received);
      if (version !== VERSION || code !== OPERATION.replyImport) {
        fail(`the answer is ${hex(version)} ${hex(code)}, wanted an import reply`);
      } else if (status !== OPERATION_STATUS.ok) {
        settle();
        socket.destroy();
        resolve({ device: null, status });
      } else if (received.length >= REPLY_OCTETS) {
        settle();
        const reply = received.subarray(0, REPLY_OCTETS);
        resolve({
          device: new RemoteDevice(socket, reply, received.subarray(REPLY_OCTETS)),
          status,
        });
      }
    };
    const settle = () => {
      clearTimeout(timer);
      socket.off('data', onData);
    };
    socket.on('error', (error) => fail(error.message));
    socket.once('close', () => {
      clearTimeout(timer);
      fail('the connection was closed');
    });
    socket.on('data', onData);
    socket.write(Buffer.concat([OpCommon.write(common), body]));
  });
}

function reasonOf(status: number): string {
  switch (status) {
    case OPERATION_STATUS.busy:
      return 'another client has it';
    case OPERATION_STATUS.noDevice:
    case OPERATION_STATUS.notAvailable:
      return 'the server does not export it';
    default:
      return `the server answers with status ${status}`;
  }
}
