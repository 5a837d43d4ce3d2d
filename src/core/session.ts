/**
 * One device claimed by one client: the only way to its endpoints.
 *
 * A session keeps an endpoint queue (`src/stall`) for each endpoint, carries out what those decide,
 * and gives back each URB exactly once. It knows no transport: a transport submits and unlinks
 * URBs and is told when they end.
 *
 * Devices may complete a URB from inside `submit`, so actions are worked off in one loop
 * (`#carryOut`), never recursively: a queue of a thousand URBs costs no stack.
 */
import { strict as assert } from 'node:assert';
import {
  Actions,
  completed,
  type EndpointQueue,
  endpointQueue,
  submitted,
  unlinked,
} from '../stall/endpoint-queue.ts';
import type { DeviceHost, QueueModel, UsbDevice } from './device.ts';
import type { Urb } from './urb.ts';

export interface SessionClient {
  /** The URB is done, its result filled in. Called once for each submitted URB. */
  gaveBack(urb: Urb): void;
  /** The device has gone; every URB has been given back before. */
  deviceRemoved(): void;
}

/** URBs of one endpoint that the device takes at a time. */
const FLIGHT_MAX: Readonly<Record<QueueModel, number>> = { serial: 1 };

type State = 'open' | 'removed' | 'closing' | 'closed';

export class DeviceSession implements DeviceHost {
  readonly device: UsbDevice;
  readonly #client: SessionClient;
  /** By endpoint number, IN endpoints from 16 on. Endpoint 0 has one queue for both ways. */
  readonly #queues: (EndpointQueue<Urb> | undefined)[] = new Array(32).fill(undefined);
  readonly #outstanding = new Map<number, Urb>();
  readonly #actions = new Actions<Urb>();
  #carryingOut = false;
  #state: State = 'open';
  #whenEmpty: (() => void) | null = null;

  /**
   * Claims the device; the registry keeps a second client away.
   *
   * @throws what the device's `open` throws.
   */
  constructor(device: UsbDevice, client: SessionClient) {
    this.device = device;
    this.#client = client;
    device.open(this);
  }

  /** URBs submitted, and those given back with an error, since the session began. */
  urbCount = 0;
  errorCount = 0;

  /** URBs that the client has submitted and not got back. */
  get outstandingCount(): number {
    return this.#outstanding.size;
  }

  has(id: number): boolean {
    return this.#outstanding.has(id);
  }

  outstanding(id: number): Urb | undefined {
    return this.#outstanding.get(id);
  }

  /** The URB's id must be new and its endpoint one of this device's. */
  submit(urb: Urb): void {
    assert(this.#state === 'open', `Cannot submit a URB: the session is ${this.#state}`);
    assert(!this.#outstanding.has(urb.id), 'Cannot submit a URB: its id is outstanding');
    this.#outstanding.set(urb.id, urb);
    urb.outstanding = true;
    this.urbCount++;
    submitted(this.#queueOf(urb), urb, this.#actions);
    this.#carryOut();
  }

  /** Asks for a URB back; it is given back as 'unlinked' or as it ended before. */
  unlink(id: number): Urb | undefined {
    const urb = this.#outstanding.get(id);
    if (urb === undefined) return undefined;
    unlinked(this.#queueOf(urb), urb, this.#actions);
    this.#carryOut();
    return urb;
  }

  /** Gives back every URB, then lets go of the device; resolves when another may claim it. */
  async close(): Promise<void> {
    if (this.#state === 'closing' || this.#state === 'closed') return;
    this.#state = 'closing';
    this.#unlinkAll();
    if (this.#outstanding.size > 0) {
      await new Promise<void>((resolve) => {
        this.#whenEmpty = resolve;
      });
    }
    this.#state = 'closed';
    await this.device.close();
  }

  completed(urb: Urb): void {
    completed(this.#queueOf(urb), urb, this.#actions);
    this.#carryOut();
  }

  /** The device has gone: what is outstanding ends as 'shutdown', then the client is told. */
  removed(): void {
    if (this.#state !== 'open') return;
    this.#state = 'removed';
    this.#unlinkAll();
    this.#client.deviceRemoved();
  }

  /** Newest first, so that none starts because one ahead of it has left. */
  #unlinkAll(): void {
    for (const id of [...this.#outstanding.keys()].reverse()) this.unlink(id);
  }

  #queueOf(urb: Urb): EndpointQueue<Urb> {
    const { address, type } = urb.endpoint;
    const index = type === 'control' ? address & 15 : (address & 15) | ((address & 0x80) >> 3);
    let queue = this.#queues[index];
    if (queue === undefined) {
      queue = endpointQueue<Urb>(FLIGHT_MAX[this.device.queueModel]);
      this.#queues[index] = queue;
    }
    return queue;
  }

  #carryOut(): void {
    if (this.#carryingOut) return;
    this.#carryingOut = true;
    const actions = this.#actions;
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      const urb = actions.subject;
      switch (kind) {
        case 'start':
          this.device.submit(urb);
          break;
        case 'cancel':
          this.device.unlink(urb);
          break;
        case 'giveBackUnlinked':
          urb.status = 'unlinked';
          this.#giveBack(urb);
          break;
        case 'giveBack':
          this.#giveBack(urb);
          break;
      }
    }
    this.#carryingOut = false;
  }

  #giveBack(urb: Urb): void {
    const known = this.#outstanding.delete(urb.id);
    assert(known, 'Cannot give back a URB: it was given back before');
    urb.outstanding = false;
    if (urb.status !== 'ok') this.errorCount++;
    if (this.#state === 'removed' && urb.status === 'unlinked') urb.status = 'shutdown';
    this.#client.gaveBack(urb);
    if (this.#outstanding.size === 0) this.#whenEmpty?.();
  }
}
