/**
 * `struct usbdevfs_urb`, as many as may be with the kernel at a time, in memory that does not move:
 * the kernel writes to one when it is reaped, and names it by its address.
 *
 * A slot goes with each for as long as it lives, so that nothing is allocated for a transfer.
 */
import { assert } from '../../assert.ts';
import type { EndpointInfo } from '../../device.ts';
import { ENDPOINT_PLACES, placeOf } from '../../endpoint-place.ts';
import type { Urb } from '../../urb.ts';
import { PACKETS_MAX, TYPE_NUMBER, UsbfsPacket, UsbfsUrb } from './abi.ts';
import type { Memory } from './kernel.ts';
import type { Block } from './transfer-memory.ts';

/** All of a device: isochronous transfers take several. */
const SLOTS_MAX = 512;
const SLOT_OCTETS = UsbfsUrb.octets + PACKETS_MAX * UsbfsPacket.octets;
/** Where the kernel puts the address of what it has reaped; in front of the slots. */
const HEAD_OCTETS = 64;

export const TABLE_OCTETS = HEAD_OCTETS + SLOTS_MAX * SLOT_OCTETS;

/** Several transfers of the kernel's that serve one isochronous URB. */
export interface IsoTransfer {
  /** Parts that are not back. */
  left: number;
  actualOctets: number;
  /** IN: the data of the parts that are back, in their order. */
  readonly data: Buffer[];
  /** -errno of the first part that failed. */
  status: number;
}

/** What the device keeps of an endpoint. */
export interface EndpointRun {
  readonly endpoint: EndpointInfo;
  /** With the kernel, not reaped. */
  flying: number;
  /** The URB at the end of the flight goes in pieces: nothing may be submitted behind it. */
  inPieces: boolean;
}

export class EndpointRuns {
  readonly #runs: (EndpointRun | undefined)[] = new Array(ENDPOINT_PLACES).fill(undefined);

  /** A URB of this endpoint goes in pieces. */
  isInPieces({ address }: EndpointInfo): boolean {
    return this.#runs[placeOf(address)]?.inPieces === true;
  }

  of(endpoint: EndpointInfo): EndpointRun {
    const place = placeOf(endpoint.address);
    const run = this.#runs[place];
    if (run !== undefined && (run.endpoint === endpoint || run.flying > 0)) return run;
    const fresh = { endpoint, flying: 0, inPieces: false };
    this.#runs[place] = fresh;
    return fresh;
  }
}

export class UrbSlot {
  /** Of the structure. */
  readonly address: number;
  /** Of the structure, in the table's view. */
  readonly at: number;
  urb: Urb | null = null;
  run: EndpointRun | null = null;
  block: Block | null = null;
  /** Octets that went with earlier pieces. */
  done = 0;
  /** Octets of the piece that is out, and whether more are to follow. */
  pieceOctets = 0;
  /** IN: where pieces are put together. */
  whole: Buffer | null = null;
  /** The session wants it back. */
  unlinking = false;
  iso: IsoTransfer | null = null;
  /** Of `urb.packets`: the first that is in this slot, and how many are. */
  firstPacket = 0;
  packetCount = 0;

  constructor(address: number, at: number) {
    this.address = address;
    this.at = at;
  }
}

const URB = UsbfsUrb.offsets;

export class UrbTable {
  /** Where the address of a reaped structure is to be written. */
  readonly reapAddress: number;
  readonly #view: DataView;
  readonly #base: number;
  readonly #slots: UrbSlot[] = [];
  readonly #free: UrbSlot[] = [];

  constructor(memory: Memory) {
    const { buffer, byteOffset, length } = memory.octets;
    this.#view = new DataView(buffer, byteOffset, length);
    this.reapAddress = memory.address;
    this.#base = memory.address + HEAD_OCTETS;
  }

  take(): UrbSlot | null {
    const kept = this.#free.pop();
    if (kept !== undefined) return kept;
    const index = this.#slots.length;
    if (index === SLOTS_MAX) return null;
    const offset = index * SLOT_OCTETS;
    const slot = new UrbSlot(this.#base + offset, HEAD_OCTETS + offset);
    this.#slots.push(slot);
    return slot;
  }

  give(slot: UrbSlot): void {
    slot.urb = null;
    slot.run = null;
    slot.block = null;
    slot.whole = null;
    slot.iso = null;
    slot.unlinking = false;
    slot.done = 0;
    this.#free.push(slot);
  }

  /** The slots that serve a URB, in no order. */
  slotsOf(urb: Urb): UrbSlot[] {
    return this.#slots.filter((slot) => slot.urb === urb);
  }

  get busyCount(): number {
    return this.#slots.length - this.#free.length;
  }

  get busy(): UrbSlot[] {
    return this.#slots.filter((slot) => slot.urb !== null);
  }

  /** The slot whose structure the kernel has just named. */
  get reaped(): UrbSlot {
    const low = this.#view.getUint32(0, true);
    const offset = (low - (this.#base >>> 0)) >>> 0; // the table has less than 4 GiB
    const slot = this.#slots[offset / SLOT_OCTETS];
    assert(slot?.urb, 'Cannot take a URB from usbfs: it is not one of ours');
    return slot;
  }

  /** Fills in what the kernel wants to know; `packetCount` is 0 unless isochronous. */
  write(slot: UrbSlot, endpoint: EndpointInfo, flags: number, octets: number, packets = 0): void {
    const view = this.#view;
    const { at, block } = slot;
    const address = block?.address ?? 0;
    view.setUint8(at + URB.type, TYPE_NUMBER[endpoint.type]);
    view.setUint8(at + URB.endpoint, endpoint.address);
    view.setUint32(at + URB.flags, flags, true);
    view.setUint32(at + URB.buffer, address >>> 0, true);
    view.setUint32(at + URB.buffer + 4, Math.floor(address / 2 ** 32), true);
    view.setUint32(at + URB.bufferOctets, octets, true);
    view.setUint32(at + URB.actualOctets, 0, true);
    view.setUint32(at + URB.packetCount, packets, true);
  }

  setPacket(slot: UrbSlot, index: number, octets: number): void {
    const at = packetAt(slot, index);
    this.#view.setUint32(at + UsbfsPacket.offsets.octets, octets, true);
    this.#view.setUint32(at + UsbfsPacket.offsets.actualOctets, 0, true);
    this.#view.setUint32(at + UsbfsPacket.offsets.status, 0, true);
  }

  packetActual(slot: UrbSlot, index: number): number {
    return this.#view.getUint32(packetAt(slot, index) + UsbfsPacket.offsets.actualOctets, true);
  }

  packetStatus(slot: UrbSlot, index: number): number {
    return this.#view.getInt32(packetAt(slot, index) + UsbfsPacket.offsets.status, true);
  }

  /** -errno */
  status(slot: UrbSlot): number {
    return this.#view.getInt32(slot.at + URB.status, true);
  }

  actual(slot: UrbSlot): number {
    return this.#view.getUint32(slot.at + URB.actualOctets, true);
  }
}

function packetAt({ at }: UrbSlot, index: number): number {
  return at + UsbfsUrb.octets + index * UsbfsPacket.octets;
}
