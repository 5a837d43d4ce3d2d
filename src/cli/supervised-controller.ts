/**
 * A controller of this Xen guest and the devices in its ports: whatever the gateway plugs in becomes
 * an attachment, for as long as it is plugged in. Each device is one of its own, so that it is shown
 * and detached like any other.
 *
 * A gateway that is stopped, or killed and started again, leaves the connection as it is: the devices
 * are unplugged and plugged in again. The controller is lost when it is taken away, or when the two
 * ends misunderstand each other.
 */
import type { Clock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { PeerLines } from '../core/peer-log.ts';
import { Frontend } from '../xenring/frontend.ts';
import type { Platform } from '../xenring/platform.ts';
import type { RingDevice } from '../xenring/ring-device.ts';
import { RingError } from '../xenring/ring-error.ts';
import { type AttachmentStatus, controllerText, type RingRequest } from './attach-protocol.ts';
import type { GuestRings } from './guest-rings.ts';
import type { Log } from './log.ts';
import { RingSource } from './ring-source.ts';
import type { Attachment, Supervised } from './supervised.ts';
import { Tries } from './tries.ts';

/** How long a back end may take to connect; one that nobody runs never does. */
const CONNECT_MILLISECONDS = 10_000;

const WHY_LEFT = 'the gateway has let the controller go';

export interface ControllerOptions {
  readonly id: string;
  readonly request: RingRequest;
  readonly rings: GuestRings;
  readonly log: Log;
  readonly lines: PeerLines;
  readonly clock: Clock;
  /**
   * Makes an attachment of a device.
   *
   * @throws {UserError} if there are too many.
   */
  readonly supervise: (text: string, source: RingSource, wantedPort?: number) => Supervised;
}

/** What is open while it is connected. */
interface Connection {
  readonly frontend: Frontend;
  readonly platform: Platform;
  readonly giveBack: () => void;
  /** Set when it is being closed. */
  closing: Promise<void> | null;
}

export class SupervisedController implements Attachment {
  readonly id: string;
  readonly text: string;
  readonly port = null;
  readonly controller: number;
  readonly settled: Promise<void>;
  readonly ended: Promise<void>;
  readonly #options: ControllerOptions;
  readonly #tries: Tries;
  /** None: all. */
  readonly #ports: Set<number>;
  /** By port of the controller. */
  readonly #devices = new Map<number, Supervised>();
  /** Ports of vhci that devices had, by port of the controller. */
  readonly #places = new Map<number, number>();
  #connection: Connection | null = null;
  #attachedCount = 0;
  #attachedSince: Date | null = null;
  #lostSince: Date | null = null;

  constructor(options: ControllerOptions) {
    const { id, request, lines, clock } = options;
    this.id = id;
    this.text = controllerText(request.controller);
    this.controller = request.controller;
    this.#options = options;
    this.#ports = new Set(request.ports);
    this.#tries = new Tries({
      wait: request.wait,
      persist: request.persist,
      text: this.text,
      lines,
      clock,
      connect: () => this.#connect(),
      letGo: () => this.#letGo(),
      place: () => '',
    });
    this.settled = this.#tries.settled;
    this.ended = this.#tries.ended;
    this.#tries.begin();
  }

  get hasEnded(): boolean {
    return this.#tries.hasEnded;
  }

  get why(): string {
    return this.#tries.why;
  }

  /** It was asked for again: with other ports perhaps, or for devices that were detached here. */
  again({ ports }: RingRequest): void {
    if (ports.length === 0) this.#ports.clear();
    else if (this.#ports.size > 0) for (const port of ports) this.#ports.add(port);
    for (const device of this.#connection?.frontend.devices.values() ?? []) this.#plugged(device);
  }

  async stop(): Promise<void> {
    await this.#tries.stop();
  }

  status(): AttachmentStatus {
    const { id, request } = this.#options;
    const { phase, why } = this.#tries;
    return {
      id,
      server: controllerText(this.controller),
      busId: null,
      device: null,
      phase,
      port: null,
      localBusId: null,
      direct: false,
      wait: request.wait,
      persist: request.persist,
      stallProtocol: null,
      why: why === '' ? null : why,
      attachedCount: this.#attachedCount,
      attachedSince: this.#attachedSince?.toISOString() ?? null,
      lostSince: this.#lostSince?.toISOString() ?? null,
      ...{ urbs: 0, errors: 0, fences: 0, timedFences: 0 },
    };
  }

  async #connect(): Promise<void> {
    const { rings } = this.#options;
    const giveBack = await rings.claim(this.controller);
    let platform: Platform | undefined;
    try {
      platform = await rings.open();
      const path = `/local/domain/${platform.domain}/device/vusb/${this.controller}`;
      const frontend = new Frontend(platform, path, this.#options.clock);
      frontend.onBug = (error) => {
        const what = `${this.text}: let go of by a bug`;
        this.#options.log.error({ err: error }, what);
      };
      const connection = { frontend, platform, giveBack, closing: null };
      await this.#start(connection);
      this.#connection = connection;
    } catch (error) {
      await platform?.close();
      giveBack();
      throw error instanceof RingError ? this.#refusal(error) : error;
    }
    this.#attachedCount++;
    this.#attachedSince = new Date();
  }

  #refusal(error: RingError): UserError {
    if (error.code !== 'unknown-state') return new UserError(error.message);
    return new UserError(
      `Cannot attach controller ${this.controller}: this guest has none of that number, wanted one made by "urbgate xen ctrl-add" in the gateway's domain`,
    );
  }

  /** Resolves when the back end has connected. Nothing is left of it if it throws. */
  async #start(connection: Connection): Promise<void> {
    const { frontend } = connection;
    let cancel = () => {};
    const connected = new Promise<void>((resolve, reject) => {
      frontend.once('connected', resolve);
      frontend.once('fault', reject);
      const late = () => reject(new UserError(this.#noAnswer()));
      cancel = this.#options.clock.after(CONNECT_MILLISECONDS, late);
    });
    connected.catch(() => {}); // the start may fail before anybody listens
    const { containment } = this.#tries;
    const lost = (why: string) => containment.watch(this.#lost(connection, why));
    frontend.on('plugged', (one) => containment.run((device) => this.#plugged(device), one));
    frontend.on('unplugged', (one) => containment.run((device) => this.#unplugged(device), one));
    frontend.on('left', () => lost(WHY_LEFT));
    frontend.on('fault', ({ message }) => lost(message));
    try {
      await frontend.start();
      await connected;
    } catch (error) {
      await frontend.close().catch(() => frontend.abandon());
      throw error;
    } finally {
      cancel();
    }
  }

  #noAnswer(): string {
    return `Cannot attach controller ${this.controller}: nobody answers at its other end, wanted "urbgate serve --xen" in that domain`;
  }

  async #lost(connection: Connection, why: string): Promise<void> {
    if (this.#connection !== connection) return;
    this.#options.log.debug(`${controllerText(this.controller)} is let go: ${why}`);
    await this.#close(connection);
    this.#lostSince = new Date();
    this.#tries.lost(why);
  }

  async #letGo(): Promise<void> {
    await Promise.all([...this.#devices.values()].map((device) => device.stop()));
    if (this.#connection !== null) await this.#close(this.#connection);
  }

  #close(connection: Connection): Promise<void> {
    const { frontend, platform, giveBack } = connection;
    connection.closing ??= (async () => {
      await frontend.close().catch(() => frontend.abandon()); // the store has gone
      await platform.close();
      giveBack();
      this.#connection = null;
    })();
    return connection.closing;
  }

  #plugged(device: RingDevice): void {
    const { port } = device;
    const isWanted = this.#ports.size === 0 || this.#ports.has(port);
    if (!isWanted || this.#devices.has(port) || this.hasEnded) return;
    const text = `${controllerText(this.controller)}/${port}`;
    const source = new RingSource(device, this.controller, { clock: this.#options.clock });
    try {
      const one = this.#options.supervise(text, source, this.#places.get(port));
      this.#devices.set(port, one);
      one.settled.then(() => one.port !== null && this.#places.set(port, one.port));
      one.ended.then(() => this.#devices.get(port) === one && this.#devices.delete(port));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      this.#options.lines.warn(error.message, 'failed attachments', text);
    }
  }

  /** An attached device ends by itself; one that vhci has not taken yet would be tried on and on. */
  #unplugged({ port }: RingDevice): void {
    const one = this.#devices.get(port);
    if (one?.port === null) one.stop();
    this.#devices.delete(port);
  }
}
