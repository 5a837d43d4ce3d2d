/**
 * A device at a port, as a program sees it: transfers with completion handlers, unlink, and the
 * promise that a driver gets from the Linux USB stack (docs/stall-protocol.md), kept with the retry
 * queue of `src/stall`: against a back end that speaks the stall protocol by retrying what that
 * returns, against any other by holding back what must not overtake.
 */
import { AnswerWatch } from '../core/answer-watch.ts';
import type { Clock } from '../core/clock.ts';
import { UNLINK_MILLISECONDS } from '../core/limits.ts';
import { RetryQueues } from '../core/retry-queues.ts';
import {
  assertValid,
  type Handler,
  isInput,
  replyOf,
  resultOf,
  type Transfer,
  type TransferResult,
  wholeTransfer,
} from '../core/transfer.ts';
import { transferWithin } from '../core/transfer-within.ts';
import { Actions } from '../stall/actions.ts';
import {
  handled,
  overtaken,
  type RetryActionKind,
  type RetryQueue,
  replied,
  submitted,
  unlinked,
} from '../stall/retry-queue.ts';
import { type FrontUrbs, NOT_OUT, type Sending } from './front-urbs.ts';
import { fitsRequest, LongTransfer } from './long-transfer.ts';
import { withoutGaps } from './packet-data.ts';
import type { Pending } from './pending.ts';
import type { PortSpeed } from './usbif.ts';

/** What the device knows of it. One object for each, however often it is sent. */
class Submission implements Pending, Sending {
  readonly port: number;
  readonly transfer: Transfer;
  readonly in: boolean;
  readonly done: Handler;
  readonly queue: RetryQueue<Submission>;
  /** How many were submitted before. */
  readonly order: number;
  result = NOT_ANSWERED;
  clearStall = false;
  requestId = NOT_OUT;
  readonly #onAnswered: (submission: Submission) => void;

  constructor(
    port: number,
    transfer: Transfer,
    done: Handler,
    queue: RetryQueue<Submission>,
    order: number,
    onAnswered: (submission: Submission) => void,
  ) {
    this.port = port;
    this.transfer = transfer;
    this.in = isInput(transfer);
    this.done = done;
    this.queue = queue;
    this.order = order;
    this.#onAnswered = onAnswered;
  }

  answered(result: TransferResult): void {
    this.result = result;
    this.#onAnswered(this);
  }
}

const NOT_ANSWERED = resultOf('unlinked');

export interface RingDeviceOptions {
  readonly port: number;
  readonly speed: PortSpeed;
  /** Whether the back end keeps the queues stopped by itself. */
  readonly stallProtocol: boolean;
  readonly urbs: FrontUrbs;
  /** The back end does not give transfers back: `lost` is to be called. */
  readonly onGivenUp: () => void;
  readonly clock: Clock;
}

export class RingDevice {
  readonly port: number;
  readonly speed: PortSpeed;
  /** Whether the back end keeps the queues stopped by itself. */
  readonly stallProtocol: boolean;
  /** Resolves when the device is gone; all transfers are done then. */
  readonly closed: Promise<void>;
  /**
   * What nothing is sent behind, to a back end without the stall protocol, until it is back. 'all' keeps
   * the promise for errors of every kind, at the price of a round trip for each transfer.
   */
  holdBack: 'short-not-ok' | 'all' = 'short-not-ok';
  readonly #urbs: FrontUrbs;
  readonly #clock: Clock;
  readonly #onGivenUp: () => void;
  /** Those that the back end has not answered. */
  readonly #unlinks: AnswerWatch<Submission>;
  readonly #queues: RetryQueues<Submission>;
  readonly #actions = new Actions<Submission, RetryActionKind>();
  /** Handlers run in here, and may throw. */
  readonly #act = (kind: RetryActionKind, pending: Submission) => this.#carryOutOne(kind, pending);
  readonly #onAnswered = (submission: Submission) => this.#answered(submission);
  #lost = false;
  /** Transfers so far. */
  #submitted = 0;
  /** Transfers that are not given back. */
  #underWay = 0;
  #onQuiet: () => void = () => {};
  #resolveClosed: () => void = () => {};

  /** Front ends make these. */
  constructor(options: RingDeviceOptions) {
    this.port = options.port;
    this.speed = options.speed;
    this.stallProtocol = options.stallProtocol;
    this.#queues = new RetryQueues(this.stallProtocol, this.#actions);
    this.#urbs = options.urbs;
    this.#clock = options.clock;
    this.#onGivenUp = options.onGivenUp;
    this.#unlinks = new AnswerWatch({
      milliseconds: UNLINK_MILLISECONDS,
      clock: this.#clock,
      onLate: () => this.giveUp(),
    });
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  /** False once the device is gone. */
  get isOpen(): boolean {
    return !this.#lost;
  }

  /** Begins a transfer; `done` is called once, never before this returns. */
  submit(asked: Transfer, done: Handler): Pending {
    const transfer = wholeTransfer(asked);
    assertValid(transfer, isInput(transfer));
    const isIsochronous = transfer.packets !== undefined;
    const end: Handler = isIsochronous ? (all) => done(withoutGaps(transfer, all)) : done;
    if (fitsRequest(transfer)) return this.#submit(transfer, end);
    return new LongTransfer(transfer, end, {
      submit: (part, partDone) => this.#submit(part, partDone),
      unlink: (part) => this.unlink(part),
      handled: (part) => this.handled(part),
    });
  }

  #submit(transfer: Transfer, done: Handler): Pending {
    const queue = this.#queues.of(transfer);
    const order = this.#submitted++;
    const pending = new Submission(this.port, transfer, done, queue, order, this.#onAnswered);
    this.#underWay++;
    const guarded = transfer.shortNotOk === true || this.holdBack === 'all';
    submitted(queue, pending, guarded, this.#actions);
    if (this.#lost) queueMicrotask(() => this.#carryOut());
    else this.#carryOut();
    return pending;
  }

  /** The same as a promise: for whoever does not queue. */
  transfer(transfer: Transfer): Promise<TransferResult> {
    return new Promise((resolve) => this.submit(transfer, resolve));
  }

  /**
   * The same, but it is unlinked when that time is over, and ends as 'unlinked' then. A back end that does not
   * answer that within 5 s more has lost the device: this transfer and all others end as 'shutdown'.
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

  /** Waits for the back end no longer: the device is gone, as if it had been unplugged. */
  giveUp(): void {
    if (!this.#lost) this.#onGivenUp();
  }

  /**
   * Asks for a transfer back: it ends as 'unlinked', or as it had ended before. A back end that does not give
   * it back within 21 to 24 s has lost the device.
   */
  unlink(pending: Pending): void {
    if (pending instanceof LongTransfer) {
      pending.unlink();
      return;
    }
    const submission = pending as Submission;
    unlinked(submission.queue, submission, this.#actions);
    this.#carryOut();
  }

  /** What a handler that returned 'later' has begun is done. */
  handled(pending: Pending): void {
    if (pending instanceof LongTransfer) {
      pending.handled();
      return;
    }
    handled((pending as Submission).queue, this.#actions);
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

  /**
   * Takes back all that is under way, and waits for no handler any more: the next user of the device
   * finds its queues as after plugging in. Resolves when all is back; nobody may submit meanwhile.
   */
  async release(): Promise<void> {
    for (const one of this.#queues.transfers()) this.unlink(one);
    if (this.#underWay > 0) {
      await new Promise<void>((resolve) => {
        this.#onQuiet = resolve;
      });
    }
    if (!this.#lost) this.#queues.clear();
  }

  /** The device, or the connection, is gone: every transfer ends as 'shutdown'. */
  lost(): void {
    if (this.#lost) return;
    this.#lost = true;
    this.#unlinks.end();
    this.#urbs.forget(this.port);
    this.#queues.lost();
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
        else this.#unlinks.asked(pending);
        break;
      case 'giveBack':
        this.#giveBack(pending, pending.result);
        break;
      case 'giveBackUnlinked':
        this.#giveBack(pending, resultOf('unlinked'));
        break;
      case 'giveBackFailed':
        this.#giveBack(pending, resultOf('protocol-error'));
        break;
      case 'giveBackLost':
        this.#giveBack(pending, resultOf('shutdown'));
        break;
    }
  }

  #answered(submission: Submission): void {
    this.#unlinks.answered(submission);
    const reply = replyOf(submission.result, this.stallProtocol);
    replied(submission.queue, submission, reply, this.#actions);
    this.#carryOut();
  }

  /** The handler may submit and unlink; what that brings about is worked off after it. */
  #giveBack(pending: Submission, result: TransferResult): void {
    let answer: unknown;
    try {
      answer = pending.done(result);
    } finally {
      if (answer !== 'later') handled(pending.queue, this.#actions);
      if (--this.#underWay === 0) this.#onQuiet();
    }
  }
}
