/**
 * One attachment and what it has: what `usbip/attachment.ts` decides, done with sockets and vhci.
 */
import type { Clock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { AttachmentAction, AttachmentPhase } from '../usbip/attachment.ts';
import { AttachmentDriver } from '../usbip/attachment-driver.ts';
import { importDevice } from '../usbip/client.ts';
import { DirectLink } from '../usbip/direct-link.ts';
import { findBusId } from '../usbip/find-device.ts';
import { readDescriptors, readEndpoints } from '../usbip/remote-descriptors.ts';
import type { Vhci } from '../usbip/vhci.ts';
import { VhciLink } from '../usbip/vhci-link.ts';
import {
  type AttachmentStatus,
  type AttachRequest,
  readIdentity,
  targetText,
} from './attach-protocol.ts';
import type { Log } from './log.ts';

type Link = VhciLink | DirectLink;

const WHY_LOST = 'the server or the device has gone';
/** vhci frees a port a moment after its connection has ended. */
const PORT_FREE_MILLISECONDS = 5_000;
const PORT_LOOK_MILLISECONDS = 50;

export class Supervised {
  readonly id: string;
  readonly request: AttachRequest;
  /** Resolves when it was attached for the first time, waits or has ended; then rejects never. */
  readonly settled: Promise<void>;
  /** Resolves when it has ended for good. */
  readonly ended: Promise<void>;
  readonly #driver: AttachmentDriver;
  readonly #vhci: Vhci;
  readonly #log: Log;
  #link: Link | null = null;
  #busId: string | null = null;
  #stallProtocol: boolean | null = null;
  /** Where it was last: it goes back there if that is free. */
  #port: number | undefined;
  #attachedCount = 0;
  #attachedSince: Date | null = null;
  #lostSince: Date | null = null;
  #settle: () => void = () => {};
  #finish: () => void = () => {};

  constructor(id: string, request: AttachRequest, vhci: Vhci, log: Log, clock: Clock) {
    this.id = id;
    this.request = request;
    this.#vhci = vhci;
    this.#log = log;
    this.#driver = new AttachmentDriver({
      wait: request.wait,
      persist: request.persist,
      clock,
      act: (action, before) => this.#act(action, before),
    });
    this.settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#connect();
  }

  get port(): number | null {
    return this.#link?.port ?? null;
  }

  get hasEnded(): boolean {
    return this.#driver.phase === 'ended';
  }

  /** Why it has not come about. */
  get why(): string {
    return this.#driver.why;
  }

  /** Unplugs the device, and tries no more. */
  async stop(): Promise<void> {
    this.#driver.event({ type: 'stop' });
    await this.ended;
  }

  status(): AttachmentStatus {
    const { server, busId, device, direct, wait, persist } = this.request;
    const { phase, why } = this.#driver;
    const link = this.#link;
    const counts = link?.counts ?? { urbs: 0, errors: 0, fences: 0, timedFences: 0 };
    return {
      id: this.id,
      server: targetText({ ...this.request, server, busId: '' }).slice(0, -1),
      busId: this.#busId ?? busId ?? null,
      device: device ?? null,
      phase,
      port: link?.port ?? null,
      localBusId: link === null ? null : (this.#vhci.port(link.port)?.localBusId ?? null),
      direct,
      wait,
      persist,
      stallProtocol: this.#stallProtocol,
      why: why === '' ? null : why,
      attachedCount: this.#attachedCount,
      attachedSince: this.#attachedSince?.toISOString() ?? null,
      lostSince: this.#lostSince?.toISOString() ?? null,
      ...counts,
    };
  }

  #act(action: AttachmentAction, before: AttachmentPhase): void {
    const { phase, why } = this.#driver;
    if (phase !== before) this.#say(phase, why);
    if (phase !== 'connecting') this.#settle();
    if (action === 'connect') this.#connect();
    if (phase === 'ended' && before !== 'ended') {
      const closed = action === 'letGo' ? this.#link?.close() : undefined;
      Promise.resolve(closed).finally(() => this.#finish());
    }
  }

  #say(phase: string, why: string): void {
    const what = targetText(this.request);
    if (phase === 'attached') this.#log.info(`${what} attached to vhci port ${this.port}`);
    else if (phase === 'waiting') this.#log.info(`${what} is awaited: ${why}`);
    else if (phase === 'ended') this.#log.info(`${what} ended: ${why}`);
  }

  #connect(): void {
    this.#attach().then(
      (link) => this.#attached(link),
      (error) => {
        if (!(error instanceof UserError)) {
          this.#log.error({ err: error }, `Cannot attach ${targetText(this.request)}`);
        }
        this.#driver.event({ type: 'failed', why: error.message });
      },
    );
  }

  async #attach(): Promise<Link> {
    const { server, device, direct } = this.request;
    const busId = this.request.busId ?? (await findBusId(server, readIdentity(device ?? '')));
    this.#busId = busId;
    const wantedPort = this.#port;
    if (wantedPort !== undefined) await this.#untilFree(wantedPort);
    if (direct) return await DirectLink.attach(server, busId, this.#vhci, wantedPort);
    const remote = await importDevice(server, busId, { holdBack: 'all' });
    try {
      const endpoints = await readEndpoints(remote, await readDescriptors(remote));
      this.#stallProtocol = remote.stallProtocol;
      const options = wantedPort === undefined ? {} : { wantedPort };
      return new VhciLink(remote, endpoints, this.#vhci, options);
    } catch (error) {
      await remote.close();
      throw error;
    }
  }

  /** After a loss, vhci may not have noticed yet. */
  async #untilFree(port: number): Promise<void> {
    const end = performance.now() + PORT_FREE_MILLISECONDS;
    while (performance.now() < end && this.#vhci.port(port)?.state !== 'free') {
      await new Promise((resolve) => setTimeout(resolve, PORT_LOOK_MILLISECONDS));
    }
  }

  #attached(link: Link): void {
    if (this.hasEnded) {
      link.close(); // it was stopped meanwhile
      return;
    }
    this.#link = link;
    this.#port = link.port;
    this.#attachedCount++;
    this.#attachedSince = new Date();
    const { host, port } = this.request.server;
    this.#vhci.record(link.port, { host, service: String(port), busId: this.#busId ?? '?' });
    this.#driver.event({ type: 'connected' });
    link.ended.then((end) => {
      this.#link = null;
      this.#lostSince = new Date();
      this.#vhci.forget(link.port);
      if (end === 'lost') this.#driver.event({ type: 'lost', why: WHY_LOST });
      else if (end === 'detached') this.#driver.event({ type: 'detached' });
    });
  }
}
