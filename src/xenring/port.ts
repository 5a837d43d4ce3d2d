/** A port of a controller: whose device is there, and what the guest has done to it. */
import type { DeviceSession } from '../core/session.ts';
import type { Urb } from '../core/urb.ts';
import type { Request } from './urb-request.ts';

/** USB 2.0, table 9-4 */
const SET_CONFIGURATION = 9;

export class Port {
  #session: DeviceSession | null = null;
  /** The device has been configured since it was last reset. */
  #used = false;

  get session(): DeviceSession | null {
    return this.#session;
  }

  set session(session: DeviceSession | null) {
    this.#session = session;
    this.#used = false;
  }

  /** A URB is about to be submitted. */
  submitting({ setup }: Urb): void {
    if (setup === null || setup.request === SET_CONFIGURATION) this.#used = true;
  }

  /**
   * SET_ADDRESS. The guest resets a port of its root hub without telling anyone; that it gives an
   * address to a device that had one before is all there is to see. So the device is reset now.
   */
  addressed({ deviceAddress }: Request): void {
    if (!this.#used || deviceAddress !== 0) return;
    if (this.#session === null || this.#session.outstandingCount > 0) return;
    this.#session.device.reset();
    this.#used = false;
  }
}
