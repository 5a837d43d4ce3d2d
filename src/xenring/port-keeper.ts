/**
 * Sees to it that the device which a port's node in the store names is plugged in, as soon as and
 * as long as that is possible: exported, held by no other client, and of a speed that a ring has.
 */
import type { Clock } from '../core/clock.ts';
import { type Containment, logBug } from '../core/containment.ts';
import type { PeerLog } from '../core/peer-log.ts';
import type { Claim, Export, Registry } from '../core/registry.ts';
import type { Controller } from './controller.ts';
import { type PortSpeed, ringSpeed } from './usbif.ts';

export type RingLog = PeerLog;

export interface PortOptions {
  readonly number: number;
  readonly controller: Controller;
  readonly registry: Registry;
  /** Who has the device then, for people. */
  readonly peer: string;
  /** usb-ver of the controller. */
  readonly usbVersion: number;
  readonly clock: Clock;
  readonly log: RingLog;
  /** Of the connection. */
  readonly containment: Containment;
  /** `controller.work` is due. */
  readonly onChange: () => void;
}

export class PortKeeper {
  readonly #options: PortOptions;
  #wanted = '';
  #claim: Claim | null = null;
  /** Resolves when the device that was here is free. */
  #leaving: Promise<void> | null = null;
  #ended = false;
  /**
   * A device whose session has failed here: a guest would bring about the same bug again at once.
   */
  #failedExport: Export | null = null;
  /** Why the wanted device is not here, as the log knows it. */
  #reason = '';

  constructor(options: PortOptions) {
    this.#options = options;
  }

  /** Bus id of the device that is plugged in. */
  get busId(): string | undefined {
    return this.#claim?.export.busId;
  }

  /** The port is to have this device; none if empty. */
  want(busId: string): void {
    if (busId === this.#wanted) return;
    this.#wanted = busId;
    this.#reason = '';
    this.#failedExport = null;
    if (this.#claim !== null) this.#unplug();
    this.tryPlug();
  }

  /** Something has changed that may let the wanted device in. */
  tryPlug(): void {
    if (this.#ended || this.#claim !== null || this.#leaving !== null || this.#wanted === '')
      return;
    const why = this.#plug(this.#wanted);
    if (why === this.#reason) return;
    this.#reason = why;
    if (why !== '')
      this.#say('warn', 'devices not plugged in', `cannot plug in ${this.#wanted}: ${why}`);
  }

  /** Unplugs; resolves when the device is free. */
  async end(): Promise<void> {
    this.#ended = true;
    if (this.#claim !== null) this.#unplug();
    await this.#leaving;
  }

  /** Returns why not, or ''. */
  #plug(busId: string): string {
    const { registry, controller, number, peer, clock } = this.#options;
    const found = registry.get(busId);
    if (found === undefined) return 'it is not exported';
    if (found === this.#failedExport) {
      return 'a bug has ended its use here, wanted it detached and attached again';
    }
    const { speed: deviceSpeed } = found.info;
    const speed = ringSpeed(deviceSpeed);
    const refused = this.#speedRefusal(deviceSpeed, speed);
    if (refused !== '') return refused;
    const client = controller.client(
      () => this.#removed(),
      (error) => this.#failed(error),
    );
    let claim: Claim | 'unknown' | 'busy';
    try {
      claim = registry.claim(busId, peer, client, { recovery: controller.recovery, clock });
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
    if (claim === 'busy') return 'another client has it';
    if (claim === 'unknown') return 'it is not exported';
    client.session = claim.session;
    this.#claim = claim;
    controller.plug(number, claim.session, speed);
    this.#say('info', 'plugged-in devices', `plugged in ${busId}`);
    this.#options.onChange();
    return '';
  }

  #speedRefusal(speed: string, ring: PortSpeed): string {
    if (ring === 'none') {
      return `it is a ${speed}-speed device, wanted one of low, full or high speed (a ring carries no more)`;
    }
    if (ring === 'high' && this.#options.usbVersion < 2) {
      return 'it is a high-speed device and the controller USB 1.1, wanted a controller of USB 2.0';
    }
    return '';
  }

  #unplug(): void {
    const { controller, number, onChange, containment } = this.#options;
    const claim = this.#claim;
    if (claim === null) return;
    this.#claim = null;
    controller.unplug(number);
    const freed = () => {
      this.#leaving = null;
      this.#say('info', 'unplugged devices', `unplugged ${claim.export.busId}`);
      onChange();
      this.tryPlug();
    };
    this.#leaving = claim.release().then(freed, (error) => {
      this.#say('warn', 'failed releases', `cannot release ${claim.export.busId}: ${error}`);
      freed();
    });
    containment.watch(this.#leaving);
  }

  /** The device has gone by itself; it is plugged in again when it comes back. */
  #removed(): void {
    this.#reason = '';
    this.#unplug();
  }

  /** A bug of the device's or its session's: this port alone is let go of. */
  #failed(error: unknown): void {
    const { log, peer, number } = this.#options;
    const failed = this.#claim?.export ?? null;
    logBug(log, error, `${peer}: port ${number}: ${failed?.busId} unplugged by a bug`, peer);
    this.#failedExport = failed;
    this.#unplug();
  }

  #say(level: 'info' | 'warn', kind: string, what: string): void {
    const { log, peer, number } = this.#options;
    log[level](`${peer}: port ${number}: ${what}`, kind, peer);
  }
}
