/**
 * A transfer that is longer than a request can be (16 segments of a page): its parts, queued one
 * behind the other.
 *
 * To who submits it, it is one transfer. Every part but the last says short-not-ok, so the queue stops
 * at a short one and the parts behind it have moved nothing when they are unlinked. What stops the
 * queue is handled when the whole transfer is: all parts are back by then, and its handler has run.
 *
 * Isochronous transfers are cut between packets; their parts know nothing of each other.
 */
import { assert } from '../core/assert.ts';
import {
  type Handler,
  isInput,
  NO_OCTETS,
  type PacketRequest,
  type PacketResult,
  roomOf,
  type Transfer,
  type TransferResult,
} from '../core/transfer.ts';
import type { UrbStatus } from '../core/urb.ts';
import type { Pending } from './pending.ts';
import { ISO_PACKETS_MAX, ISOCHRONOUS_OCTETS_MAX, TRANSFER_OCTETS_MAX } from './request-pages.ts';

/** Whether one request carries it. */
export function fitsRequest(transfer: Transfer): boolean {
  const { packets } = transfer;
  const octets = roomOf(transfer);
  if (packets === undefined) return octets <= TRANSFER_OCTETS_MAX;
  return octets <= ISOCHRONOUS_OCTETS_MAX && packets.length <= ISO_PACKETS_MAX;
}

/** Where the parts go; as in `RingDevice`. */
export interface PartQueue {
  submit(part: Transfer, done: Handler): Pending;
  unlink(part: Pending): void;
  handled(part: Pending): void;
}

/** A part of a transfer, and where in its buffer that lies. */
export interface Part {
  readonly transfer: Transfer;
  readonly offset: number;
}

/** Cuts a transfer. @throws {RangeError} if a single isochronous packet is longer than a request. */
export function partsOf(transfer: Transfer): Part[] {
  return transfer.packets === undefined ? pieces(transfer) : packetGroups(transfer);
}

function pieces(transfer: Transfer): Part[] {
  const parts: Part[] = [];
  const octets = roomOf(transfer);
  for (let offset = 0; offset < octets; offset += TRANSFER_OCTETS_MAX) {
    const length = Math.min(TRANSFER_OCTETS_MAX, octets - offset);
    const isLast = offset + length === octets;
    const part = piece(transfer, offset, length);
    if (!isLast && isInput(transfer))
      parts.push({ offset, transfer: { ...part, shortNotOk: true } });
    else parts.push({ offset, transfer: isLast ? part : { ...part, zeroPacket: false } });
  }
  return parts;
}

function packetGroups(transfer: Transfer): Part[] {
  const parts: Part[] = [];
  let group: PacketRequest[] = [];
  const close = () => {
    const offset = group[0]?.offset ?? 0;
    const packets = group.map((one) => ({ ...one, offset: one.offset - offset }));
    const octets = endOf(group) - offset;
    const { into: _, ...part } = piece(transfer, offset, octets); // packets may leave gaps
    parts.push({ offset, transfer: { ...part, packets } });
    group = [];
  };
  for (const packet of transfer.packets ?? []) {
    const next = [...group, packet];
    const octets = endOf(next) - (next[0]?.offset ?? 0);
    const fits = next.length <= ISO_PACKETS_MAX && octets <= ISOCHRONOUS_OCTETS_MAX;
    if (!fits && group.length > 0) close();
    if (packet.octets > ISOCHRONOUS_OCTETS_MAX) {
      throw new RangeError(
        `Cannot submit: a packet of ${packet.octets} octets, at most ${ISOCHRONOUS_OCTETS_MAX}`,
      );
    }
    group.push(packet);
  }
  close();
  return parts;
}

/** Behind the last octet of packets in the order of their offsets. */
function endOf(packets: readonly PacketRequest[]): number {
  const last = packets.at(-1);
  return last === undefined ? 0 : last.offset + last.octets;
}

function piece(transfer: Transfer, offset: number, octets: number): Transfer {
  const { into } = transfer;
  if (isInput(transfer)) {
    return { ...transfer, octets, ...(into && { into: into.subarray(offset, offset + octets) }) };
  }
  return { ...transfer, data: (transfer.data ?? NO_OCTETS).subarray(offset, offset + octets) };
}

export class LongTransfer implements Pending {
  readonly transfer: Transfer;
  readonly in: boolean;
  readonly #done: Handler;
  readonly #queue: PartQueue;
  readonly #parts: readonly Part[];
  readonly #pendings: Pending[] = [];
  readonly #results: (TransferResult | undefined)[];
  /** Those whose handler has returned 'later'. */
  #held: Pending[] = [];
  #left: number;
  #failed = false;

  constructor(transfer: Transfer, done: Handler, queue: PartQueue) {
    this.transfer = transfer;
    this.in = isInput(transfer);
    this.#done = done;
    this.#queue = queue;
    this.#parts = partsOf(transfer);
    this.#left = this.#parts.length;
    this.#results = new Array(this.#parts.length).fill(undefined);
    for (const [n, part] of this.#parts.entries()) {
      this.#pendings.push(queue.submit(part.transfer, (result) => this.#partDone(n, result)));
    }
  }

  /** From the last to the first, so that none starts in the place of one that is back. */
  unlink(): void {
    this.#unlinkFrom(0);
  }

  /** The handler of the whole has returned, or what it began is done. */
  handled(): void {
    for (const part of this.#held.splice(0)) this.#queue.handled(part);
  }

  #unlinkFrom(first: number): void {
    for (let n = this.#parts.length - 1; n >= first; n--) {
      const part = this.#pendings[n];
      if (part !== undefined && this.#results[n] === undefined) this.#queue.unlink(part);
    }
  }

  #partDone(n: number, result: TransferResult): unknown {
    const pending = this.#pendings[n];
    assert(pending !== undefined, 'Cannot end a part: it was done before it was submitted');
    this.#results[n] = result;
    this.#left--;
    if (result.status !== 'ok' && this.transfer.packets === undefined) {
      this.#failed = true;
      this.#unlinkFrom(n + 1);
    }
    const answer = this.#left === 0 ? this.#end() : this.#failed ? 'later' : 'done';
    if (answer === 'later') this.#held.push(pending);
    return answer;
  }

  #end(): unknown {
    let answer: unknown;
    try {
      answer = this.#done(this.#whole());
    } finally {
      if (answer !== 'later') this.handled();
    }
    return answer;
  }

  #whole(): TransferResult {
    return this.transfer.packets === undefined ? this.#joined() : this.#joinedPackets();
  }

  /** Up to and with the first part that failed. */
  #joined(): TransferResult {
    const first = this.#results.findIndex((one) => one?.status !== 'ok');
    const results = this.#results.slice(0, first < 0 ? undefined : first + 1);
    const known = results.filter((one) => one !== undefined);
    const actualOctets = known.reduce((sum, one) => sum + one.actualOctets, 0);
    const { into } = this.transfer;
    // Each part but the last is full, so what came lies there without a gap.
    const data = into?.subarray(0, actualOctets) ?? Buffer.concat(known.map((one) => one.data));
    return { status: this.#status(), actualOctets, data };
  }

  /** A part that ends short is an error only if the whole says so. */
  #status(): UrbStatus {
    const status = this.#results.find((one) => one?.status !== 'ok')?.status ?? 'ok';
    return status === 'short' && !this.transfer.shortNotOk ? 'ok' : status;
  }

  #joinedPackets(): TransferResult {
    const octets = this.in ? roomOf(this.transfer) : 0;
    const data = this.transfer.into?.subarray(0, octets).fill(0) ?? Buffer.alloc(octets);
    const packets: PacketResult[] = [];
    let actualOctets = 0;
    for (const [n, part] of this.#parts.entries()) {
      const result = this.#results[n];
      if (result === undefined) continue;
      result.data.copy(data, part.offset);
      packets.push(...(result.packets ?? part.transfer.packets?.map(() => missing(result)) ?? []));
      actualOctets += result.actualOctets;
    }
    return { status: this.#status(), actualOctets, data, packets };
  }
}

function missing({ status }: TransferResult): PacketResult {
  return { status, actualOctets: 0 };
}
