/**
 * The client's side of the URB phase, without its socket: transfers in, commands out, replies in,
 * completion handlers called.
 *
 * It keeps the promise that a driver gets from the Linux USB stack (docs/stall-protocol.md), with
 * the retry queue of `src/stall`: against a server that speaks the stall protocol by retrying what
 * that returns, against any other by holding back what must not overtake.
 *
 * A reply is found by its seqnum alone; what else it says is checked before it is used.
 */
import type { AnswerWatch } from '../core/answer-watch.ts';
import { assert } from '../core/assert.ts';
import { RemoteProtocolError } from '../core/errors.ts';
import { keptIn } from '../core/kept-in.ts';
import { RetryQueues } from '../core/retry-queues.ts';
import {
  assertValid,
  type Handler,
  isInput,
  NO_OCTETS,
  replyOf,
  resultOf,
  roomOf,
  type Transfer,
  type TransferResult,
  wholeTransfer,
} from '../core/transfer.ts';
import type { UrbStatus } from '../core/urb.ts';
import { Actions } from '../stall/actions.ts';
import {
  handled,
  overtaken,
  type RetryActionKind,
  replied,
  submitted,
  unlinked,
} from '../stall/retry-queue.ts';
import { CommandWriter } from './command-writer.ts';
import type { FrameHandler } from './framer.ts';
import { packetsOctets, readPackets, withoutGaps } from './front-end-packets.ts';
import type { Pending } from './pending.ts';
import { Pendings } from './pendings.ts';
import { COMMAND, HEADER_OCTETS, RetSubmit, RetUnlink } from './protocol.ts';
import { statusOf } from './status.ts';

const UNLINKED = resultOf('unlinked');
const FAILED = resultOf('protocol-error');
const SHUTDOWN = resultOf('shutdown');

export interface FrontEndOptions {
  readonly deviceId: number;
  /** Agreed upon with the server; see extension.ts. */
  readonly stallProtocol: boolean;
  /**
   * What nothing is sent behind, to a server without the stall protocol, until it is back: default
   * is what says short-not-ok. 'all' keeps the guarantee for errors of every kind, at the price of a
   * round trip for each transfer.
   */
  readonly holdBack?: 'short-not-ok' | 'all';
  /** Watches over unlinks that the server has not answered. */
  readonly unlinks: AnswerWatch<Pending>;
  /** A command was written: there are so many to `take`. */
  readonly onOutput: (commands: number) => void;
}

export class FrontEnd implements FrameHandler {
  readonly headerOctets = HEADER_OCTETS;
  readonly keepBody = true;
  readonly #options: FrontEndOptions;
  readonly #queues: RetryQueues<Pending>;
  readonly #pendings = new Pendings();
  readonly #actions = new Actions<Pending, RetryActionKind>();
  /** Handlers run in here, and may throw. */
  readonly #act = (kind: RetryActionKind, pending: Pending) => this.#carryOutOne(kind, pending);
  readonly #writer: CommandWriter;
  #lost = false;
  /** Transfers so far. */
  #submitted = 0;
  /** The transfer whose reply's body is awaited. */
  #arriving: Pending | undefined;
  #arrivingStatus: UrbStatus = 'ok';

  constructor(options: FrontEndOptions) {
    this.#options = options;
    this.#queues = new RetryQueues(options.stallProtocol, this.#actions);
    this.#writer = new CommandWriter(options.deviceId);
  }

  /** Commands since the last call, in order; for one gathered write. */
  take(): Uint8Array[] {
    return this.#writer.take();
  }

  /** Transfers that are not done. */
  get outstandingCount(): number {
    return this.#pendings.count;
  }

  /** Begins a transfer; `done` is called once, never before this returns. */
  submit(asked: Transfer, done: Handler): Pending {
    const whole = wholeTransfer(asked);
    const isIn = isInput(whole);
    assertValid(whole, isIn);
    const transfer = withoutGaps(whole, isIn);
    const queue = this.#queues.of(transfer);
    const order = this.#submitted++;
    const pending = { queue, transfer, in: isIn, done, order, seqnum: 0, result: UNLINKED };
    const guarded = transfer.shortNotOk === true || this.#options.holdBack === 'all';
    submitted(queue, pending, guarded, this.#actions);
    if (this.#lost) queueMicrotask(() => this.#carryOut());
    else this.#carryOut();
    return pending;
  }

  /** Asks for a transfer back: it ends as 'unlinked', or as it had ended before. */
  unlink(pending: Pending): void {
    unlinked(pending.queue, pending, this.#actions);
    this.#carryOut();
  }

  /** What a handler that returned 'later' has begun is done. */
  handled(pending: Pending): void {
    handled(pending.queue, this.#actions);
    this.#carryOut();
  }

  /**
   * A transfer was unlinked before it was submitted, which it never will be: what is behind it waits
   * until the function that this returns is called.
   */
  overtaken(transfer: Pick<Transfer, 'endpoint' | 'type'>): () => void {
    const queue = this.#queues.of(transfer);
    overtaken(queue);
    return () => {
      handled(queue, this.#actions);
      this.#carryOut();
    };
  }

  /** The connection is gone: every transfer ends as 'shutdown'. */
  lost(): void {
    if (this.#lost) return;
    this.#lost = true;
    this.#options.unlinks.end();
    this.#pendings.clear();
    this.#queues.lost();
    this.#carryOut();
  }

  header(view: DataView, at: number): number {
    const command = view.getUint32(at);
    if (command === COMMAND.unlinkReply) {
      this.#unlinkReply(view, at);
      return 0;
    }
    if (command === COMMAND.submitReply) return this.#submitReply(view, at);
    throw new RemoteProtocolError(
      'bad-command',
      `Cannot accept reply: command ${command}, wanted 3 (submit) or 4 (unlink)`,
    );
  }

  room(octets: number): Buffer | null {
    const { into, packets } = this.#arriving?.transfer ?? {};
    return packets === undefined ? (into?.subarray(0, octets) ?? null) : null;
  }

  copied(chunk: Buffer, start: number, end: number): boolean {
    const { into, packets } = this.#arriving?.transfer ?? {};
    if (packets === undefined) this.#arrived(keptIn(into, chunk, start, end));
    return packets === undefined;
  }

  /** What was gathered for this body, or the chunk's view of isochronous packets. */
  body(octets: Buffer, pooled: boolean): void {
    const { into, packets } = this.#arriving?.transfer ?? {};
    if (packets === undefined) {
      this.#arrived(octets);
      return;
    }
    const pending = this.#takeArriving();
    const own = pooled ? octets : keptIn(undefined, octets);
    const result = readPackets(packets, pending.in, pending.result, own);
    const data = into === undefined ? result.data : keptIn(into, result.data);
    this.#replied(pending, { ...result, data });
  }

  #arrived(data: Buffer): void {
    const pending = this.#takeArriving();
    this.#replied(pending, { status: this.#arrivingStatus, actualOctets: data.length, data });
  }

  #takeArriving(): Pending {
    const pending = this.#arriving;
    assert(pending !== undefined);
    this.#arriving = undefined;
    return pending;
  }

  #submitReply(view: DataView, at: number): number {
    const seqnum = view.getUint32(at + RetSubmit.offsets.seqnum);
    const pending = this.#pendings.get(seqnum);
    if (pending === undefined) {
      throw new RemoteProtocolError(
        'unknown-seqnum',
        `Cannot accept reply ${seqnum}: nothing with this number is outstanding`,
      );
    }
    const actualOctets = view.getUint32(at + RetSubmit.offsets.actualLength);
    const room = roomOf(pending.transfer, pending.in);
    if (actualOctets > room) {
      throw new RemoteProtocolError(
        'bad-length',
        `Cannot accept reply ${seqnum}: ${actualOctets} octets, at most ${room}`,
      );
    }
    const descriptorOctets = packetsOctets(pending.transfer, view, at);
    this.#pendings.remove(pending);
    const said = statusOf(view.getInt32(at + RetSubmit.offsets.status));
    // Some servers leave this to the client, as its USB core would set it right.
    const isShort = said === 'ok' && pending.transfer.shortNotOk && actualOctets < room;
    const status = isShort ? 'short' : said;
    const bodyOctets = (pending.in ? actualOctets : 0) + descriptorOctets;
    if (pending.transfer.packets !== undefined) {
      const startFrame = view.getInt32(at + RetSubmit.offsets.startFrame);
      pending.result = { status, actualOctets, data: NO_OCTETS, packets: [], startFrame };
    }
    if (bodyOctets > 0) {
      this.#arriving = pending;
      this.#arrivingStatus = status;
    } else if (pending.transfer.packets !== undefined) this.#replied(pending, pending.result);
    else this.#replied(pending, { status, actualOctets, data: NO_OCTETS });
    return bodyOctets;
  }

  /** A transfer that is still outstanding comes back for the unlink; others have had their reply. */
  #unlinkReply(view: DataView, at: number): void {
    const seqnum = view.getUint32(at + RetUnlink.offsets.seqnum);
    const pending = this.#pendings.removeUnlink(seqnum);
    if (pending === undefined || !this.#pendings.remove(pending)) return;
    this.#replied(pending, UNLINKED);
  }

  #replied(pending: Pending, result: TransferResult): void {
    pending.result = result;
    this.#options.unlinks.answered(pending);
    const reply = replyOf(result, this.#options.stallProtocol);
    replied(pending.queue, pending, reply, this.#actions);
    this.#carryOut();
  }

  #carryOut(): void {
    this.#actions.drain(this.#act);
  }

  #carryOutOne(kind: RetryActionKind, pending: Pending): void {
    switch (kind) {
      case 'send':
      case 'sendClear':
        this.#send(pending, kind === 'sendClear');
        break;
      case 'sendUnlink':
        this.#sendUnlink(pending);
        break;
      case 'giveBack':
        this.#giveBack(pending, pending.result);
        break;
      case 'giveBackUnlinked':
        this.#giveBack(pending, UNLINKED);
        break;
      case 'giveBackFailed':
        this.#giveBack(pending, FAILED);
        break;
      case 'giveBackLost':
        this.#giveBack(pending, SHUTDOWN);
        break;
    }
  }

  /** The handler may submit and unlink; what that brings about is worked off after it. */
  #giveBack(pending: Pending, result: TransferResult): void {
    let answer: unknown;
    try {
      answer = pending.done(result);
    } finally {
      if (answer !== 'later') handled(pending.queue, this.#actions);
    }
  }

  #send(pending: Pending, clearStall: boolean): void {
    this.#pendings.add(pending);
    this.#writer.submit(pending.seqnum, pending.transfer, pending.in, clearStall);
    this.#options.onOutput(this.#writer.count);
  }

  #sendUnlink(pending: Pending): void {
    this.#options.unlinks.asked(pending);
    this.#writer.unlink(this.#pendings.addUnlink(pending), pending.seqnum);
    this.#options.onOutput(this.#writer.count);
  }
}
