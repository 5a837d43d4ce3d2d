/**
 * The queue of one endpoint at a client that speaks the stall protocol: it retries what the gateway
 * returned, when the driver has had its say.
 *
 * Why: the gateway's queue stops when a transfer ends with an error or is unlinked, and fails back
 * as 'returned' all that it has not started (endpoint-queue.ts, recovery 'return'). The driver must
 * not see those returns: to it, its transfers are still queued, behind one that failed. So they are
 * collected here until the completion handlers have run, and with them any unlink; what is left is
 * sent again, the first transfer with the flag that lets the gateway's queue go on (clear-stall).
 *
 * Read first: docs/stall-protocol.md.
 *
 * The machine is driven by events (`submitted`, `unlinked`, `replied`, `handled`, `connectionLost`);
 * each adds what must be done to an `Actions` list, in order. It does no I/O, reads no clock, and
 * names transfers by objects that it never looks into. Each action that gives a transfer back calls
 * the driver's handler, now or later; when that has returned, `handled` is due, once for each.
 *
 * A transfer is `sent` (at the gateway, or `returned` by it), `waiting` to be sent, or back with
 * the driver; it gets there by exactly one give-back. Invariants, tested as properties:
 * - I1 Between the end of a transfer with an error (or its unlink) and the return of the handlers
 *   of it and of everything those unlink, nothing is sent that the gateway would start.
 * - I2 Every transfer is given back exactly once.
 * - I3 Transfers are sent, and sent again, in the order in which they were submitted.
 * - I4 Only what the gateway says it has not started is ever sent again.
 * - I5 A queue that `stopsOn` nothing (isochronous) sends at once, always.
 * - I6 Nothing waits for ever: it waits for replies and handlers only, and all of these come, or
 *   `connectionLost` does.
 * - I7 A server that only returns has each transfer sent a bounded number of times (`RESTARTS_MAX`).
 *
 * Phases: retry-phases.ts.
 *
 * A gateway may have stopped without this queue knowing (an unlink came too late for a transfer
 * that ended well). Then what is sent next comes back as returned, and is retried like all else.
 *
 * Old servers know nothing of this, and start what they have. There, nothing is sent behind a
 * transfer that must not be overtaken (URB_SHORT_NOT_OK) until that one is back, and nothing new
 * after an error or an unlink until all are back and handled.
 */
import type { Actions } from './actions.ts';
import type { Outcome, StopsOn } from './endpoint-queue.ts';
import { Fifo } from './fifo.ts';
import { RETRY_TRANSITIONS, type RetryPhase } from './retry-phases.ts';

export { RETRY_TRANSITIONS, type RetryPhase };

/** What the other side does when a transfer fails. */
export type Server =
  /** Stops the endpoint's queue until it sees clear-stall. */
  | 'stall-protocol'
  /** Goes on with what it has. */
  | 'old';

/** How the server ended a transfer; 'returned' if it was never started and nobody unlinked it. */
export type Reply = Outcome | 'returned';

/**
 * Retries in a row without any other reply; what the server returns after them has failed. A server that
 * keeps the protocol starts what carries clear-stall: it needs one.
 */
export const RESTARTS_MAX = 8;

export interface RetryQueue<T> {
  /** A transfer's number: whole ones, which rise with each submission. */
  readonly orderOf: (transfer: T) => number;
  readonly stopsOn: StopsOn;
  readonly server: Server;
  phase: RetryPhase;
  /** Sent and not given back, in order. */
  readonly sent: Fifo<T>;
  /** Those of `sent` that the server has returned. */
  readonly returned: Set<T>;
  /** Those of `sent` that the server was asked to unlink. */
  readonly asked: Set<T>;
  /** Submitted by the driver and not sent yet, in order; all behind `sent`. */
  readonly waiting: Fifo<T>;
  /** Old servers: those of `waiting` and `sent` that must not be overtaken. */
  readonly guarded: Set<T>;
  /** Handlers that have not returned. */
  handling: number;
  /** Transfers sent with clear-stall since the server has replied with anything but a return. */
  restarts: number;
}

/**
 * - `send`: submit the transfer to the server.
 * - `sendClear`: the same, with clear-stall.
 * - `sendUnlink`: ask the server for it back; it will reply.
 * - `giveBack`: to the driver, as the server ended it.
 * - `giveBackUnlinked`: to the driver, as unlinked; it was never started.
 * - `giveBackFailed`: to the driver, as a protocol error: the server returns it again and again.
 * - `giveBackLost`: to the driver, as the device is gone.
 */
export type RetryActionKind =
  | 'send'
  | 'sendClear'
  | 'sendUnlink'
  | 'giveBack'
  | 'giveBackUnlinked'
  | 'giveBackFailed'
  | 'giveBackLost';

export type RetryActions<T> = Actions<T, RetryActionKind>;

export function retryQueue<T>(
  stopsOn: StopsOn,
  server: Server,
  orderOf: (transfer: T) => number,
): RetryQueue<T> {
  return {
    orderOf,
    stopsOn,
    server,
    phase: 'running',
    sent: new Fifo(orderOf),
    returned: new Set(),
    asked: new Set(),
    waiting: new Fifo(orderOf),
    guarded: new Set(),
    handling: 0,
    restarts: 0,
  };
}

/** The driver submitted a transfer; `guarded` if nothing may overtake it (URB_SHORT_NOT_OK). */
export function submitted<T>(
  queue: RetryQueue<T>,
  transfer: T,
  guarded: boolean,
  actions: RetryActions<T>,
): void {
  if (guarded && queue.server === 'old' && queue.stopsOn !== 'nothing') queue.guarded.add(transfer);
  switch (queue.phase) {
    case 'running':
      if (queue.waiting.length > 0 || isBlocked(queue)) queue.waiting.push(transfer);
      else send(queue, transfer, 'send', actions);
      break;
    case 'collecting':
      queue.waiting.push(transfer);
      break;
    case 'retrying':
      enter(queue, 'running');
      restart(queue, transfer, actions);
      break;
    case 'lost':
      giveBack(queue, transfer, 'giveBackLost', actions);
      break;
  }
}

/** The driver wants a transfer back that it has not got back yet. */
export function unlinked<T>(queue: RetryQueue<T>, transfer: T, actions: RetryActions<T>): void {
  const place = queue.waiting.find(transfer);
  if (place !== undefined) {
    queue.waiting.remove(place);
    giveBack(queue, transfer, 'giveBackUnlinked', actions);
    stop(queue);
  } else if (queue.returned.delete(transfer)) {
    remove(queue.sent, transfer);
    giveBack(queue, transfer, 'giveBackUnlinked', actions);
  } else if (queue.sent.find(transfer) !== undefined && !queue.asked.has(transfer)) {
    queue.asked.add(transfer);
    actions.add('sendUnlink', transfer);
    // The stall protocol's server stops by itself, if the unlink comes in time.
    if (queue.server === 'old') stop(queue);
  }
}

/** A transfer's unlink has come before it: what is behind waits for its handler, `handled` is due. */
export function overtaken<T>(queue: RetryQueue<T>): void {
  queue.handling++;
  stop(queue);
}

/** The server ended a transfer that was sent; once for each time that it was sent. */
export function replied<T>(
  queue: RetryQueue<T>,
  transfer: T,
  reply: Reply,
  actions: RetryActions<T>,
): void {
  const asked = queue.asked.size > 0 && queue.asked.delete(transfer);
  const returned = reply === 'returned' && mayReturn(queue);
  if (returned && !asked) {
    queue.returned.add(transfer);
    stop(queue);
    retryIfQuiet(queue, actions);
    return;
  }
  if (queue.restarts > 0) queue.restarts = 0;
  remove(queue.sent, transfer);
  giveBack(queue, transfer, returned ? 'giveBackUnlinked' : 'giveBack', actions);
  if (stops(queue, reply)) stop(queue);
  if (queue.phase === 'running' && queue.server === 'old') advance(queue, actions);
}

/** The handler of a transfer that was given back has returned. */
export function handled<T>(queue: RetryQueue<T>, actions: RetryActions<T>): void {
  queue.handling--;
  retryIfQuiet(queue, actions);
}

/** No reply will come any more, and nothing can be sent. */
export function connectionLost<T>(queue: RetryQueue<T>, actions: RetryActions<T>): void {
  enter(queue, 'lost');
  for (const transfer of takeAll(queue)) giveBack(queue, transfer, 'giveBackLost', actions);
  queue.returned.clear();
  queue.asked.clear();
}

/** Nothing is under way or being handled: the queue might as well be a new one. */
export function isIdle<T>({ sent, waiting, handling }: RetryQueue<T>): boolean {
  return sent.length + waiting.length + handling === 0;
}

/** Changes the phase; a change that the table does not have is a bug of this file. */
function enter<T>(queue: RetryQueue<T>, to: RetryPhase): void {
  const from = queue.phase;
  if (from === to) return;
  if (!RETRY_TRANSITIONS.some((one) => one.from === from && one.to === to)) {
    throw new Error(`Cannot change the phase from ${from} to ${to}: there is no such transition`);
  }
  queue.phase = to;
}

function mayReturn<T>(queue: RetryQueue<T>): boolean {
  return queue.server === 'stall-protocol' && queue.stopsOn !== 'nothing';
}

function stops<T>(queue: RetryQueue<T>, reply: Reply): boolean {
  return reply !== 'ok' && (reply !== 'short' || queue.stopsOn === 'errors');
}

function stop<T>(queue: RetryQueue<T>): void {
  if (queue.stopsOn !== 'nothing' && queue.phase !== 'lost') enter(queue, 'collecting');
}

function giveBack<T>(
  queue: RetryQueue<T>,
  transfer: T,
  kind: RetryActionKind,
  actions: RetryActions<T>,
): void {
  if (queue.guarded.size > 0) queue.guarded.delete(transfer);
  queue.handling++;
  actions.add(kind, transfer);
}

function send<T>(
  queue: RetryQueue<T>,
  transfer: T,
  kind: RetryActionKind,
  actions: RetryActions<T>,
): void {
  queue.sent.push(transfer);
  actions.add(kind, transfer);
}

/** Sends with clear-stall. */
function restart<T>(queue: RetryQueue<T>, transfer: T, actions: RetryActions<T>): void {
  queue.restarts++;
  send(queue, transfer, 'sendClear', actions);
}

function retryIfQuiet<T>(queue: RetryQueue<T>, actions: RetryActions<T>): void {
  if (queue.phase !== 'collecting') return;
  if (queue.handling > 0 || queue.returned.size < queue.sent.length) return;
  if (queue.server === 'old') {
    enter(queue, 'running');
    advance(queue, actions);
    return;
  }
  if (queue.restarts >= RESTARTS_MAX && queue.sent.length > 0) {
    queue.returned.clear();
    for (const transfer of queue.sent.cut(0)) giveBack(queue, transfer, 'giveBackFailed', actions);
    return;
  }
  const [first, ...others] = takeAll(queue);
  enter(queue, first === undefined ? 'retrying' : 'running');
  queue.returned.clear();
  if (first !== undefined) restart(queue, first, actions);
  for (const transfer of others) send(queue, transfer, 'send', actions);
}

function takeAll<T>({ sent, waiting }: RetryQueue<T>): T[] {
  return [...sent.cut(sent.start), ...waiting.cut(waiting.start)];
}

/** Old servers: sends up to the next guarded transfer. */
function advance<T>(queue: RetryQueue<T>, actions: RetryActions<T>): void {
  while (!isBlocked(queue)) {
    const next = queue.waiting.shift();
    if (next === undefined) return;
    send(queue, next, 'send', actions);
  }
}

/** Old servers: the last that was sent must not be overtaken. */
function isBlocked<T>(queue: RetryQueue<T>): boolean {
  if (queue.guarded.size === 0 || queue.sent.length === 0) return false;
  return queue.guarded.has(queue.sent.last as T);
}

function remove<E>(list: Fifo<E>, element: E): void {
  const place = list.find(element);
  if (place === undefined) {
    throw new Error('Cannot take a transfer from its queue: it is not there');
  }
  list.remove(place);
}
