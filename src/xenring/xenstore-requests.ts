/**
 * Requests to a store and the replies to them, without the connection below.
 *
 * Some requests are out at a time and matched by their id; more wait here, in order. The kernel's
 * /dev/xen/xenbus has two ways of its own. It keeps what is written in one buffer until xenstored
 * has it, and a second message written meanwhile takes the place of the first: there, one request
 * may be out. And it answers watch and unwatch by itself, with id 0, in the order in which it got
 * them: so no request has id 0, and a reply to one of these two with id 0 belongs to the oldest of
 * its type.
 *
 * A reply that fits no request is the end: what follows could not be trusted either.
 */
import { AnswerWatch } from '../core/answer-watch.ts';
import type { Clock } from '../core/clock.ts';
import {
  decodeStrings,
  encodeMessage,
  MessageReader,
  STORE_TYPE,
  StoreError,
  type StoreErrorCode,
  type StoreMessage,
} from './xenstore-wire.ts';

/**
 * Requests that may be out at a time. xenstored stops reading from a domain with more than 20 (its
 * quota "outstanding").
 */
export const IN_FLIGHT_MAX = { socket: 16, device: 1 } as const;

/** For one answer; a store that takes longer is given up. */
export const ANSWER_MILLISECONDS = 30_000;

export interface RequestsEnds {
  readonly inFlightMax: number;
  /** Sends one message. @throws {StoreError} if this message cannot be sent. */
  readonly send: (message: Buffer) => void;
  readonly onWatchEvent: (path: string, token: string) => void;
  readonly clock: Clock;
  /** The store does not answer; call `fail` then. */
  readonly onSilent: (reason: string) => void;
}

interface Request {
  readonly id: number;
  readonly type: number;
  readonly message: Buffer;
  readonly what: string;
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (error: StoreError) => void;
}

export class StoreRequests {
  readonly #ends: RequestsEnds;
  readonly #reader = new MessageReader();
  readonly #inFlight = new Map<number, Request>();
  readonly #waiting: Request[] = [];
  readonly #answers: AnswerWatch<Request>;
  #lastId = 0;
  #failure: StoreError | null = null;

  constructor(ends: RequestsEnds) {
    this.#ends = ends;
    this.#answers = new AnswerWatch({
      milliseconds: ANSWER_MILLISECONDS,
      clock: ends.clock,
      onLate: () => ends.onSilent(`no answer in ${ANSWER_MILLISECONDS / 1000} s`),
    });
  }

  /**
   * Asks the store. `what` is for messages: "read /path".
   *
   * Rejects with a `StoreError`: the store's own, or ECONNRESET after the connection's end.
   */
  async request(
    type: number,
    transactionId: number,
    payload: Buffer,
    what: string,
  ): Promise<Buffer> {
    if (this.#failure !== null) throw this.#failure;
    this.#lastId = (this.#lastId % 0xffff_fffe) + 1;
    const id = this.#lastId;
    const message = encodeMessage(type, id, transactionId, payload);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ id, type, message, what, resolve, reject });
      this.#sendMore();
    });
  }

  /** @throws {StoreError} EPROTO if the store broke the protocol; call `fail` with it then. */
  receive(chunk: Buffer): void {
    for (const message of this.#reader.receive(chunk)) {
      if (this.#failure !== null) return;
      if (message.type === STORE_TYPE.watchEvent) {
        const [path, token] = decodeStrings(message.payload);
        if (path === undefined || token === undefined)
          throw new StoreError('EPROTO', 'Cannot take a watch event: it has no path and token');
        this.#ends.onWatchEvent(path, token);
      } else this.#settle(message);
    }
    this.#sendMore();
  }

  /** The connection has gone: so have all requests. */
  fail(error: StoreError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#answers.end();
    for (const { reject } of [...this.#inFlight.values(), ...this.#waiting]) reject(error);
    this.#inFlight.clear();
    this.#waiting.length = 0;
  }

  #sendMore(): void {
    while (this.#inFlight.size < this.#ends.inFlightMax) {
      const request = this.#waiting.shift();
      if (request === undefined) return;
      this.#inFlight.set(request.id, request);
      this.#answers.asked(request);
      try {
        this.#ends.send(request.message);
      } catch (error) {
        this.#inFlight.delete(request.id);
        this.#answers.answered(request);
        if (!(error instanceof StoreError)) throw error;
        request.reject(new StoreError(error.code, `Cannot ${request.what}: ${error.message}`));
      }
    }
  }

  #settle(message: StoreMessage): void {
    const request = this.#find(message);
    if (request === undefined)
      throw new StoreError(
        'EPROTO',
        `Cannot take a store reply: type ${message.type}, id ${message.requestId}, nobody asked`,
      );
    this.#inFlight.delete(request.id);
    this.#answers.answered(request);
    if (message.type === STORE_TYPE.error) {
      const code = (decodeStrings(message.payload)[0] ?? 'EIO') as StoreErrorCode;
      request.reject(new StoreError(code, `Cannot ${request.what}: ${code}`));
    } else request.resolve(message.payload);
  }

  #find({ type, requestId }: StoreMessage): Request | undefined {
    const request = this.#inFlight.get(requestId);
    if (request !== undefined) {
      return type === request.type || type === STORE_TYPE.error ? request : undefined;
    }
    if (requestId !== 0 || (type !== STORE_TYPE.watch && type !== STORE_TYPE.unwatch))
      return undefined;
    for (const one of this.#inFlight.values()) if (one.type === type) return one;
    return undefined;
  }
}
