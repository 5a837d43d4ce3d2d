/**
 * What one client holds of the gateway's memory, and whether it may have more.
 *
 * A URB counts in full from its header until its reply has been sent: the body of an OUT URB lies in memory, and an
 * IN URB may bring its data at any time, whether or not the client reads. Above its own limit
 * (`SessionLimits`), or above its part of what all clients share (memory-budget.ts), a URB ends as 'no-memory'.
 */
import type { SessionLimits } from '../core/limits.ts';
import type { MemoryAccount } from '../core/memory-budget.ts';
import type { ReplyWriter } from './reply-writer.ts';

/** What one packet of an outstanding isochronous URB costs, beside its data. */
export const ISO_PACKET_BYTES = 64;
/** What any outstanding URB costs, beside its data and for all clients together. */
const URB_BYTES = 512;
/** An unlink that waits for its URB. */
const EARLY_UNLINK_BYTES = 64;

/** What the socket knows of that. */
export interface Unsent {
  /** Replies that have left the writer and wait for the network. */
  unsentOctets(): number;
}

export class ClientMemory {
  /** What URBs cost that are not given back (`costOf`), and the one whose body arrives. */
  outstandingBytes = 0;
  arrivingBytes = 0;
  readonly #limits: SessionLimits;
  readonly #writer: ReplyWriter;
  readonly #network: Unsent;
  readonly #account: MemoryAccount | undefined;
  /** What may come without another look, counted as if nothing left meanwhile: most URBs need none. */
  #creditBytes = 0;

  /** Without an account, nothing is shared with others. */
  constructor(
    limits: SessionLimits,
    writer: ReplyWriter,
    network: Unsent,
    account: MemoryAccount | undefined,
  ) {
    this.#limits = limits;
    this.#writer = writer;
    this.#network = network;
    this.#account = account;
  }

  /** Whether a URB that costs so much may come, besides `outstandingCount` others. */
  admits(outstandingCount: number, bytes: number): boolean {
    if (bytes + URB_BYTES <= this.#creditBytes) {
      this.#creditBytes -= bytes + URB_BYTES;
      return true;
    }
    return this.#look(outstandingCount, bytes);
  }

  #look(outstandingCount: number, bytes: number): boolean {
    const { urbsMax, outstandingOctetsMax } = this.#limits;
    const leftBytes = outstandingOctetsMax - this.#dataBytes() - bytes;
    const leftCount = urbsMax - outstandingCount - 1;
    if (leftCount < 0 || leftBytes < 0) return false;
    const heldBytes = this.#dataBytes() + outstandingCount * URB_BYTES;
    const account = this.#account;
    if (account !== undefined && !account.admits(heldBytes, bytes)) return false;
    const freeBytes = account?.guaranteedBytes ?? Number.POSITIVE_INFINITY;
    const ownBytes = freeBytes - heldBytes - bytes - URB_BYTES;
    this.#creditBytes = Math.min(leftBytes, leftCount * URB_BYTES, ownBytes);
    return true;
  }

  /** What the client holds counts for others from now on; to be called after whatever changes it. */
  note(outstandingCount: number, earlyUnlinkCount: number): void {
    this.#creditBytes = 0;
    const others = outstandingCount * URB_BYTES + earlyUnlinkCount * EARLY_UNLINK_BYTES;
    this.#account?.note(this.#dataBytes() + others);
  }

  /** The client is gone, and all of it is free. */
  free(): void {
    this.#account?.note(0);
  }

  #dataBytes(): number {
    const replyBytes = this.#writer.pendingOctets + this.#network.unsentOctets();
    return this.outstandingBytes + this.arrivingBytes + replyBytes;
  }
}

/** What a URB counts for, beside `URB_BYTES`. */
export function costOf(dataBytes: number, packets: readonly unknown[] | null): number {
  return packets === null ? dataBytes : dataBytes + packets.length * ISO_PACKET_BYTES;
}
