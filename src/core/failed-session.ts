/**
 * How a session ends after a bug. Nobody can say then what its queues are worth: what the device has
 * is asked back from it, and given back when it comes, all else at once.
 */
import type { Clock } from './clock.ts';
import type { UsbDevice } from './device.ts';
import type { SessionClient } from './session.ts';
import { settlesWithin } from './settles-within.ts';
import type { Urb } from './urb.ts';
import type { UrbTable } from './urb-table.ts';

/** How long the device may take to give back its URBs, and then to close. */
const REST_MILLISECONDS = 5_000;

export class FailedSession {
  readonly #device: UsbDevice;
  readonly #client: SessionClient;
  readonly #outstanding: UrbTable;
  readonly #clock: Clock;
  /** Called when all is given back; null before `close`, when nothing is. */
  #whenEmpty: (() => void) | null = null;

  constructor(device: UsbDevice, client: SessionClient, outstanding: UrbTable, clock: Clock) {
    this.#device = device;
    this.#client = client;
    this.#outstanding = outstanding;
    this.#clock = clock;
  }

  /** The device has completed a URB, one of those that it has perhaps. */
  completed(urb: Urb): void {
    if (!urb.atDevice) return;
    urb.atDevice = false;
    if (this.#whenEmpty !== null) this.#giveBack(urb);
  }

  /** @throws {Error} if the device does not come to rest: nobody can have it any more. */
  async close(): Promise<void> {
    const empty = new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
    });
    const all = [...this.#outstanding];
    if (all.length === 0) this.#whenEmpty?.();
    for (const urb of all) if (urb.atDevice) ignoring(() => this.#device.unlink(urb));
    for (const urb of all) if (!urb.atDevice) this.#giveBack(urb);
    if (!(await settlesWithin(empty, REST_MILLISECONDS, this.#clock))) {
      throw new Error(`it has not given back its URBs within ${REST_MILLISECONDS} ms`);
    }
    if (!(await settlesWithin(this.#device.close(), REST_MILLISECONDS, this.#clock))) {
      throw new Error(`it has not closed within ${REST_MILLISECONDS} ms`);
    }
  }

  #giveBack(urb: Urb): void {
    if (!this.#outstanding.delete(urb)) return;
    urb.outstanding = false;
    urb.status = 'shutdown';
    ignoring(() => this.#client.gaveBack(urb));
    if (this.#outstanding.size === 0) this.#whenEmpty?.();
  }
}

/** What fails here comes of the bug, which is told already. */
function ignoring(work: () => void): void {
  try {
    work();
  } catch {}
}
