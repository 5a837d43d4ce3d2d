/**
 * The devices that one SPEC brings: those that match now and, if it says `wait`, those that come.
 *
 * What is plugged in is found by looking again, twice a second: that needs no rights, misses nothing
 * that stays, and works where udev's socket is not to be had (containers). What is unplugged says so
 * itself.
 */
import type { Clock } from '../../clock.ts';
import type { UsbDevice } from '../../device.ts';
import { UserError } from '../../errors.ts';
import { type HostBackend, type HostDevice, NotPermitted, type PluggedDevice } from './device.ts';
import { exportBusId, matches, mayMatch, type Selector } from './selector.ts';

const LOOK_MILLISECONDS = 500;
/** How often a device is tried that may not be opened yet. */
const TRIES_MAX = 20;

export interface SourceOptions {
  readonly selector: Selector;
  /** As the user wrote it. */
  readonly spec: string;
  readonly wait: boolean;
  readonly force: boolean;
  readonly clock: Clock;
  /** A device came later; `busId` is the one it should have. */
  readonly onAdded: (device: UsbDevice, busId: string) => Promise<void>;
  /** A device has gone. */
  readonly onGone: (device: UsbDevice) => void;
  readonly onRefused: (reason: string) => void;
}

export interface Found {
  readonly device: UsbDevice;
  readonly busId: string;
}

export class HostDeviceSource<Plugged extends PluggedDevice, Host extends HostDevice> {
  readonly #backend: HostBackend<Plugged, Host>;
  readonly #options: SourceOptions;
  /** How often each appearance of a device was tried; Infinity when that is over. */
  #tries = new Map<string, number>();
  /** Why the last look failed; '' if it did not. */
  #trouble = '';
  #cancel: () => void = () => {};
  #stopped = false;

  constructor(backend: HostBackend<Plugged, Host>, options: SourceOptions) {
    this.#backend = backend;
    this.#options = options;
  }

  /**
   * Opens what there is. With `wait`, `onAdded` tells of what comes later, until `stop`.
   *
   * @throws {UserError} without `wait`, if no device can be had.
   */
  async start(): Promise<Found[]> {
    const { wait, spec } = this.#options;
    const { found, refusals } = await this.#look();
    if (found.length === 0 && !wait) {
      const present = (await this.#backend.list()).filter(({ isHub }) => !isHub);
      const names = present.map((one) => `${one.vendorId}:${one.productId} at ${one.busId}`);
      const nothing = `no device matches, there are ${names.join(', ') || 'none'}`;
      throw refusals[0] ?? new UserError(`Cannot export ${spec}: ${nothing}`);
    }
    for (const { message } of refusals) this.#options.onRefused(message);
    if (wait) this.#lookLater();
    return found;
  }

  /** Opens nothing more. What was opened stays. */
  stop(): void {
    this.#stopped = true;
    this.#cancel();
  }

  #lookLater(): void {
    this.#cancel = this.#options.clock.after(LOOK_MILLISECONDS, async () => {
      await this.#lookAgain().then(
        () => {
          this.#trouble = '';
        },
        (error: unknown) => this.#cannotLook(error),
      );
      if (!this.#stopped) this.#lookLater();
    });
  }

  async #lookAgain(): Promise<void> {
    const { found, refusals } = await this.#look();
    for (const { message } of refusals) this.#options.onRefused(message);
    for (const { device, busId } of found) {
      if (this.#stopped) await device.dispose();
      else await this.#options.onAdded(device, busId);
    }
  }

  /** Says so once, and looks again: it may pass. */
  #cannotLook(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    if (message !== this.#trouble) this.#options.onRefused(message);
    this.#trouble = message;
  }

  async #look(): Promise<{ found: Found[]; refusals: Error[] }> {
    const { selector } = this.#options;
    const present = (await this.#backend.list()).filter((one) => mayMatch(selector, one));
    const found: Found[] = [];
    const refusals: Error[] = [];
    const tries = new Map<string, number>();
    for (const one of present) {
      const { appearance } = one;
      const tried = this.#tries.get(appearance) ?? 0;
      tries.set(appearance, tried);
      if (tried >= TRIES_MAX || isPassedOver(selector, one)) continue;
      try {
        const whole = await this.#backend.read(one);
        if (matches(selector, whole)) {
          found.push({ device: await this.#open(whole), busId: exportBusId(selector, whole) });
        }
        tries.set(appearance, TRIES_MAX);
      } catch (error) {
        const again = error instanceof NotPermitted ? tried + 1 : TRIES_MAX;
        tries.set(appearance, again);
        const last = again === TRIES_MAX || !this.#options.wait;
        if (last) refusals.push(error instanceof Error ? error : new Error(String(error)));
      }
    }
    this.#tries = tries;
    return { found, refusals };
  }

  async #open(one: Host): Promise<UsbDevice> {
    const { force, onGone } = this.#options;
    const options = { force, onGone: () => onGone(device) };
    const device: UsbDevice = await this.#backend.open(one, options);
    return device;
  }
}

/** What a pattern matches by the way is no mistake of the user's. */
function isPassedOver(selector: Selector, { isHub, isRemote }: PluggedDevice): boolean {
  const pattern = selector.type === 'ids' || selector.busId.includes('*');
  return pattern && (isHub || isRemote);
}
