/**
 * What was plugged into the controllers of guests, for guests that come back.
 *
 * A guest that is rebooted, or saved and restored, gets a new number and new directories in the
 * store. `xl` writes its controllers again, but into their ports only what it has plugged in itself.
 * What stays is the guest's uuid, by which the devices are found here.
 *
 * It lasts as long as the gateway, and takes nothing from anybody: a port that the toolstack has
 * written to stays as it is, and so does a controller that is added to a guest which never left.
 */
import type { Domain } from './platform.ts';

/** Controllers that are remembered; the one that changed longest ago is forgotten first. */
export const CONTROLLERS_REMEMBERED_MAX = 256;

/** One controller of a guest, whatever the guest's number is at the time. */
export interface ControllerIdentity {
  /** Path of the guest's uuid in the store, /vm/UUID. */
  readonly guest: string;
  /** Its device number. */
  readonly controller: string;
}

interface Remembered {
  readonly domain: Domain;
  /** Bus ids by port; none of them is empty. */
  readonly ports: ReadonlyMap<number, string>;
}

export class PortMemory {
  readonly #controllers = new Map<string, Remembered>();

  remember(identity: ControllerIdentity, domain: Domain, ports: ReadonlyMap<number, string>): void {
    const key = keyOf(identity);
    this.#controllers.delete(key);
    if (ports.size === 0) return;
    this.#controllers.set(key, { domain, ports });
    if (this.#controllers.size <= CONTROLLERS_REMEMBERED_MAX) return;
    for (const oldest of this.#controllers.keys()) {
      this.#controllers.delete(oldest);
      return;
    }
  }

  /** What the guest had there when it had another number than `domain`. */
  recall(identity: ControllerIdentity, domain: Domain): ReadonlyMap<number, string> {
    const remembered = this.#controllers.get(keyOf(identity));
    return remembered === undefined || remembered.domain === domain ? NOTHING : remembered.ports;
  }
}

const NOTHING: ReadonlyMap<number, string> = new Map();

function keyOf({ guest, controller }: ControllerIdentity): string {
  return `${guest}/${controller}`;
}
