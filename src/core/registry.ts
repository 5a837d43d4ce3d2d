/**
 * The devices that the gateway exports, by bus id, and who holds them.
 *
 * A device is one client's at a time, whatever its transport. Removing a device that is held gives
 * back its URBs and tells its client.
 */
import { EventEmitter } from 'node:events';
import { type Clock, systemClock } from './clock.ts';
import type { DeviceInfo, UsbDevice } from './device.ts';
import { CheckedInfo } from './device-info.ts';
import { UserError } from './errors.ts';
import { DEVICES_MAX, LET_GO_MILLISECONDS, ORDERLY_REMOVAL_MILLISECONDS } from './limits.ts';
import { DeviceSession, type SessionClient, type SessionOptions } from './session.ts';
import { within } from './within.ts';

/** B-P, or B-P.P... behind hubs; at most 31 octets, for that is what fits the wire. */
const BUS_ID = /^(\d{1,3})-\d{1,3}(\.\d{1,3}){0,5}$/;

/** Device numbers below 2 are for addresses 0 and the root hub. */
const FIRST_DEVICE_NUMBER = 2;

export interface Export {
  readonly busId: string;
  /** Bus number, the part of the bus id before the hyphen. */
  readonly bus: number;
  /** Number of the device on its bus. */
  readonly deviceNumber: number;
  readonly device: UsbDevice;
  /** What clients are told of the device: within the bounds of device-info.ts, whatever that says. */
  readonly info: DeviceInfo;
  /** What the user asked for, as far as it helps to tell exports apart. */
  readonly spec: string;
  holder: Holder | null;
  /** Why nobody can have it any more: after a bug, it did not come to rest. */
  fault: string | null;
}

/** The client that has a device now. */
export interface Holder {
  /** The peer's address, for people. */
  readonly peer: string;
  readonly since: Date;
  readonly session: DeviceSession;
}

/** Why a claim failed. */
export type Refusal = 'unknown' | 'busy';

export interface RegistryEvents {
  added: [Export];
  removed: [Export];
  claimed: [Export];
  released: [Export];
}

export class Registry extends EventEmitter<RegistryEvents> {
  readonly #clock: Clock;
  readonly #exports = new Map<string, Export>();
  /** Bus ids of devices that are gone for a while: not for others who do not ask for them by name. */
  readonly #kept = new Set<string>();
  /** Being closed: not to be claimed until what this has resolves. */
  readonly #closing = new Map<Export, Promise<void>>();

  /** Another clock is for tests. */
  constructor(clock: Clock = systemClock) {
    super();
    this.#clock = clock;
  }

  list(): Export[] {
    return [...this.#exports.values()];
  }

  get(busId: string): Export | undefined {
    return this.#exports.get(busId);
  }

  /**
   * Whether a device can be exported under this id, for those who must know before they open it.
   *
   * @throws {UserError} if the bus id is malformed or taken.
   */
  checkBusId(busId: string, spec: string): void {
    if (!BUS_ID.test(busId)) {
      throw new UserError(`Cannot export ${spec}: bus id "${busId}", wanted the form 1-1 or 1-1.2`);
    }
    if (this.#exports.has(busId)) {
      throw new UserError(`Cannot export ${spec}: bus id ${busId} is taken, wanted a free one`);
    }
  }

  /**
   * Exports a device, under the first free id 1-1, 1-2, ... if none is given.
   *
   * @throws {UserError} if the bus id is malformed or taken, if there are too many exports, or if what
   * the device says of itself is out of bounds.
   */
  add(device: UsbDevice, spec: string, busId: string = this.freeBusId()): Export {
    this.checkBusId(busId, spec);
    if (this.#exports.size >= DEVICES_MAX) {
      throw new UserError(
        `Cannot export ${spec}: ${this.#exports.size} devices are exported, wanted at most ${DEVICES_MAX}`,
      );
    }
    const checked = checkedInfo(device, spec);
    const bus = Number(BUS_ID.exec(busId)?.[1]);
    const taken = new Set(this.list().map((one) => one.bus * 65536 + one.deviceNumber));
    let deviceNumber = FIRST_DEVICE_NUMBER;
    while (taken.has(bus * 65536 + deviceNumber)) deviceNumber++;
    const added: Export = {
      busId,
      bus,
      deviceNumber,
      device,
      get info() {
        return checked.current;
      },
      spec,
      holder: null,
      fault: null,
    };
    this.#exports.set(busId, added);
    this.emit('added', added);
    return added;
  }

  /**
   * Takes a device out: its client's URBs are given back and the client is told. A device that does not let go
   * in time is not exported any more all the same, and is disposed of when it does.
   *
   * @param orderlyMilliseconds Then the device is to give up what it waits for itself.
   * @throws {UserError} if there is no such bus id, or the device does not let go.
   */
  async remove(busId: string, orderlyMilliseconds = ORDERLY_REMOVAL_MILLISECONDS): Promise<void> {
    const gone = this.#exported(busId, 'unexport');
    this.#exports.delete(busId);
    const stuck = () => {
      const { holder, device } = gone;
      const what = holder?.session.stuckText ?? `Cannot let go of ${device.info.label}`;
      throw new UserError(`${what}; ${busId} is not exported any more`);
    };
    try {
      const takenOut = this.#takeOut(gone, orderlyMilliseconds);
      await within(takenOut, LET_GO_MILLISECONDS, stuck, this.#clock);
    } finally {
      this.emit('removed', gone);
    }
  }

  /** @throws {UserError} if there is no such bus id. */
  #exported(busId: string, action: string): Export {
    const found = this.#exports.get(busId);
    if (found !== undefined) return found;
    const known = [...this.#exports.keys()].join(', ') || 'nothing';
    throw new UserError(`Cannot ${action} ${busId}: it is not exported, exported is ${known}`);
  }

  /**
   * Takes a device away from its client, who sees it unplugged; it stays exported. Resolves with the client's
   * name when another one may have it.
   *
   * @throws {UserError} if there is no such bus id, nobody has the device, or it does not let go in time.
   */
  async kick(busId: string): Promise<string> {
    const kept = this.#exported(busId, 'kick');
    const { holder } = kept;
    if (holder === null) {
      throw new UserError(`Cannot kick ${busId}: no client has it, see urbgate status`);
    }
    const { session, peer } = holder;
    const stuck = () => {
      throw new UserError(session.stuckText);
    };
    session.removed();
    await within(this.#letGo(kept, session), LET_GO_MILLISECONDS, stuck, this.#clock);
    return peer;
  }

  async #takeOut(gone: Export, orderlyMilliseconds: number): Promise<void> {
    const { holder, device } = gone;
    const cancel = this.#clock.after(orderlyMilliseconds, () => device.giveUp?.());
    try {
      holder?.session.removed();
      if (holder !== null) await this.#letGo(gone, holder.session);
    } finally {
      cancel();
      await device.dispose();
    }
  }

  /**
   * Opens a session on a device, or says why not.
   *
   * @throws what the device's `open` throws.
   * @throws {UserError} if the device is broken.
   */
  claim(
    busId: string,
    peer: string,
    client: SessionClient,
    options: SessionOptions = {},
  ): Claim | Refusal {
    const wanted = this.#exports.get(busId);
    if (wanted === undefined) return 'unknown';
    if (wanted.holder !== null || this.#closing.has(wanted)) return 'busy';
    if (wanted.fault !== null) {
      throw new UserError(
        `Cannot open ${busId}: after a bug, ${wanted.fault}, wanted it unexported and exported again`,
      );
    }
    const session = new DeviceSession(wanted.device, client, options);
    wanted.holder = { peer, since: new Date(), session };
    this.emit('claimed', wanted);
    return { export: wanted, session, release: () => this.#release(wanted, session) };
  }

  async #release(held: Export, session: DeviceSession): Promise<void> {
    void this.#letGo(held, session).catch(() => {}); // `close` says the same
    await session.close();
  }

  /** Settles when the device has let go, however long that takes: nobody else may have it before. */
  #letGo(held: Export, session: DeviceSession): Promise<void> {
    const letGo = session.letGo();
    if (held.holder?.session === session && !this.#closing.has(held)) {
      const free = () => {
        this.#closing.delete(held);
        held.holder = null;
        this.emit('released', held);
      };
      const failed = (error: unknown) => {
        if (session.hasFailed) held.fault = error instanceof Error ? error.message : String(error);
        free();
      };
      this.#closing.set(held, letGo.then(free, failed));
    }
    return letGo;
  }

  /** Resolves when a device whose client lets go of it can be claimed; null if none lets go of it. */
  freed(busId: string): Promise<void> | null {
    const wanted = this.#exports.get(busId);
    return (wanted && this.#closing.get(wanted)) ?? null;
  }

  /** The id itself if it is free, or else the first free one of ID.2, ID.3, ... */
  freeBusIdBelow(busId: string): string {
    if (!this.#exports.has(busId)) return busId;
    let port = 2;
    while (this.#exports.has(`${busId}.${port}`)) port++;
    return `${busId}.${port}`;
  }

  /** The first of 1-1, 1-2, ... that is neither taken nor kept. */
  freeBusId(): string {
    let port = 1;
    while (this.#exports.has(`1-${port}`) || this.#kept.has(`1-${port}`)) port++;
    return `1-${port}`;
  }

  /** Keeps a bus id for a device that comes and goes, until `giveUp`. */
  keep(busId: string): void {
    this.#kept.add(busId);
  }

  giveUp(busId: string): void {
    this.#kept.delete(busId);
  }
}

function checkedInfo(device: UsbDevice, spec: string): CheckedInfo {
  try {
    return new CheckedInfo(device);
  } catch (error) {
    const what = error instanceof Error ? error.message : String(error);
    throw new UserError(`Cannot export ${spec}: the device says ${what}`);
  }
}

export interface Claim {
  readonly export: Export;
  readonly session: DeviceSession;
  /** See `DeviceSession.close`: a device that does not let go is busy until it does. */
  readonly release: () => Promise<void>;
}
