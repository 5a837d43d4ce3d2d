/**
 * One device claimed by one client: the only way to its endpoints.
 *
 * A session keeps an endpoint queue (`src/stall`) for each endpoint, carries out what those decide,
 * and gives back each URB exactly once. It knows no transport: a transport submits and unlinks
 * URBs and is told when they end.
 *
 * Devices may complete a URB from inside `submit`, and clients may submit and unlink from inside
 * `gaveBack`; so actions are worked off in one loop (`#carryOut`), never recursively: a queue of a
 * thousand URBs costs no stack.
 */

import { Actions } from '../stall/actions.ts';
import { Barrier } from '../stall/barriers.ts';
import {
  type ActionKind,
  cleared,
  closed,
  completed,
  elapsed,
  fenceOpened,
  needsTime,
  type Outcome,
  overtaken,
  submitted,
  unlinked,
} from '../stall/endpoint-queue.ts';
import type { Evidence, Recovery } from '../stall/fence.ts';
import { assert } from './assert.ts';
import { type Clock, systemClock } from './clock.ts';
import { Containment } from './containment.ts';
import { type ControlEffect, controlEffect } from './control-effect.ts';
import type { DeviceHost, EndpointInfo, UsbDevice } from './device.ts';
import { ENDPOINT_PLACES, placeOf } from './endpoint-place.ts';
import { EndpointSlot, type EndpointSlotOptions } from './endpoint-slot.ts';
import { FailedSession } from './failed-session.ts';
import { LET_GO_MILLISECONDS } from './limits.ts';
import { timedRecovery } from './recovery.ts';
import { type RunningClock, runningTime } from './running-time.ts';
import { OPERATION_BYTES, TURN_OPERATIONS_MAX } from './turn-budget.ts';
import type { Urb, UrbStatus } from './urb.ts';
import { UrbTable } from './urb-table.ts';
import { within } from './within.ts';

export interface SessionClient {
  /** The URB is done, its result filled in. Called once for each submitted URB. */
  gaveBack(urb: Urb): void;
  /** The device has gone; every URB has been given back before. */
  deviceRemoved(): void;
  /**
   * The device, the session or this client has a bug. Log it and `close` the session, which gives
   * back what is outstanding. Called once, perhaps from inside a call of the session's. Default:
   * the error is thrown to whoever has called the session.
   */
  failed?(error: unknown): void;
  /** It gives back what is lent (`Urb.loan`); else nothing is. */
  readonly borrows?: boolean;
  /** A name for the moment after the last `gaveBack`, for `evidence`. Default: none is kept. */
  reportMark?(): number;
  /**
   * Whether what arrives now was sent before the client can have had the report at `mark`; the URB `id`, if
   * one is named, also whether its driver had submitted it before.
   */
  evidence?(mark: number, id?: number): Evidence;
}

export interface SessionOptions {
  /** How the client's handlers are waited for after an error; see `Recovery`. */
  readonly recovery?: Recovery;
  readonly clock?: Clock;
}

type State = 'open' | 'removed' | 'closing' | 'closed';

export class DeviceSession implements DeviceHost {
  readonly device: UsbDevice;
  /** URBs submitted, and those given back with an error, since the session began. */
  urbCount = 0;
  errorCount = 0;
  readonly #client: SessionClient;
  readonly #clock: RunningClock;
  readonly #slotOptions: EndpointSlotOptions;
  readonly #slots: (EndpointSlot | undefined)[] = new Array(ENDPOINT_PLACES).fill(undefined);
  readonly #outstanding = new UrbTable();
  readonly #actions = new Actions<Urb, ActionKind>(TURN_OPERATIONS_MAX);
  /** All that clients, devices and timers call runs in here. */
  readonly #containment = new Containment((error) => this.#fail(error));
  #carryingOut = false;
  /** Actions wait for the next turn. */
  #awaitsTurn = false;
  #state: State = 'open';
  /** The client is to be told that the device has gone, when it has all its URBs. */
  #untold = false;
  #whenEmpty: (() => void) | null = null;
  /** What is left to be done after a bug. */
  #failure: FailedSession | null = null;
  #letGo: Promise<void> | null = null;
  #closed: Promise<void> | null = null;

  /**
   * Claims the device; the registry keeps a second client away.
   *
   * @throws what the device's `open` throws.
   */
  constructor(device: UsbDevice, client: SessionClient, options: SessionOptions = {}) {
    this.device = device;
    this.#client = client;
    const { recovery = timedRecovery() } = options;
    this.#clock = runningTime(this.#containment.clock(options.clock ?? systemClock));
    const onDeadline = (slot: EndpointSlot) => this.#elapsed(slot);
    const hasReport = (mark: number) => client.evidence?.(mark) !== 'sent-before-report';
    this.#slotOptions = { device, recovery, clock: this.#clock, hasReport, onDeadline };
    device.open(this);
  }

  get borrows(): boolean {
    return this.#client.borrows ?? false;
  }

  /** URBs that the client has submitted and not got back. */
  get outstandingCount(): number {
    return this.#outstanding.size;
  }

  has(id: number): boolean {
    return this.#outstanding.get(id) !== undefined;
  }

  outstanding(id: number): Urb | undefined {
    return this.#outstanding.get(id);
  }

  /** False once the device has gone or `close` was called: no URB may be submitted. */
  get isOpen(): boolean {
    return this.#state === 'open';
  }

  /** There was a bug. */
  get hasFailed(): boolean {
    return this.#containment.isBroken;
  }

  /** The URB's id must be new and its endpoint one of this device's. */
  submit(urb: Urb): void {
    assert(this.#state === 'open', 'Cannot submit a URB: the session is not open');
    assert(!this.has(urb.id), 'Cannot submit a URB: its id is outstanding');
    // Not `run`: what every URB passes through is to be compiled into one piece.
    try {
      this.#submit(urb);
    } catch (error) {
      this.#containment.bug(error);
    }
  }

  #submit(urb: Urb): void {
    this.#outstanding.add(urb);
    urb.outstanding = true;
    urb.place = this.urbCount++;
    const slot = this.#slotOf(urb.endpoint);
    if (slot.info.type === urb.endpoint.type) slot.info = urb.endpoint;
    const { queue } = slot;
    if (!needsTime(queue)) {
      submitted(queue, urb, urb.clearStall, 'unknown', 0, this.#actions);
    } else {
      const evidence = this.#client.evidence?.(slot.mark, urb.id) ?? 'unknown';
      if (slot.answered) slot.fresh.add(urb);
      submitted(queue, urb, urb.clearStall, evidence, this.#clock.now(), this.#actions);
      slot.arm();
    }
    this.#carryOut();
  }

  /** Asks for a URB back; it is given back as 'unlinked' or as it ended before. */
  unlink(id: number): void {
    const urb = this.#outstanding.get(id);
    if (urb !== undefined && !this.hasFailed) this.#containment.run(this.#unlink, urb);
  }

  readonly #unlink = (urb: Urb): void => {
    const slot = this.#slotOf(urb.endpoint);
    if (slot.queue.phase === 'holding') slot.answered = true;
    unlinked(slot.queue, urb, this.#clock.now(), this.#actions);
    slot.arm();
    this.#carryOut();
  };

  /**
   * The unlink of a URB has arrived before the URB, which is therefore never submitted here, and
   * the client was told: what is behind it waits for the client's handler all the same.
   */
  overtaken(endpoint: EndpointInfo): void {
    if (!this.hasFailed) this.#containment.run(this.#overtaken, endpoint);
  }

  readonly #overtaken = (endpoint: EndpointInfo): void => {
    const slot = this.#slotOf(endpoint);
    overtaken(slot.queue, this.#clock.now(), this.#actions);
    slot.mark = this.#client.reportMark?.() ?? 0;
    slot.arm();
    this.#carryOut();
  };

  /**
   * Opens the fences of the endpoints whose last report the client has handled, which `handled` tells
   * from its mark. For transports that know. Returns whether there are others, not handled yet.
   */
  openFences(handled: (mark: number) => boolean): boolean {
    let others = false;
    this.#forEachSlot((slot) => {
      if (!slot.awaitsFence) return;
      if (handled(slot.mark)) fenceOpened(slot.queue, this.#clock.now(), this.#actions);
      else others = true;
    });
    return others;
  }

  /** Whether an endpoint waits for its fence: 'blocked' if URBs are held meanwhile. */
  get fences(): 'open' | 'closed' | 'blocked' {
    let fences: 'open' | 'closed' = 'open';
    for (const slot of this.#slots) {
      if (slot === undefined || !slot.awaitsFence) continue;
      if (slot.queue.waiting.length > slot.queue.barriers) return 'blocked';
      fences = 'closed';
    }
    return fences;
  }

  /**
   * URBs that wait for a fence that `openFences` would open now; not those that the client submitted after
   * it had begun to unlink.
   */
  heldUrbs(handled: (mark: number) => boolean): Urb[] {
    const held: Urb[] = [];
    for (const slot of this.#slots) {
      if (slot?.queue.phase !== 'holding' || !handled(slot.mark)) continue;
      for (const one of slot.queue.waiting) {
        if (!(one instanceof Barrier) && !slot.fresh.has(one)) held.push(one);
      }
    }
    return held;
  }

  /**
   * Gives back every URB, then lets go of the device; resolves when another may claim it. Goes on when the
   * device takes too long: see `letGo`.
   *
   * @throws {Error} if it does, or if the device fails to close.
   */
  close(): Promise<void> {
    const stuck = () => {
      throw new Error(this.stuckText);
    };
    this.#closed ??= within(this.letGo(), LET_GO_MILLISECONDS, stuck, this.#clock);
    return this.#closed;
  }

  /** The same, however long the device takes. */
  letGo(): Promise<void> {
    this.#letGo ??= this.#endAll();
    return this.#letGo;
  }

  /** For people: what a device that does not let go keeps. */
  get stuckText(): string {
    const urbs = this.#outstanding.size;
    const what = urbs === 0 ? 'it is still closing' : `${urbs} of its URBs are not back`;
    const seconds = LET_GO_MILLISECONDS / 1000;
    return `Cannot let go of ${this.device.info.label}: ${what} after ${seconds} s, wanted it to be free`;
  }

  async #endAll(): Promise<void> {
    this.#state = 'closing';
    this.#unlinkAll();
    if (this.#outstanding.size > 0 && !this.hasFailed) {
      await new Promise<void>((resolve) => {
        this.#whenEmpty = resolve;
      });
    }
    if (this.#failure !== null) {
      await this.#failure.close();
      return;
    }
    this.#state = 'closed';
    await this.device.close();
  }

  completed(urb: Urb): void {
    if (this.#failure !== null) {
      this.#failure.completed(urb);
      return;
    }
    try {
      this.#completed(urb);
    } catch (error) {
      this.#containment.bug(error);
    }
  }

  #completed(urb: Urb): void {
    assert(urb.atDevice, 'Cannot complete a URB: the device does not have it');
    urb.atDevice = false;
    const slot = this.#slotOf(urb.endpoint);
    const { queue } = slot;
    if (urb.status === 'ok' && !needsTime(queue)) {
      completed(queue, urb, 'ok', 0, this.#actions);
    } else {
      completed(queue, urb, outcomeOf(urb), this.#clock.now(), this.#actions);
      if (this.#state !== 'open') closed(queue, this.#actions);
      slot.arm();
    }
    this.#carryOut();
  }

  /** The device has gone: what is outstanding ends as 'shutdown', then the client is told. */
  removed(): void {
    if (this.#state !== 'open') return;
    this.#state = 'removed';
    this.#untold = true;
    this.#unlinkAll();
    if (this.#outstanding.size === 0) this.#containment.run(this.#emptied, undefined);
  }

  failed(error: unknown): void {
    this.#containment.bug(error);
  }

  /** The first bug: from here on, nothing but `close` is done. */
  #fail(error: unknown): void {
    if (this.#client.failed === undefined) throw error;
    this.#state = 'closing';
    this.#failure = new FailedSession(this.device, this.#client, this.#outstanding, this.#clock);
    this.#actions.clear();
    for (const slot of this.#slots) slot?.end();
    this.#whenEmpty?.();
    this.#client.failed(error);
  }

  readonly #emptied = (): void => {
    if (this.#untold) {
      this.#untold = false;
      this.#client.deviceRemoved();
    }
    this.#whenEmpty?.();
  };

  /** Newest first, so that none starts because one ahead of it has left. */
  #unlinkAll(): void {
    const all = [...this.#outstanding].sort((one, other) => other.place - one.place);
    for (const { id } of all) this.unlink(id);
    this.#forEachSlot((slot) => closed(slot.queue, this.#actions));
  }

  #forEachSlot(step: (slot: EndpointSlot) => void): void {
    if (!this.hasFailed) this.#containment.run(this.#stepAll, step);
  }

  readonly #stepAll = (step: (slot: EndpointSlot) => void): void => {
    for (const slot of this.#slots) {
      if (slot === undefined) continue;
      step(slot);
      slot.arm();
    }
    this.#carryOut();
  };

  #slotOf(endpoint: EndpointInfo): EndpointSlot {
    const { address, type } = endpoint;
    const index = placeOf(address);
    const slot = this.#slots[index];
    // Another alternate setting may have another kind of endpoint there; it gets a queue of its own
    // when the old one's URBs are all back.
    if (slot !== undefined && (slot.info.type === type || !slot.isIdle)) return slot;
    slot?.end();
    const fresh = new EndpointSlot(endpoint, this.#slotOptions);
    this.#slots[index] = fresh;
    return fresh;
  }

  #elapsed(slot: EndpointSlot): void {
    if (this.hasFailed) return;
    elapsed(slot.queue, this.#clock.now(), this.#actions);
    slot.arm();
    this.#carryOut();
  }

  /**
   * Works off the actions; what is more than one turn's work (turn-budget.ts) is left for the next one.
   * Nothing depends on when an action is carried out, only on their order.
   */
  #carryOut(): void {
    if (this.#carryingOut) return;
    this.#carryingOut = true;
    const actions = this.#actions;
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      if (this.hasFailed) break;
      const urb = actions.subject;
      switch (kind) {
        case 'start':
          this.#start(urb);
          break;
        case 'cancel':
          this.device.unlink(urb);
          break;
        case 'giveBack':
          this.#giveBack(urb, urb.status);
          break;
        case 'giveBackUnlinked':
          this.#giveBack(urb, 'unlinked');
          break;
        case 'giveBackReturned':
          this.#giveBack(urb, 'returned');
          break;
      }
    }
    this.#carryingOut = false;
    if (!actions.isEmpty) this.#awaitTurn();
  }

  #start(urb: Urb): void {
    urb.atDevice = true;
    try {
      this.device.submit(urb);
    } catch (error) {
      urb.atDevice = false; // it has not taken it
      throw error;
    }
  }

  #turn(): void {
    this.#awaitsTurn = false;
    this.#carryOut();
  }

  /** There are more actions than are carried out in one turn. */
  #awaitTurn(): void {
    this.#actions.goOn();
    if (!this.#awaitsTurn) this.#clock.after(0, () => this.#turn());
    this.#awaitsTurn = true;
  }

  #giveBack(urb: Urb, status: UrbStatus): void {
    const known = this.#outstanding.delete(urb);
    assert(known, 'Cannot give back a URB: it was given back before');
    urb.outstanding = false;
    if (urb.actualOctets >= OPERATION_BYTES)
      this.#actions.charge(urb.actualOctets / OPERATION_BYTES);
    const unasked = this.#state !== 'open' && status === 'unlinked';
    urb.status = unasked ? 'shutdown' : status;
    if (status !== 'ok') this.errorCount++;
    this.#client.gaveBack(urb);
    if (urb.setup !== null && status === 'ok') this.#applyEffect(controlEffect(urb.setup));
    if (this.#client.reportMark !== undefined) {
      const slot = this.#slotOf(urb.endpoint);
      // A URB that was unlinked too late may end well, and its handler is waited for all the same.
      if (status !== 'ok' || slot.queue.phase === 'holding') {
        slot.mark = this.#client.reportMark();
      }
    }
    if (this.#outstanding.size === 0) this.#emptied();
  }

  /** What a request did to the device's endpoints, it does to their queues. */
  #applyEffect(effect: ControlEffect): void {
    if (effect.type === 'none') return;
    const now = this.#clock.now();
    for (const slot of this.#slots) {
      if (slot === undefined || slot.info.type === 'control') continue;
      const { address, interfaceNumber } = slot.info;
      if (effect.type === 'clear-halt' && address !== effect.address) continue;
      if (effect.type === 'set-interface' && interfaceNumber !== effect.interfaceNumber) continue;
      cleared(slot.queue, now, this.#actions);
      slot.arm();
    }
  }
}

function outcomeOf(urb: Urb): Outcome {
  switch (urb.status) {
    case 'ok':
    case 'short':
      return urb.status;
    case 'unlinked':
      // What the device moved must be reported; such a URB never goes back into the queue.
      return urb.actualOctets > 0 ? 'partial' : 'unlinked';
    default:
      return 'error';
  }
}
