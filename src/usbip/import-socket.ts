/**
 * A connection to a USB/IP server, with a device imported.
 *
 * The server is asked for the stall protocol (extension.ts). One that refuses the request may have
 * compared all 32 octets of the bus id, so it is asked once more without.
 */
import type { Socket } from 'node:net';
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

/** For connecting and importing. */
const IMPORT_MILLISECONDS = 10_000;
/** A silent server is probed after this time, then each second; ten probes lost end it. */
const KEEPALIVE_MILLISECONDS = 10_000;
/** What fits the field of OP_REQ_IMPORT, with its NUL. */
const BUS_ID_OCTETS_MAX = 31;
/** Octets asked of the kernel in one read; all connections share the memory. */
const READ_MEMORY = Buffer.allocUnsafeSlow(256 * 1024);
const REPLY_OCTETS = OpCommon.octets + DeviceRecord.octets;

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
  options: { readonly stallProtocol?: boolean | undefined },
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
