/**
 * The back end's side of a connected controller, without store, timers and registry: requests in
 * the URB ring become URBs of the sessions at its ports, and each request gets one response.
 *
 * A request to unlink is answered at once, which only frees its id; the URB that it names is
 * answered for itself, and that is what gives it back. Naming a URB that is not out is harmless: it
 * has just been answered.
 *
 * A stock front end's handlers are waited for as fences.ts says; that is why `work` reads
 * `responseEvent` first, then the ring up to its end, and then opens fences.
 *
 * What the front end does wrong is reported once through `onFault`; then nothing is done any more.
 */
import { assert } from '../core/assert.ts';
import { DEFAULT_LIMITS, type SessionLimits } from '../core/limits.ts';
import type { DeviceSession, SessionClient } from '../core/session.ts';
import { Urb, type UrbStatus } from '../core/urb.ts';
import { EXACT_RECOVERY, RETURN_RECOVERY, type Recovery } from '../stall/fence.ts';
import { Entries, type Entry } from './entries.ts';
import { Fences } from './fences.ts';
import { HotPlug } from './hot-plug.ts';
import { JOURNAL_ENTRIES } from './journal.ts';
import { PlatformError } from './platform.ts';
import { Port } from './port.ts';
import { RingError } from './ring-error.ts';
import type { GuestMemory } from './transfer-memory.ts';
import { buildUrb, endpointOf, refusal } from './urb-request.ts';
import { type Answer, plainAnswer, UrbRing } from './urb-ring.ts';
import { type PortSpeed, STATUS_NUMBER, TRANSFER_FLAG } from './usbif.ts';

/** How often one call of `work` looks at the ring; a front end that never stops waits its turn. */
const PASSES_MAX = 8;

export interface ControllerOptions {
  readonly ports: number;
  /** Agreed upon with the front end: it holds its URBs back itself. */
  readonly stallProtocol: boolean;
  readonly guest: GuestMemory;
  readonly limits?: SessionLimits;
  /** Sends an event to the front end. */
  readonly notify: () => void;
  /** A URB was answered outside `work`: `work` is due, at the end of this turn. */
  readonly onAnswered: () => void;
  /**
   * The front end broke the protocol (`RingError`), the platform failed (`PlatformError`), or there
   * is a bug. Called once, from anywhere: end the connection later.
   */
  readonly onFault: (error: unknown) => void;
}

/**
 * What `work` wants: nothing until the next event, to be called again when others had their turn,
 * to be called again soon because URBs wait for a fence, or, if it has stayed awake, whenever
 * something is `waiting`, for nobody will send an event.
 */
export type Next = 'nothing' | 'again' | 'fence' | 'awake';

export class Controller {
  readonly #options: ControllerOptions;
  readonly #ring: UrbRing;
  readonly #hotPlug: HotPlug;
  readonly #entries = new Entries();
  /** By number; 0 is none. */
  readonly #ports: Port[];
  readonly #fences: Fences;
  #working = false;
  #broken = false;

  /**
   * Begins where the back end before this one stopped: what that had taken is answered 'shutdown'.
   *
   * @throws {RingError} if that cannot be found out.
   */
  constructor(urbPage: Buffer, connPage: Buffer, options: ControllerOptions) {
    this.#options = options;
    this.#ring = new UrbRing(urbPage);
    assert(this.#ring.slots === JOURNAL_ENTRIES);
    this.#hotPlug = new HotPlug(connPage);
    this.#fences = new Fences(this.#ring);
    this.#ports = Array.from({ length: options.ports + 1 }, () => new Port());
    for (const { entry, id } of this.#ring.owed) {
      this.#ring.respond(entry, id, plainAnswer('shutdown'));
    }
    this.#ring.publish();
    for (let port = 1; port <= options.ports; port++) this.#hotPlug.tell(port, 'none');
  }

  /** How a session at one of the ports has to recover from errors. */
  get recovery(): Recovery {
    return this.#options.stallProtocol ? RETURN_RECOVERY : EXACT_RECOVERY;
  }

  /** Requests that are out. */
  get outstandingCount(): number {
    return this.#entries.outstandingCount;
  }

  /** What a session at a port calls. `onFailed`: see `SessionClient.failed`. */
  client(
    onRemoved: () => void,
    onFailed?: (error: unknown) => void,
  ): SessionClient & { session: DeviceSession | null } {
    const controller = this;
    return {
      session: null,
      ...(onFailed && { failed: onFailed }),
      // The hypervisor copies from pages that the kernel can pin; a host controller's are not.
      borrows: false,
      gaveBack: (urb) => controller.#gaveBack(urb),
      deviceRemoved: onRemoved,
      reportMark(): number {
        if (this.session !== null) {
          controller.#fences.reported(this.session, controller.#ring.responseEvent);
        }
        return controller.#ring.answered;
      },
    };
  }

  /** A device is at a port. Call `work` afterwards. */
  plug(port: number, session: DeviceSession, speed: PortSpeed): void {
    this.#portOf(port).session = session;
    this.#hotPlug.tell(port, speed);
  }

  /** It is there no longer; its session gives back what it has. Call `work` afterwards. */
  unplug(port: number): void {
    const one = this.#portOf(port);
    if (one.session !== null) this.#fences.forget(one.session);
    one.session = null;
    this.#hotPlug.tell(port, 'none');
  }

  /** Nothing of the rings is touched any more. */
  end(): void {
    this.#broken = true;
  }

  /** Whether the front end has produced something. */
  get waiting(): boolean {
    return !this.#broken && this.#ring.waiting;
  }

  /**
   * Does what there is to do. Call for each event, and when the last call wanted it.
   *
   * @param stayAwake Not to ask for an event for the next request.
   */
  work(stayAwake = false): Next {
    if (this.#broken || this.#working) return 'nothing';
    this.#working = true;
    try {
      return this.#work(stayAwake);
    } catch (error) {
      this.#fault(error);
      return 'nothing';
    } finally {
      this.#working = false;
    }
  }

  #work(stayAwake: boolean): Next {
    this.#publish(); // or slots would count as free whose places in `#entries` are not
    let more = true;
    let asleep = false;
    for (let pass = 0; more && pass < PASSES_MAX; pass++) {
      const event = this.#ring.responseEvent; // before the ring is read
      for (let left = this.#ring.available(); left > 0; left--) this.#take();
      this.#fences.open(event);
      this.#publish();
      // While URBs are held the fence is what is looked for, at times of its own.
      asleep = !stayAwake || this.#fences.blocked;
      more = asleep ? this.#ring.sleep() : this.#ring.waiting;
    }
    const told = this.#hotPlug.work();
    if (this.#ring.needsEvent() || told) this.#options.notify();
    if (more) return 'again';
    if (!asleep) return 'awake';
    return this.#fences.blocked ? 'fence' : 'nothing';
  }

  #take(): void {
    const entry = this.#entries.take();
    const { request } = entry;
    this.#ring.take(request, this.#options.ports);
    if (this.#entries.get(request.id) !== undefined) {
      throw new RingError(
        'duplicate-id',
        `Cannot accept request ${request.id}: a request of this id is out, wanted a new one`,
      );
    }
    this.#entries.add(entry);
    this.#ring.note(entry.index, request.id);
    if (request.unlink) {
      this.#answer(entry, plainAnswer('ok'));
      this.#unlink(request.unlinkId);
      return;
    }
    const status = this.#submit(entry);
    if (status !== null) this.#answer(entry, plainAnswer(status));
  }

  /** Returns how the request ends right away, or null if its URB was submitted. */
  #submit(entry: Entry): UrbStatus | null {
    const { request, memory } = entry;
    const { guest, stallProtocol, limits = DEFAULT_LIMITS } = this.#options;
    if (!stallProtocol) request.flags &= TRANSFER_FLAG.shortNotOk; // all that usbif.h has
    const port = this.#portOf(request.port);
    const { session } = port;
    if (session === null || !session.isOpen) return 'shutdown';
    if (request.setsAddress) {
      port.addressed(request);
      return 'ok';
    }
    const endpoint = endpointOf(request, session.device);
    const refused = refusal(request, endpoint, limits);
    if (endpoint === undefined || refused !== 'ok') return refused;
    const dataOut = memory.dataOut(request, guest);
    const urb = buildUrb(request, endpoint, dataOut, memory.frames(request, guest));
    if (!(urb instanceof Urb)) return urb;
    urb.clearStall = request.clearStall;
    port.submitting(urb);
    entry.session = session;
    session.submit(urb);
    return null;
  }

  #unlink(id: number): void {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.session === null) return;
    entry.asked = true;
    entry.session.unlink(id);
  }

  #gaveBack(urb: Urb): void {
    const entry = this.#entries.get(urb.id);
    assert(entry !== undefined, 'Cannot answer a URB: its request is not out');
    if (this.#broken) return;
    try {
      const octets = entry.memory.giveBack(entry.request, urb, this.#options.guest);
      // Unlinked by this side: see fences.ts.
      const status = urb.status === 'unlinked' && !entry.asked ? 'short' : urb.status;
      this.#answer(entry, {
        status: STATUS_NUMBER[status],
        octets,
        startFrame: urb.packets === null ? 0 : urb.startFrame,
        errorCount: urb.packets === null ? 0 : urb.errorCount,
      });
    } catch (error) {
      this.#fault(error); // the session must not see it
    }
  }

  #answer(entry: Entry, answer: Answer): void {
    this.#entries.answered(entry);
    if (this.#ring.respond(entry.index, entry.request.id, answer)) this.#entries.published();
    if (!this.#working) this.#options.onAnswered();
  }

  #publish(): void {
    this.#ring.publish();
    this.#entries.published();
  }

  #portOf(number: number): Port {
    const port = this.#ports[number];
    assert(
      port !== undefined && number > 0,
      'Cannot find the port: the controller has not so many',
    );
    return port;
  }

  #fault(error: unknown): void {
    if (this.#broken) return;
    const isExpected = error instanceof RingError || error instanceof PlatformError;
    if (isExpected) this.#publish(); // what was right before
    this.#broken = true;
    this.#options.onFault(error);
  }
}
