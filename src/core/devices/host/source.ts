/**
 * The devices that one SPEC brings: those that match now and, if it says `wait`, those that come.
 *
 * What is plugged in is found by looking again, twice a second: that needs no rights, misses nothing
 * that stays, and works where udev's socket is not to be had (containers). What is unplugged says so
 * itself.
 */
import type { Clock } from '../../clock.ts';
import type { UsbDevice } from '../../device.ts';
import { disposeOf } from '../../dispose.ts';
import { UserError } from '../../errors.ts';
import { type HostBackend, type HostDevice, NotPermitted, type PluggedDevice } from './device.ts';
import { exportBusId, matches, mayMatch, type Selector } from './selector.ts';

const LOOK_MILLISECONDS = 500;
/** How often a device is tried that may not be opened yet. */
const TRIES_MAX = 20;
/** A device that is missing for fewer looks is the same one: Linux hides it while it is reset. */
const MISSES_MAX = 4;

interface Tried {
  /** Times; `TRIES_MAX` when that is over. */
  readonly count: number;
  /** Looks in a row that it was missing from. */
  readonly misses: number;
}

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
  /** See `OpenHostOptions`. */
  readonly onBug?: (error: unknown) => void;
}

export interface Found {
  readonly device: UsbDevice;
  readonly busId: string;
}

export class HostDeviceSource<Plugged extends PluggedDevice, Host extends HostDevice> {
  readonly #backend: HostBackend<Plugged, Host>;
  readonly #options: SourceOptions;
  /** By appearance. */
  #tries = new Map<string, Tried>();
  /** Why the last look failed; '' if it did not. */
  #trouble = '';
  #cancel: () => void = () => {};
  #stopped = false;
  /**
   * It takes its time to open several: one may go before it is handed over, and nobody would hear
   * of it then.
   */
  readonly #gone = new WeakSet<UsbDevice>();

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
    const there = await this.#stillThere(found);
    if (there.length === 0 && !wait) {
      throw new UserError(`Cannot export ${spec}: it has gone while it was being opened`);
    }
    return there;
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
      if (this.#stopped || this.#gone.has(device)) await disposeOf(device);
      else await this.#options.onAdded(device, busId);
    }
  }

  async #stillThere(found: readonly Found[]): Promise<Found[]> {
    const gone = found.filter(({ device }) => this.#gone.has(device));
    for (const { device } of gone) await device.dispose();
    return found.filter(({ device }) => !this.#gone.has(device));
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
    this.#miss(present);
    for (const one of present) {
      const tried = this.#tries.get(one.appearance)?.count ?? 0;
      const note = (count: number) => this.#tries.set(one.appearance, { count, misses: 0 });
      note(tried);
      if (tried >= TRIES_MAX || isPassedOver(selector, one)) continue;
      try {
        const whole = await this.#backend.read(one);
        if (matches(selector, whole)) {
          found.push({ device: await this.#open(whole), busId: exportBusId(selector, whole) });
        }
        note(TRIES_MAX);
      } catch (error) {
        const again = error instanceof NotPermitted ? tried + 1 : TRIES_MAX;
        note(again);
        const last = again === TRIES_MAX || !this.#options.wait;
        if (last) refusals.push(error instanceof Error ? error : new Error(String(error)));
      }
    }
    return { found, refusals };
  }

  /** Forgets what was not there for some looks. */
  #miss(present: readonly Plugged[]): void {
    const appearances = new Set(present.map(({ appearance }) => appearance));
    for (const [appearance, { count, misses }] of this.#tries) {
      if (appearances.has(appearance)) continue;
      if (misses + 1 >= MISSES_MAX) this.#tries.delete(appearance);
      else this.#tries.set(appearance, { count, misses: misses + 1 });
    }
  }

  async #open(one: Host): Promise<UsbDevice> {
    const { force, onGone, onBug } = this.#options;
    const gone = () => {
      this.#tries.delete(one.appearance); // some systems give it the same name again
      this.#gone.add(device);
      onGone(device);
    };
    const options = { force, onGone: gone, ...(onBug && { onBug }) };
    const device: UsbDevice = await this.#backend.open(one, options);
    return device;
  }
}

/** What a pattern matches by the way is no mistake of the user's. */
function isPassedOver(selector: Selector, { isHub, isRemote }: PluggedDevice): boolean {
  const pattern = selector.type === 'ids' || selector.busId.includes('*');
  return pattern && (isHub || isRemote);
}
