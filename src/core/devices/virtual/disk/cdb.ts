/**
 * Command descriptor blocks (CDB): opcodes, lengths and the fields that all block commands share.
 *
 * Source: SPC-4, 4.2 and SBC-3, 5. The top three bits of the opcode name the group, and the group
 * the length: 6, 10, 10, -, 16, 12 octets. Block address and count stand in the same place in all
 * commands of one length, but for the ones whose table in scsi.ts says otherwise.
 */
import type { BlockRange } from './transfer.ts';

export const OPCODE = {
  testUnitReady: 0x00,
  requestSense: 0x03,
  read6: 0x08,
  write6: 0x0a,
  inquiry: 0x12,
  modeSelect6: 0x15,
  modeSense6: 0x1a,
  startStopUnit: 0x1b,
  preventAllowMediumRemoval: 0x1e,
  readFormatCapacities: 0x23,
  readCapacity10: 0x25,
  read10: 0x28,
  write10: 0x2a,
  verify10: 0x2f,
  synchronizeCache10: 0x35,
  writeSame10: 0x41,
  unmap: 0x42,
  modeSelect10: 0x55,
  modeSense10: 0x5a,
  read16: 0x88,
  write16: 0x8a,
  verify16: 0x8f,
  synchronizeCache16: 0x91,
  writeSame16: 0x93,
  serviceActionIn16: 0x9e,
  reportLuns: 0xa0,
  read12: 0xa8,
  write12: 0xaa,
} as const;

const GROUP_OCTETS = [6, 10, 10, 0, 16, 12, 0, 0] as const;

/** Octets that the opcode asks for. BOT lets the host pad the block, so it may be longer. */
export function cdbOctets(cdb: Buffer): number {
  return GROUP_OCTETS[cdb.readUInt8(0) >> 5] ?? 0;
}

/**
 * Block address and count. An address of more than 53 bits loses its last digits here, but not
 * its size: it is out of range on every disk.
 */
export function blockRange(cdb: Buffer): BlockRange {
  switch (cdbOctets(cdb)) {
    case 6:
      // 21 bits of address, and 0 blocks are 256 (SBC-3, 5.7).
      return { block: cdb.readUIntBE(1, 3) & 0x1fffff, blocks: cdb.readUInt8(4) || 256 };
    case 10:
      return { block: cdb.readUInt32BE(2), blocks: cdb.readUInt16BE(7) };
    case 12:
      return { block: cdb.readUInt32BE(2), blocks: cdb.readUInt32BE(6) };
    default:
      return { block: readUInt64BE(cdb, 2), blocks: cdb.readUInt32BE(10) };
  }
}

/** A 64-bit field as a number, exact up to 2^53. */
export function readUInt64BE(octets: Buffer, at: number): number {
  return octets.readUInt32BE(at) * 2 ** 32 + octets.readUInt32BE(at + 4);
}
