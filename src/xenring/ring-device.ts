/**
 * A device at a port, as a program sees it: transfers with completion handlers, unlink, and the
 * promise that a driver gets from the Linux USB stack (docs/stall-protocol.md), kept with the retry
 * queue of `src/stall`: against a back end that speaks the stall protocol by retrying what that
 * returns, against any other by holding back what must not overtake.
 */
import { assert } from '../core/assert.ts';
import { STOPS_ON } from '../core/stops-on.ts';
import { Actions } from '../stall/actions.ts';
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
import {
  type FrontUrbs,
  ISO_PACKETS_MAX,
  ISOCHRONOUS_OCTETS_MAX,
  NOT_OUT,
  type Sending,
  TRANSFER_OCTETS_MAX,
} from './front-urbs.ts';
import { isInput, lengthOf, resultOf, type Transfer, type TransferResult } from './transfer.ts';
import type { PortSpeed } from './usbif.ts';

/** A transfer under way; `RingDevice.unlink` takes it. */
export interface Pending {
  readonly transfer: Transfer;
  readonly in: boolean;
}

/** What the device knows of it. One object for each, however often it is sent. */
class Submission implements Pending, Sending {
  readonly port: number;
  readonly transfer: Transfer;
  readonly in: boolean;
  readonly done: (result: TransferResult) => void;
  readonly queue: RetryQueue<Submission>;
  result = NOT_ANSWERED;
  clearStall = false;
  requestId = NOT_OUT;
  readonly #onAnswered: (submission: Submission) => void;

  constructor(
    port: number,
    transfer: Transfer,
    done: (result: TransferResult) => void,
    queue: RetryQueue<Submission>,
    onAnswered: (submission: Submission) => void,
  ) {
    this.port = port;
    this.transfer = transfer;
    this.in = isInput(transfer);
    this.done = done;
    this.queue = queue;
    this.#onAnswered = onAnswered;
  }

  answered(result: TransferResult): void {
    this.result = result;
    this.#onAnswered(this);
  }
}

const NOT_ANSWERED = resultOf('unlinked');

export class RingDevice {
  readonly port: number;
  readonly speed: PortSpeed;
  /** Whether the back end keeps the queues stopped by itself. */
  readonly stallProtocol: boolean;
  /** Resolves when the device is gone; all transfers are done then. */
  readonly closed: Promise<void>;
  readonly #urbs: FrontUrbs;
  readonly #queues = new Map<number, RetryQueue<Submission>>();
  readonly #actions = new Actions<Submission, RetryActionKind>();
  /** Handlers run in here, and may throw. */
  readonly #act = (kind: RetryActionKind, pending: Submission) => this.#carryOutOne(kind, pending);
  readonly #onAnswered = (submission: Submission) => this.#answered(submission);
  #lost = false;
  #resolveClosed: () => void = () => {};

  /** Front ends make these. */
  constructor(port: number, speed: PortSpeed, stallProtocol: boolean, urbs: FrontUrbs) {
    this.port = port;
    this.speed = speed;
    this.stallProtocol = stallProtocol;
    this.#urbs = urbs;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  /**
   * Begins a transfer; `done` is called once, never before this returns.
   *
   * @throws {RangeError} if a ring cannot carry it.
   */
  submit(transfer: Transfer, done: (result: TransferResult) => void): Pending {
    check(transfer);
    const queue = this.#queueOf(transfer);
    const pending = new Submission(this.port, transfer, done, queue, this.#onAnswered);
    submitted(queue, pending, transfer.shortNotOk ?? false, this.#actions);
    if (this.#lost) queueMicrotask(() => this.#carryOut());
    else this.#carryOut();
    return pending;
  }

  /** The same as a promise: for whoever does not queue. */
  transfer(transfer: Transfer): Promise<TransferResult> {
    return new Promise((resolve) => this.submit(transfer, resolve));
  }

  /** Asks for a transfer back: it ends as 'unlinked', or as it had ended before. */
  unlink(pending: Pending): void {
    const submission = pending as Submission;
    unlinked(submission.queue, submission, this.#actions);
    this.#carryOut();
  }

  /** The device, or the connection, is gone: every transfer ends as 'shutdown'. */
  lost(): void {
    if (this.#lost) return;
    this.#lost = true;
    this.#urbs.forget(this.port);
    for (const queue of this.#queues.values()) connectionLost(queue, this.#actions);
    this.#carryOut();
    this.#resolveClosed();
  }

  #carryOut(): void {
    const done = this.#actions.drain(this.#act);
    if (done && !this.#lost) this.#urbs.push();
  }

  #carryOutOne(kind: RetryActionKind, pending: Submission): void {
    switch (kind) {
      case 'send':
      case 'sendClear':
        pending.clearStall = kind === 'sendClear';
        this.#urbs.send(pending);
        break;
      case 'sendUnlink':
        // If it has not left yet, nobody will answer.
        if (this.#urbs.unlink(pending)) pending.answered(resultOf('unlinked'));
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

  #answered(submission: Submission): void {
    const reply = replyOf(submission.result, this.stallProtocol);
    replied(submission.queue, submission, reply, this.#actions);
    this.#carryOut();
  }

  /** The handler may submit and unlink; what that brings about is worked off after it. */
  #giveBack(pending: Submission, result: TransferResult): void {
    try {
      pending.done(result);
    } finally {
      handled(pending.queue, this.#actions);
    }
  }

  #queueOf({ endpoint, type }: Transfer): RetryQueue<Submission> {
    let queue = this.#queues.get(endpoint);
    if (queue === undefined) {
      queue = retryQueue(STOPS_ON[type], this.stallProtocol ? 'stall-protocol' : 'old');
      if (this.#lost) connectionLost(queue, this.#actions);
      this.#queues.set(endpoint, queue);
    }
    return queue;
  }
}

function check(transfer: Transfer): void {
  const { type, setup, packets } = transfer;
  assert((type === 'control') === (setup !== undefined), 'Cannot submit: setup is for control');
  assert((type === 'isochronous') === (packets !== undefined), 'Cannot submit: packets missing');
  assert(!(transfer.shortNotOk && !isInput(transfer)), 'Cannot submit: short-not-ok is for IN');
  const octets = lengthOf(transfer);
  const most = packets === undefined ? TRANSFER_OCTETS_MAX : ISOCHRONOUS_OCTETS_MAX;
  if (octets > most) {
    throw new RangeError(`Cannot submit: ${octets} octets, a ring carries at most ${most}`);
  }
  if ((packets?.length ?? 0) > ISO_PACKETS_MAX) {
    throw new RangeError(`Cannot submit: ${packets?.length} packets, at most ${ISO_PACKETS_MAX}`);
  }
}

/** What a reply means to the queue. */
function replyOf({ status, actualOctets }: TransferResult, stallProtocol: boolean): Reply {
  if (status === 'ok' || status === 'short') return status;
  if (status !== 'unlinked' || actualOctets > 0) return 'error';
  return stallProtocol ? 'returned' : 'unlinked';
}
