/**
 * What exists while a front end is connected: mapped rings, the event channel, the controller on
 * them, and the devices at its ports.
 *
 * `#work` is where all events meet: the channel's, answers that a device gave on its own time, and
 * the look for a fence. Before it sleeps it may stay awake for a while (spinner.ts).
 */
import type { Clock } from '../core/clock.ts';
import { Containment } from '../core/containment.ts';
import type { SessionLimits } from '../core/limits.ts';
import type { Registry } from '../core/registry.ts';
import { Controller, type Next } from './controller.ts';
import type { Domain, EventChannel, MappedPages, Platform } from './platform.ts';
import { PortKeeper, type RingLog } from './port-keeper.ts';
import { Spinner } from './spinner.ts';

/** While URBs wait for a fence, the ring is looked at after so many milliseconds; the last repeats. */
const FENCE_MILLISECONDS = [0, 0, 1, 1, 2, 4, 8, 16] as const;

export interface ConnectionOptions {
  readonly platform: Platform;
  readonly registry: Registry;
  readonly log: RingLog;
  readonly clock: Clock;
  readonly limits?: SessionLimits;
  readonly domain: Domain;
  /** For people. */
  readonly peer: string;
  readonly ports: number;
  readonly usbVersion: number;
  /** Grant references of the rings. */
  readonly urbRing: number;
  readonly connRing: number;
  readonly eventChannel: number;
  readonly stallProtocol: boolean;
  /** The front end's fault, or a bug; not from inside a call of this. End the connection. */
  readonly onFault: (error: unknown) => void;
}

export class RingConnection {
  readonly portCount: number;
  readonly #options: ConnectionOptions;
  readonly #mapped: MappedPages[] = [];
  readonly #channel: EventChannel;
  readonly #controller: Controller;
  readonly #keepers: PortKeeper[] = [];
  readonly #spinner: Spinner;
  /** All that comes from the channel, timers, the registry and devices runs in here. */
  readonly #containment = new Containment((error) => this.#faulty(error));
  readonly #workNow = this.#containment.guard(() => this.#work());
  readonly #workLater = this.#containment.guard(() => {
    this.#workScheduled = false;
    this.#work();
  });
  #workScheduled = false;
  #cancelLook: () => void = () => {};
  /** Looks for a fence in a row. */
  #looks = 0;
  #ended = false;

  /** @throws {PlatformError | RingError} if the front end's rings or channel cannot be had. */
  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.portCount = options.ports;
    const { platform, domain } = options;
    let channel: EventChannel | undefined;
    try {
      const urbPage = this.#map(options.urbRing);
      const connPage = this.#map(options.connRing);
      channel = platform.bindChannel(domain, options.eventChannel);
      this.#channel = channel;
      this.#controller = this.#makeController(urbPage, connPage, channel);
    } catch (error) {
      channel?.close();
      this.#unmap();
      throw error;
    }
    const controller = this.#controller;
    this.#spinner = new Spinner({
      waiting: () => controller.waiting,
      expecting: () => true,
      work: this.#workNow,
    });
    this.#makeKeepers();
    channel.onEvent = this.#workNow;
    this.#scheduleWork(); // what was there before the channel was
  }

  /** Bus ids of what is plugged in, by port. */
  get plugged(): ReadonlyMap<number, string> {
    const plugged = new Map<number, string>();
    for (const [n, { busId }] of this.#keepers.entries()) if (busId) plugged.set(n + 1, busId);
    return plugged;
  }

  /** A port, from 1 on, is to have this device; none if empty. */
  want(port: number, busId: string): void {
    this.#containment.run(() => this.#keepers[port - 1]?.want(busId), undefined);
  }

  /** Something has changed that may let wanted devices in. */
  tryPlug(): void {
    for (const keeper of this.#keepers) {
      this.#containment.run((one) => one.tryPlug(), keeper);
    }
  }

  /** Resolves when everything is let go of. In an orderly end the front end gets its answers. */
  async end(how: 'orderly' | 'at-once'): Promise<void> {
    if (how === 'at-once') this.#letGo();
    await Promise.all(this.#keepers.map((keeper) => keeper.end()));
    this.#workNow();
    this.#letGo();
  }

  /** A bug: the rings are left as they are. */
  #faulty(error: unknown): void {
    const { onFault } = this.#options;
    this.#controller.end();
    setImmediate(() => this.#ended || onFault(error));
  }

  #map(reference: number): Buffer {
    const mapped = this.#options.platform.map(this.#options.domain, [reference]);
    this.#mapped.push(mapped);
    return mapped.memory;
  }

  #unmap(): void {
    for (const mapped of this.#mapped.splice(0)) mapped.unmap();
  }

  #letGo(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#cancelLook();
    this.#spinner.stop();
    this.#controller.end();
    this.#channel.onEvent = () => {};
    this.#channel.close();
    this.#unmap();
  }

  #makeController(urbPage: Buffer, connPage: Buffer, channel: EventChannel): Controller {
    const { platform, domain, ports, stallProtocol, limits } = this.#options;
    return new Controller(urbPage, connPage, {
      ports,
      stallProtocol,
      ...(limits && { limits }),
      guest: {
        copyFrom: (segments, target) => platform.copyFrom(domain, segments, target),
        copyTo: (segments, source) => platform.copyTo(domain, segments, source),
      },
      notify: () => channel.notify(),
      onAnswered: () => this.#scheduleWork(),
      onFault: (error) => this.#containment.bug(error),
    });
  }

  #makeKeepers(): void {
    const { registry, peer, usbVersion, clock, log } = this.#options;
    const controller = this.#controller;
    const onChange = () => this.#scheduleWork();
    for (let number = 1; number <= this.portCount; number++) {
      const options = { number, controller, registry, peer, usbVersion, clock, log };
      this.#keepers.push(new PortKeeper({ ...options, containment: this.#containment, onChange }));
    }
  }

  /** All that one turn of the event loop brings forth is announced by one event. */
  #scheduleWork(): void {
    if (this.#workScheduled) return;
    this.#workScheduled = true;
    process.nextTick(this.#workLater);
  }

  #work(): void {
    if (this.#ended) return;
    this.#cancelLook();
    this.#cancelLook = () => {};
    const next = this.#controller.work(this.#spinner.begin());
    this.#spinner.end(next === 'awake');
    this.#arrange(next);
  }

  #arrange(next: Next): void {
    if (next !== 'fence') this.#looks = 0;
    if (next === 'again') {
      const immediate = setImmediate(this.#workNow);
      this.#cancelLook = () => clearImmediate(immediate);
    } else if (next === 'fence') {
      const wait = FENCE_MILLISECONDS[Math.min(this.#looks++, FENCE_MILLISECONDS.length - 1)] ?? 0;
      this.#cancelLook = this.#options.clock.after(wait, this.#workNow);
    }
  }
}
