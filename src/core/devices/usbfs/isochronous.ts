/**
 * Isochronous URBs: a client's may have eight times the packets that usbfs takes in one, and gaps
 * between them, which usbfs does not have. They go down as several that follow each other without a
 * pause, and come back as one.
 */
import type { Urb } from '../../urb.ts';
import { PACKETS_MAX, statusOf } from './abi.ts';
import { BLOCK_OCTETS_MAX } from './transfer-memory.ts';
import type { UrbSlot, UrbTable } from './urb-table.ts';

export interface Part {
  readonly first: number;
  readonly count: number;
  readonly octets: number;
}

/** Cuts packets into parts that one transfer of usbfs can hold; null if a packet is too long. */
export function partsOf(urb: Urb): Part[] | null {
  const parts: Part[] = [];
  let first = 0;
  let octets = 0;
  const packets = urb.packets ?? [];
  for (const [index, packet] of packets.entries()) {
    if (packet.octets > BLOCK_OCTETS_MAX) return null;
    const full = index - first === PACKETS_MAX || octets + packet.octets > BLOCK_OCTETS_MAX;
    if (full) {
      parts.push({ first, count: index - first, octets });
      first = index;
      octets = 0;
    }
    octets += packet.octets;
  }
  if (packets.length > first) parts.push({ first, count: packets.length - first, octets });
  return parts;
}

/** Puts the packets of a part into its slot, and the data of OUT packets into its block. */
export function writePackets(table: UrbTable, slot: UrbSlot, urb: Urb): void {
  const packets = urb.packets ?? [];
  let at = 0;
  for (let index = 0; index < slot.packetCount; index++) {
    const packet = packets[slot.firstPacket + index];
    if (packet === undefined) break;
    table.setPacket(slot, index, packet.octets);
    if (!urb.in && slot.block !== null) {
      urb.dataOut.copy(slot.block.octets, at, packet.offset, packet.offset + packet.octets);
    }
    at += packet.octets;
  }
}

/**
 * Takes the results of a part. @returns the octets that moved; for IN, they stand without gaps in
 * `into` from `at` on.
 */
export function readPackets(table: UrbTable, slot: UrbSlot, urb: Urb, into: Buffer | null): number {
  const packets = urb.packets ?? [];
  let from = 0;
  let moved = 0;
  for (let index = 0; index < slot.packetCount; index++) {
    const packet = packets[slot.firstPacket + index];
    if (packet === undefined) break;
    packet.status = statusOf(table.packetStatus(slot, index));
    packet.actualOctets = Math.min(table.packetActual(slot, index), packet.octets);
    if (into !== null && slot.block !== null) {
      slot.block.octets.copy(into, moved, from, from + packet.actualOctets);
    }
    from += packet.octets;
    moved += packet.actualOctets;
  }
  return moved;
}

/** Nothing of a part was carried out. */
export function failPart(urb: Urb, slot: UrbSlot): void {
  for (let index = 0; index < slot.packetCount; index++) {
    const packet = urb.packets?.[slot.firstPacket + index];
    if (packet !== undefined) packet.status = 'missed';
  }
}
