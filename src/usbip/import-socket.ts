/**
 * A connection to a USB/IP server, with a device imported.
 *
 * The server is asked for the stall protocol (extension.ts). One that refuses the request may have
 * compared all 32 octets of the bus id, so it is asked once more without.
 */
import type { Socket } from 'node:net';
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import { CAPABILITIES_KNOWN, writeCapabilities } from './extension.ts';
import { hex } from './operations.ts';
import {
  DeviceRecord,
  ImportRequest,
  OPERATION,
  OPERATION_STATUS,
  OpCommon,
  VERSION,
} from './protocol.ts';
import { formatAddress, type ListenAddress } from './server.ts';
import { connectReading } from './sockets.ts';

/** For connecting and importing, both tries together. */
const IMPORT_MILLISECONDS = 10_000;
/** A silent server is probed after this time, then each second; ten probes lost end it. */
const KEEPALIVE_MILLISECONDS = 10_000;
/** What fits the field of OP_REQ_IMPORT, with its NUL. */
const BUS_ID_OCTETS_MAX = 31;
/** Octets asked of the kernel in one read; all connections share the memory. */
const READ_MEMORY = Buffer.allocUnsafeSlow(256 * 1024);
const REPLY_OCTETS = OpCommon.octets + DeviceRecord.octets;

export interface ImportSocketOptions {
  readonly stallProtocol?: boolean | undefined;
  readonly milliseconds?: number | undefined;
  readonly clock?: Clock | undefined;
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
  options: ImportSocketOptions,
): Promise<Granted> {
  const { milliseconds = IMPORT_MILLISECONDS, clock = systemClock } = options;
  const end = clock.now() + milliseconds;
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
  const answer = await ask(address, what, request, end, clock);
  if (typeof answer !== 'number') return answer;
  const again = offered && answer !== OPERATION_STATUS.busy;
  const second = again ? await ask(address, what, plain, end, clock) : answer;
  if (typeof second !== 'number') return second;
  throw new UserError(`${what}: ${reasonOf(second)}`);
}

/** One connection, one import, until `end`: what was granted, or the status of the refusal. */
function ask(
  address: ListenAddress,
  what: string,
  body: Buffer,
  end: number,
  clock: Clock,
): Promise<Granted | number> {
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
    const cancel = clock.after(Math.max(0, end - clock.now()), () => fail('no answer in time'));
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
      cancel();
      receive = () => {};
    };
    socket.on('error', (error) => fail(error.message));
    socket.once('close', () => {
      cancel();
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
