/** The retry queues of one device at the client's side (src/stall/retry-queue.ts), by endpoint. */
import {
  connectionLost,
  isIdle,
  type RetryActions,
  type RetryQueue,
  retryQueue,
  type Server,
} from '../stall/retry-queue.ts';
import { ENDPOINT_PLACES, placeOf } from './endpoint-place.ts';
import { STOPS_ON } from './stops-on.ts';
import type { Transfer } from './transfer.ts';

/** What the queues need to know of a transfer. */
export interface Ordered {
  /** How many transfers of the device were submitted before. */
  readonly order: number;
}

export class RetryQueues<T extends Ordered> {
  readonly #server: Server;
  readonly #actions: RetryActions<T>;
  readonly #queues: (RetryQueue<T> | undefined)[] = new Array(ENDPOINT_PLACES).fill(undefined);
  #isLost = false;

  constructor(stallProtocol: boolean, actions: RetryActions<T>) {
    this.#server = stallProtocol ? 'stall-protocol' : 'old';
    this.#actions = actions;
  }

  of({ endpoint, type }: Pick<Transfer, 'endpoint' | 'type'>): RetryQueue<T> {
    const index = placeOf(endpoint);
    const queue = this.#queues[index];
    const stopsOn = STOPS_ON[type];
    // Another alternate setting may have another kind of endpoint there.
    if (queue !== undefined && (queue.stopsOn === stopsOn || !isIdle(queue))) return queue;
    const fresh = retryQueue<T>(stopsOn, this.#server, ({ order }) => order);
    if (this.#isLost) connectionLost(fresh, this.#actions);
    this.#queues[index] = fresh;
    return fresh;
  }

  /** Transfers that are not given back. */
  transfers(): T[] {
    return this.#all().flatMap(({ sent, waiting }) => [...sent, ...waiting]);
  }

  /** The connection is gone: what is there is given back, and so is what comes. */
  lost(): void {
    this.#isLost = true;
    for (const queue of this.#all()) connectionLost(queue, this.#actions);
  }

  /** As after plugging in. All transfers must be back. */
  clear(): void {
    this.#queues.fill(undefined);
  }

  #all(): RetryQueue<T>[] {
    return this.#queues.filter((queue) => queue !== undefined);
  }
}
