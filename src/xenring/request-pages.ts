/**
 * The front end's memory for requests: each id owns as many granted pages as a request can name, for
 * good. A transfer costs at most two copies of its data and no change of grants.
 */
import { assert } from '../core/assert.ts';
import { keptIn } from '../core/kept-in.ts';
import {
  isInput,
  NO_OCTETS,
  type PacketRequest,
  type PacketResult,
  roomOf,
  type Transfer,
} from '../core/transfer.ts';
import { PAGE_OCTETS } from './platform.ts';
import { flagsOf, pipeOf } from './request-fields.ts';
import { RingError } from './ring-error.ts';
import {
  FrameDescriptor,
  frameStatusOf,
  IsochronousPart,
  SEGMENTS_MAX,
  Segment,
  UrbRequest,
} from './usbif.ts';

/** Octets of one id's pages. */
const ROOM_OCTETS = SEGMENTS_MAX * PAGE_OCTETS;
/** Longest transfer; those that are isochronous leave a page to their descriptors. */
export const TRANSFER_OCTETS_MAX = ROOM_OCTETS;
export const ISOCHRONOUS_OCTETS_MAX = ROOM_OCTETS - PAGE_OCTETS;
export const ISO_PACKETS_MAX = PAGE_OCTETS / FrameDescriptor.octets;
/** `u` of a request: the setup packet of a control transfer, else zeros or `u.isoc`. */
const SPECIFIC_OCTETS = 8;

export class RequestPages {
  readonly #memory: Buffer;
  readonly #references: readonly number[];
  /** By id: the beginning of its pages, as long as its last IN data was. */
  readonly #windows: Buffer[];

  /** @param memory `SEGMENTS_MAX` pages for each id; `references` are their grants. */
  constructor(ids: number, memory: Buffer, references: readonly number[]) {
    assert(memory.length === ids * ROOM_OCTETS);
    this.#memory = memory;
    this.#references = references;
    this.#windows = new Array(ids).fill(NO_OCTETS);
  }

  /** Writes a transfer's request to the slot at `at` of `view`, and its data to the id's pages. */
  write(
    view: DataView,
    at: number,
    id: number,
    port: number,
    transfer: Transfer,
    clearStall: boolean,
  ): void {
    const octets = roomOf(transfer);
    const isIn = isInput(transfer);
    const pages = Math.ceil(octets / PAGE_OCTETS);
    const { offsets } = UrbRequest;
    view.setUint16(at + offsets.id, id, true);
    view.setUint16(at + offsets.bufferSegments, pages, true);
    view.setUint32(at + offsets.pipe, pipeOf(port, transfer), true);
    view.setUint16(at + offsets.transferFlags, flagsOf(transfer, clearStall), true);
    view.setUint16(at + offsets.bufferLength, octets & 0xffff, true);
    for (let n = 0; n < SPECIFIC_OCTETS; n++) {
      view.setUint8(at + offsets.specific + n, transfer.setup?.[n] ?? 0);
    }
    for (let n = 0; n < pages; n++) {
      this.#writeSegment(view, at, n, id, n, Math.min(PAGE_OCTETS, octets - n * PAGE_OCTETS));
    }
    if (!isIn && transfer.data !== undefined) this.#memory.set(transfer.data, id * ROOM_OCTETS);
    const { packets } = transfer;
    if (packets !== undefined) this.#writeFrames(view, at, pages, id, packets, isIn);
  }

  /** A copy of what a response has brought, in `into` or in new memory. */
  dataIn(id: number, octets: number, into: Buffer | undefined): Buffer {
    let window = this.#windows[id] ?? NO_OCTETS;
    if (window.length !== octets) {
      window = this.#memory.subarray(id * ROOM_OCTETS, id * ROOM_OCTETS + octets);
      this.#windows[id] = window;
    }
    return keptIn(into, window);
  }

  /** @throws {RingError} if a packet has moved more than was asked for. */
  packetsOf(id: number, packets: readonly PacketRequest[]): PacketResult[] {
    const at = id * ROOM_OCTETS + ISOCHRONOUS_OCTETS_MAX;
    return packets.map(({ octets }, n) => {
      const frame = FrameDescriptor.read(this.#memory, at + n * FrameDescriptor.octets);
      if (frame.actualLength > octets) {
        throw new RingError(
          'bad-response',
          `Cannot accept response ${id}: ${frame.actualLength} octets in a packet of ${octets}`,
        );
      }
      return { status: frameStatusOf(frame.status), actualOctets: frame.actualLength };
    });
  }

  #writeFrames(
    view: DataView,
    requestAt: number,
    segment: number,
    id: number,
    packets: readonly PacketRequest[],
    isIn: boolean,
  ): void {
    const at = id * ROOM_OCTETS + ISOCHRONOUS_OCTETS_MAX;
    if (isIn) this.#memory.fill(0, id * ROOM_OCTETS, at); // packets may leave gaps
    for (const [n, { offset, octets: length }] of packets.entries()) {
      const frame = { offset, length, actualLength: 0, status: 0 };
      FrameDescriptor.write(frame, this.#memory, at + n * FrameDescriptor.octets);
    }
    const partAt = requestAt + UrbRequest.offsets.specific;
    const { packetCount, frameSegments } = IsochronousPart.offsets;
    view.setUint16(partAt + packetCount, packets.length, true);
    if (packets.length === 0) return;
    view.setUint16(partAt + frameSegments, 1, true);
    const octets = packets.length * FrameDescriptor.octets;
    this.#writeSegment(view, requestAt, segment, id, SEGMENTS_MAX - 1, octets);
  }

  /** A segment of a request: so many octets of one of its id's pages. */
  #writeSegment(
    view: DataView,
    requestAt: number,
    segment: number,
    id: number,
    page: number,
    octets: number,
  ): void {
    const at = requestAt + UrbRequest.offsets.segments + segment * Segment.octets;
    const reference = this.#references[id * SEGMENTS_MAX + page] ?? 0;
    const { offsets } = Segment;
    view.setUint32(at + offsets.reference, reference, true);
    view.setUint16(at + offsets.offset, 0, true);
    view.setUint16(at + offsets.octets, octets, true);
  }
}
