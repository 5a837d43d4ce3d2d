/**
 * One endpoint of a session: its queue (`src/stall`), and what that machine leaves to its driver, which
 * is the timer and what the client says of its reports.
 */
import { deadlineOf, type EndpointQueue, endpointQueue } from '../stall/endpoint-queue.ts';
import type { Recovery } from '../stall/fence.ts';
import type { EndpointInfo, QueueModel, TransferType, UsbDevice } from './device.ts';
import { controlRecovery } from './recovery.ts';
import type { RunningClock } from './running-time.ts';
import { STOPS_ON } from './stops-on.ts';
import type { Urb } from './urb.ts';

/**
 * URBs of one endpoint that the device takes at a time. An interrupt queue of a host controller does
 * not stop by itself, so there is one; isochronous ones are to follow each other without a gap.
 */
const FLIGHT_MAX: Readonly<Record<QueueModel, Readonly<Record<TransferType, number>>>> = {
  serial: { control: 1, bulk: 1, interrupt: 1, isochronous: 1 },
  'serial-but-isochronous': { control: 1, bulk: 1, interrupt: 1, isochronous: 64 },
  'host-controller': { control: 1, bulk: 8, interrupt: 1, isochronous: 32 },
};

export interface EndpointSlotOptions {
  readonly device: UsbDevice;
  /** The session's; endpoint 0 has its own way of it. */
  readonly recovery: Recovery;
  readonly clock: RunningClock;
  /** Whether the client's machine may have the report at this mark. */
  readonly hasReport: (mark: number) => boolean;
  /** The queue's deadline has come. */
  readonly onDeadline: (slot: EndpointSlot) => void;
}

export class EndpointSlot {
  /** As it was last seen: another alternate setting may have it in another interface. */
  info: EndpointInfo;
  readonly queue: EndpointQueue<Urb>;
  /** The client's mark of the last report that the queue waits for. */
  mark = 0;
  /** Since that report the client has unlinked something here: its handlers are at work, or were. */
  answered = false;
  /** Held URBs that came after that. */
  readonly fresh = new Set<Urb>();
  readonly #options: EndpointSlotOptions;
  /** The deadline that a timer is set for; Infinity for none. */
  #armed = Number.POSITIVE_INFINITY;
  #cancelTimer = () => {};

  constructor(info: EndpointInfo, options: EndpointSlotOptions) {
    const { type } = info;
    const { device } = options;
    this.info = info;
    this.#options = options;
    const recovery = type === 'control' ? controlRecovery(options.recovery) : options.recovery;
    // What the device takes back after an error needs a queue that stops.
    const several = recovery.kind !== 'none' || type === 'isochronous';
    this.queue = endpointQueue(
      several ? FLIGHT_MAX[device.queueModel][type] : 1,
      STOPS_ON[type],
      recovery,
      (urb) => urb.place,
      (urb) => device.mustNotBeOvertaken?.(urb) ?? false,
    );
  }

  /** Nothing is in the queue. */
  get isIdle(): boolean {
    const { flight, waiting, ended } = this.queue;
    return flight.length + waiting.length + ended.length === 0;
  }

  get awaitsFence(): boolean {
    return this.queue.phase === 'holding' || this.queue.barriers > 0;
  }

  /** Sets the timer to the queue's deadline: after each event that may have moved it. */
  arm(): void {
    if (this.answered && this.queue.phase !== 'holding') {
      this.answered = false;
      this.fresh.clear();
    }
    const deadline = deadlineOf(this.queue);
    if (deadline === this.#armed) return;
    this.#cancelTimer();
    this.#armed = deadline;
    this.#cancelTimer = () => {};
    if (deadline === Number.POSITIVE_INFINITY) return;
    const { clock, onDeadline, hasReport } = this.#options;
    const wait = Math.max(0, deadline - clock.now());
    const elapsed = () => {
      this.#armed = Number.POSITIVE_INFINITY;
      onDeadline(this);
    };
    // A hold is time for handlers, which cannot run before the report is there.
    const counts = () => this.queue.phase !== 'holding' || hasReport(this.mark);
    this.#cancelTimer = clock.after(wait, elapsed, counts);
  }

  /** Another takes its place: no timer of this one runs. */
  end(): void {
    this.#cancelTimer();
  }
}
