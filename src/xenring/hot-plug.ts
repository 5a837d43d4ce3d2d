/**
 * The back end's side of the conn ring: tells the front end which device is at which port.
 *
 * Requests of this ring mean nothing but "here is room for one event", so they are taken only when
 * there is an event to tell; a front end that posts them endlessly posts at most as many as the
 * ring has slots. What could not be told waits: the last speed of a port, and before that 'none' if
 * the port has changed its device, or the front end would not notice (xenhcd_rhport_connect looks
 * at the speed alone).
 */
import { BackRing } from './shared-ring.ts';
import { ConnRequest, ConnResponse, PORT_SPEED, type PortSpeed, RingHeader } from './usbif.ts';

const RESPONSES_AT = RingHeader.offsets.responseProduced;
const SIZES = { requestOctets: ConnRequest.octets, responseOctets: ConnResponse.octets };

export class HotPlug {
  readonly #ring: BackRing;
  /** By port: speeds to be told, at most two. */
  readonly #untold = new Map<number, PortSpeed[]>();

  /** Takes over where a back end before this one stopped: its requests are answered in order. */
  constructor(memory: Buffer) {
    const view = new DataView(memory.buffer, memory.byteOffset, memory.length);
    this.#ring = new BackRing(memory, SIZES, view.getUint32(RESPONSES_AT, true));
  }

  /** A port has a device of this speed now, or none. */
  tell(port: number, speed: PortSpeed): void {
    this.#untold.set(port, speed === 'none' ? ['none'] : ['none', speed]);
  }

  /**
   * Tells what there is to tell, as far as the front end has made room; true if it wants an event.
   *
   * @throws {RingError} if it claims more room than there are slots.
   */
  work(): boolean {
    do this.#tellAll(this.#ring.available());
    while (this.#untold.size > 0 && this.#ring.sleep());
    return this.#ring.needsEvent();
  }

  #tellAll(room: number): void {
    let left = room;
    for (const [port, speeds] of this.#untold) {
      while (speeds.length > 0 && left > 0) {
        this.#send(port, speeds.shift() as PortSpeed);
        left--;
      }
      if (speeds.length > 0) return;
      this.#untold.delete(port);
    }
  }

  #send(port: number, speed: PortSpeed): void {
    const { view } = this.#ring;
    const id = view.getUint16(this.#ring.take() + ConnRequest.offsets.id, true);
    const at = this.#ring.make();
    view.setUint16(at + ConnResponse.offsets.id, id, true);
    view.setUint8(at + ConnResponse.offsets.port, port);
    view.setUint8(at + ConnResponse.offsets.speed, PORT_SPEED[speed]);
    this.#ring.publish();
  }
}
