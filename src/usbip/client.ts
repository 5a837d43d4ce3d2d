/** Imports a device from a USB/IP server and gives it to a program. */
import type { Socket } from 'node:net';
import { AnswerWatch } from '../core/answer-watch.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import type { Speed } from '../core/device.ts';
import { RemoteProtocolError } from '../core/errors.ts';
import { UNLINK_MILLISECONDS } from '../core/limits.ts';
import type { Handler, Transfer, TransferResult } from '../core/transfer.ts';
import { transferWithin } from '../core/transfer-within.ts';
import { BufferPool } from './buffer-pool.ts';
import { CAPABILITY, readCapabilities } from './extension.ts';
import { Framer } from './framer.ts';
import { FrontEnd } from './front-end.ts';
import { type Granted, importSocket } from './import-socket.ts';
import { deviceIdOf, pathOf } from './operations.ts';
import type { Pending } from './pending.ts';
import { DeviceRecord, OpCommon, SPEED_NAMES } from './protocol.ts';
import type { RelayDevice } from './relay-device.ts';
import { formatAddress, type ListenAddress } from './server.ts';
import { setUserTimeout, writeGathered } from './sockets.ts';

/** A server that acknowledges nothing for so long is taken for gone. */
const USER_TIMEOUT_MILLISECONDS = 20_000;
/**
 * While the replies of a chunk are handled, commands wait until there are so many, and half of what is under way. If
 * all of them waited, the server would have nothing to do meanwhile, and this program nothing while the server
 * works (docs/decisions/0074, 0077).
 */
const COMMANDS_TOGETHER = 8;

export interface ImportOptions {
  /** Offer the stall protocol; default true. */
  readonly stallProtocol?: boolean;
  /** See `FrontEndOptions.holdBack`. */
  readonly holdBack?: 'short-not-ok' | 'all';
  /**
   * An exception that is no fault of the server's has ended the connection. Default: it goes where
   * exceptions go, for it may be one of the program's own handlers.
   */
  readonly onBug?: (error: unknown) => void;
  /** For connecting and importing; default: 10 s. */
  readonly milliseconds?: number;
  /** Another clock is for tests. */
  readonly clock?: Clock;
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
  readonly #onBug: ((error: unknown) => void) | undefined;
  readonly #flush = () => {
    try {
      this.#sendAll();
    } catch (error) {
      this.#failed(error);
    }
  };
  readonly #clock: Clock;
  /** Commands that handlers bring forth leave together; see `COMMANDS_TOGETHER`. */
  #receiving = false;

  /** Use `importDevice`. */
  constructor({ socket, reply, rest, listen }: Granted, options: ImportOptions) {
    this.#socket = socket;
    this.#onBug = options.onBug;
    this.#clock = options.clock ?? systemClock;
    this.record = DeviceRecord.read(reply, OpCommon.octets);
    const agreed = readCapabilities(pathOf(reply)) ?? 0;
    this.stallProtocol = (agreed & CAPABILITY.stallProtocol) !== 0;
    this.#frontEnd = new FrontEnd({
      deviceId: this.deviceId,
      stallProtocol: this.stallProtocol,
      holdBack: options.holdBack ?? 'short-not-ok',
      unlinks: new AnswerWatch({
        milliseconds: UNLINK_MILLISECONDS,
        clock: this.#clock,
        onLate: () => this.giveUp(),
        counts: () => !socket.isPaused(),
      }),
      onOutput: (commands) => {
        if (this.#receiving) {
          const isHalf = commands * 2 >= this.#frontEnd.outstandingCount;
          if (commands >= COMMANDS_TOGETHER && isHalf) this.#sendAll();
        } else if (commands === 1) process.nextTick(this.#flush);
      },
    });
    this.#framer = new Framer(this.#frontEnd, new BufferPool());
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        try {
          this.#frontEnd.lost();
        } catch (error) {
          this.#failed(error);
        } finally {
          resolve();
        }
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
    return deviceIdOf(this.record);
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

  /**
   * The same, but it is unlinked when that time is over, and ends as 'unlinked' then. A server that does not
   * answer that within 5 s more is given up: this transfer and all others end as 'shutdown'.
   */
  transferWithin(transfer: Transfer, milliseconds: number): Promise<TransferResult> {
    return transferWithin(
      {
        submit: (done: (result: TransferResult) => void) => this.submit(transfer, done),
        unlink: (pending) => this.unlink(pending),
        giveUp: () => this.giveUp(),
      },
      milliseconds,
      this.#clock,
    );
  }

  /** See `FrontEnd.handled`. */
  handled(pending: Pending): void {
    this.#frontEnd.handled(pending);
  }

  /** See `FrontEnd.overtaken`. */
  overtaken(transfer: Pick<Transfer, 'endpoint' | 'type'>): () => void {
    return this.#frontEnd.overtaken(transfer);
  }

  /**
   * Asks for a transfer back; it is done once, as 'unlinked' or as it had ended before. A server that does not
   * give it back within 21 to 24 s is given up.
   */
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

  /** Ends the connection, without a word to the server; outstanding transfers end as 'shutdown'. */
  giveUp(): void {
    this.#socket.destroy();
  }

  /** Lets go of the device; outstanding transfers end as 'shutdown'. */
  async close(): Promise<void> {
    this.giveUp();
    await this.closed;
  }

  #receive(chunk: Buffer): void {
    this.#receiving = true;
    try {
      this.#framer.receive(chunk);
    } catch (error) {
      this.#socket.destroy();
      if (!(error instanceof RemoteProtocolError)) this.#failed(error);
    } finally {
      this.#receiving = false;
      this.#flush();
    }
  }

  #failed(error: unknown): void {
    this.#socket.destroy();
    if (this.#onBug === undefined) throw error;
    this.#onBug(error);
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
