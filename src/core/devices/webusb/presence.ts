/**
 * Notices that devices were unplugged, by looking at what there is. The package's own events would do
 * on a desktop, but come from udev on Linux, which containers lack, and end the process where its
 * socket may not be had.
 *
 * Linux takes a device's address away while it is reset, so that it looks like another one: what is
 * being changed is not looked for, and what is missing is gone when it is missing a second time.
 */
import type { Clock } from '../../clock.ts';
import type { UsbPackage } from './package.ts';

const LOOK_MILLISECONDS = 500;
const MISSES_MAX = 2;

export interface Watched {
  /** Something is done with the device that may hide it. */
  readonly isChanging: boolean;
  /** There is no device with its handle any more. Called once. */
  unplugged(): void;
}

export class Presence {
  readonly #usb: UsbPackage;
  readonly #clock: Clock;
  /** By handle, with how often each was missing in a row. */
  readonly #watched = new Map<string, { readonly device: Watched; misses: number }>();
  #looking = false;

  constructor(usb: UsbPackage, clock: Clock) {
    this.#usb = usb;
    this.#clock = clock;
  }

  /** Watches until the device is gone, or what this returns is called. */
  watch(handle: string, device: Watched): () => void {
    this.#watched.set(handle, { device, misses: 0 });
    if (!this.#looking) this.#lookLater();
    return () => {
      this.#watched.delete(handle);
    };
  }

  #lookLater(): void {
    this.#looking = true;
    this.#clock.after(LOOK_MILLISECONDS, async () => {
      await this.#look();
      if (this.#watched.size > 0) this.#lookLater();
      else this.#looking = false;
    });
  }

  async #look(): Promise<void> {
    // One that was opened after the list was made is not in it, nor one that was changed meanwhile.
    const asked = [...this.#watched].filter(([, { device }]) => !device.isChanging);
    const present = await this.#usb.getDevices().catch(() => null); // said to whoever exports
    if (present === null) return;
    const handles = new Set(present.map(({ handle }) => handle));
    for (const [handle, one] of asked) {
      if (this.#watched.get(handle) !== one || one.device.isChanging) continue;
      one.misses = handles.has(handle) ? 0 : one.misses + 1;
      if (one.misses < MISSES_MAX) continue;
      this.#watched.delete(handle);
      one.device.unplugged();
    }
  }
}
