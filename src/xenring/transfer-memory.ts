/**
 * Data between the guest's pages and a URB, at both its ends: copied in before the URB starts,
 * copied out before it is answered. No grant is used after the answer.
 *
 * One of these belongs to each request that can be out, and keeps its memory for the next one.
 */
import type { IsoPacket, Urb } from '../core/urb.ts';
import type { GrantSegment } from './platform.ts';
import type { Request } from './urb-request.ts';
import { FRAME_STATUS, FrameDescriptor } from './usbif.ts';

/** What the driver does with pages of the one guest; see `Platform`. */
export interface GuestMemory {
  /** @throws {PlatformError} if a reference is not granted. */
  copyFrom(segments: readonly GrantSegment[], target: Buffer): void;
  /** @throws {PlatformError} likewise. */
  copyTo(segments: readonly GrantSegment[], source: Uint8Array): void;
}

const NO_OCTETS = Buffer.alloc(0);
/** Memory grows in steps of this. */
const STEP_OCTETS = 4096;

export class TransferMemory {
  #data: Buffer = NO_OCTETS;
  /** The beginning of `#data`, as long as was wanted last. */
  #window: Buffer = NO_OCTETS;
  #frames: Buffer = NO_OCTETS;

  /** OUT data of a request. */
  dataOut(request: Request, guest: GuestMemory): Buffer {
    if (request.in || request.octets === 0) return NO_OCTETS;
    const data = this.#room(request.octets);
    guest.copyFrom(request.data, data);
    return data;
  }

  /** Its frame descriptors; they are kept for `giveBack`. */
  frames(request: Request, guest: GuestMemory): Buffer {
    if (request.frameOctets === 0) return NO_OCTETS;
    if (this.#frames.length < request.frameOctets) this.#frames = grown(request.frameOctets);
    const frames = this.#frames.subarray(0, request.frameOctets);
    guest.copyFrom(request.frames, frames);
    return frames;
  }

  /** Copies what a URB has brought to the guest. Returns the octets that moved, within bounds. */
  giveBack(request: Request, urb: Urb, guest: GuestMemory): number {
    const octets = Math.min(urb.actualOctets, request.octets);
    if (urb.packets !== null) {
      if (urb.in && octets > 0) guest.copyTo(request.data, this.#spread(urb));
      this.#giveBackFrames(request, urb, guest);
    } else if (urb.in && octets > 0) {
      const { dataIn } = urb;
      guest.copyTo(request.data, dataIn.length === octets ? dataIn : dataIn.subarray(0, octets));
    }
    return octets;
  }

  /** Packets' data, each at its place: they come with no gaps, and the guest wants them apart. */
  #spread(urb: Urb): Uint8Array {
    const packets = urb.packets ?? [];
    if (isGapless(packets)) return urb.dataIn;
    const data = this.#room(urb.octets);
    data.fill(0);
    let from = 0;
    for (const { offset, actualOctets } of packets) {
      data.set(urb.dataIn.subarray(from, from + actualOctets), offset);
      from += actualOctets;
    }
    return data;
  }

  #giveBackFrames(request: Request, urb: Urb, guest: GuestMemory): void {
    const frames = this.#frames.subarray(0, request.frameOctets);
    const { offsets, octets } = FrameDescriptor;
    for (const [n, packet] of (urb.packets ?? []).entries()) {
      frames.writeUInt32LE(packet.actualOctets, n * octets + offsets.actualLength);
      frames.writeInt32LE(FRAME_STATUS[packet.status], n * octets + offsets.status);
    }
    if (frames.length > 0) guest.copyTo(request.frames, frames);
  }

  #room(octets: number): Buffer {
    if (this.#data.length < octets) this.#data = grown(octets);
    if (this.#window.length !== octets) this.#window = this.#data.subarray(0, octets);
    return this.#window;
  }
}

function isGapless(packets: readonly IsoPacket[]): boolean {
  let from = 0;
  for (const { offset, actualOctets } of packets) {
    if (offset !== from) return false;
    from += actualOctets;
  }
  return true;
}

function grown(octets: number): Buffer {
  return Buffer.allocUnsafeSlow(Math.ceil(octets / STEP_OCTETS) * STEP_OCTETS);
}
