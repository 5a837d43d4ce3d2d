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
import { strict as assert } from 'node:assert';
import { RemoteProtocolError } from '../core/errors.ts';
import { Actions } from '../stall/actions.ts';
import type { StopsOn } from '../stall/endpoint-queue.ts';
import {
  connectionLost,
  handled,
  type Reply,
  type RetryActionKind,
  type RetryQueue,
  replied,
  retryQueue,
  submitted,
  unlinked,
} from '../stall/retry-queue.ts';
import { CLEAR_STALL_FLAG } from './extension.ts';
import type { FrameHandler } from './framer.ts';
import {
  CmdSubmit,
  CmdUnlink,
  COMMAND,
  DIRECTION,
  HEADER_OCTETS,
  RetSubmit,
  RetUnlink,
  TRANSFER_FLAG,
} from './protocol.ts';
import { ERRNO_BY_STATUS, statusOf } from './status.ts';
import { isInput, NO_OCTETS, resultOf, type Transfer, type TransferResult } from './transfer.ts';

const NO_SETUP = Buffer.alloc(8);
const NO_PADDING = Buffer.alloc(24);

/** A transfer under way; `FrontEnd.unlink` takes it. */
export interface Pending {
  readonly transfer: Transfer;
  readonly in: boolean;
  readonly done: (result: TransferResult) => void;
  /** Of its last CMD_SUBMIT. */
  seqnum: number;
  result: TransferResult;
}

export interface FrontEndOptions {
  readonly deviceId: number;
  /** Agreed upon with the server; see extension.ts. */
  readonly stallProtocol: boolean;
  /** Sends octets, in order. */
  readonly send: (octets: Uint8Array) => void;
}

/** As in the kernel-doc of usb_unlink_urb; bulk and interrupt stop on any error. */
const STOPS_ON: Readonly<Record<Transfer['type'], StopsOn>> = {
  control: 'errors-but-short',
  bulk: 'errors',
  interrupt: 'errors',
};

export class FrontEnd implements FrameHandler {
  readonly headerOctets = HEADER_OCTETS;
  readonly keepBody = true;
  readonly #options: FrontEndOptions;
  readonly #queues = new Map<number, RetryQueue<Pending>>();
  readonly #bySeqnum = new Map<number, Pending>();
  /** Unlinks without their reply: seqnum of the unlink, and whose it is. */
  readonly #unlinks = new Map<number, Pending>();
  readonly #actions = new Actions<Pending, RetryActionKind>();
  #seqnum = 0;
  #carryingOut = false;
  #lost = false;
  /** The transfer whose reply's body is awaited. */
  #arriving: Pending | undefined;

  constructor(options: FrontEndOptions) {
    this.#options = options;
  }

  /** Transfers that are not done. */
  get outstandingCount(): number {
    return this.#bySeqnum.size;
  }

  /** Begins a transfer; `done` is called once, never before this returns. */
  submit(transfer: Transfer, done: (result: TransferResult) => void): Pending {
    const isIn = isInput(transfer);
    assert(!(transfer.shortNotOk && !isIn), 'Cannot submit: short-not-ok is for IN transfers');
    assert((transfer.type === 'control') === (transfer.setup !== undefined));
    const pending = { transfer, in: isIn, done, seqnum: 0, result: resultOf('unlinked') };
    submitted(this.#queueOf(transfer), pending, transfer.shortNotOk ?? false, this.#actions);
    if (this.#lost) queueMicrotask(() => this.#carryOut());
    else this.#carryOut();
    return pending;
  }

  /** Asks for a transfer back: it ends as 'unlinked', or as it had ended before. */
  unlink(pending: Pending): void {
    unlinked(this.#queueOf(pending.transfer), pending, this.#actions);
    this.#carryOut();
  }

  /** The connection is gone: every transfer ends as 'shutdown'. */
  lost(): void {
    if (this.#lost) return;
    this.#lost = true;
    this.#bySeqnum.clear();
    this.#unlinks.clear();
    for (const queue of this.#queues.values()) connectionLost(queue, this.#actions);
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

  body(octets: Buffer, pooled: boolean): void {
    const pending = this.#arriving;
    assert(pending !== undefined);
    this.#arriving = undefined;
    // A chunk's memory is used again; what was gathered for this body is its own.
    this.#replied(pending, { ...pending.result, data: pooled ? octets : Buffer.from(octets) });
  }

  #submitReply(view: DataView, at: number): number {
    const seqnum = view.getUint32(at + RetSubmit.offsets.seqnum);
    const pending = this.#bySeqnum.get(seqnum);
    if (pending === undefined) {
      throw new RemoteProtocolError(
        'unknown-seqnum',
        `Cannot accept reply ${seqnum}: nothing with this number is outstanding`,
      );
    }
    const actualOctets = view.getUint32(at + RetSubmit.offsets.actualLength);
    const room = pending.in ? (pending.transfer.octets ?? 0) : (pending.transfer.data?.length ?? 0);
    if (actualOctets > room) {
      throw new RemoteProtocolError(
        'bad-length',
        `Cannot accept reply ${seqnum}: ${actualOctets} octets, at most ${room}`,
      );
    }
    this.#bySeqnum.delete(seqnum);
    const status = statusOf(view.getInt32(at + RetSubmit.offsets.status));
    pending.result = { status, actualOctets, data: NO_OCTETS };
    if (pending.in && actualOctets > 0) {
      this.#arriving = pending;
      return actualOctets;
    }
    this.#replied(pending, pending.result);
    return 0;
  }

  /** A transfer that is still outstanding comes back for the unlink; others have had their reply. */
  #unlinkReply(view: DataView, at: number): void {
    const seqnum = view.getUint32(at + RetUnlink.offsets.seqnum);
    const pending = this.#unlinks.get(seqnum);
    this.#unlinks.delete(seqnum);
    if (pending === undefined || this.#bySeqnum.get(pending.seqnum) !== pending) return;
    this.#bySeqnum.delete(pending.seqnum);
    this.#replied(pending, resultOf('unlinked'));
  }

  #replied(pending: Pending, result: TransferResult): void {
    pending.result = result;
    const reply = replyOf(result, this.#options.stallProtocol);
    replied(this.#queueOf(pending.transfer), pending, reply, this.#actions);
    this.#carryOut();
  }

  #carryOut(): void {
    if (this.#carryingOut) return;
    this.#carryingOut = true;
    const actions = this.#actions;
    try {
      for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
        this.#carryOutOne(kind, actions.subject);
      }
    } finally {
      this.#carryingOut = false; // a handler may throw; what is left is done with the next event
    }
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
        this.#giveBack(pending, resultOf('unlinked'));
        break;
      case 'giveBackLost':
        this.#giveBack(pending, resultOf('shutdown'));
        break;
    }
  }

  /** The handler may submit and unlink; what that brings about is worked off after it. */
  #giveBack(pending: Pending, result: TransferResult): void {
    try {
      pending.done(result);
    } finally {
      handled(this.#queueOf(pending.transfer), this.#actions);
    }
  }

  #send(pending: Pending, clearStall: boolean): void {
    const { transfer } = pending;
    pending.seqnum = this.#nextSeqnum();
    this.#bySeqnum.set(pending.seqnum, pending);
    const flags =
      (transfer.shortNotOk ? TRANSFER_FLAG.shortNotOk : 0) |
      (transfer.zeroPacket ? TRANSFER_FLAG.zeroPacket : 0) |
      (pending.in ? TRANSFER_FLAG.directionIn : 0);
    const header = CmdSubmit.write({
      ...this.#commonOf(COMMAND.submit, pending.seqnum),
      direction: pending.in ? DIRECTION.in : DIRECTION.out,
      endpoint: transfer.endpoint & 15,
      transferFlags: clearStall ? flags + CLEAR_STALL_FLAG : flags,
      transferBufferLength: pending.in ? (transfer.octets ?? 0) : (transfer.data?.length ?? 0),
      startFrame: 0,
      numberOfPackets: 0,
      interval: 0,
      setup: transfer.setup ?? NO_SETUP,
    });
    this.#options.send(header);
    if (!pending.in && transfer.data !== undefined) this.#options.send(transfer.data);
  }

  #sendUnlink(pending: Pending): void {
    const seqnum = this.#nextSeqnum();
    this.#unlinks.set(seqnum, pending);
    const common = this.#commonOf(COMMAND.unlink, seqnum);
    const victim = pending.seqnum;
    const rest = { direction: DIRECTION.out, endpoint: 0, victim, padding: NO_PADDING };
    this.#options.send(CmdUnlink.write({ ...common, ...rest }));
  }

  #commonOf(command: number, seqnum: number) {
    return { command, seqnum, deviceId: this.#options.deviceId };
  }

  #nextSeqnum(): number {
    do this.#seqnum = (this.#seqnum + 1) >>> 0;
    while (this.#bySeqnum.has(this.#seqnum) || this.#unlinks.has(this.#seqnum));
    return this.#seqnum;
  }

  #queueOf({ endpoint, type }: Transfer): RetryQueue<Pending> {
    let queue = this.#queues.get(endpoint);
    if (queue === undefined) {
      queue = retryQueue(STOPS_ON[type], this.#options.stallProtocol ? 'stall-protocol' : 'old');
      if (this.#lost) connectionLost(queue, this.#actions);
      this.#queues.set(endpoint, queue);
    }
    return queue;
  }
}

/** What a reply means to the queue. */
function replyOf({ status, actualOctets }: TransferResult, stallProtocol: boolean): Reply {
  if (status === 'ok' || status === 'short') return status;
  if (ERRNO_BY_STATUS[status] !== ERRNO_BY_STATUS.unlinked || actualOctets > 0) return 'error';
  return stallProtocol ? 'returned' : 'unlinked';
}
