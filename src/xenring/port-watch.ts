/**
 * The front end's side of the conn ring: it posts as many empty requests as fit, and is told by
 * their responses which port has got a device or lost it.
 */
import { RingError } from './ring-error.ts';
import { FrontRing } from './shared-ring.ts';
import { ConnRequest, ConnResponse, PORTS_MAX, type PortSpeed, portSpeedOf } from './usbif.ts';

const SIZES = { requestOctets: ConnRequest.octets, responseOctets: ConnResponse.octets };

/** How often one call of `work` looks at the ring. */
const PASSES_MAX = 8;

export class PortWatch {
  readonly #ring: FrontRing;
  readonly #notify: () => void;
  readonly #onPort: (port: number, speed: PortSpeed) => void;
  readonly #speeds = new Map<number, PortSpeed>();

  /** @param onPort Called when the speed of a port has changed. */
  constructor(page: Buffer, notify: () => void, onPort: (port: number, speed: PortSpeed) => void) {
    this.#ring = new FrontRing(page, SIZES);
    this.#notify = notify;
    this.#onPort = onPort;
    this.#post();
  }

  /**
   * Takes what there is to learn; true if it is to be called again when others had their turn.
   *
   * @throws {RingError} if the back end breaks the protocol.
   */
  work(): boolean {
    for (let pass = 0; pass < PASSES_MAX; pass++) {
      for (let left = this.#ring.available(); left > 0; left--) this.#take();
      this.#post();
      if (!this.#ring.sleep()) return false;
    }
    return true;
  }

  #take(): void {
    const { view } = this.#ring;
    const at = this.#ring.responseAt();
    const port = view.getUint8(at + ConnResponse.offsets.port);
    const speed = view.getUint8(at + ConnResponse.offsets.speed);
    this.#ring.release();
    const name = portSpeedOf(speed);
    if (port < 1 || port > PORTS_MAX || name === undefined) {
      throw new RingError(
        'bad-response',
        `Cannot accept a port's change: port ${port}, speed ${speed}, wanted 1 to ${PORTS_MAX} and 0 to 3`,
      );
    }
    if ((this.#speeds.get(port) ?? 'none') === name) return;
    this.#speeds.set(port, name);
    this.#onPort(port, name);
  }

  #post(): void {
    while (this.#ring.free > 0) {
      const id = this.#ring.made & (this.#ring.slots - 1);
      this.#ring.view.setUint16(this.#ring.make() + ConnRequest.offsets.id, id, true);
    }
    if (this.#ring.push()) this.#notify();
  }
}
