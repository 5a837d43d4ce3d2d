/**
 * The URBs of the kernel's vhci, carried to a device of another server, or behind a ring, with the
 * guarantee kept on both sides. `UrbPhase` speaks to vhci and sees this as its session; it has no queues of its own.
 *
 * Theory. There is one queue for each endpoint between the driver (behind vhci) and the server: the
 * retry queue of the client library (stall/retry-queue.ts), with vhci as its driver. That machine
 * asks two things of a driver: transfers in order, and word of the return of each completion
 * handler (`handled`). vhci gives the first, and says nothing of the second, so a fence towards
 * vhci (vhci-fence.ts) finds it out. So:
 *
 * 1. A URB that ended well is reported and counts as handled at once: nothing waits for it. All
 *    others are reported, and `handled` is due when the fence has passed the place of their report in
 *    the stream to vhci. Behind one of those, URBs of its endpoint that ended well wait for the fence
 *    as well, since their handlers may unlink too.
 * 2. When the fence has passed a report, every unlink and every submit that the handler made has been
 *    read and is in the retry queue. So when that sees its last `handled`, it knows what the driver
 *    wants unlinked, and goes on with the rest.
 * 3. What the unlinks bring back is reported as unlinked, and those reports wait for the fence in
 *    turn: the queue does not go on before the handlers of everything that was unlinked.
 *
 * What the server adds: with the stall protocol it stops the endpoint at the error, by itself and
 * exactly, and waits for clear-stall, which the retry queue sends with the first URB after its last
 * `handled`. Between error and clear-stall lies the whole of 1 to 3, so nothing moves: I1 from end
 * to end, for any number of URBs under way, with no hold by time anywhere. An old server has one URB
 * of an endpoint at a time (`holdBack: 'all'`), so that there is nothing behind a failed one.
 *
 * Endpoints never wait for each other: each report has its own place, and a fence that has passed it
 * releases that report alone.
 */
import { assert } from '../core/assert.ts';
import type { Containment } from '../core/containment.ts';
import type { EndpointInfo } from '../core/device.ts';
import type { SessionClient } from '../core/session.ts';
import type { TransferResult } from '../core/transfer.ts';
import type { Room, Urb } from '../core/urb.ts';
import { BufferPool } from './buffer-pool.ts';
import { COPY_OCTETS_MAX } from './gather.ts';
import type { RelayDevice, Submitted } from './relay-device.ts';
import type { RemoteEndpoints } from './remote-endpoints.ts';
import { fillIn, transferOf } from './remote-urbs.ts';
import type { UrbSession } from './urb-phase.ts';

export interface RelayClient extends SessionClient {
  reportMark(): number;
}

/** A report whose handler has not been seen to return. */
interface Waiting {
  readonly mark: number;
  readonly endpoint: number;
  readonly release: () => void;
}

interface Outstanding {
  readonly urb: Urb;
  /** Where what comes is put. */
  readonly into: Room | null;
  pending: Submitted | null;
}

export class RelaySession implements UrbSession {
  readonly device: UrbSession['device'];
  urbCount = 0;
  errorCount = 0;
  readonly #remote: RelayDevice;
  readonly #client: RelayClient;
  readonly #containment: Containment;
  readonly #onReported: (mark: number) => void;
  readonly #outstanding = new Map<number, Outstanding>();
  readonly #endpoints: RemoteEndpoints;
  /** Data lies there on its way: to the server until its transfer is done, to vhci until it is sent. */
  readonly #memory = new BufferPool();
  /** In the order of their marks. */
  readonly #waiting: Waiting[] = [];
  /** How many of those each endpoint has. */
  readonly #waitingAt = new Map<number, number>();

  /**
   * @param containment Where bugs of completion handlers go: the device may be one of several of
   * its front end.
   * @param onReported A report ends there whose handler is to be waited for.
   */
  constructor(
    remote: RelayDevice,
    endpoints: RemoteEndpoints,
    client: RelayClient,
    containment: Containment,
    onReported: (mark: number) => void,
  ) {
    this.#remote = remote;
    this.#endpoints = endpoints;
    this.device = {
      endpoint: (address) => endpoints.endpoint(address),
      room: (_, octets) => this.#room(octets),
    };
    this.#client = client;
    this.#containment = containment;
    this.#onReported = onReported;
  }

  get isOpen(): boolean {
    return this.#remote.isOpen;
  }

  get outstandingCount(): number {
    return this.#outstanding.size;
  }

  has(id: number): boolean {
    return this.#outstanding.has(id);
  }

  outstanding(id: number): Urb | undefined {
    return this.#outstanding.get(id)?.urb;
  }

  submit(urb: Urb): void {
    assert(!this.#outstanding.has(urb.id), 'Cannot submit a URB: its id is outstanding');
    this.urbCount++;
    urb.outstanding = true;
    // What is copied behind its header gains nothing by memory of its own.
    const isLong = urb.in && urb.packets === null && urb.octets > COPY_OCTETS_MAX;
    const into = isLong ? this.#room(urb.octets) : null;
    const entry: Outstanding = { urb, into, pending: null };
    this.#outstanding.set(urb.id, entry);
    const transfer = transferOf(urb, this.#endpoints.speed, urb.dataOut, into?.octets);
    const pending = this.#remote.submit(transfer, (result) => this.#contained(entry, result));
    entry.pending = pending;
  }

  unlink(id: number): void {
    const pending = this.#outstanding.get(id)?.pending;
    if (pending) this.#remote.unlink(pending);
  }

  overtaken({ address, type }: EndpointInfo): void {
    if (type === 'isochronous') return;
    this.#waitFor(address, this.#remote.overtaken({ endpoint: address, type }));
  }

  /** The handlers of all reports up to `mark` have run, and what they brought about has arrived. */
  fenceOpened(mark: number): void {
    while (this.#waiting.length > 0) {
      const [first] = this.#waiting;
      if (first === undefined || first.mark > mark) return;
      this.#waiting.shift();
      const left = (this.#waitingAt.get(first.endpoint) ?? 1) - 1;
      if (left > 0) this.#waitingAt.set(first.endpoint, left);
      else this.#waitingAt.delete(first.endpoint);
      first.release();
    }
  }

  #contained(entry: Outstanding, result: TransferResult): 'later' | 'done' {
    try {
      return this.#done(entry, result);
    } catch (error) {
      this.#containment.bug(error);
      return 'done';
    }
  }

  #done(entry: Outstanding, result: TransferResult): 'later' | 'done' {
    const { urb, into, pending } = entry;
    assert(pending !== null);
    this.#outstanding.delete(urb.id);
    urb.outstanding = false;
    fillIn(urb, result);
    urb.loan = into;
    const { address, type } = urb.endpoint;
    if (urb.setup !== null && urb.status === 'ok') this.#endpoints.applied(urb.setup);
    if (urb.status !== 'ok') this.errorCount++;
    this.#client.gaveBack(urb);
    const waits = urb.status !== 'ok' || this.#waitingAt.has(address);
    if (!waits || type === 'isochronous') return 'done';
    this.#waitFor(address, () => this.#remote.handled(pending));
    return 'later';
  }

  #room(octets: number): Room {
    const memory = this.#memory.take(octets);
    return { octets: memory, giveBack: () => this.#memory.give(memory) };
  }

  #waitFor(endpoint: number, release: () => void): void {
    const mark = this.#client.reportMark();
    this.#waiting.push({ mark, endpoint, release });
    this.#waitingAt.set(endpoint, (this.#waitingAt.get(endpoint) ?? 0) + 1);
    this.#onReported(mark);
  }
}
