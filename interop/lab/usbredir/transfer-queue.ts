/**
 * The endpoint queues of a redirected device, kept as host controllers keep them: the next transfer
 * starts when the one before it has ended, short or not. Only an error of the bus stops the queue,
 * until the driver of the controller has taken back what was in it. (A stall needs no such care:
 * the endpoint itself is halted.)
 */
import type { UsbDevice } from '../../../src/core/device.ts';
import type { Urb } from '../../../src/core/urb.ts';

interface Transfer {
  readonly urb: Urb;
  readonly answer: (urb: Urb) => void;
  /** It was queued when one before it failed: it is to be cancelled, never to start. */
  held: boolean;
}

interface Queue {
  active: Transfer | null;
  waiting: Transfer[];
}

export class TransferQueues {
  readonly #device: UsbDevice;
  readonly #queues = new Map<number, Queue>();

  /** `device` is opened here. */
  constructor(device: UsbDevice) {
    this.#device = device;
    device.open({
      completed: (urb) => this.#completed(urb),
      removed: () => {},
      failed: (error) => this.#failed(error),
    });
  }

  #failed(error: unknown): never {
    throw error;
  }

  /** Queues a transfer, for `go`. `answer` is called once, also if it is cancelled. */
  submit(urb: Urb, answer: (urb: Urb) => void): void {
    const { address } = urb.endpoint;
    const queue = this.#queues.get(address) ?? { active: null, waiting: [] };
    this.#queues.set(address, queue);
    queue.waiting.push({ urb, answer, held: false });
  }

  /**
   * Starts what may start. Not called before all is heard that has been said: cancellations come in a
   * row, oldest first, and what is cancelled last is not to start before.
   */
  go(): void {
    for (const queue of this.#queues.values()) this.#start(queue);
  }

  /** Takes back a transfer, unless it has ended already. */
  cancel(id: number): void {
    for (const queue of this.#queues.values()) {
      const place = queue.waiting.findIndex(({ urb }) => urb.id === id);
      const [waiting] = place < 0 ? [] : queue.waiting.splice(place, 1);
      if (waiting !== undefined) {
        waiting.urb.status = 'unlinked';
        waiting.answer(waiting.urb);
      } else if (queue.active?.urb.id === id) this.#device.unlink(queue.active.urb);
    }
  }

  cancelAll(): void {
    for (const { active, waiting } of this.#queues.values()) {
      for (const { urb } of [...waiting].reverse()) this.cancel(urb.id);
      if (active !== null) this.cancel(active.urb.id);
    }
  }

  #start(queue: Queue): void {
    const [next] = queue.waiting;
    if (queue.active !== null || next === undefined || next.held) return;
    queue.waiting.shift();
    queue.active = next;
    this.#device.submit(next.urb);
  }

  #completed(urb: Urb): void {
    const queue = this.#queues.get(urb.endpoint.address);
    const ended = queue?.active;
    if (queue === undefined || ended?.urb !== urb) throw new Error('Cannot end a transfer twice');
    queue.active = null;
    if (urb.status === 'babble' || urb.status === 'protocol-error') {
      for (const one of queue.waiting) one.held = true;
    }
    ended.answer(urb);
    this.#start(queue);
  }
}
