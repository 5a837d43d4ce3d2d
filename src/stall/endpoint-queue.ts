/**
 * The queue of one endpoint at the gateway: it alone decides when a transfer may start.
 *
 * Why: the Linux USB stack promises its drivers that an endpoint's queue stops when a transfer ends
 * with an error or is unlinked, until the completion handlers of that transfer and of everything
 * they unlink have returned (kernel-doc of usb_unlink_urb, drivers/usb/core/urb.c). The handlers
 * run at the client, so the queue here stops until a fence (fence.ts) says that they have run.
 *
 * Read first: docs/stall-protocol.md.
 *
 * The machine is driven by events (`submitted`, `completed`, `unlinked`, `cleared`, `fenceOpened`,
 * `elapsed`, `closed`); each adds what must be done to an `Actions` list, in order, and leaves in
 * `deadline` the time at which it wants `elapsed`. It does no I/O, reads no clock, and names
 * transfers by objects that it never looks into. Time is milliseconds of any clock that does not
 * go back. It may be any number where `needsTime` says so: the common path reads no clock.
 *
 * A transfer is `waiting` here, in `flight` at the device, `ended` but not reported yet, or back
 * with the client; it gets there by exactly one give-back. Invariants, tested as properties:
 *
 * - I1 Between the end of a transfer with an error (or its unlink) and the opening of the fence, no
 *   other transfer of the endpoint starts.
 * - I2 Every transfer is given back exactly once.
 * - I3 Transfers start in the order in which they were submitted.
 * - I4 A transfer that moved octets is given back as the device completed it, never started again.
 * - I5 A queue that `stopsOn` nothing (isochronous) never waits for a fence.
 * - I6 Every hold ends: when all that it holds is unlinked, by `cleared`, `fenceOpened`, `closed`,
 *   or at its deadline.
 *
 * Phases: `TRANSITIONS` below. What the table cannot say: a transfer that is unlinked before it
 * started leaves a barrier at its place (barriers.ts). What is ahead of it goes on, what is behind
 * waits for the fence.
 */
import type { Actions } from './actions.ts';
import {
  Barrier,
  dropBarriers,
  isEnd,
  type Line,
  lowerBarriers,
  putBarrier,
  putBarrierFirst,
  putBarrierLast,
  raiseLastBarrier,
  takeBarriers,
} from './barriers.ts';
import {
  arrived,
  arrivedInHold,
  barrierMilliseconds,
  beginHold,
  beginSettling,
  beginUnlinkHold,
  clearedInHold,
  type Evidence,
  type Fence,
  fence,
  holdUntil,
  isAnswer,
  isExact,
  opened,
  type Recovery,
  ranOut,
  settle,
  unlinkedInHold,
} from './fence.ts';
import { Fifo } from './fifo.ts';

/** Which ends of a transfer stop the queue: none for isochronous, all but a short read for control. */
export type StopsOn = 'nothing' | 'errors' | 'errors-but-short';

/** How the device ended a transfer; if it was taken back: 'unlinked' had moved no octets, 'partial' some. */
export type Outcome = 'ok' | 'short' | 'error' | 'unlinked' | 'partial';

export type Phase = 'running' | 'stopping' | 'settling' | 'holding';

export interface Transition<P> {
  readonly from: P;
  readonly to: P;
  readonly when: string;
}

/** All there are: `enter` refuses others. docs/stall-protocol.md prints them. */
export const TRANSITIONS: readonly Transition<Phase>[] = [
  { from: 'running', to: 'stopping', when: 'error, or unlink of one in flight' },
  { from: 'running', to: 'holding', when: 'a barrier is reached, or an unlink overtook its URB' },
  { from: 'stopping', to: 'settling', when: 'all of the flight is back, after an error' },
  { from: 'stopping', to: 'holding', when: 'all of it is back; what ended is reported' },
  { from: 'stopping', to: 'running', when: 'the same, and the client speaks the stall protocol' },
  { from: 'settling', to: 'holding', when: 'nothing arrived for a while; the error is reported' },
  { from: 'holding', to: 'running', when: 'the fence opens' },
];

/**
 * - `start`: submit the transfer to the device.
 * - `cancel`: ask the device for it back; it will complete.
 * - `giveBack`: report it to the client as the device completed it.
 * - `giveBackUnlinked`: report it as unlinked; the device has never seen it.
 * - `giveBackReturned`: report it as returned; the client is to submit it again.
 */
export type ActionKind = 'start' | 'cancel' | 'giveBack' | 'giveBackUnlinked' | 'giveBackReturned';

export type QueueActions<T> = Actions<T, ActionKind>;

export interface EndpointQueue<T> extends Line<T> {
  /** A transfer's number: whole ones, which rise with each submission. */
  readonly orderOf: (transfer: T) => number;
  /** How many transfers the device may have at a time. */
  readonly flightMax: number;
  /** While such a transfer is at the device, none may be behind it. */
  readonly blocks: (transfer: T) => boolean;
  readonly stopsOn: StopsOn;
  /** The client speaks the stall protocol. */
  readonly returns: boolean;
  readonly fence: Fence;
  phase: Phase;
  readonly flight: T[];
  /** Those in flight that the client wants back; the others were cancelled by the queue. */
  readonly asked: T[];
  /** The end of the flight that is being taken back, because one in it was unlinked. */
  readonly cut: T[];
  /** Completed while stopping or settling; to be reported. */
  readonly ended: T[];
  /** The stop was caused by an error, so that its report has to settle. */
  failed: boolean;
  /** Fail back what arrives without clear-stall. */
  returning: boolean;
}

export function endpointQueue<T>(
  flightMax: number,
  stopsOn: StopsOn,
  recovery: Recovery,
  orderOf: (transfer: T) => number,
  blocks: (transfer: T) => boolean = () => false,
): EndpointQueue<T> {
  return {
    orderOf,
    flightMax,
    blocks,
    stopsOn: recovery.kind === 'none' ? 'nothing' : stopsOn,
    returns: recovery.kind === 'return',
    fence: fence(recovery),
    phase: 'running',
    waiting: waitingLine(orderOf),
    barriers: 0,
    fresh: new Set(),
    lowered: Number.NEGATIVE_INFINITY,
    flight: [],
    asked: [],
    cut: [],
    ended: [],
    failed: false,
    returning: false,
  };
}

/** For `waiting`. */
export function waitingLine<T>(
  orderOf: (transfer: T) => number,
  elements: Iterable<T | Barrier> = [],
): Fifo<T | Barrier> {
  return new Fifo((one) => (one instanceof Barrier ? one.order : orderOf(one)), elements);
}

/** When `elapsed` is wanted; Infinity for never. */
export function deadlineOf<T>(queue: EndpointQueue<T>): number {
  return queue.fence.deadline;
}

/** False while nothing has gone wrong: the `now` of the next event is then not looked at. */
export function needsTime<T>(queue: EndpointQueue<T>): boolean {
  return queue.phase !== 'running' || queue.barriers > 0 || queue.cut.length > 0;
}

/** The client submitted a transfer; `clearStall` is its flag in the stall protocol. */
export function submitted<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  clearStall: boolean,
  evidence: Evidence,
  now: number,
  actions: QueueActions<T>,
): void {
  if (clearStall) queue.returning = false;
  if (queue.returning) {
    actions.add('giveBackReturned', transfer);
    return;
  }
  const others = queue.waiting.length - queue.barriers + queue.flight.length + queue.ended.length;
  arrived(queue.fence, others);
  if (queue.phase === 'running') {
    if (queue.waiting.length === 0 && mayStart(queue)) {
      queue.flight.push(transfer);
      actions.add('start', transfer);
    } else {
      if (queue.barriers > 0) arrivedBehindBarrier(queue, others + 1, evidence, now);
      queue.waiting.push(transfer);
    }
    return;
  }
  queue.waiting.push(transfer);
  if (queue.phase === 'settling') settle(queue.fence, now);
  else if (queue.phase === 'holding') {
    if (arrivedInHold(queue.fence, queue.waiting.length, evidence, now)) {
      resume(queue, now, actions);
    } else {
      markHeld(queue);
    }
  }
}

/** One arrives, as one of `here`, while barriers stand. */
function arrivedBehindBarrier<T>(
  queue: EndpointQueue<T>,
  here: number,
  evidence: Evidence,
  now: number,
): void {
  const { fence } = queue;
  // It was under way when the one whose barrier stands last was unlinked.
  if (evidence === 'sent-before-report') raiseLastBarrier(queue, now + fence.patience);
  if (isAnswer(fence, here, evidence)) lowerBarriers(queue, now + barrierMilliseconds(fence, true));
}

/** The device completed a transfer that was started. */
export function completed<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  outcome: Outcome,
  now: number,
  actions: QueueActions<T>,
): void {
  remove(queue.flight, transfer);
  const asked = queue.asked.length > 0 && queue.asked.includes(transfer);
  if (asked) remove(queue.asked, transfer);
  if (queue.phase === 'running') {
    if (queue.cut.includes(transfer)) {
      cutOffBack(queue, transfer, outcome, asked, now, actions);
      return;
    }
    if (!stops(queue, outcome)) {
      actions.add('giveBack', transfer);
      if (queue.waiting.length > 0) advance(queue, now, actions);
      return;
    }
    stop(queue, actions);
  }
  takeBack(queue, transfer, outcome, asked);
  if (queue.flight.length === 0) stopped(queue, now, actions);
}

/** One that was asked back has come. */
function takeBack<T>(queue: EndpointQueue<T>, transfer: T, outcome: Outcome, asked: boolean): void {
  if (outcome === 'unlinked' && !asked) {
    queue.waiting.insert(transfer); // cancelled by the queue, untouched by the device
  } else {
    // The handler of one that the client has unlinked is told that, and no error.
    const isUnlinked = outcome === 'unlinked' || (outcome === 'partial' && asked);
    if (stops(queue, outcome) && !isUnlinked) queue.failed = true;
    queue.ended.push(transfer);
  }
}

/** The client wants a transfer back that it has not got back yet. */
export function unlinked<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  now: number,
  actions: QueueActions<T>,
): void {
  const ahead = queue.flight.indexOf(transfer);
  if (ahead >= 0) {
    if (queue.asked.includes(transfer)) return;
    queue.asked.push(transfer);
    if (queue.phase !== 'running') return; // it was cancelled when the queue stopped
    if (queue.stopsOn === 'nothing') actions.add('cancel', transfer);
    else if (ahead === 0) stop(queue, actions);
    else cutOff(queue, ahead, actions);
    return;
  }
  const { waiting } = queue;
  const place = waiting.find(transfer);
  if (place === undefined) return; // it has ended, and its give-back is held or among the actions
  actions.add('giveBackUnlinked', transfer);
  if (putsBarrier(queue)) {
    putBarrier(queue, place, barrierUntil(queue, waiting.behind(place), now));
    return;
  }
  const isHeld = waiting.isMarked(place);
  waiting.remove(place);
  if (queue.stopsOn === 'nothing') return;
  if (queue.returns) returnFrom(queue, place, actions);
  else unlinkedWhileHeld(queue, isHeld, now, actions);
}

/**
 * A transfer's unlink has arrived before it, so that it never enters the queue: what is behind it
 * waits for its handler all the same.
 */
export function overtaken<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  if (queue.stopsOn === 'nothing') return;
  const { waiting, flight } = queue;
  if (queue.returns) {
    returnFrom(queue, waiting.end, actions);
  } else if (queue.phase === 'running' && waiting.length + flight.length === 0) {
    enter(queue, 'holding');
    holdAfterUnlinks(queue, now + queue.fence.patience, now);
  } else if (putsBarrier(queue)) {
    putBarrierLast(queue, lastInFlight(queue), barrierUntil(queue, waiting.end, now));
  } else {
    unlinkedWhileHeld(queue, false, now, actions);
  }
}

/** Whether what is unlinked now leaves a barrier. While a flight is cut, one will stand before all of it. */
function putsBarrier<T>({ phase, cut, returns, stopsOn }: EndpointQueue<T>): boolean {
  return phase === 'running' && cut.length === 0 && !returns && stopsOn !== 'nothing';
}

/** Until when a barrier stands, with what is at `place` or behind to wait for it. */
function barrierUntil<T>(queue: EndpointQueue<T>, place: number, now: number): number {
  return now + barrierMilliseconds(queue.fence, isEnd(queue, place));
}

/** The number of the last that the device has; less than all others if it has none. */
function lastInFlight<T>({ flight, orderOf }: EndpointQueue<T>): number {
  return flight.length === 0 ? Number.NEGATIVE_INFINITY : orderOf(flight[flight.length - 1] as T);
}

/** One that waited was unlinked; `isHeld`: the hold, if there is one, was about it. */
function unlinkedWhileHeld<T>(
  queue: EndpointQueue<T>,
  isHeld: boolean,
  now: number,
  actions: QueueActions<T>,
): void {
  if (queue.phase !== 'holding') return;
  if (unlinkedInHold(queue.fence, isHeld, queue.waiting.length, now)) resume(queue, now, actions);
  else markHeld(queue);
}

/** The hold is about what is marked. It gets longer at the end of the line only. */
function markHeld<T>({ fence, waiting }: EndpointQueue<T>): void {
  if (fence.held === waiting.length) waiting.mark();
}

/** The host has made the endpoint start afresh: clear-halt, a new setting, a reset. */
export function cleared<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  const { fence } = queue;
  if (fence.times === undefined || isExact(fence)) return;
  const until = now + fence.times.arrivalMilliseconds;
  if (queue.barriers > 0) lowerBarriers(queue, until);
  if (queue.phase === 'holding' && clearedInHold(fence, until)) resume(queue, now, actions);
}

/** The client has handled everything reported so far, and its unlinks have arrived. */
export function fenceOpened<T>(
  queue: EndpointQueue<T>,
  now: number,
  actions: QueueActions<T>,
): void {
  dropBarriers(queue);
  if (queue.phase === 'holding') resume(queue, now, actions);
}

/** The deadline has come, or any other moment. */
export function elapsed<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  if (now < queue.fence.deadline) return;
  if (queue.phase === 'settling') {
    report(queue, now, actions);
  } else if (queue.phase === 'holding') {
    ranOut(queue.fence);
    resume(queue, now, actions);
  }
}

/** The session ends: reports what is held back. The driver has unlinked everything before. */
export function closed<T>(queue: EndpointQueue<T>, actions: QueueActions<T>): void {
  for (const transfer of queue.ended.splice(0)) actions.add('giveBack', transfer);
  opened(queue.fence);
}

/** Changes the phase; a change that the table does not have is a bug of this file. */
function enter<T>(queue: EndpointQueue<T>, to: Phase): void {
  const { phase } = queue;
  if (!TRANSITIONS.some((one) => one.from === phase && one.to === to)) {
    throw new Error(`Cannot change the phase from ${phase} to ${to}: there is no such transition`);
  }
  queue.phase = to;
}

function stops<T>(queue: EndpointQueue<T>, outcome: Outcome): boolean {
  if (outcome === 'ok' || queue.stopsOn === 'nothing') return false;
  return outcome !== 'short' || queue.stopsOn === 'errors';
}

/** Lets nothing start, and asks the device for all that it has, newest first. */
function stop<T>(queue: EndpointQueue<T>, actions: QueueActions<T>): void {
  enter(queue, 'stopping');
  cancelFrom(queue, 0, actions);
  queue.cut.length = 0;
}

/**
 * One in flight was unlinked: it and what is behind it come back, while what is ahead goes on.
 * Nothing starts meanwhile.
 */
function cutOff<T>(queue: EndpointQueue<T>, place: number, actions: QueueActions<T>): void {
  cancelFrom(queue, place, actions);
  queue.cut.splice(0, queue.cut.length, ...queue.flight.slice(place));
}

/** One of those has come. When all have, a barrier stands before what is left of them. */
function cutOffBack<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  outcome: Outcome,
  asked: boolean,
  now: number,
  actions: QueueActions<T>,
): void {
  remove(queue.cut, transfer);
  takeBack(queue, transfer, outcome, asked);
  if (queue.failed) {
    stop(queue, actions);
    if (queue.flight.length === 0) stopped(queue, now, actions);
    return;
  }
  if (queue.cut.length > 0) return;
  for (const ended of queue.ended.splice(0)) actions.add('giveBack', ended);
  if (queue.returns) returnFrom(queue, queue.waiting.start, actions);
  else putBarrierFirst(queue, lastInFlight(queue), barrierUntil(queue, queue.waiting.start, now));
  advance(queue, now, actions);
}

/** Asks the device for the flight from `place` on, newest first; not twice. */
function cancelFrom<T>(queue: EndpointQueue<T>, place: number, actions: QueueActions<T>): void {
  const { flight, cut } = queue;
  const more = flight.slice(place).filter((one) => !cut.includes(one));
  for (const one of more.reverse()) actions.add('cancel', one);
}

/** Nothing is at the device any more. */
function stopped<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  if (queue.failed && beginSettling(queue.fence, now)) enter(queue, 'settling');
  else report(queue, now, actions);
}

/** Tells the client what ended; from here on the fence counts. */
function report<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  for (const transfer of queue.ended.splice(0)) actions.add('giveBack', transfer);
  const { failed } = queue;
  queue.failed = false;
  if (queue.returns) {
    enter(queue, 'running');
    returnFrom(queue, queue.waiting.start, actions);
    return;
  }
  dropBarriers(queue);
  enter(queue, 'holding');
  if (failed) {
    beginHold(queue.fence, queue.waiting.length, now);
    queue.waiting.mark();
  } else {
    holdAfterUnlinks(queue, now + queue.fence.patience, now);
  }
}

/** The client's own unlinks are reported now, or were before: what waits behind them is held until `until`. */
function holdAfterUnlinks<T>(
  { waiting, fence }: EndpointQueue<T>,
  until: number,
  now: number,
): void {
  if (waiting.length > 0 || isExact(fence)) holdUntil(fence, waiting.length, until);
  else beginUnlinkHold(fence, now);
  waiting.mark();
}

/** Recovery 'return': what stands at `place` or behind goes back, and so does what arrives. */
function returnFrom<T>(queue: EndpointQueue<T>, place: number, actions: QueueActions<T>): void {
  queue.returning = true;
  for (const transfer of queue.waiting.cut(place)) {
    if (!(transfer instanceof Barrier)) actions.add('giveBackReturned', transfer);
  }
}

function resume<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  enter(queue, 'running');
  opened(queue.fence);
  advance(queue, now, actions);
}

function advance<T>(queue: EndpointQueue<T>, now: number, actions: QueueActions<T>): void {
  for (;;) {
    const head = queue.waiting.first;
    if (head === undefined || !mayStart(queue)) return;
    if (head instanceof Barrier) {
      if (queue.flight.length > 0) return; // what is ahead of it goes on
      if (!passBarrier(queue, now)) return;
      continue;
    }
    queue.waiting.shift();
    queue.flight.push(head);
    actions.add('start', head);
  }
}

/** Whether the device may have one more. */
function mayStart<T>({ flight, flightMax, blocks, cut }: EndpointQueue<T>): boolean {
  if (flight.length === 0) return true;
  if (flight.length >= flightMax || cut.length > 0) return false;
  return !blocks(flight[flight.length - 1] as T);
}

/** Takes the barriers at the head away; false if what is behind them has to be held. */
function passBarrier<T>(queue: EndpointQueue<T>, now: number): boolean {
  const until = takeBarriers(queue);
  if (now >= until) return true;
  const last = Math.max(until, dropBarriers(queue));
  enter(queue, 'holding');
  holdAfterUnlinks(queue, last, now);
  return false;
}

/** Removes an element and returns the place where it was. */
function remove<E>(list: E[], element: E): number {
  const place = list[0] === element ? 0 : list.indexOf(element);
  if (place < 0) throw new Error('Cannot take a transfer from its queue: it is not there');
  if (place === 0) list.shift();
  else list.splice(place, 1);
  return place;
}
