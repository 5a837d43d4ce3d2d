/** A device in a port of a controller of this guest, as the source of an attachment. */
import type { Clock } from '../core/clock.ts';
import type { PortRecord, Vhci } from '../usbip/vhci.ts';
import type { LinkOptions } from '../usbip/vhci-link.ts';
import type { VhciThreads } from '../usbip/vhci-threads.ts';
import type { RingDevice } from '../xenring/ring-device.ts';
import { controllerText } from './attach-protocol.ts';
import { type Link, relay, type Source, type SourceStatus } from './attach-source.ts';
import { RingRelay } from './ring-relay.ts';

export class RingSource implements Source {
  readonly status: SourceStatus;
  readonly record: PortRecord;
  readonly #device: RingDevice;
  readonly #controller: number;
  readonly #clock: Clock;
  readonly #threads: VhciThreads | undefined;

  /** Other threads are for tests. */
  constructor(
    device: RingDevice,
    controller: number,
    { clock, threads }: { readonly clock: Clock; readonly threads?: VhciThreads },
  ) {
    this.#device = device;
    this.#controller = controller;
    this.#clock = clock;
    this.#threads = threads;
    const busId = `${device.port}`;
    const { stallProtocol } = device;
    const server = controllerText(controller);
    this.status = { server, busId, device: null, direct: false, stallProtocol };
    this.record = { host: 'xen', service: `${controller}`, busId };
  }

  async attach(vhci: Vhci, options: LinkOptions = {}): Promise<Link> {
    return await relay(new RingRelay(this.#device, this.#controller, this.#clock), vhci, {
      ...options,
      ...(this.#threads && { threads: this.#threads }),
    });
  }
}
