/**
 * A device of this machine, through Linux usbfs. It belongs to the gateway from `take` to `dispose`:
 * the kernel's drivers let go of it for so long.
 *
 * Bulk queues: usbfs carries the stall protocol in small. Of the URBs of an endpoint, all but the
 * first after a (re)start bear the continuation flag. When one fails, the kernel itself takes back
 * those behind it inside the completion handler, and refuses more with the flag. They complete here
 * as 'unlinked' with no octet moved, and the session's queue keeps them. A short packet is no error
 * to a host controller, so behind an URB with short-not-ok nothing may be under way
 * (`mustNotBeOvertaken`). Interrupt endpoints have no such flag: one URB at a time.
 *
 * Requests that change what the host knows of the device (configuration, settings, toggles) are said
 * to the kernel, which says them to the device; they never go out twice. An endpoint that stalls
 * stays halted until the client clears it.
 *
 * Such a request may take seconds, and the kernel locks the device for so long: any other call would
 * wait for it, and all of the gateway with it. So it has a thread of its own, and other calls are put
 * off until it is done.
 *
 * A machine that sleeps takes back all URBs (usb_suspend_both), and when it wakes up without having powered
 * the device it resets it, and gives the interfaces to the kernel's drivers, since usbfs cannot say what the
 * device has forgotten. The device is gone then, for its client as well; `wait` exports it again.
 */
import { assert } from '../../assert.ts';
import { controlEffect } from '../../control-effect.ts';
import { REQUEST } from '../../descriptors.ts';
import type { DeviceHost, DeviceInfo, EndpointInfo, Speed, UsbDevice } from '../../device.ts';
import type { Room, Urb, UrbStatus } from '../../urb.ts';
import { ActiveConfiguration } from '../host/configuration.ts';
import { ERRNO, refusalOf } from './abi.ts';
import { ARGUMENT_OCTETS, Interfaces } from './interfaces.ts';
import type { Memory, UsbfsFile } from './kernel.ts';
import { Transfers } from './transfers.ts';
import { TABLE_OCTETS } from './urb-table.ts';

export interface UsbfsDeviceOptions {
  readonly speed: Speed;
  /** bConfigurationValue of the active configuration, 0 for none. */
  readonly configurationValue: number;
  readonly label: string;
  /** Nobody knows what state it is in: begin with a reset. */
  readonly isStray: boolean;
  /** The device has been unplugged, or the machine has slept; every URB is back. Called once. */
  readonly onGone: () => void;
  /**
   * A bug has come up while no session had the device. Default: its error goes where exceptions go.
   */
  readonly onBug?: (error: unknown) => void;
}

/** The kernel could not give us the device. */
export class ClaimError extends Error {
  override readonly name = 'ClaimError';
  /** Positive. */
  readonly errno: number;

  constructor(errno: number) {
    super(`Cannot claim a device: errno ${errno}`);
    this.errno = errno;
  }
}

/** bmRequestType: host to device, standard, to the device. */
const TO_DEVICE = 0;
const NO_OCTETS = Buffer.alloc(0);

export class UsbfsDevice implements UsbDevice {
  readonly queueModel = 'host-controller';
  readonly #file: UsbfsFile;
  readonly #onGone: () => void;
  readonly #onBug: ((error: unknown) => void) | undefined;
  readonly #configuration: ActiveConfiguration;
  readonly #table: Memory;
  readonly #transfers: Transfers;
  readonly #interfaces: Interfaces;
  #host: DeviceHost | null = null;
  /** Calls for which the kernel locks the device, done one after the other; what came meanwhile. */
  #lockCount = 0;
  #lastLock: Promise<number> = Promise.resolve(0);
  readonly #submitLater: Urb[] = [];
  readonly #unlinkLater: Urb[] = [];
  /** Nobody can have it from us any more. */
  #gone = false;
  #isPlugged = true;
  /** Made once: it is called for each URB, perhaps. */
  readonly #ready = (last: boolean) => {
    try {
      this.#reap(last);
    } catch (error) {
      this.#bug(error);
    }
  };
  #disposed = false;

  /**
   * Takes the device from the kernel's drivers. The file is the device's from here on.
   *
   * @throws {ClaimError} if its interfaces cannot be had, {RangeError} if its descriptors make no sense;
   * the file is closed then.
   */
  static async take(file: UsbfsFile, options: UsbfsDeviceOptions): Promise<UsbfsDevice> {
    const device = UsbfsDevice.#of(file, options);
    const claimed = await device.#interfaces.claim();
    const answer = claimed >= 0 && options.isStray ? await device.#interfaces.reset() : claimed;
    if (answer < 0) {
      device.#closeFile();
      throw new ClaimError(-answer);
    }
    device.#watch();
    return device;
  }

  static #of(file: UsbfsFile, options: UsbfsDeviceOptions): UsbfsDevice {
    try {
      return new UsbfsDevice(file, options);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  private constructor(file: UsbfsFile, options: UsbfsDeviceOptions) {
    const { speed, configurationValue, label } = options;
    this.#file = file;
    this.#onGone = options.onGone;
    this.#onBug = options.onBug;
    this.#configuration = new ActiveConfiguration(
      file.descriptors,
      speed,
      configurationValue,
      label,
    );
    const memory = file.mapPlain(TABLE_OCTETS + ARGUMENT_OCTETS);
    if (memory === null) throw new RangeError('Cannot map memory for URBs: there is none');
    this.#table = memory;
    this.#transfers = new Transfers(
      file,
      memory,
      (urb) => this.#host?.completed(urb),
      () => this.#host?.borrows ?? false,
      {
        isLocked: () => this.#isLocked,
        isOurs: (number) => this.#interfaces.isOurs(number),
      },
    );
    this.#interfaces = new Interfaces(file, this.#configuration, {
      address: memory.address + TABLE_OCTETS,
      octets: memory.octets.subarray(TABLE_OCTETS),
    });
  }

  get info(): DeviceInfo {
    return this.#configuration.info;
  }

  endpoint(address: number): EndpointInfo | undefined {
    return this.#configuration.endpoint(address);
  }

  open(host: DeviceHost): void {
    assert(this.#host === null, 'Cannot open device: it is open');
    if (this.#gone) throw new Error('Cannot open device: it was unplugged');
    this.#host = host;
  }

  room({ type }: EndpointInfo, octets: number): Room | null {
    return type === 'bulk' || type === 'interrupt' ? this.#transfers.room(octets) : null;
  }

  mustNotBeOvertaken(urb: Urb): boolean {
    return urb.shortNotOk || this.#transfers.isInPieces(urb.endpoint);
  }

  submit(urb: Urb): void {
    if (this.#gone || this.#transfers.reaper.isLost) this.#answer(urb, 'shutdown');
    else if (this.#isLocked) this.#submitLater.push(urb);
    else if (urb.setup === null || !this.#intercept(urb)) {
      this.#transfers.submit(urb);
      if (this.#transfers.reaper.isLost)
        queueMicrotask(() => this.#contained(() => this.#reap(false)));
    }
  }

  unlink(urb: Urb): void {
    const place = this.#submitLater.indexOf(urb);
    if (place >= 0) {
      this.#submitLater.splice(place, 1);
      this.#answer(urb, 'unlinked');
    } else if (this.#isLocked) this.#unlinkLater.push(urb);
    else this.#transfers.unlink(urb);
  }

  reset(): void {
    void this.#whileLocked(() => this.#interfaces.reset());
  }

  /** As the kernel's own server does: the next client finds a device after a reset. */
  async close(): Promise<void> {
    this.#host = null;
    if (!this.#gone) await this.#whileLocked(() => this.#interfaces.reset());
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    await this.#lastLock;
    this.#file.unwatch();
    if (this.#isPlugged) await this.#interfaces.giveBack();
    this.#closeFile();
  }

  #closeFile(): void {
    this.#disposed = true;
    this.#transfers.dispose();
    this.#file.unmap(this.#table);
    this.#file.close();
  }

  /** Carries out a request that the kernel has to know of; false if it is any other. */
  #intercept(urb: Urb): boolean {
    const { setup } = urb;
    assert(setup !== null);
    if (setup.requestType === TO_DEVICE && setup.request === REQUEST.setAddress) {
      this.#answer(urb, 'stall'); // the address is the host's to give
      return true;
    }
    const effect = controlEffect(setup);
    if (effect.type === 'none') return false;
    // An endpoint that no setting has is the device's to refuse; so is endpoint 0.
    if (effect.type === 'clear-halt' && !this.#configuration.knows(effect.address)) return false;
    void this.#whileLocked(
      () => this.#interfaces.apply(effect),
      (answer) => this.#answer(urb, answer < 0 ? refusalOf(-answer) : 'ok'),
    );
    return true;
  }

  get #isLocked(): boolean {
    return this.#lockCount > 0;
  }

  /** `done` comes before the device may be gone. Never rejects. */
  #whileLocked(
    call: () => Promise<number>,
    done: (answer: number) => void = () => {},
  ): Promise<number> {
    const isFirst = this.#lockCount++ === 0;
    if (isFirst) this.#file.unwatch();
    const before = this.#lastLock;
    this.#lastLock = this.#locked(isFirst ? call : () => before.then(call), done);
    return this.#lastLock;
  }

  async #locked(call: () => Promise<number>, done: (answer: number) => void): Promise<number> {
    const checked = async () => this.#transfers.reaper.checked(await call());
    const answer = await checked().catch((error) => {
      this.#bug(error);
      return -ERRNO.ENODEV;
    });
    this.#contained(() => done(answer));
    if (--this.#lockCount === 0) this.#contained(() => this.#unlocked());
    return answer;
  }

  #unlocked(): void {
    for (const one of this.#unlinkLater.splice(0)) this.#transfers.unlink(one);
    for (const one of this.#submitLater.splice(0)) this.submit(one);
    if (this.#isLocked || this.#disposed) return; // by one of those
    this.#watch();
    const { isLost, isAhead } = this.#transfers.reaper;
    if (isLost || isAhead) this.#reap(false);
  }

  #watch(): void {
    this.#file.watch(this.#ready);
  }

  #contained(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#bug(error);
    }
  }

  #bug(error: unknown): void {
    if (this.#host !== null) this.#host.failed(error);
    else if (this.#onBug !== undefined) this.#onBug(error);
    else throw error;
  }

  #answer(urb: Urb, status: UrbStatus): void {
    urb.status = status;
    urb.actualOctets = 0;
    urb.dataIn = NO_OCTETS;
    this.#host?.completed(urb);
  }

  /** What the kernel has taken back is as good as unplugged: whoever has it is to begin anew. */
  #reap(last: boolean): void {
    if (this.#gone || this.#disposed || this.#isLocked) return;
    const isThere = this.#transfers.reap(last);
    if (this.#isLocked) return; // by a URB's end: there is more to do when that is over
    if (isThere && (!this.#transfers.reaper.isLost || this.#transfers.unlinkAll())) return;
    this.#gone = true;
    this.#isPlugged = isThere;
    this.#transfers.abandon();
    this.#host?.removed();
    this.#onGone();
  }
}
