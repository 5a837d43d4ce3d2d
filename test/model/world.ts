/**
 * A small world around the two queue machines, for exhaustive exploration: driver, client,
 * channel, gateway and device, each as free as the real one is. All machines are the real ones.
 *
 * URBs of an endpoint are numbered in the order in which the driver submits them. Endpoints share
 * the connection (loss, fence, and in the kernel's client the one thread that runs handlers) and
 * what may go wrong; their messages do not overtake each other in any way that matters.
 *
 * Where the model is freer than the world:
 * - the kernel's client sends an unlink and later submits in any order (vhci: submits first);
 * - the fence opens at any moment at which it may;
 * - each endpoint has a clock of its own, and time passes whenever a deadline is set.
 */
import { Actions } from '../../src/stall/actions.ts';
import { Barrier } from '../../src/stall/barriers.ts';
import {
  type ActionKind,
  cleared,
  closed,
  completed,
  type EndpointQueue,
  elapsed,
  endpointQueue,
  fenceOpened,
  needsTime,
  type Outcome,
  overtaken,
  type StopsOn,
  submitted,
  unlinked,
  waitingLine,
} from '../../src/stall/endpoint-queue.ts';
import { type Evidence, EXACT_RECOVERY, type Recovery } from '../../src/stall/fence.ts';
import { Fifo } from '../../src/stall/fifo.ts';
import * as retry from '../../src/stall/retry-queue.ts';

/** Who is at the other end, and what the gateway does for it. */
export type Client =
  /** Knows nothing; an exact fence. */
  | 'exact'
  /** Knows nothing; time. I1 is not to be had then, and not checked. */
  | 'timed'
  /** Speaks the stall protocol. */
  | 'return'
  /** Knows the stall protocol, but the gateway does not; all its URBs are SHORT_NOT_OK. */
  | 'old';

/** What the driver's handler does for a URB that did not end well. */
export type Driver = 'leaves' | 'unlinks' | 'resubmits' | 'unlinks+resubmits' | 'resubmits+unlinks';

export type Fault =
  | 'no hold'
  | 'early retry'
  | 'no waiting for all'
  | 'double give-back'
  | 'overtaking in flight';

export interface Scope {
  readonly client: Client;
  readonly driver: Driver;
  /** For each endpoint: URBs submitted at once, and how many more the driver may submit later. */
  readonly endpoints: readonly { stopsOn: StopsOn; urbs: number; later: number }[];
  /** Later submits come from handlers only. */
  readonly handlersOnly?: boolean;
  /** URBs that may end with an error or short. */
  readonly errors: number;
  /** URBs that the driver may unlink at any moment, beside what its handlers unlink. */
  readonly unlinks: number;
  /** Unlinks may overtake their URBs, as vhci's do. */
  readonly early?: boolean;
  /** Times that an endpoint may be cleared (clear-halt, a new setting). */
  readonly clears?: number;
  /** The connection or the device may go away, at any moment. */
  readonly losses: readonly ('connection' | 'device')[];
  readonly flightMax?: number;
  /** URBs, as a mask, behind which nothing may be in flight. */
  readonly blocking?: number;
  readonly fault?: Fault;
}

export class Violation extends Error {}

const TIMED: Recovery = {
  kind: 'hold',
  settleMilliseconds: 1,
  holdMilliseconds: 2,
  arrivalMilliseconds: 1,
  graceMilliseconds: 1,
  steadyTransfers: 1,
};
const RECOVERY: Readonly<Record<Client, Recovery>> = {
  exact: EXACT_RECOVERY,
  timed: TIMED,
  return: { kind: 'return' },
  old: { kind: 'none' },
};

const REPLIES = ['ok', 'short', 'error', 'unlinked', 'returned', 'lost'] as const;
type ReplyName = (typeof REPLIES)[number];

/** Flags on a message from the client. */
const CLEAR = 16;
const UNLINK = 32;

const NONE = 15;

/** With a timed fence either may be found, whatever is true; 'unknown' does no more than the second. */
const EVIDENCE: readonly Evidence[] = ['sent-after-report', 'sent-before-report'];

/** One endpoint, all the way from driver to device. Sets of URBs are bit masks. */
interface Path {
  queue: EndpointQueue<number>;
  front: retry.RetryQueue<number> | null;
  /** To the gateway: submits; unlinks too if there is a front end. */
  up: number[];
  /** To the gateway: unlinks of a client without a front end. */
  upUnlinks: number[];
  /** To the client: URB * 8 + reply. */
  down: number[];
  /** URB * 2, + 1 when the handler has done its work and is about to return. */
  handlers: number[];
  /** What the device has, in order. */
  device: number[];
  /** The device was asked for these. */
  cancelled: number;
  /** The device works on nothing any more of what it has. */
  halted: boolean;
  /** The gateway has had their unlinks, and not them yet. */
  early: number;
  /** URBs that the driver has submitted so far. */
  next: number;
  /** Not given back to the driver. */
  out: number;
  /** The driver has unlinked them, and they are not back. */
  asked: number;
  /** The gateway has them. */
  known: number;
  /** The device has ended them for good. */
  ended: number;
  /** Those of them that the device has worked on. */
  ran: number;
  /** The device moved data for them. */
  touched: number;
  /** By URB: how the device ended it, until the gateway reports that; or NONE. */
  results: number[];
  /** By URB: it stopped the queue for URBs behind this one until its handler returns; or NONE. */
  block: number[];
}

export interface World {
  readonly paths: Path[];
  errors: number;
  unlinks: number;
  clears: number;
  connectionLost: boolean;
  deviceGone: boolean;
}

/** What may happen. */
const STEPS = [
  'driver submits',
  'driver unlinks',
  'gateway receives',
  'gateway receives unlink',
  'client receives',
  'handler acts',
  'handler returns',
  'device: ok',
  'device: short',
  'device: error',
  'device: unlinked',
  'device: partial',
  'fence opens',
  'time passes',
  'cleared',
  'connection lost',
  'device gone',
] as const;
type StepName = (typeof STEPS)[number];
const STEP = Object.fromEntries(STEPS.map((name, at) => [name, at])) as Record<StepName, number>;

/** Step * 256 + endpoint * 16 + URB. */
export type Step = number;

export function describeStep(step: Step): string {
  return `${STEPS[step >> 8]} [${(step >> 4) & 15}.${step & 15}]`;
}

const has = (mask: number, urb: number): boolean => (mask & (1 << urb)) !== 0;

function check(holds: boolean, invariant: string, what: string): void {
  if (!holds) throw new Violation(`${invariant}: ${what}`);
}

export class Model {
  readonly scope: Scope;
  readonly #totals: number[];
  readonly #actions = new Actions<number, ActionKind>();
  readonly #retryActions: retry.RetryActions<number> = new Actions<number, retry.RetryActionKind>();

  constructor(scope: Scope) {
    this.scope = scope;
    this.#totals = scope.endpoints.map(({ urbs, later }) => urbs + later);
  }

  start(): World {
    const { scope } = this;
    const recovery: Recovery =
      scope.fault === 'no hold' ? { kind: 'none' } : RECOVERY[scope.client];
    const world: World = {
      paths: scope.endpoints.map(({ stopsOn }) => ({
        queue: endpointQueue<number>(scope.flightMax ?? 1, stopsOn, recovery, Number, (urb) =>
          scope.fault === 'overtaking in flight' ? false : has(scope.blocking ?? 0, urb),
        ),
        front:
          scope.client === 'return'
            ? retry.retryQueue<number>(stopsOn, 'stall-protocol', Number)
            : scope.client === 'old'
              ? retry.retryQueue<number>(stopsOn, 'old', Number)
              : null,
        up: [],
        upUnlinks: [],
        down: [],
        handlers: [],
        device: [],
        cancelled: 0,
        halted: false,
        early: 0,
        next: 0,
        out: 0,
        asked: 0,
        known: 0,
        ended: 0,
        ran: 0,
        touched: 0,
        results: [],
        block: [],
      })),
      errors: scope.errors,
      unlinks: scope.unlinks,
      clears: scope.clears ?? 0,
      connectionLost: false,
      deviceGone: false,
    };
    for (const [e, { urbs }] of scope.endpoints.entries()) {
      for (let n = 0; n < urbs; n++) this.#driverSubmits(world, e);
    }
    return world;
  }

  /** All that may happen now. */
  steps(world: World): Step[] {
    const { scope } = this;
    const steps: Step[] = [];
    const add = (name: StepName, e = 0, urb = 0) => steps.push((STEP[name] << 8) | (e << 4) | urb);
    const threadFree = world.paths.every((path) => path.handlers.length === 0);
    let quiet = threadFree;
    let fenced = false;
    for (const [e, path] of world.paths.entries()) {
      const { queue } = path;
      if (path.down.length > 0 || path.upUnlinks.length > 0 || path.early !== 0) quiet = false;
      if (queue.phase === 'holding' || queue.barriers > 0) fenced = true;
      const more = path.next < (this.#totals[e] ?? 0) && scope.handlersOnly !== true;
      if (more && !world.connectionLost) add('driver submits', e);
      if (world.unlinks > 0) {
        for (let urb = 0; urb < path.next; urb++) {
          if (has(path.out & ~path.asked, urb)) add('driver unlinks', e, urb);
        }
      }
      if (path.up.length > 0) {
        const known = scope.client === 'timed' && needsTime(queue) ? EVIDENCE.length : 1;
        for (let evidence = 0; evidence < known; evidence++) add('gateway receives', e, evidence);
      }
      const victim = path.upUnlinks[0];
      if (victim !== undefined && (scope.early === true || !path.up.includes(victim))) {
        add('gateway receives unlink', e);
      }
      // The kernel's client runs handlers in the thread that receives.
      if (path.down.length > 0 && (path.front !== null || threadFree)) add('client receives', e);
      for (const handler of path.handlers) {
        add((handler & 1) === 0 ? 'handler acts' : 'handler returns', e, handler >> 1);
      }
      for (const [at, urb] of path.device.entries()) {
        // The queue asks for the newest first, and usbfs takes one back before it hears of the next.
        const behind = path.device.slice(at + 1).some((other) => has(path.cancelled, other));
        const cancelled = has(path.cancelled, urb) && (path.halted || !behind);
        if (cancelled) add('device: unlinked', e, urb);
        if (at > 0 || path.halted) continue;
        if (cancelled && world.errors > 0) add('device: partial', e, urb);
        add('device: ok', e, urb);
        if (world.errors > 0) {
          add('device: short', e, urb);
          add('device: error', e, urb);
        }
      }
      if (scope.client === 'timed' && nextMoment(queue) !== Number.POSITIVE_INFINITY) {
        add('time passes', e);
      }
      if (world.clears > 0 && !world.connectionLost) add('cleared', e);
    }
    if (fenced && quiet && scope.client === 'exact' && !world.connectionLost) add('fence opens');
    if (!world.connectionLost && !world.deviceGone) {
      for (const loss of scope.losses) {
        add(loss === 'connection' ? 'connection lost' : 'device gone');
      }
    }
    return steps;
  }

  /** Changes the world; throws a Violation if an invariant breaks. */
  take(world: World, step: Step): void {
    const e = (step >> 4) & 15;
    const urb = step & 15;
    const path = world.paths[e] as Path;
    switch (STEPS[step >> 8] as StepName) {
      case 'driver submits':
        this.#driverSubmits(world, e);
        break;
      case 'driver unlinks':
        world.unlinks--;
        this.#driverUnlinks(world, e, urb, NONE);
        break;
      case 'gateway receives':
        this.#gatewayReceives(world, e, path.up.shift() ?? NONE, EVIDENCE[urb]);
        break;
      case 'gateway receives unlink':
        this.#gatewayReceives(world, e, (path.upUnlinks.shift() ?? NONE) | UNLINK);
        break;
      case 'client receives':
        this.#clientReceives(world, e, path.down.shift() ?? 0);
        break;
      case 'handler acts':
        this.#handlerActs(world, e, urb);
        break;
      case 'handler returns':
        this.#handlerReturns(world, e, urb);
        break;
      case 'device: ok':
        this.#deviceEnds(world, e, urb, 'ok');
        break;
      case 'device: short':
        world.errors--;
        this.#deviceEnds(world, e, urb, 'short');
        break;
      case 'device: error':
        world.errors--;
        this.#deviceEnds(world, e, urb, 'error');
        break;
      case 'device: unlinked':
        this.#deviceEnds(world, e, urb, 'unlinked');
        break;
      case 'device: partial':
        world.errors--;
        this.#deviceEnds(world, e, urb, 'partial');
        break;
      case 'fence opens':
        for (const [at, { queue }] of world.paths.entries()) {
          fenceOpened(queue, 0, this.#actions);
          this.#carryOut(world, at);
        }
        break;
      case 'time passes': {
        const moment = nextMoment(path.queue);
        elapsed(path.queue, moment, this.#actions);
        this.#carryOut(world, e);
        shiftTime(path.queue, moment);
        break;
      }
      case 'cleared':
        world.clears--;
        cleared(path.queue, 0, this.#actions);
        this.#carryOut(world, e);
        break;
      case 'connection lost':
        this.#loseConnection(world);
        break;
      case 'device gone':
        world.deviceGone = true;
        this.#unlinkAll(world);
        break;
    }
    for (const each of world.paths) this.#checkPath(each);
  }

  /** Nothing can happen any more: everything must be done. */
  checkEnd(world: World): void {
    for (const path of world.paths) {
      check(path.out === 0, 'I6', `URBs ${bits(path.out)} are never given back to the driver`);
      check(path.known === 0, 'I6', `the gateway keeps ${bits(path.known)}`);
      check(path.queue.fence.deadline === Number.POSITIVE_INFINITY, 'I6', 'a timer is left');
      if (!world.connectionLost && !world.deviceGone) {
        check(path.queue.phase === 'running', 'I6', `an endpoint is left ${path.queue.phase}`);
        check(path.queue.waiting.length === 0, 'I6', 'something is left in a queue');
      }
      const phase = path.front?.phase;
      check(phase !== 'collecting', 'I6', 'a front end is left collecting');
    }
  }

  #driverSubmits(world: World, e: number): void {
    const path = world.paths[e] as Path;
    const urb = path.next++;
    path.out |= 1 << urb;
    path.block.push(NONE);
    path.results.push(NONE);
    if (path.front === null) {
      path.up.push(urb);
      return;
    }
    retry.submitted(path.front, urb, true, this.#retryActions);
    this.#carryOutFront(world, e);
  }

  /** `because` is what the handler that unlinks answers for, or NONE. */
  #driverUnlinks(world: World, e: number, urb: number, because: number): void {
    const path = world.paths[e] as Path;
    path.asked |= 1 << urb;
    if (because !== NONE) this.#block(path, urb, because);
    if (path.front === null) {
      path.upUnlinks.push(urb);
      return;
    }
    retry.unlinked(path.front, urb, this.#retryActions);
    this.#carryOutFront(world, e);
  }

  #block(path: Path, urb: number, from: number): void {
    path.block[urb] = Math.min(path.block[urb] ?? NONE, from);
  }

  #gatewayReceives(world: World, e: number, message: number, evidence?: Evidence): void {
    const path = world.paths[e] as Path;
    const { queue } = path;
    const urb = message & 15;
    const actions = this.#actions;
    if ((message & UNLINK) !== 0) {
      if (path.front === null && path.up.includes(urb)) path.early |= 1 << urb;
      if (!has(path.known, urb) || world.deviceGone) return;
      const inFlight = queue.flight.includes(urb);
      unlinked(queue, urb, 0, actions);
      if (inFlight && this.scope.fault === 'double give-back') actions.add('giveBackUnlinked', urb);
    } else if (world.deviceGone) {
      path.early &= ~(1 << urb);
      path.down.push(urb * 8 + REPLIES.indexOf('error')); // the transport refuses it
    } else if (has(path.early, urb)) {
      path.early &= ~(1 << urb);
      path.ended |= 1 << urb;
      path.down.push(urb * 8 + REPLIES.indexOf('unlinked'));
      this.#block(path, urb, urb);
      overtaken(queue, 0, actions);
    } else {
      check(!has(path.known, urb), 'I2', `URB ${urb} is submitted while the gateway has it`);
      path.known |= 1 << urb;
      submitted(queue, urb, (message & CLEAR) !== 0, evidence ?? 'unknown', 0, actions);
    }
    this.#carryOut(world, e);
  }

  #clientReceives(world: World, e: number, message: number): void {
    const path = world.paths[e] as Path;
    const urb = message >> 3;
    const reply = REPLIES[message & 7] as ReplyName;
    if (path.front === null) {
      this.#driverGets(world, e, urb, reply);
      return;
    }
    if (reply === 'lost') throw new Error('no reply');
    // The fault has replies in a phase that knows none, and the table no way out of it.
    if (path.front.phase === 'retrying' && path.front.sent.length > 0) path.front.phase = 'running';
    retry.replied(path.front, urb, reply, this.#retryActions);
    if (this.scope.fault === 'no waiting for all') this.#retrySome(path.front);
    this.#carryOutFront(world, e, reply);
  }

  #driverGets(world: World, e: number, urb: number, reply: ReplyName): void {
    const path = world.paths[e] as Path;
    check(has(path.out, urb), 'I2', `the driver gets URB ${urb} twice`);
    check(reply !== 'returned', 'I2', `the driver sees that URB ${urb} was returned`);
    if (reply === 'unlinked') {
      check(has(path.asked, urb), 'I2', `the driver gets URB ${urb} as unlinked, unasked`);
      check(!has(path.touched, urb), 'I4', `URB ${urb} moved data and is given back as unlinked`);
    }
    const well = reply === 'ok' && !has(path.asked, urb);
    path.out &= ~(1 << urb);
    path.asked &= ~(1 << urb);
    path.touched &= ~(1 << urb);
    if (reply === 'unlinked') this.#block(path, urb, urb);
    const acts = !well && this.scope.driver !== 'leaves' && !world.connectionLost;
    path.handlers.push(urb * 2 + (acts ? 0 : 1));
    if (this.scope.fault === 'early retry' && path.front !== null) {
      retry.handled(path.front, this.#retryActions);
    } else if (path.front === null && well) {
      this.#handlerReturns(world, e, urb); // nobody can tell how long it took
    }
  }

  #handlerActs(world: World, e: number, urb: number): void {
    const path = world.paths[e] as Path;
    path.handlers = path.handlers.map((one) => (one === urb * 2 ? one + 1 : one));
    const { driver } = this.scope;
    const rest = path.out & ~path.asked;
    const because = path.block[urb] ?? NONE;
    const resubmit = () => {
      if (path.next < (this.#totals[e] ?? 0)) this.#driverSubmits(world, e);
    };
    if (driver === 'resubmits' || driver === 'resubmits+unlinks') resubmit();
    if (driver !== 'resubmits') {
      for (let other = path.next - 1; other >= 0; other--) {
        if (has(rest, other)) this.#driverUnlinks(world, e, other, because);
      }
    }
    if (driver === 'unlinks+resubmits') resubmit();
  }

  #handlerReturns(world: World, e: number, urb: number): void {
    const path = world.paths[e] as Path;
    path.handlers = path.handlers.filter((one) => one >> 1 !== urb);
    path.block[urb] = NONE;
    if (path.front === null || this.scope.fault === 'early retry') return;
    retry.handled(path.front, this.#retryActions);
    if (this.scope.fault === 'no waiting for all') this.#retrySome(path.front);
    this.#carryOutFront(world, e);
  }

  /** The fault: retries as soon as handlers have returned, whatever is still at the gateway. */
  #retrySome(front: retry.RetryQueue<number>): void {
    if (front.phase !== 'collecting' || front.handling > 0) return;
    const sent = front.sent.cut(0);
    for (const urb of sent) if (front.returned.has(urb)) front.sent.push(urb);
    const missing = sent.filter((urb) => !front.returned.has(urb));
    front.handling++;
    retry.handled(front, this.#retryActions);
    for (const urb of missing) front.sent.push(urb);
  }

  #deviceEnds(world: World, e: number, urb: number, outcome: Outcome): void {
    const path = world.paths[e] as Path;
    const { queue } = path;
    const { stopsOn } = this.scope.endpoints[e] as { stopsOn: StopsOn };
    path.device = path.device.filter((one) => one !== urb);
    path.cancelled &= ~(1 << urb);
    if (outcome !== 'error' && outcome !== 'unlinked') path.touched |= 1 << urb;
    const asked = queue.asked.includes(urb);
    if (outcome !== 'unlinked') path.ran |= 1 << urb;
    if (outcome !== 'unlinked' || asked) {
      path.ended |= 1 << urb;
      path.results[urb] = REPLIES.indexOf(outcome === 'partial' ? 'error' : outcome);
    }
    const stops = outcome !== 'ok' && (outcome !== 'short' || stopsOn === 'errors');
    if (stops && stopsOn !== 'nothing') {
      // usbfs and others that take several stop by themselves, but not for an unlink.
      if (outcome !== 'unlinked' && outcome !== 'partial') path.halted = true;
      if (outcome !== 'unlinked' || asked) this.#block(path, urb, urb);
    }
    if (path.device.length === 0) path.halted = false;
    completed(queue, urb, outcome, 0, this.#actions);
    if (world.connectionLost || world.deviceGone) closed(queue, this.#actions);
    this.#carryOut(world, e);
  }

  #loseConnection(world: World): void {
    world.connectionLost = true;
    this.#unlinkAll(world);
    for (const [e, path] of world.paths.entries()) {
      path.up.length = 0;
      path.early = 0;
      path.upUnlinks.length = 0;
      path.down.length = 0;
      path.handlers = path.handlers.map((one) => one | 1);
      if (path.front !== null) {
        retry.connectionLost(path.front, this.#retryActions);
        this.#carryOutFront(world, e);
      } else {
        for (let urb = 0; urb < path.next; urb++) {
          if (has(path.out, urb)) this.#driverGets(world, e, urb, 'lost');
        }
      }
    }
  }

  /** As the session does: newest first, then what was held back. */
  #unlinkAll(world: World): void {
    for (const [e, path] of world.paths.entries()) {
      for (let urb = path.next - 1; urb >= 0; urb--) {
        if (!has(path.known, urb)) continue;
        unlinked(path.queue, urb, 0, this.#actions);
        this.#carryOut(world, e);
      }
      closed(path.queue, this.#actions);
      this.#carryOut(world, e);
    }
  }

  #carryOut(world: World, e: number): void {
    const path = world.paths[e] as Path;
    const actions = this.#actions;
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      const urb = actions.subject;
      switch (kind) {
        case 'start':
          this.#start(world, path, e, urb);
          break;
        case 'cancel':
          if (path.device.includes(urb)) path.cancelled |= 1 << urb;
          break;
        case 'giveBack':
          check(path.results[urb] !== NONE, 'I2', `URB ${urb} goes back, but has not ended`);
          this.#gatewayGivesBack(world, path, urb, REPLIES[path.results[urb] ?? 0] ?? 'ok');
          path.results[urb] = NONE;
          break;
        case 'giveBackUnlinked':
        case 'giveBackReturned':
          check(!has(path.touched, urb), 'I4', `URB ${urb} moved data and goes back without`);
          check(!path.device.includes(urb), 'I2', `URB ${urb} goes back, but the device has it`);
          if (kind === 'giveBackUnlinked') this.#block(path, urb, urb);
          this.#gatewayGivesBack(
            world,
            path,
            urb,
            kind === 'giveBackUnlinked' ? 'unlinked' : 'returned',
          );
          break;
      }
    }
  }

  #gatewayGivesBack(world: World, path: Path, urb: number, reply: ReplyName): void {
    check(has(path.known, urb), 'I2', `the gateway gives URB ${urb} back twice`);
    path.known &= ~(1 << urb);
    if (world.connectionLost) return;
    // The session says 'shutdown' then.
    const told = world.deviceGone && reply === 'unlinked' ? 'error' : reply;
    path.down.push(urb * 8 + REPLIES.indexOf(told));
  }

  #start(world: World, path: Path, e: number, urb: number): void {
    const { stopsOn } = this.scope.endpoints[e] as { stopsOn: StopsOn };
    check(has(path.known, urb), 'I2', `URB ${urb} starts, but was given back`);
    check(!path.device.includes(urb), 'I3', `URB ${urb} starts twice`);
    check(!has(path.touched, urb), 'I4', `URB ${urb} moved data and starts again`);
    check(!world.connectionLost && !world.deviceGone, 'I2', `URB ${urb} starts after the end`);
    for (let other = 0; other < path.next; other++) {
      if (other < urb) {
        const left = has(path.out & ~path.asked & ~path.ended, other);
        check(!left || path.device.includes(other), 'I3', `URB ${urb} overtakes URB ${other}`);
      } else if (other > urb) {
        check(
          !has(path.ran, other) && !path.device.includes(other),
          'I3',
          `URB ${urb} starts after URB ${other}`,
        );
      }
      if (this.scope.client === 'timed' || stopsOn === 'nothing') continue;
      check(
        (path.block[other] ?? NONE) >= urb,
        'I1',
        `URB ${urb} starts while the handler of URB ${other} has not returned`,
      );
    }
    const last = path.device.at(-1);
    const overtakes = last !== undefined && has(this.scope.blocking ?? 0, last);
    check(!overtakes, 'I1', `URB ${urb} is in flight behind URB ${last}`);
    path.device.push(urb);
  }

  #carryOutFront(world: World, e: number, reply: ReplyName = 'ok'): void {
    const path = world.paths[e] as Path;
    const actions = this.#retryActions;
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      const urb = actions.subject;
      switch (kind) {
        case 'send':
          path.up.push(urb);
          break;
        case 'sendClear':
          path.up.push(urb | CLEAR);
          break;
        case 'sendUnlink':
          path.up.push(urb | UNLINK);
          break;
        case 'giveBack':
          this.#driverGets(world, e, urb, reply);
          break;
        case 'giveBackUnlinked':
          this.#driverGets(world, e, urb, 'unlinked');
          break;
        case 'giveBackLost':
          this.#driverGets(world, e, urb, 'lost');
          break;
      }
    }
  }

  #checkPath(path: Path): void {
    const { queue } = path;
    const waiting = [...queue.waiting].filter((one): one is number => typeof one === 'number');
    const barriers = queue.waiting.length - waiting.length;
    check(barriers === queue.barriers, 'I6', 'barriers are miscounted');
    if (queue.phase === 'running') {
      check(barriers <= waiting.length + 1, 'I6', 'barriers pile up');
    }
    check(queue.fence.held <= queue.waiting.length, 'I6', 'more is held than waits');
    if (queue.phase === 'holding') {
      let held = 0;
      const { waiting } = queue;
      for (let at = waiting.start; at < waiting.end; at = waiting.behind(at)) {
        check(waiting.isMarked(at) === held++ < queue.fence.held, 'I6', 'the mark is not the hold');
      }
    }
    check(queue.asked.length <= queue.flight.length, 'I6', 'unlinks pile up');
    const cut = queue.cut.every((urb) => queue.flight.includes(urb));
    check(cut, 'I2', 'something is cut off that is not in flight');
    check(queue.cut.length === 0 || queue.phase === 'running', 'I6', 'a cut is left over');
    let seen = 0;
    for (const urb of [...waiting, ...queue.flight, ...queue.ended]) {
      check(!has(seen, urb), 'I2', `URB ${urb} is in two places`);
      seen |= 1 << urb;
    }
    check(seen === path.known, 'I2', `the gateway has lost a URB: ${seen}, wanted ${path.known}`);
    check(queue.flight.length <= queue.flightMax, 'I3', 'the device has too many');
    if (queue.stopsOn === 'nothing') {
      check(queue.phase === 'running', 'I5', `a queue that never stops is ${queue.phase}`);
      const idle = queue.flight.length < queue.flightMax && queue.waiting.length > 0;
      check(!idle, 'I5', 'a queue that never stops waits');
    }
    const { front } = path;
    if (front?.stopsOn === 'nothing') {
      check(front.waiting.length === 0, 'I5', 'a front end that never stops waits');
    }
  }
}

function bits(mask: number): string {
  return [...Array(16).keys()].filter((urb) => has(mask, urb)).join(' ');
}

/** When something happens to the queue by time alone; its clock stands at 0. */
function nextMoment(queue: EndpointQueue<number>): number {
  let moment = queue.fence.deadline;
  if (queue.barriers === 0) return moment;
  for (const one of queue.waiting) {
    if (one instanceof Barrier && one.until > 0) moment = Math.min(moment, one.until);
  }
  return moment;
}

/** Sets the queue's clock back to 0. */
function shiftTime(queue: EndpointQueue<number>, by: number): void {
  queue.fence.deadline -= by;
  queue.fence.settleEnd -= by;
  const { waiting, fresh } = queue;
  fresh.clear();
  for (let at = waiting.start; at < waiting.end; at = waiting.behind(at)) {
    const one = waiting.at(at);
    if (!(one instanceof Barrier)) continue;
    const shifted = new Barrier(Math.max(0, one.until - by), one.order);
    waiting.set(at, shifted);
    fresh.add(shifted); // looked at once more than need be
  }
}

/** What is marked are the first ones that are held. */
function cloneWaiting({ waiting, orderOf, fence }: EndpointQueue<number>): typeof waiting {
  const all = [...waiting];
  const clone = waitingLine(orderOf, all.slice(0, fence.held));
  clone.mark();
  for (const one of all.slice(fence.held)) clone.push(one);
  return clone;
}

export function cloneWorld(world: World): World {
  return { ...world, paths: world.paths.map(clonePath) };
}

function clonePath(path: Path): Path {
  const { queue, front } = path;
  return {
    ...path,
    queue: {
      ...queue,
      fence: { ...queue.fence },
      waiting: cloneWaiting(queue),
      fresh: new Set(queue.fresh),
      flight: queue.flight.slice(),
      asked: queue.asked.slice(),
      cut: queue.cut.slice(),
      ended: queue.ended.slice(),
    },
    front:
      front === null
        ? null
        : {
            ...front,
            sent: new Fifo(Number, front.sent),
            waiting: new Fifo(Number, front.waiting),
            returned: new Set(front.returned),
            asked: new Set(front.asked),
            guarded: new Set(front.guarded),
          },
    up: path.up.slice(),
    upUnlinks: path.upUnlinks.slice(),
    down: path.down.slice(),
    handlers: path.handlers.slice(),
    device: path.device.slice(),
    results: path.results.slice(),
    block: path.block.slice(),
  };
}

const PHASES = ['running', 'stopping', 'settling', 'holding'];
const RETRY_PHASES = ['running', 'collecting', 'retrying', 'lost'];

/** The same for two worlds if and only if they have the same futures. */
export function keyOf(world: World): string {
  const codes = [
    world.errors,
    world.unlinks,
    world.clears,
    (world.connectionLost ? 1 : 0) + (world.deviceGone ? 2 : 0),
  ];
  for (const path of world.paths) codePath(path, codes);
  return String.fromCharCode(...codes);
}

function codePath(path: Path, codes: number[]): void {
  const { queue, front } = path;
  const list = (numbers: readonly number[]) => codes.push(numbers.length, ...numbers);
  const mask = (set: ReadonlySet<number>) => {
    let sum = 0;
    for (const urb of set) sum |= 1 << urb;
    return sum;
  };
  list(path.up);
  list(path.upUnlinks);
  list(path.down);
  list(path.handlers);
  list(path.device);
  list(path.results);
  list(path.block);
  codes.push(path.cancelled, path.halted ? 1 : 0, path.early, path.next, path.out, path.asked);
  codes.push(path.known, path.ended, path.ran, path.touched);
  // What a phase does not look at before it is set anew is left out.
  const { phase } = queue;
  codes.push(PHASES.indexOf(phase));
  list([...queue.waiting].map((one) => (typeof one === 'number' ? one : 16 + moment(one.until))));
  list(queue.flight);
  list(queue.asked);
  list(queue.ended);
  list(queue.cut);
  if (phase === 'holding') {
    const { held, unanswered, late, afterUnlinks } = queue.fence;
    codes.push(held, (unanswered ? 1 : 0) + (late ? 2 : 0) + (afterUnlinks ? 4 : 0));
  }
  if (phase === 'settling') codes.push(moment(queue.fence.settleEnd));
  codes.push(
    (queue.failed ? 1 : 0) + (queue.returning ? 2 : 0),
    moment(queue.fence.patience),
    moment(queue.fence.deadline),
  );
  if (queue.fence.times === TIMED) codes.push(queue.fence.depth, queue.fence.steady);
  if (front === null) return;
  codes.push(RETRY_PHASES.indexOf(front.phase), front.handling);
  list([...front.sent]);
  list([...front.waiting]);
  codes.push(mask(front.returned), mask(front.asked), mask(front.guarded));
}

function moment(milliseconds: number): number {
  return milliseconds === Number.POSITIVE_INFINITY ? 99 : milliseconds;
}
