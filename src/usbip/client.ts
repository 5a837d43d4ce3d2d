/**
 * Imports a device from a USB/IP server and gives it to a program.
 *
 * The server is asked for the stall protocol (extension.ts). One that refuses the request may have
 * compared all 32 octets of the bus id, so it is asked once more without.
 */
import type { Socket } from 'node:net';
import type { Speed } from '../core/device.ts';
import { RemoteProtocolError, UserError } from '../core/errors.ts';
import { transferWithin } from '../core/transfer-within.ts';
import { BufferPool } from './buffer-pool.ts';
import {
  CAPABILITIES_KNOWN,
  CAPABILITY,
  readCapabilities,
  writeCapabilities,
} from './extension.ts';
import { Framer } from './framer.ts';
import { FrontEnd } from './front-end.ts';
import { hex, pathOf } from './operations.ts';
import type { Handler, Pending } from './pending.ts';
import {
  DeviceRecord,
  ImportRequest,
  OPERATION,
  OPERATION_STATUS,
  OpCommon,
  SPEED_NAMES,
  VERSION,
} from './protocol.ts';
import type { RelayDevice } from './relay-device.ts';
import { formatAddress, type ListenAddress } from './server.ts';
import { connectReading, setUserTimeout, writeGathered } from './sockets.ts';
import type { Transfer, TransferResult } from './transfer.ts';

/** For connecting and importing. */
const IMPORT_MILLISECONDS = 10_000;
/** A silent server is probed after this time, then each second; ten probes lost end it. */
const KEEPALIVE_MILLISECONDS = 10_000;
/** A server that acknowledges nothing for so long is taken for gone. */
const USER_TIMEOUT_MILLISECONDS = 20_000;
/** What fits the field of OP_REQ_IMPORT, with its NUL. */
const BUS_ID_OCTETS_MAX = 31;
/** Octets asked of the kernel in one read; all connections share the memory. */
const READ_MEMORY = Buffer.allocUnsafeSlow(256 * 1024);
/**
 * Commands that wait for others while the replies of a chunk are handled. With all of them the server
 * would have nothing to do meanwhile, and this program nothing while the server works (docs/decisions/0074).
 */
const COMMANDS_TOGETHER = 8;
const REPLY_OCTETS = OpCommon.octets + DeviceRecord.octets;

export interface ImportOptions {
  /** Offer the stall protocol; default true. */
  readonly stallProtocol?: boolean;
  /** See `FrontEndOptions.holdBack`. */
  readonly holdBack?: 'short-not-ok' | 'all';
}

/** A device of a server, imported by this program. */
export class RemoteDevice implements RelayDevice {
  readonly record: DeviceRecord;
  /** Whether the server keeps the queues stopped by itself. */
  readonly stallProtocol: boolean;
  /** Resolves when the connection is gone, for whatever reason; all transfers are done then. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #frontEnd: FrontEnd;
  readonly #framer: Framer;
  readonly #flush = () => this.#sendAll();
  /** Commands that handlers bring forth leave together; see `COMMANDS_TOGETHER`. */
  #receiving = false;

  /** Use `importDevice`. */
  constructor({ socket, reply, rest, listen }: Granted, options: ImportOptions) {
    this.#socket = socket;
    this.record = DeviceRecord.read(reply, OpCommon.octets);
    const agreed = readCapabilities(pathOf(reply)) ?? 0;
    this.stallProtocol = (agreed & CAPABILITY.stallProtocol) !== 0;
    this.#frontEnd = new FrontEnd({
      deviceId: this.deviceId,
      stallProtocol: this.stallProtocol,
      holdBack: options.holdBack ?? 'short-not-ok',
      onOutput: (commands) => {
        if (this.#receiving) {
          if (commands >= COMMANDS_TOGETHER) this.#sendAll();
        } else if (commands === 1) process.nextTick(this.#flush);
      },
    });
    this.#framer = new Framer(this.#frontEnd, new BufferPool());
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#frontEnd.lost();
        resolve();
      });
    });
    if (rest.length > 0) this.#receive(rest);
    listen((chunk) => this.#receive(chunk));
    setUserTimeout(socket, USER_TIMEOUT_MILLISECONDS);
  }

  /** Its bus id at the server. */
  get name(): string {
    return this.record.busId;
  }

  get speed(): Speed {
    return SPEED_NAMES.get(this.record.speed) ?? 'high';
  }

  /** As the server's commands name it: bus number and device number there. */
  get deviceId(): number {
    return ((this.record.bus << 16) | this.record.deviceNumber) >>> 0;
  }

  /** The server's address, for people. */
  get peer(): string {
    const { remoteAddress = '?', remotePort = 0 } = this.#socket;
    return formatAddress({ host: remoteAddress, port: remotePort });
  }

  /** False once the connection is gone. */
  get isOpen(): boolean {
    return !this.#socket.destroyed;
  }

  /** Begins a transfer; `done` is called once with its result, see `Handler`. */
  submit(transfer: Transfer, done: Handler): Pending {
    return this.#frontEnd.submit(transfer, done);
  }

  /** The same as a promise: for whoever does not queue. */
  transfer(transfer: Transfer): Promise<TransferResult> {
    return new Promise((resolve) => this.submit(transfer, resolve));
  }

  /** The same, but it is taken back when that time is over, and ends as 'unlinked' then. */
  transferWithin(transfer: Transfer, milliseconds: number): Promise<TransferResult> {
    const submit = (done: (result: TransferResult) => void) => this.submit(transfer, done);
    return transferWithin(submit, (pending) => this.unlink(pending), milliseconds);
  }

  /** See `FrontEnd.handled`. */
  handled(pending: Pending): void {
    this.#frontEnd.handled(pending);
  }

  /** See `FrontEnd.overtaken`. */
  overtaken(transfer: Pick<Transfer, 'endpoint' | 'type'>): () => void {
    return this.#frontEnd.overtaken(transfer);
  }

  /** Asks for a transfer back; it is done once, as 'unlinked' or as it had ended before. */
  unlink(pending: Pending): void {
    this.#frontEnd.unlink(pending);
  }

  /** Reads no replies until `resume`: for who cannot keep up. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Lets go of the device; outstanding transfers end as 'shutdown'. */
  async close(): Promise<void> {
    this.#socket.destroy();
    await this.closed;
  }

  #receive(chunk: Buffer): void {
    this.#receiving = true;
    try {
      this.#framer.receive(chunk);
    } catch (error) {
      // A handler's own exception is the program's: it goes where exceptions go.
      this.#socket.destroy();
      if (!(error instanceof RemoteProtocolError)) throw error;
    } finally {
      this.#receiving = false;
      this.#sendAll();
    }
  }

  #sendAll(): void {
    const pieces = this.#frontEnd.take();
    if (!this.#socket.destroyed) writeGathered(this.#socket, pieces);
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
  return new RemoteDevice(await importSocket(address, busId, options), options);
}

/** A connection on which a device was granted. */
export interface Granted {
  readonly socket: Socket;
  /** The whole OP_REP_IMPORT. */
  readonly reply: Buffer;
  /** What arrived behind it. */
  readonly rest: Buffer;
  /** Goes on reading; each chunk is valid during the call. */
  readonly listen: (receive: (chunk: Buffer) => void) => void;
}

/**
 * Imports a device and leaves its connection to the caller, which is not read from until `listen`.
 *
 * @throws {UserError} if the server cannot be reached or refuses.
 */
export async function importSocket(
  address: ListenAddress,
  busId: string,
  options: ImportOptions = {},
): Promise<Granted> {
  const what = `Cannot import ${busId} from ${formatAddress(address)}`;
  // The field ends with a NUL, and a longer name would name another device.
  if (Buffer.byteLength(busId) > BUS_ID_OCTETS_MAX) {
    throw new UserError(
      `${what}: a bus id of ${busId.length} octets, at most ${BUS_ID_OCTETS_MAX}`,
    );
  }
  const request = ImportRequest.write({ busId });
  const plain = Buffer.from(request);
  const offered = options.stallProtocol !== false && writeCapabilities(request, CAPABILITIES_KNOWN);
  const answer = await ask(address, what, request);
  if (typeof answer !== 'number') return answer;
  const again = offered && answer !== OPERATION_STATUS.busy;
  const second = again ? await ask(address, what, plain) : answer;
  if (typeof second !== 'number') return second;
  throw new UserError(`${what}: ${reasonOf(second)}`);
}

/** One connection, one import: what was granted, or the status of the refusal. */
function ask(address: ListenAddress, what: string, body: Buffer): Promise<Granted | number> {
  const common = { version: VERSION, code: OPERATION.requestImport, status: 0 };
  return new Promise((resolve, reject) => {
    const options = {
      ...address,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_MILLISECONDS,
    };
    const socket = connectReading(options, READ_MEMORY, (chunk) => receive(chunk));
    let received: Buffer = Buffer.alloc(0);
    const fail = (why: string) => {
      socket.destroy();
      reject(new UserError(`${what}: ${why}`));
    };
    const timer = setTimeout(() => fail('no answer in time'), IMPORT_MILLISECONDS);
    let receive = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < OpCommon.octets) return;
      const { version, code, status } = OpCommon.read(received);
      if (version !== VERSION || code !== OPERATION.replyImport) {
        fail(`the answer is ${hex(version)} ${hex(code)}, wanted an import reply`);
      } else if (status !== OPERATION_STATUS.ok) {
        settle();
        socket.destroy();
        resolve(status);
      } else if (received.length >= REPLY_OCTETS) {
        settle();
        socket.pause(); // until the caller listens
        const reply = received.subarray(0, REPLY_OCTETS);
        const listen = (call: (chunk: Buffer) => void) => {
          receive = call;
          socket.resume();
        };
        resolve({ socket, reply, rest: received.subarray(REPLY_OCTETS), listen });
      }
    };
    const settle = () => {
      clearTimeout(timer);
      receive = () => {};
    };
    socket.on('error', (error) => fail(error.message));
    socket.once('close', () => {
      clearTimeout(timer);
      fail('the connection was closed');
    });
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
