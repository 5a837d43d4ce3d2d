/**
 * A device behind a ring as the relay to vhci wants one (usbip/relay-device.ts): src/usbip and
 * src/xenring know nothing of each other, and this is where they meet.
 */
import type { Clock } from '../core/clock.ts';
import type { Speed } from '../core/device.ts';
import type { Handler, Transfer, TransferResult } from '../core/transfer.ts';
import { within } from '../core/within.ts';
import type { RelayDevice, Submitted } from '../usbip/relay-device.ts';
import type { Pending } from '../xenring/pending.ts';
import type { RingDevice } from '../xenring/ring-device.ts';

/** For a back end to give all transfers back; one that is no more gives nothing back. */
const RELEASE_MILLISECONDS = 5_000;
const RESET_MILLISECONDS = 2_000;
/** SET_FEATURE(PORT_RESET), which the gateway takes for a reset of the device. */
const RESET: Transfer = {
  endpoint: 0,
  type: 'control',
  setup: Buffer.from([0x23, 3, 4, 0, 0, 0, 0, 0]),
};

export class RingRelay implements RelayDevice {
  readonly name: string;
  readonly deviceId: number;
  readonly speed: Speed;
  readonly #device: RingDevice;
  readonly #clock: Clock;
  #isClosed = false;

  /** @param controller Its number, for people and for vhci. */
  constructor(device: RingDevice, controller: number, clock: Clock) {
    this.#device = device;
    this.#clock = clock;
    device.holdBack = 'all';
    this.name = `port ${device.port}`;
    this.deviceId = ((controller << 16) | device.port) >>> 0;
    this.speed = device.speed === 'none' ? 'full' : device.speed;
  }

  get isOpen(): boolean {
    return !this.#isClosed && this.#device.isOpen;
  }

  get closed(): Promise<void> {
    return this.#device.closed;
  }

  submit(transfer: Transfer, done: Handler): Submitted {
    return this.#device.submit(transfer, done);
  }

  transferWithin(transfer: Transfer, milliseconds: number): Promise<TransferResult> {
    return this.#device.transferWithin(transfer, milliseconds);
  }

  unlink(submitted: Submitted): void {
    this.#device.unlink(submitted as Pending);
  }

  handled(submitted: Submitted): void {
    this.#device.handled(submitted as Pending);
  }

  overtaken(transfer: Pick<Transfer, 'endpoint' | 'type'>): () => void {
    return this.#device.overtaken(transfer);
  }

  /** It stays in its port: the next who attaches it finds it as if it had just been plugged in. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const released = this.#device.release().then(() => true);
    const isReleased = await within(released, RELEASE_MILLISECONDS, () => false, this.#clock);
    if (!isReleased || !this.#device.isOpen) return;
    await this.#device.transferWithin(RESET, RESET_MILLISECONDS);
  }
}
