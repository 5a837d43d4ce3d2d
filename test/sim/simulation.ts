/**
 * A client, a network and the gateway's real session with a real virtual device, in simulated time.
 *
 * Three endpoints are busy at once: bulk IN (short reads are errors), bulk OUT and interrupt IN
 * (errors before data moves). Their drivers are of three sorts: one submits a batch and, when one of
 * it fails, unlinks the rest in its handler, as usb_sg_init does; another keeps a number of URBs
 * queued, and lets the others go on when one fails; the third keeps a number too, but when one fails,
 * its handler unlinks the others and submits new ones. The first two also unlink a URB now and then.
 */
import { strict as assert } from 'node:assert';
import type { EndpointInfo } from '../../src/core/device.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { timedRecovery } from '../../src/core/recovery.ts';
import { DeviceSession, type SessionClient } from '../../src/core/session.ts';
import { type SetupPacket, Urb, type UrbStatus } from '../../src/core/urb.ts';
import { Actions } from '../../src/stall/actions.ts';
import type { Evidence, Recovery } from '../../src/stall/fence.ts';
import * as retry from '../../src/stall/retry-queue.ts';
import { EarlyUnlinks } from '../../src/usbip/early-unlinks.ts';
import { type DeviceWatcher, SlowDevice } from './slow-device.ts';
import { Chance, Channel, SimulatedClock } from './time.ts';

/** As in test/model/world.ts; and 'none': no recovery, to show what it is for. */
export type Client = 'timed' | 'exact' | 'return' | 'old' | 'none';

export interface Options {
  readonly seed: number;
  readonly client: Client;
  /** URBs that each driver submits, about. */
  readonly urbs: number;
  /** The connection is lost somewhere on the way. */
  readonly lost: boolean;
}

export interface Outcome {
  urbs: number;
  errors: number;
  unlinked: number;
  retried: number;
  /**
   * URBs that started between an error (or unlink) and the return of the handlers (I1). With a
   * timed fence: those among them that the handlers then unlinked.
   */
  violations: number;
  milliseconds: number;
}

const FOREVER = Number.POSITIVE_INFINITY;
const RECOVERY: Readonly<Record<Client, Recovery>> = {
  timed: timedRecovery(),
  exact: {
    kind: 'hold',
    settleMilliseconds: 0,
    holdMilliseconds: FOREVER,
    arrivalMilliseconds: FOREVER,
    graceMilliseconds: FOREVER,
    steadyTransfers: FOREVER,
  },
  return: { kind: 'return' },
  old: { kind: 'none' },
  none: { kind: 'none' },
};

const SHORT_OCTETS = 1000;

/** One transfer of a driver, however often it is sent. */
interface Transfer {
  /** Position in the order in which its driver submitted. */
  readonly order: number;
  readonly lane: Lane;
  readonly octets: number;
  state: 'out' | 'asked' | 'back';
  /** The URB that was sent last, by its number. */
  urbId: number;
  started: boolean;
  /** Until its handler returns nothing behind this place may start; Infinity: no restriction. */
  blocksFrom: number;
  /** Started when one before it, not handled yet, had failed. */
  early: boolean;
  /** Unlinked by the handler of one before it. */
  unlinkedByHandler: boolean;
}

type Reply = 'lost' | 'never started' | { status: UrbStatus; data: Uint8Array; octets: number };

/** An endpoint with its driver. */
interface Lane {
  readonly endpoint: EndpointInfo;
  readonly sort: 'batch' | 'stream' | 'restart';
  readonly depth: number;
  readonly out: Set<Transfer>;
  /** Those with a finite `blocksFrom`. */
  readonly blocking: Set<Transfer>;
  readonly front: retry.RetryQueue<Transfer> | null;
  readonly actions: retry.RetryActions<Transfer>;
  /** Handlers that have not returned. */
  handling: number;
  submitted: number;
  lastStarted: number;
  nextStamp: number;
  packets: number;
}

class Simulation implements SessionClient, DeviceWatcher {
  readonly #options: Options;
  readonly #chance: Chance;
  readonly #clock = new SimulatedClock();
  readonly #session: DeviceSession;
  readonly #lanes: Lane[] = [];
  readonly #transfers = new Map<number, Transfer>();
  readonly #up: Channel<{
    transfer: Transfer;
    kind: 'submit' | 'unlink';
    urb: number;
    clear: boolean;
    unlinkId?: number;
  }>;
  readonly #down: Channel<{ transfer: Transfer; reply: Reply }>;
  /** What the kernel's client has queued; its thread sends submits before unlinks. */
  readonly #submits: { transfer: Transfer; urb: number }[] = [];
  readonly #unlinks: { transfer: Transfer; urb: number; unlinkId: number }[] = [];
  #senderAwake = false;
  readonly #earlyUnlinks = new EarlyUnlinks(1000);
  /** Replies that have left the gateway, and those that the client's machine has. */
  #reported = 0;
  #acknowledged = 0;
  /** Received and not handled, by the kernel's client, which handles one at a time. */
  readonly #received: { transfer: Transfer; reply: Reply }[] = [];
  #handling = 0;
  #nextUrb = 100;
  #lost = false;
  #controlDone: ((urb: Urb) => void) | null = null;
  #closed: Promise<void> | null = null;
  readonly outcome: Outcome = {
    urbs: 0,
    errors: 0,
    unlinked: 0,
    retried: 0,
    violations: 0,
    milliseconds: 0,
  };

  constructor(options: Options) {
    this.#options = options;
    const chance = new Chance(options.seed);
    this.#chance = chance;
    const clock = this.#clock;
    const inner = new VirtualDevice(
      sourceSink.define({ speed: 'high', short: SHORT_OCTETS, stamp: true } as object),
      { clock },
    );
    const device = new SlowDevice(inner, clock, chance, 30, this);
    this.#session = new DeviceSession(device, this, { clock, recovery: RECOVERY[options.client] });
    this.#control({ requestType: 0, request: 9, value: 1, index: 0, length: 0 });
    this.#control({ requestType: 1, request: 11, value: 1, index: 0, length: 0 });
    const delay = () => (chance.oneIn(40) ? chance.between(1, 8) : chance.between(0.1, 1));
    this.#up = new Channel(clock, delay, (message) => this.#gatewayReceives(message));
    this.#down = new Channel(clock, delay, (message) => this.#clientReceives(message));
    for (const address of [0x81, 0x02, 0x85]) {
      const endpoint = device.endpoint(address);
      assert(endpoint !== undefined);
      this.#lanes.push(this.#lane(endpoint));
    }
  }

  async run(): Promise<Outcome> {
    const { lost } = this.#options;
    for (const lane of this.#lanes) this.#drive(lane);
    if (lost) this.#clock.after(this.#chance.between(0, 3000), () => this.#loseConnection());
    this.#clock.run();
    for (const lane of this.#lanes) {
      const { out, submitted } = lane;
      assert.equal(out.size, 0, `I6: ${out.size} URBs of ${submitted} never came back`);
      assert(this.#lost || submitted >= this.#options.urbs);
    }
    if (!this.#lost) this.#checkCounters();
    this.#closed ??= this.#session.letGo();
    this.#clock.run();
    await this.#closed;
    assert.equal(this.#session.outstandingCount, 0);
    this.outcome.milliseconds = this.#clock.now();
    return this.outcome;
  }

  // The device, as the session uses it.

  started(urb: Urb): void {
    const transfer = this.#transfers.get(urb.id);
    if (transfer === undefined) return;
    const { lane, order } = transfer;
    assert(!this.#lost, 'I2: a URB starts after the end of the connection');
    assert(!transfer.started, 'I4: a URB starts twice');
    assert(order > lane.lastStarted, `I3: URB ${order} starts after ${lane.lastStarted}`);
    transfer.started = true;
    lane.lastStarted = order;
    for (const other of lane.out) {
      if (other.order >= order) break;
      const passed = other.state === 'out' && !other.started;
      assert(!passed, `I3: URB ${order} overtakes ${other.order}`);
    }
    for (const other of lane.blocking) {
      if (other.blocksFrom >= order) continue;
      // Nothing but SHORT_NOT_OK keeps an old server's URBs apart.
      if (this.#options.client === 'old' && !urb.shortNotOk) continue;
      transfer.early = true;
    }
    const counts = this.#options.client !== 'timed' || transfer.unlinkedByHandler;
    if (transfer.early && counts) this.outcome.violations++;
  }

  ended(urb: Urb): void {
    const transfer = this.#transfers.get(urb.id);
    if (transfer !== undefined && urb.status !== 'ok') this.#block(transfer, transfer.order);
  }

  #block(transfer: Transfer, from: number): void {
    transfer.blocksFrom = Math.min(transfer.blocksFrom, from);
    transfer.lane.blocking.add(transfer);
  }

  // The gateway, around its session.

  #gatewayReceives(message: {
    transfer: Transfer;
    kind: 'submit' | 'unlink';
    urb: number;
    clear: boolean;
    unlinkId?: number;
  }): void {
    const { transfer, kind, urb, clear, unlinkId = 0 } = message;
    const early = this.#earlyUnlinks;
    if (kind === 'unlink') {
      early.unlinked(unlinkId);
      if (this.#session.has(urb) || !early.keep(urb, unlinkId)) this.#session.unlink(urb);
      return;
    }
    const { endpoint } = transfer.lane;
    if (early.arrived(urb) !== undefined) {
      this.#block(transfer, transfer.order);
      this.#report(transfer, 'never started');
      this.#session.overtaken(endpoint);
      return;
    }
    const made =
      endpoint.direction === 'in'
        ? Urb.read(urb, endpoint, transfer.octets, endpoint.type === 'bulk')
        : Urb.write(urb, endpoint, Buffer.alloc(transfer.octets));
    made.clearStall = clear;
    this.#transfers.set(urb, transfer);
    this.#session.submit(made);
  }

  gaveBack(urb: Urb): void {
    const transfer = this.#transfers.get(urb.id);
    if (transfer === undefined) {
      this.#controlDone?.(urb);
      return;
    }
    this.#transfers.delete(urb.id);
    if (urb.status === 'returned') {
      assert(!transfer.started, 'I4: a URB was started and is returned');
    } else if (urb.status !== 'ok') {
      this.#block(transfer, transfer.order);
    }
    const { status, dataIn, actualOctets } = urb;
    this.#report(transfer, { status, data: dataIn, octets: actualOctets });
  }

  #report(transfer: Transfer, reply: Reply): void {
    this.#reported++;
    this.#down.send({ transfer, reply });
  }

  deviceRemoved(): void {}

  reportMark(): number {
    return this.#reported;
  }

  evidence(mark: number, id?: number): Evidence {
    if (id !== undefined && this.#earlyUnlinks.isOlder(id)) return 'sent-before-report';
    return this.#acknowledged < mark ? 'sent-before-report' : 'sent-after-report';
  }

  #control(setup: SetupPacket): Urb | null {
    let done: Urb | null = null;
    this.#controlDone = (urb) => {
      done = urb;
    };
    const endpoint = this.#session.device.endpoint(0);
    assert(endpoint !== undefined);
    this.#session.submit(Urb.control(this.#nextUrb++, endpoint, setup));
    this.#clock.run();
    return done;
  }

  /** What the device says it has moved is what the drivers were told (I4). */
  #checkCounters(): void {
    const urb = this.#control({ requestType: 0xc0, request: 0x5d, value: 0, index: 0, length: 12 });
    assert(urb !== null && urb.dataIn.length === 12);
    const counters = Buffer.from(urb.dataIn);
    const [bulkIn, bulkOut, interruptIn] = this.#lanes.map(({ packets }) => packets);
    assert.equal(counters.readUInt32LE(0), (bulkIn ?? 0) + (interruptIn ?? 0), 'I4: IN packets');
    assert.equal(counters.readUInt32LE(4), bulkOut, 'I4: OUT packets');
  }

  // The client.

  #lane(endpoint: EndpointInfo): Lane {
    const { client } = this.#options;
    const server = client === 'return' ? 'stall-protocol' : 'old';
    return {
      endpoint,
      sort: (['batch', 'stream', 'restart'] as const)[this.#chance.below(3)] ?? 'batch',
      depth: 1 + this.#chance.below(8),
      out: new Set(),
      blocking: new Set(),
      front:
        client === 'return' || client === 'old'
          ? retry.retryQueue<Transfer>('errors', server, ({ order }) => order)
          : null,
      actions: new Actions<Transfer, retry.RetryActionKind>(),
      handling: 0,
      submitted: 0,
      lastStarted: -1,
      nextStamp: 0,
      packets: 0,
    };
  }

  #clientReceives(message: { transfer: Transfer; reply: Reply }): void {
    this.#acknowledged++;
    const { transfer, reply } = message;
    const { front, actions } = transfer.lane;
    if (front === null) {
      this.#received.push(message);
      if (this.#handling === 0) this.#handleNext();
      return;
    }
    assert(typeof reply !== 'string');
    retry.replied(front, transfer, replyOf(reply.status), actions);
    this.#carryOut(transfer.lane, reply);
  }

  /** The kernel's client: one handler after the other, in the thread that receives. */
  #handleNext(): void {
    const message = this.#received.shift();
    if (message !== undefined) this.#handle(message.transfer, message.reply);
    else this.#openFence();
  }

  #carryOut(lane: Lane, reply: Reply = 'lost'): void {
    const { actions } = lane;
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      const transfer = actions.subject;
      switch (kind) {
        case 'send':
        case 'sendClear': {
          if (transfer.urbId >= 0) this.outcome.retried++;
          transfer.urbId = this.#nextUrb++;
          const urb = transfer.urbId;
          this.#up.send({ transfer, kind: 'submit', urb, clear: kind === 'sendClear' });
          break;
        }
        case 'sendUnlink':
          this.#up.send({ transfer, kind: 'unlink', urb: transfer.urbId, clear: false });
          break;
        case 'giveBack':
          this.#handle(transfer, reply);
          break;
        case 'giveBackUnlinked':
          this.#block(transfer, transfer.order);
          this.#handle(transfer, 'never started');
          break;
        case 'giveBackLost':
          this.#handle(transfer, 'lost');
          break;
      }
    }
  }

  /** The driver's handler begins; it acts and returns a while later. */
  #handle(transfer: Transfer, reply: Reply): void {
    const { lane } = transfer;
    assert(lane.out.delete(transfer), 'I2: a URB is given back twice');
    const asked = transfer.state === 'asked';
    transfer.state = 'back';
    const bad = this.#note(lane, reply, asked);
    this.#handling++;
    lane.handling++;
    const chance = this.#chance;
    const thinks = chance.oneIn(60) ? chance.between(0, 6) : chance.between(0, 0.2);
    this.#clock.after(thinks, () => {
      const unlinksRest = lane.sort === 'batch' || (lane.sort === 'restart' && !asked);
      if (bad && unlinksRest) this.#unlinkRest(transfer);
      if (lane.sort !== 'batch') this.#drive(lane);
      this.#clock.after(chance.between(0, 0.1), () => this.#handled(transfer));
    });
  }

  /** Takes note of what came back; true if that was not well. */
  #note(lane: Lane, reply: Reply, asked: boolean): boolean {
    if (typeof reply === 'string') {
      if (reply === 'never started') this.outcome.unlinked++;
      assert(reply === 'lost' || asked, 'I2: a URB comes back as unlinked, unasked');
      return true;
    }
    const { status, data, octets } = reply;
    assert(status !== 'returned', 'I2: the driver sees a return');
    assert(status !== 'unlinked' || asked, 'I2: a URB comes back as unlinked, unasked');
    if (status === 'unlinked') this.outcome.unlinked++;
    else if (status !== 'ok') this.outcome.errors++;
    const { direction, maxPacketOctets } = lane.endpoint;
    const packets = Math.ceil(octets / maxPacketOctets);
    for (let packet = 0; direction === 'in' && packet < packets; packet++) {
      const stamp = Buffer.from(data).readUInt32LE(packet * maxPacketOctets);
      assert.equal(stamp, lane.nextStamp++, 'I4: data is lost, doubled or out of order');
    }
    lane.packets += packets;
    return status !== 'ok' || asked;
  }

  #handled(transfer: Transfer): void {
    const { lane } = transfer;
    this.#handling--;
    lane.handling--;
    transfer.blocksFrom = FOREVER;
    lane.blocking.delete(transfer);
    const over = () => lane.out.size + lane.handling === 0;
    if (lane.sort === 'batch' && over()) {
      this.#clock.after(this.#chance.between(0, 0.5), () => {
        if (over()) this.#drive(lane);
      });
    }
    if (lane.front !== null) {
      retry.handled(lane.front, lane.actions);
      this.#carryOut(lane);
    } else if (this.#handling === 0) {
      this.#handleNext();
    }
  }

  /** As usb_sg_cancel does: newest first. */
  #unlinkRest(failed: Transfer): void {
    for (const transfer of [...failed.lane.out].reverse()) {
      if (transfer.state !== 'out') continue;
      if (failed.blocksFrom < FOREVER) this.#block(transfer, failed.blocksFrom);
      if (transfer.early && this.#options.client === 'timed') this.outcome.violations++;
      transfer.unlinkedByHandler = true;
      this.#unlink(transfer);
    }
  }

  #drive(lane: Lane): void {
    while (lane.out.size < lane.depth) {
      if (this.#lost || lane.submitted >= this.#options.urbs) return;
      this.#submit(lane);
    }
  }

  #submit(lane: Lane): void {
    const chance = this.#chance;
    const transfer: Transfer = {
      order: lane.submitted++,
      lane,
      octets: chance.oneIn(6) ? 1500 : 600,
      state: 'out',
      urbId: -1,
      started: false,
      blocksFrom: FOREVER,
      early: false,
      unlinkedByHandler: false,
    };
    this.outcome.urbs++;
    lane.out.add(transfer);
    if (lane.sort !== 'restart' && chance.oneIn(60)) {
      this.#clock.after(chance.between(0, 10), () => {
        if (transfer.state === 'out') this.#unlink(transfer);
      });
    }
    if (lane.front !== null) {
      retry.submitted(lane.front, transfer, lane.endpoint.type === 'bulk', lane.actions);
      this.#carryOut(lane);
      return;
    }
    transfer.urbId = this.#nextUrb++;
    this.#submits.push({ transfer, urb: transfer.urbId });
    this.#wakeSender();
  }

  #unlink(transfer: Transfer): void {
    transfer.state = 'asked';
    const { front, actions } = transfer.lane;
    if (front !== null) {
      retry.unlinked(front, transfer, actions);
      this.#carryOut(transfer.lane);
      return;
    }
    this.#unlinks.push({ transfer, urb: transfer.urbId, unlinkId: this.#nextUrb++ });
    this.#wakeSender();
  }

  /** vhci_tx_loop: all submits, then all unlinks; it may lose its CPU between the two. */
  #wakeSender(): void {
    if (this.#senderAwake) return;
    this.#senderAwake = true;
    const chance = this.#chance;
    const wakes = chance.oneIn(30) ? chance.between(0, 5) : chance.between(0, 0.1);
    this.#clock.after(wakes, () => {
      for (const each of this.#submits.splice(0)) {
        this.#up.send({ ...each, kind: 'submit', clear: false });
      }
      const pauses = chance.oneIn(30) ? chance.between(0, 5) : chance.between(0, 0.01);
      this.#clock.after(pauses, () => this.#sendUnlinks());
    });
  }

  #sendUnlinks(): void {
    this.#senderAwake = false;
    for (const each of this.#unlinks.splice(0)) {
      this.#up.send({ ...each, kind: 'unlink', clear: false });
    }
    if (this.#submits.length > 0) this.#wakeSender();
    if (this.#options.client === 'exact') {
      this.#clock.after(this.#chance.between(0, 2), () => this.#openFence());
    }
  }

  /** Client 'exact': somebody knows when all reports are handled and their unlinks have arrived. */
  #openFence(): void {
    if (this.#options.client !== 'exact' || this.#lost) return;
    const busy = this.#down.length + this.#received.length + this.#handling > 0;
    if (busy) return; // asked again when that is over
    if (this.#unlinks.length > 0) return; // asked again when they are sent
    if (this.#up.length > 0) this.#clock.after(0.5, () => this.#openFence());
    else this.#session.openFences(() => true);
  }

  #loseConnection(): void {
    this.#lost = true;
    this.#up.cut();
    this.#down.cut();
    this.#received.length = 0;
    this.#closed = this.#session.letGo();
    for (const lane of this.#lanes) {
      if (lane.front !== null) {
        retry.connectionLost(lane.front, lane.actions);
        this.#carryOut(lane);
      } else {
        for (const transfer of [...lane.out]) this.#handle(transfer, 'lost');
      }
    }
  }
}

function replyOf(status: UrbStatus): retry.Reply {
  switch (status) {
    case 'ok':
    case 'short':
    case 'unlinked':
    case 'returned':
      return status;
    default:
      return 'error';
  }
}

export function simulate(options: Options): Promise<Outcome> {
  return new Simulation(options).run();
}
