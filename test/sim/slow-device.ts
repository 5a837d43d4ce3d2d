/** Puts time, and errors before any data moves, in front of a device. */
import type { Clock } from '../../src/core/clock.ts';
import type { DeviceHost, UsbDevice } from '../../src/core/device.ts';
import type { Urb } from '../../src/core/urb.ts';
import type { Chance } from './time.ts';

export interface DeviceWatcher {
  started(urb: Urb): void;
  ended(urb: Urb): void;
}

export class SlowDevice implements UsbDevice {
  readonly #device: UsbDevice;
  readonly #clock: Clock;
  readonly #chance: Chance;
  readonly #watcher: DeviceWatcher;
  /** How long most transfers take at the most: some devices are slower than any client, some are not. */
  readonly #paceMilliseconds: number;
  /** One in so many URBs fails before data moves, but not those with SHORT_NOT_OK. */
  readonly #failsOneIn: number;
  /** URBs whose time has not come, with what stops that. */
  readonly #waiting = new Map<Urb, () => void>();
  #host: DeviceHost | null = null;

  constructor(
    device: UsbDevice,
    clock: Clock,
    chance: Chance,
    failsOneIn: number,
    watcher: DeviceWatcher,
  ) {
    this.#device = device;
    this.#clock = clock;
    this.#chance = chance;
    this.#failsOneIn = failsOneIn;
    this.#watcher = watcher;
    this.#paceMilliseconds = chance.oneIn(3) ? 10 : 0.5;
  }

  get info() {
    return this.#device.info;
  }

  get queueModel() {
    return this.#device.queueModel;
  }

  endpoint(address: number) {
    return this.#device.endpoint(address);
  }

  open(host: DeviceHost): void {
    this.#host = host;
    this.#device.open({
      completed: (urb) => this.#ended(urb),
      removed: () => host.removed(),
      failed: (error) => host.failed(error),
    });
  }

  submit(urb: Urb): void {
    this.#watcher.started(urb);
    if (urb.setup !== null) {
      this.#device.submit(urb);
      return;
    }
    const chance = this.#chance;
    const time = chance.oneIn(50)
      ? chance.between(1, 30)
      : chance.between(0, this.#paceMilliseconds);
    const stop = this.#clock.after(time, () => {
      this.#waiting.delete(urb);
      if (!urb.shortNotOk && chance.oneIn(this.#failsOneIn)) this.#fail(urb, 'protocol-error');
      else this.#device.submit(urb);
    });
    this.#waiting.set(urb, stop);
  }

  unlink(urb: Urb): void {
    const stop = this.#waiting.get(urb);
    if (stop === undefined) {
      this.#device.unlink(urb);
      return;
    }
    if (this.#chance.oneIn(5)) return; // too late: it ends when its time has come
    stop();
    this.#waiting.delete(urb);
    this.#clock.after(this.#chance.between(0, 1), () => this.#fail(urb, 'unlinked'));
  }

  reset(): void {
    this.#device.reset();
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  dispose(): Promise<void> {
    return this.#device.dispose();
  }

  #fail(urb: Urb, status: 'protocol-error' | 'unlinked'): void {
    urb.status = status;
    urb.actualOctets = 0;
    this.#ended(urb);
  }

  #ended(urb: Urb): void {
    this.#watcher.ended(urb);
    this.#host?.completed(urb);
  }
}
