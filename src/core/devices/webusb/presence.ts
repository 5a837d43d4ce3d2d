/**
 * Notices that devices were unplugged, by looking at what there is. The package's own events would do
 * on a desktop, but come from udev on Linux, which containers lack, and end the process where its
 * socket may not be had.
 */
import type { Clock } from '../../clock.ts';
import type { UsbPackage } from './package.ts';

const LOOK_MILLISECONDS = 500;

export class Presence {
  readonly #usb: UsbPackage;
  readonly #clock: Clock;
  /** What to call, by handle. */
  readonly #watched = new Map<string, () => void>();
  #looking = false;

  constructor(usb: UsbPackage, clock: Clock) {
    this.#usb = usb;
    this.#clock = clock;
  }

  /** Calls back once when there is no device with this handle any more; the result ends that. */
  watch(handle: string, onGone: () => void): () => void {
    this.#watched.set(handle, onGone);
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
    // One that was opened after the list was made is not in it.
    const asked = [...this.#watched.keys()];
    const present = await this.#usb.getDevices().catch(() => null); // said to whoever exports
    if (present === null) return;
    const handles = new Set(present.map(({ handle }) => handle));
    for (const handle of asked) {
      const onGone = this.#watched.get(handle);
      if (onGone === undefined || handles.has(handle)) continue;
      this.#watched.delete(handle);
      onGone();
    }
  }
}
