/**
 * Replies as octets, collected for one gathered write (gather.ts). See protocol.ts for the layouts.
 *
 * A payload that is lent (`Urb.loan`) is given back here once it is copied; one that is not copied,
 * by whoever sends the pieces (`takeLoans`).
 */
import { assert } from '../core/assert.ts';
import type { Loan, Urb, UrbStatus } from '../core/urb.ts';
import { Gather } from './gather.ts';
import { COMMAND, HEADER_OCTETS, IsoDescriptor, RetSubmit, RetUnlink } from './protocol.ts';
import { ERRNO_BY_STATUS } from './status.ts';

const NO_LOANS: Loan[] = [];

export class ReplyWriter {
  readonly #out = new Gather();
  /** Of the pieces not taken, and not asked for since. */
  #loans: Loan[] = [];

  /** Octets that `take` would return. */
  get pendingOctets(): number {
    return this.#out.pendingOctets;
  }

  /** Octets written since the beginning: the place in the stream where the next reply begins. */
  get position(): number {
    return this.#out.position;
  }

  /** Everything written since the last call, in order; for a gathered write. */
  take(): Uint8Array[] {
    return this.#out.take();
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
    const isCopied = payload === undefined || this.#out.append(payload);
    if (urb.loan !== null) {
      if (isCopied) urb.loan.giveBack();
      else this.#loans.push(urb.loan);
    }
    if (packets === null) return;
    for (const packet of packets) {
      const at = this.#out.room(IsoDescriptor.octets);
      IsoDescriptor.write(
        {
          offset: packet.offset,
          length: packet.octets,
          actualLength: packet.actualOctets,
          status: ERRNO_BY_STATUS[packet.status],
        },
        this.#out.slab,
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
      const at = this.#out.room(IsoDescriptor.octets);
      const request = IsoDescriptor.read(descriptors, from);
      IsoDescriptor.write({ ...request, actualLength: 0, status: errno }, this.#out.slab, at);
    }
  }

  /** RET_UNLINK: 'unlinked' if the URB came back for it, 'ok' if it had ended before. */
  unlinkReply(seqnum: number, status: 'unlinked' | 'ok'): void {
    const at = this.#out.room(HEADER_OCTETS);
    const offset = RetUnlink.offsets;
    this.#out.view.setUint32(at + offset.command, COMMAND.unlinkReply);
    this.#out.view.setUint32(at + offset.seqnum, seqnum);
    this.#out.view.setInt32(at + offset.status, ERRNO_BY_STATUS[status]);
  }

  /** Octets as they are. Long ones are not copied and must not change any more. */
  append(octets: Uint8Array): void {
    this.#out.append(octets);
  }

  #submitHeader(
    seqnum: number,
    status: number,
    actualLength: number,
    startFrame: number,
    packetCount: number,
    errorCount: number,
  ): void {
    const at = this.#out.room(HEADER_OCTETS);
    const view = this.#out.view;
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
}
