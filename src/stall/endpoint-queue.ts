/**
 * The queue of one endpoint at the gateway: it alone decides when a transfer may start.
 *
 * Why: the Linux USB stack promises its drivers that an endpoint's queue stops when a transfer ends
 * with an error or is unlinked, until the completion handlers of that transfer and of everything
 * they unlink have returned (kernel-doc of usb_unlink_urb, drivers/usb/core/urb.c). The handlers
 * run at the client, so the queue here stops until a fence says that they have run.
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
 * Phases:
 *
 *     running --(error, or unlink of one in flight)--> stopping
 *     stopping --(all of the flight is back)--> settling, after an error, or holding
 *     settling --(nothing arrived for a while)--> holding; the error is reported now
 *     holding --(fence opens)--> running
 *
 * What the table cannot say: a transfer that is unlinked before it started leaves a barrier at its
 * place. What is ahead of it goes on, what is behind waits for the fence.
 *
 * A fence is exact when all times of the recovery but the settling are infinite: then nothing but
 * `fenceOpened` ends a hold. Otherwise evidence may end it sooner, and time does in the end.
 */

/** How the client learns of an error in time, and how the queue learns that it has. */
export type Recovery =
  /** Not at all: go on at once, as every other gateway does. For comparison. */
  | { readonly kind: 'none' }
  /** The client speaks the stall protocol: fail back what it sent before it knew of the error. */
  | { readonly kind: 'return' }
  /** Any other client: hold, and open the fence by evidence (`fenceOpened`) or by time. */
  | {
      readonly kind: 'hold';
      /** An error is reported when nothing has arrived for so long (at most `SETTLES_MAX` times). */
      readonly settleMilliseconds: number;
      /**
       * How long what was queued before the report is held; begun anew by each unlink. Halved, down
       * to `arrivalMilliseconds`, each time that it runs out without one: that driver lets its
       * other transfers go on after an error.
       */
      readonly holdMilliseconds: number;
      /** How long the first arrival after the report is held, when nothing was queued before. */
      readonly arrivalMilliseconds: number;
    };

/** Which ends of a transfer stop the queue: none for isochronous, all but a short read for control. */
export type StopsOn = 'nothing' | 'errors' | 'errors-but-short';

/** How the device ended a transfer; 'unlinked' only if it moved no octets. */
export type Outcome = 'ok' | 'short' | 'error' | 'unlinked';

/** What is known of a transfer that arrives after an error was reported. */
export type Evidence = 'sent-before-report' | 'sent-after-report' | 'unknown';

/** An error is settled for at most so many times `settleMilliseconds`. */
const SETTLES_MAX = 8;

export type Phase = 'running' | 'stopping' | 'settling' | 'holding';

/** Stands in `waiting` where a transfer was unlinked before it started. */
export class Barrier {
  readonly until: number;
  constructor(until: number) {
    this.until = until;
  }
}

export interface EndpointQueue<T> {
  /** How many transfers the device may have at a time. */
  readonly flightMax: number;
  readonly stopsOn: StopsOn;
  readonly recovery: Recovery;
  phase: Phase;
  readonly waiting: (T | Barrier)[];
  readonly flight: T[];
  /** Those in flight that the client wants back; the others were cancelled by the queue. */
  readonly asked: T[];
  /** The flight as it was when the queue stopped, in order. */
  cancelled: readonly T[];
  /** Completed while stopping or settling; to be reported. */
  readonly ended: T[];
  /** While holding: how many of `waiting`, from its head, arrived before the report. */
  held: number;
  /** What is held arrived after the report: a second arrival makes the hold a long one. */
  late: boolean;
  /** The hold that this driver has earned; see `holdMilliseconds`. */
  patience: number;
  /** What was queued before the report is held, and nothing has been unlinked or cleared yet. */
  unanswered: boolean;
  /** The client has had more than one transfer here at a time. */
  deep: boolean;
  /** The stop was caused by an error, so that its report has to settle. */
  failed: boolean;
  /** Recovery 'return': fail back what arrives without clear-stall. */
  returning: boolean;
  barriers: number;
  /** When `elapsed` is wanted; Infinity for never. */
  deadline: number;
  settleEnd: number;
}

export function endpointQueue<T>(
  flightMax: number,
  stopsOn: StopsOn,
  recovery: Recovery,
): EndpointQueue<T> {
  return {
    flightMax,
    stopsOn: recovery.kind === 'none' ? 'nothing' : stopsOn,
    recovery,
    phase: 'running',
    waiting: [],
    flight: [],
    asked: [],
    cancelled: [],
    ended: [],
    held: 0,
    late: false,
    patience: recovery.kind === 'hold' ? recovery.holdMilliseconds : 0,
    unanswered: false,
    deep: false,
    failed: false,
    returning: false,
    barriers: 0,
    deadline: Number.POSITIVE_INFINITY,
    settleEnd: 0,
  };
}

/** False while nothing has gone wrong: the `now` of the next event is then not looked at. */
export function needsTime<T>(queue: EndpointQueue<T>): boolean {
  return queue.phase !== 'running' || queue.barriers > 0;
}

/** The client submitted a transfer; `clearStall` is its flag in the stall protocol. */
export function submitted<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  clearStall: boolean,
  evidence: Evidence,
  now: number,
  actions: Actions<T>,
): void {
  if (clearStall) queue.returning = false;
  if (queue.returning) {
    actions.add('giveBackReturned', transfer);
    return;
  }
  if (queue.phase === 'running') {
    if (queue.waiting.length === 0 && queue.flight.length < queue.flightMax) {
      queue.flight.push(transfer);
      actions.add('start', transfer);
      return;
    }
    queue.deep = true;
    queue.waiting.push(transfer);
    return;
  }
  queue.waiting.push(transfer);
  if (queue.phase === 'settling') settle(queue, now);
  else if (queue.phase === 'holding') arriveAfterReport(queue, evidence, now, actions);
  if (queue.waiting.length + queue.flight.length + queue.ended.length > 1) queue.deep = true;
}

/** The device completed a transfer that was started. */
export function completed<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  outcome: Outcome,
  now: number,
  actions: Actions<T>,
): void {
  remove(queue.flight, transfer);
  const asked = queue.asked.length > 0 && queue.asked.includes(transfer);
  if (asked) remove(queue.asked, transfer);
  if (queue.phase === 'running') {
    if (!stops(queue, outcome)) {
      actions.add('giveBack', transfer);
      if (queue.waiting.length > 0) advance(queue, now, actions);
      return;
    }
    stop(queue, actions);
  }
  if (outcome === 'unlinked' && !asked) {
    waitAgain(queue, transfer); // cancelled by the queue, untouched by the device
  } else {
    if (stops(queue, outcome) && outcome !== 'unlinked') queue.failed = true;
    queue.ended.push(transfer);
  }
  if (queue.flight.length === 0) stopped(queue, now, actions);
}

/** The client wants a transfer back that it has not got back yet. */
export function unlinked<T>(
  queue: EndpointQueue<T>,
  transfer: T,
  now: number,
  actions: Actions<T>,
): void {
  if (queue.flight.includes(transfer)) {
    if (queue.asked.includes(transfer)) return;
    queue.asked.push(transfer);
    if (queue.phase !== 'running') return; // it was cancelled when the queue stopped
    if (queue.stopsOn === 'nothing') actions.add('cancel', transfer);
    else stop(queue, actions);
    return;
  }
  const place = queue.waiting.indexOf(transfer);
  if (place < 0) return; // it has ended, and its give-back is held or among the actions
  queue.waiting.splice(place, 1);
  actions.add('giveBackUnlinked', transfer);
  if (queue.stopsOn === 'nothing') return;
  if (queue.recovery.kind === 'return') returnFrom(queue, place, actions);
  else if (queue.recovery.kind === 'hold') unlinkedWaiting(queue, place, now, actions);
}

/**
 * The host has made the endpoint start afresh: clear-halt, a new setting, a reset.
 *
 * vhci sends such a request before unlinks that its driver asked for earlier (vhci_tx_loop), so
 * what is held waits a little longer for those.
 */
export function cleared<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  if (queue.recovery.kind !== 'hold' || isExact(queue.recovery)) return;
  const until = now + queue.recovery.arrivalMilliseconds;
  if (queue.barriers > 0) lowerBarriers(queue, until);
  if (queue.phase !== 'holding') return;
  queue.unanswered = false;
  if (queue.held === 0) resume(queue, now, actions);
  else queue.deadline = Math.min(queue.deadline, until);
}

/** The client has handled everything reported so far, and its unlinks have arrived. */
export function fenceOpened<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  dropBarriers(queue);
  if (queue.phase === 'holding') resume(queue, now, actions);
}

/** `deadline` has come, or any other moment. */
export function elapsed<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  if (now < queue.deadline) return;
  if (queue.phase === 'settling') report(queue, now, actions);
  else if (queue.phase === 'holding') {
    if (queue.unanswered) losePatience(queue);
    resume(queue, now, actions);
  }
}

/** The session ends: reports what is held back. The driver has unlinked everything before. */
export function closed<T>(queue: EndpointQueue<T>, actions: Actions<T>): void {
  for (const transfer of queue.ended.splice(0)) actions.add('giveBack', transfer);
  queue.deadline = Number.POSITIVE_INFINITY;
}

function stops<T>(queue: EndpointQueue<T>, outcome: Outcome): boolean {
  if (outcome === 'ok' || queue.stopsOn === 'nothing') return false;
  return outcome !== 'short' || queue.stopsOn === 'errors';
}

/** Lets nothing start, and asks the device for all that it has, newest first. */
function stop<T>(queue: EndpointQueue<T>, actions: Actions<T>): void {
  queue.phase = 'stopping';
  queue.cancelled = queue.flight.slice();
  for (let at = queue.flight.length - 1; at >= 0; at--)
    actions.add('cancel', queue.flight[at] as T);
}

/** Puts a transfer that was in flight back at the head of `waiting`, in its old order. */
function waitAgain<T>(queue: EndpointQueue<T>, transfer: T): void {
  const { cancelled, waiting } = queue;
  const behind = cancelled.slice(cancelled.indexOf(transfer) + 1);
  let place = 0;
  while (place < waiting.length && cancelled.includes(waiting[place] as T)) {
    if (behind.includes(waiting[place] as T)) break;
    place++;
  }
  waiting.splice(place, 0, transfer);
}

/** Nothing is at the device any more. */
function stopped<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  const { recovery } = queue;
  if (queue.failed && recovery.kind === 'hold' && recovery.settleMilliseconds > 0) {
    queue.phase = 'settling';
    queue.settleEnd = now + SETTLES_MAX * recovery.settleMilliseconds;
    settle(queue, now);
  } else {
    report(queue, now, actions);
  }
}

function settle<T>(queue: EndpointQueue<T>, now: number): void {
  if (queue.recovery.kind !== 'hold') return;
  queue.deadline = Math.min(now + queue.recovery.settleMilliseconds, queue.settleEnd);
}

/** Tells the client what ended; from here on the fence counts. */
function report<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  for (const transfer of queue.ended.splice(0)) actions.add('giveBack', transfer);
  queue.failed = false;
  if (queue.recovery.kind === 'return') {
    queue.phase = 'running';
    returnFrom(queue, 0, actions);
    return;
  }
  dropBarriers(queue);
  queue.phase = 'holding';
  queue.held = queue.waiting.length;
  queue.late = false;
  queue.unanswered = queue.held > 0;
  restartHold(queue, now);
}

function restartHold<T>(queue: EndpointQueue<T>, now: number): void {
  queue.deadline = now + queue.patience;
}

function losePatience<T>(queue: EndpointQueue<T>): void {
  if (queue.recovery.kind !== 'hold') return;
  queue.patience = Math.max(queue.patience / 2, queue.recovery.arrivalMilliseconds);
}

/** Nothing but `fenceOpened` ends a hold. */
function isExact(recovery: Recovery & { kind: 'hold' }): boolean {
  return recovery.arrivalMilliseconds === Number.POSITIVE_INFINITY;
}

/**
 * A transfer, now last in `waiting`, arrived after the report.
 *
 * A single one may be the client's answer (the status that follows a data phase), and is held for
 * a short time only. Several look like a queue that was under way when the report left.
 */
function arriveAfterReport<T>(
  queue: EndpointQueue<T>,
  evidence: Evidence,
  now: number,
  actions: Actions<T>,
): void {
  if (queue.recovery.kind !== 'hold') return;
  if (queue.held > 0) {
    // One that the client may have sent in answer must not prolong the hold of the others.
    if (queue.held !== queue.waiting.length - 1) return;
    if (queue.late) {
      queue.held++;
      queue.unanswered = true;
      restartHold(queue, now);
    } else if (evidence === 'sent-before-report') {
      queue.held++;
    }
  } else if (evidence === 'sent-after-report' && !queue.deep && !isExact(queue.recovery)) {
    resume(queue, now, actions);
  } else {
    queue.held = 1;
    queue.late = true;
    queue.unanswered = evidence === 'sent-before-report';
    if (queue.unanswered) restartHold(queue, now);
    else queue.deadline = now + queue.recovery.arrivalMilliseconds;
  }
}

/** Recovery 'hold': a transfer was unlinked from `place` in `waiting`. */
function unlinkedWaiting<T>(
  queue: EndpointQueue<T>,
  place: number,
  now: number,
  actions: Actions<T>,
): void {
  if (queue.recovery.kind !== 'hold') return;
  const { holdMilliseconds, arrivalMilliseconds } = queue.recovery;
  if (queue.phase === 'running') {
    putBarrier(queue, place, now + holdMilliseconds);
  } else if (queue.phase === 'holding') {
    queue.unanswered = false;
    queue.patience = holdMilliseconds;
    if (place >= queue.held) {
      queue.deadline = Math.max(queue.deadline, now + arrivalMilliseconds);
      return;
    }
    queue.held--;
    restartHold(queue, now);
    if (queue.held === 0) lastUnlinked(queue, now, actions);
  }
}

/** All that was held is unlinked. What came later is held a little: more unlinks may follow. */
function lastUnlinked<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  if (queue.recovery.kind !== 'hold') return;
  if (queue.waiting.length === 0 && !isExact(queue.recovery)) {
    resume(queue, now, actions);
  } else {
    queue.held = queue.waiting.length;
    queue.deadline = now + queue.recovery.arrivalMilliseconds;
  }
}

/** A barrier beside another replaces it: no client can pile them up. */
function putBarrier<T>(queue: EndpointQueue<T>, place: number, until: number): void {
  const { waiting } = queue;
  const neighbour = [place - 1, place].find((at) => waiting[at] instanceof Barrier);
  if (neighbour === undefined) {
    waiting.splice(place, 0, new Barrier(until));
    queue.barriers++;
    return;
  }
  waiting[neighbour] = new Barrier(until);
  if (neighbour === place || !(waiting[place] instanceof Barrier)) return;
  waiting.splice(place, 1); // the one that was unlinked stood between two
  queue.barriers--;
}

/** Recovery 'return': what stands at `place` or behind goes back, and so does what arrives. */
function returnFrom<T>(queue: EndpointQueue<T>, place: number, actions: Actions<T>): void {
  queue.returning = true;
  for (const transfer of queue.waiting.splice(place)) {
    if (!(transfer instanceof Barrier)) actions.add('giveBackReturned', transfer);
  }
}

function resume<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  queue.phase = 'running';
  queue.held = 0;
  queue.deadline = Number.POSITIVE_INFINITY;
  advance(queue, now, actions);
}

function advance<T>(queue: EndpointQueue<T>, now: number, actions: Actions<T>): void {
  while (queue.flight.length < queue.flightMax) {
    const head = queue.waiting[0];
    if (head === undefined) return;
    if (head instanceof Barrier) {
      if (queue.flight.length > 0) return; // what is ahead of it goes on
      if (!passBarrier(queue, head, now)) return;
      continue;
    }
    queue.waiting.shift();
    queue.flight.push(head);
    actions.add('start', head);
  }
}

/** Takes the barrier away; false if what is behind it has to be held. */
function passBarrier<T>(queue: EndpointQueue<T>, barrier: Barrier, now: number): boolean {
  let until = barrier.until;
  while (queue.waiting[0] instanceof Barrier) {
    until = Math.max(until, (queue.waiting.shift() as Barrier).until);
    queue.barriers--;
  }
  if (now >= until) return true;
  dropBarriers(queue, (other) => {
    until = Math.max(until, other.until);
  });
  queue.phase = 'holding';
  queue.held = queue.waiting.length;
  queue.late = false;
  queue.unanswered = false;
  queue.deadline = until;
  return false;
}

function dropBarriers<T>(
  queue: EndpointQueue<T>,
  seen: (barrier: Barrier) => void = () => {},
): void {
  if (queue.barriers === 0) return;
  const kept = queue.waiting.filter((one) => {
    if (one instanceof Barrier) seen(one);
    return !(one instanceof Barrier);
  });
  queue.waiting.splice(0, queue.waiting.length, ...kept);
  queue.barriers = 0;
}

function lowerBarriers<T>(queue: EndpointQueue<T>, until: number): void {
  const { waiting } = queue;
  for (let at = 0; at < waiting.length; at++) {
    const one = waiting[at];
    if (one instanceof Barrier && one.until > until) waiting[at] = new Barrier(until);
  }
}

/** Removes an element and returns the place where it was. */
function remove<E>(list: E[], element: E): number {
  const place = list[0] === element ? 0 : list.indexOf(element);
  if (place < 0) throw new Error('Cannot take a transfer from its queue: it is not there');
  if (place === 0) list.shift();
  else list.splice(place, 1);
  return place;
}

/**
 * - `start`: submit the transfer to the device.
 * - `cancel`: ask the device for it back; it will complete.
 * - `giveBack`: report it to the client as the device completed it.
 * - `giveBackUnlinked`: report it as unlinked; the device has never seen it.
 * - `giveBackReturned`: report it as returned; the client is to submit it again.
 */
export type ActionKind = 'start' | 'cancel' | 'giveBack' | 'giveBackUnlinked' | 'giveBackReturned';

/** What the driver must do, in order. Flat arrays, reused: nothing is allocated per transfer. */
export class Actions<T, Kind = ActionKind> {
  readonly #kinds: Kind[] = [];
  readonly #subjects: (T | undefined)[] = [];
  #filled = 0;
  #taken = 0;
  #subject: T | undefined;

  add(kind: Kind, subject: T): void {
    this.#kinds[this.#filled] = kind;
    this.#subjects[this.#filled++] = subject;
  }

  /** The next action's kind, or undefined when all are done. Follow with `subject`. */
  next(): Kind | undefined {
    if (this.#taken === this.#filled) {
      this.#taken = 0;
      this.#filled = 0;
      return undefined;
    }
    this.#subject = this.#subjects[this.#taken];
    this.#subjects[this.#taken] = undefined; // or the memory behind it would live on
    return this.#kinds[this.#taken++];
  }

  /** What the action that `next` returned last is about. */
  get subject(): T {
    return this.#subject as T;
  }
}
