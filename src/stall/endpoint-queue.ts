/**
 * The queue of one endpoint at the gateway: it alone decides when a transfer may start.
 *
 * The driver of this machine (a session) reports what happened by calling `submitted`, `completed`
 * and `unlinked`, and afterwards carries out `actions` in their order. The machine does no I/O and
 * knows no time; it names transfers by the objects it was given and never looks inside them.
 *
 * A transfer is in one of three places: `waiting` here, in `flight` at the device, or back with the
 * client. It leaves this machine by exactly one `giveBack`. Transfers start in the order in which
 * they were submitted.
 *
 * At most `flightMax` transfers are at the device at a time.
 */

/** What the driver must do, in order. Flat arrays, reused: nothing is allocated per transfer. */
export class Actions<T> {
  readonly #kinds: ActionKind[] = [];
  readonly #subjects: T[] = [];
  #taken = 0;

  add(kind: ActionKind, subject: T): void {
    this.#kinds.push(kind);
    this.#subjects.push(subject);
  }

  /** The next action's kind, or undefined when all are done. Follow with `subject`. */
  next(): ActionKind | undefined {
    if (this.#taken === this.#kinds.length) {
      this.#kinds.length = 0;
      this.#subjects.length = 0;
      this.#taken = 0;
      return undefined;
    }
    return this.#kinds[this.#taken++];
  }

  /** What the action that `next` returned last is about. */
  get subject(): T {
    return this.#subjects[this.#taken - 1] as T;
  }
}

/**
 * - `start`: submit the transfer to the device.
 * - `cancel`: ask the device for it back; it will complete.
 * - `giveBack`: report it to the client as the device completed it.
 * - `giveBackUnlinked`: report it as unlinked; the device has never seen it.
 */
export type ActionKind = 'start' | 'cancel' | 'giveBack' | 'giveBackUnlinked';

export interface EndpointQueue<T> {
  /** How many transfers the device may have at a time. */
  readonly flightMax: number;
  readonly waiting: T[];
  readonly flight: T[];
}

export function endpointQueue<T>(flightMax: number): EndpointQueue<T> {
  return { flightMax, waiting: [], flight: [] };
}

/** The client submitted a transfer. */
export function submitted<T>(queue: EndpointQueue<T>, transfer: T, actions: Actions<T>): void {
  if (queue.waiting.length === 0 && queue.flight.length < queue.flightMax) {
    queue.flight.push(transfer);
    actions.add('start', transfer);
  } else {
    queue.waiting.push(transfer);
  }
}

/** The device completed a transfer that was started. */
export function completed<T>(queue: EndpointQueue<T>, transfer: T, actions: Actions<T>): void {
  remove(queue.flight, transfer);
  actions.add('giveBack', transfer);
  advance(queue, actions);
}

/** The client wants a transfer back that it has not got back yet. */
export function unlinked<T>(queue: EndpointQueue<T>, transfer: T, actions: Actions<T>): void {
  if (queue.flight.includes(transfer)) {
    actions.add('cancel', transfer);
  } else {
    remove(queue.waiting, transfer);
    actions.add('giveBackUnlinked', transfer);
  }
}

function advance<T>(queue: EndpointQueue<T>, actions: Actions<T>): void {
  while (queue.flight.length < queue.flightMax) {
    const head = queue.waiting.shift();
    if (head === undefined) return;
    queue.flight.push(head);
    actions.add('start', head);
  }
}

function remove<T>(list: T[], transfer: T): void {
  const at = list[0] === transfer ? 0 : list.indexOf(transfer);
  if (at < 0) throw new Error('Cannot take a transfer from its queue: it is not there');
  if (at === 0) list.shift();
  else list.splice(at, 1);
}
