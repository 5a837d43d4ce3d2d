/**
 * A device of this machine, through the npm package `usb`: for systems without usbfs. It belongs to the
 * gateway from `take` to `dispose`.
 *
 * One URB an endpoint at a time, so that nothing is behind one that fails; how those go is in
 * `pipe.ts`. Isochronous ones end as 'invalid', for the package has none.
 *
 * Requests that change what the host knows of the device (configuration, settings, toggles) are said to
 * the package, which says them to the device; they never go out twice. The package refuses most of
 * them while a transfer is outstanding, so all endpoints pause first (for a clear-halt, the one), which
 * takes as long as the deadlines of `pipe.ts` at most. An endpoint that stalls stays halted until the
 * client clears it.
 */
import { assert } from '../../assert.ts';
import { type ControlEffect, controlEffect } from '../../control-effect.ts';
import { REQUEST } from '../../descriptors.ts';
import type { DeviceHost, DeviceInfo, EndpointInfo, Speed, UsbDevice } from '../../device.ts';
import type { Urb, UrbStatus } from '../../urb.ts';
import { ActiveConfiguration } from '../host/configuration.ts';
import { type Abilities, Claims, refusalOf } from './claims.ts';
import { readConfigurationValue, readDescriptors, transferControl } from './control.ts';
import type { PackageDevice } from './package.ts';
import { Pipes } from './pipes.ts';

export interface NusbDeviceOptions {
  readonly speed: Speed;
  readonly label: string;
  readonly abilities: Abilities;
  /** Nobody knows what state it is in: begin with a reset. */
  readonly isStray: boolean;
  /** The device has been unplugged; every URB is back. Called once. */
  readonly onGone: () => void;
  /**
   * A bug has come up while no session had the device. Default: its error goes where exceptions go.
   */
  readonly onBug?: (error: unknown) => void;
  /** Nothing is done with the device any more. */
  readonly onDisposed: () => void;
}

/** bmRequestType: host to device, standard, to the device. */
const TO_DEVICE = 0;
const NO_OCTETS = Buffer.alloc(0);

export class NusbDevice implements UsbDevice {
  readonly queueModel = 'serial';
  readonly #device: PackageDevice;
  readonly #options: NusbDeviceOptions;
  readonly #configuration: ActiveConfiguration;
  readonly #claims: Claims;
  readonly #pipes: Pipes;
  /** URBs that are not completed. */
  readonly #urbs = new Set<Urb>();
  /** Of those, control URBs that the session wants back. */
  readonly #unwanted = new Set<Urb>();
  #host: DeviceHost | null = null;
  /** What uses endpoint 0 or the claims, one at a time. */
  #turn: Promise<void> = Promise.resolve();
  #gone = false;
  #disposed = false;

  /**
   * Takes an open device from the system's drivers. It is closed if that fails.
   *
   * @throws {Error} the package's.
   */
  static async take(device: PackageDevice, options: NusbDeviceOptions): Promise<NusbDevice> {
    const { abilities, speed, label, isStray } = options;
    const claimed: number[] = [];
    let claims: Claims | undefined;
    try {
      if (!abilities.configures) {
        await device.claimInterface(0); // WinUSB has no control requests without an interface
        claimed.push(0);
      }
      const descriptors = await readDescriptors(device);
      const value = await readConfigurationValue(device);
      const configuration = new ActiveConfiguration(descriptors, speed, value, label);
      claims = new Claims(device, configuration, abilities, claimed);
      await claims.claim();
      if (isStray) await claims.reset();
      return new NusbDevice(device, configuration, claims, options);
    } catch (error) {
      if (claims !== undefined) await claims.giveBack();
      for (const number of claimed) await device.releaseInterface(number).catch(() => {});
      await device.close().catch(() => {});
      throw error;
    }
  }

  private constructor(
    device: PackageDevice,
    configuration: ActiveConfiguration,
    claims: Claims,
    options: NusbDeviceOptions,
  ) {
    this.#device = device;
    this.#configuration = configuration;
    this.#claims = claims;
    this.#pipes = new Pipes(device, claims, {
      completed: (urb, status, dataIn, actual) => this.#answer(urb, status, dataIn, actual),
      onBug: (error) => this.#bug(error),
    });
    this.#options = options;
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

  submit(urb: Urb): void {
    this.#urbs.add(urb);
    if (this.#gone) this.#answer(urb, 'shutdown');
    else if (urb.setup !== null) this.#watched(this.#inTurn(() => this.#control(urb)));
    else if (urb.packets !== null) this.#refuseIsochronous(urb);
    else this.#pipes.submit(urb);
  }

  unlink(urb: Urb): void {
    if (urb.setup !== null) this.#unwanted.add(urb);
    else this.#pipes.unlink(urb);
  }

  reset(): void {
    // What is submitted from here on is for the device after the reset.
    const resume = this.#pipes.pause();
    const before = this.#pipes.urbs();
    this.#watched(this.#inTurn(() => this.#anew(before)).finally(resume));
  }

  /** As the kernel's own server does: the next client finds a device after a reset. */
  async close(): Promise<void> {
    this.#host = null;
    if (this.#gone) return;
    await this.#inTurn(() => this.#anew());
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#options.onDisposed();
    await this.#inTurn(() =>
      this.#pipes.whilePaused(async () => {
        await this.#claims.giveBack();
        await this.#device.close().catch(() => {}); // it has gone
      }, 'all'),
    );
  }

  /** It is being reset or configured, or is about to be. */
  get isChanging(): boolean {
    return this.#pipes.isPaused;
  }

  /** The device is not there any more. */
  unplugged(): void {
    if (this.#gone || this.#disposed) return;
    this.#gone = true;
    this.#pipes.abandon();
    for (const urb of [...this.#urbs]) this.#answer(urb, 'shutdown');
    this.#host?.removed();
    this.#options.onGone();
  }

  /** For what nobody waits for. */
  #watched(work: Promise<void>): void {
    work.catch((error) => this.#bug(error));
  }

  #bug(error: unknown): void {
    if (this.#host !== null) this.#host.failed(error);
    else if (this.#options.onBug !== undefined) this.#options.onBug(error);
    else throw error;
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  async #control(urb: Urb): Promise<void> {
    const { setup } = urb;
    assert(setup !== null);
    if (this.#gone) return; // it was answered then
    if (this.#unwanted.has(urb)) {
      this.#answer(urb, 'unlinked');
      return;
    }
    if (setup.requestType === TO_DEVICE && setup.request === REQUEST.setAddress) {
      this.#answer(urb, 'stall'); // the address is the host's to give
      return;
    }
    const effect = controlEffect(setup);
    if (effect.type !== 'none' && this.#isHosts(effect)) {
      this.#answer(urb, await this.#apply(effect));
      return;
    }
    const { ending, actualOctets, dataIn } = await transferControl(
      this.#device,
      setup,
      urb.dataOut,
    );
    const isShort = ending === 'ok' && urb.shortNotOk && actualOctets < urb.octets;
    const atDeadline = this.#unwanted.has(urb) ? 'unlinked' : 'timeout';
    const status = ending === 'cancelled' ? atDeadline : isShort ? 'short' : ending;
    this.#answer(urb, status, dataIn, actualOctets);
  }

  /** What fails here shows again in the transfers that come after it. */
  async #anew(before?: ReadonlySet<Urb>): Promise<void> {
    const reset = () => this.#claims.reset().catch(() => {});
    await this.#pipes.whilePaused(reset, 'all', before);
  }

  /** An endpoint that the package cannot clear is left to the device: its own, or none at all. */
  #isHosts(effect: ControlEffect): boolean {
    if (effect.type !== 'clear-halt') return true;
    const type = this.#configuration.endpoint(effect.address)?.type;
    return type === 'bulk' || type === 'interrupt';
  }

  async #apply(effect: Exclude<ControlEffect, { type: 'none' }>): Promise<UrbStatus> {
    try {
      switch (effect.type) {
        case 'clear-halt':
          await this.#pipes.whileOnePaused(effect.address, () => this.#claims.apply(effect));
          break;
        case 'set-interface':
          await this.#pipes.whilePaused(() => this.#claims.apply(effect), effect.interfaceNumber);
          break;
        case 'set-configuration':
        case 'reset':
          await this.#pipes.whilePaused(() => this.#claims.apply(effect), 'all');
          break;
      }
      return 'ok';
    } catch (error) {
      return this.#gone ? 'shutdown' : refusalOf(error);
    }
  }

  #refuseIsochronous(urb: Urb): void {
    for (const packet of urb.packets ?? []) packet.status = 'missed';
    this.#answer(urb, 'invalid');
  }

  /** Once: what the package says of a URB after the device has gone is for nobody. */
  #answer(urb: Urb, status: UrbStatus, dataIn: Buffer = NO_OCTETS, actual = 0): void {
    if (!this.#urbs.delete(urb)) return;
    this.#unwanted.delete(urb);
    urb.status = status;
    urb.actualOctets = actual;
    urb.dataIn = urb.in ? dataIn : NO_OCTETS;
    this.#host?.completed(urb);
  }
}
