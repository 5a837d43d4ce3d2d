/**
 * Collects replies so that one gathered write sends them all.
 *
 * Headers and short payloads are written one after the other into a slab; a long payload is not
 * copied but put between two pieces of slab. Slab memory is used once: it starts out as zeros, so
 * padding needs no writing, and it may be handed to the socket as it is.
 *
 * A payload that is lent (`Urb.loan`) is given back here once it is copied; one that is not copied,
 * by whoever sends the pieces (`takeLoans`).
 */
import { assert } from '../core/assert.ts';
import type { Loan, Urb, UrbStatus } from '../core/urb.ts';
import { COMMAND, HEADER_OCTETS, IsoDescriptor, RetSubmit, RetUnlink } from './protocol.ts';
import { ERRNO_BY_STATUS } from './status.ts';

const SLAB_OCTETS = 64 * 1024;
/** Payloads up to this length are copied: a longer list of pieces costs more than the copy. */
const COPY_OCTETS_MAX = 4096;
const NO_LOANS: Loan[] = [];

export class ReplyWriter {
  #slab: Buffer = Buffer.alloc(SLAB_OCTETS);
  #view = new DataView(this.#slab.buffer);
  /** Where the piece of slab begins that is not in `#pieces` yet, and where it ends. */
  #start = 0;
  #end = 0;
  #pieces: Uint8Array[] = [];
  /** Of the pieces not taken, and not asked for since. */
  #loans: Loan[] = [];
  #piecesOctets = 0;
  #takenOctets = 0;

  /** Octets that `take` would return. */
  get pendingOctets(): number {
    return this.#piecesOctets + this.#end - this.#start;
  }

  /** Octets written since the beginning: the place in the stream where the next reply begins. */
  get position(): number {
    return this.#takenOctets + this.pendingOctets;
  }

  /** Everything written since the last call, in order; for a gathered write. */
  take(): Uint8Array[] {
    this.#seal();
    const pieces = this.#pieces;
    this.#takenOctets += this.#piecesOctets;
    this.#pieces = [];
    this.#piecesOctets = 0;
    return pieces;
  }

  /** What is lent of the pieces that `take` has returned, to be given back when those are sent. */
  takeLoans(): Loan[] {
    if (this.#loans.length === 0) return NO_LOANS;
    const loans = this.#loans;
    this.#loans = [];
    return loans;
  }

  /** RET_SUBMIT of a URB that was given back. */
  submitReply(urb: Urb): void {
    const payload = urb.in ? urb.dataIn : undefined;
    assert(payload === undefined || payload.length === urb.actualOctets);
    const packets = urb.packets;
    this.#submitHeader(
      urb.id,
      ERRNO_BY_STATUS[urb.status],
      urb.actualOctets,
      urb.startFrame,
      packets === null ? 0 : packets.length,
      packets === null ? 0 : urb.errorCount,
    );
    if (payload !== undefined) this.append(payload);
    if (urb.loan !== null) {
      if (urb.dataIn.length > COPY_OCTETS_MAX) this.#loans.push(urb.loan);
      else urb.loan.giveBack();
    }
    if (packets === null) return;
    for (const packet of packets) {
      const at = this.#room(IsoDescriptor.octets);
      IsoDescriptor.write(
        {
          offset: packet.offset,
          length: packet.octets,
          actualLength: packet.actualOctets,
          status: ERRNO_BY_STATUS[packet.status],
        },
        this.#slab,
        at,
      );
    }
  }

  /**
   * RET_SUBMIT of a URB that was refused. `descriptors` are the request's packet descriptors: a
   * reply to an isochronous URB must have as many.
   */
  refusedReply(seqnum: number, status: UrbStatus, descriptors: Buffer): void {
    const errno = ERRNO_BY_STATUS[status];
    const count = descriptors.length / IsoDescriptor.octets;
    this.#submitHeader(seqnum, errno, 0, 0, count, count);
    for (let from = 0; from < descriptors.length; from += IsoDescriptor.octets) {
      const at = this.#room(IsoDescriptor.octets);
      const request = IsoDescriptor.read(descriptors, from);
      IsoDescriptor.write({ ...request, actualLength: 0, status: errno }, this.#slab, at);
    }
  }

  /** RET_UNLINK: 'unlinked' if the URB came back for it, 'ok' if it had ended before. */
  unlinkReply(seqnum: number, status: 'unlinked' | 'ok'): void {
    const at = this.#room(HEADER_OCTETS);
    const offset = RetUnlink.offsets;
    this.#view.setUint32(at + offset.command, COMMAND.unlinkReply);
    this.#view.setUint32(at + offset.seqnum, seqnum);
    this.#view.setInt32(at + offset.status, ERRNO_BY_STATUS[status]);
  }

  /** Octets as they are. Long ones are not copied and must not change any more. */
  append(octets: Uint8Array): void {
    if (octets.length > COPY_OCTETS_MAX) {
      this.#seal();
      this.#pieces.push(octets);
      this.#piecesOctets += octets.length;
    } else if (octets.length > 0) {
      const at = this.#room(octets.length); // may begin a new slab
      this.#slab.set(octets, at);
    }
  }

  #submitHeader(
    seqnum: number,
    status: number,
    actualLength: number,
    startFrame: number,
    packetCount: number,
    errorCount: number,
  ): void {
    const at = this.#room(HEADER_OCTETS);
    const view = this.#view;
    const offset = RetSubmit.offsets;
    view.setUint32(at + offset.command, COMMAND.submitReply);
    view.setUint32(at + offset.seqnum, seqnum);
    view.setInt32(at + offset.status, status);
    view.setUint32(at + offset.actualLength, actualLength);
    if (packetCount === 0) return;
    view.setInt32(at + offset.startFrame, startFrame);
    view.setInt32(at + offset.numberOfPackets, packetCount);
    view.setInt32(at + offset.errorCount, errorCount);
  }

  /** Makes room for `octets` zeros in the slab and returns where they begin. */
  #room(octets: number): number {
    if (this.#end + octets > SLAB_OCTETS) {
      this.#seal();
      this.#slab = Buffer.alloc(SLAB_OCTETS);
      this.#view = new DataView(this.#slab.buffer);
      this.#start = 0;
      this.#end = 0;
    }
    const at = this.#end;
    this.#end += octets;
    return at;
  }

  #seal(): void {
    if (this.#end === this.#start) return;
    this.#pieces.push(this.#slab.subarray(this.#start, this.#end));
    this.#piecesOctets += this.#end - this.#start;
    this.#start = this.#end;
  }
}
