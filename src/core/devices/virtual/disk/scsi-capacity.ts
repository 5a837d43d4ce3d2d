/**
 * READ CAPACITY and READ FORMAT CAPACITIES: how large the disk is.
 *
 * Linux asks usb-storage disks with READ CAPACITY(10) first and turns to (16) when the answer is
 * FFFFFFFFh (`try_rc_10_first` in drivers/scsi/sd.c), which is what makes disks of more than 2 TiB
 * work. Windows sends READ FORMAT CAPACITIES, a command of the MMC and UFI specifications, to any
 * USB disk, and takes a refusal as a sign of trouble.
 */
import type { LogicalUnit } from './scsi.ts';
import { SENSE } from './sense.ts';
import { AnswerTask, FailedTask, type Task } from './task.ts';

const UINT32_MAX = 0xffffffff;

/** Pages of the host's memory and of the image's file system: what a partition should start at. */
const PHYSICAL_OCTETS = 4096;

/** READ CAPACITY(10) (SBC-3, 5.15): address of the last block, and octets in a block. */
export function readCapacity10({ medium }: LogicalUnit): Task {
  const answer = Buffer.alloc(8);
  answer.writeUInt32BE(Math.min(medium.blocks - 1, UINT32_MAX), 0);
  answer.writeUInt32BE(medium.blockOctets, 4);
  return new AnswerTask(answer, answer.length);
}

/** SERVICE ACTION IN(16), of which only READ CAPACITY(16) (SBC-3, 5.16) is known. */
export function serviceActionIn16({ medium }: LogicalUnit, cdb: Buffer): Task {
  const READ_CAPACITY_16 = 0x10;
  if ((cdb.readUInt8(1) & 0x1f) !== READ_CAPACITY_16) {
    return new FailedTask(SENSE.invalidFieldInCommand);
  }
  const answer = Buffer.alloc(32);
  answer.writeBigUInt64BE(BigInt(medium.blocks - 1), 0);
  answer.writeUInt32BE(medium.blockOctets, 8);
  answer[13] = Math.log2(PHYSICAL_OCTETS / medium.blockOctets); // as a power of two
  if (medium.canDiscard) answer[14] = 0xc0; // LBPME, LBPRZ: thin, and reads zeros
  return new AnswerTask(answer, cdb.readUInt32BE(10));
}

/** READ FORMAT CAPACITIES (UFI 1.0, 4.10): the capacity list header and the current capacity. */
export function readFormatCapacities({ medium }: LogicalUnit, cdb: Buffer): Task {
  const answer = Buffer.alloc(12);
  answer[3] = 8; // CAPACITY LIST LENGTH
  answer.writeUInt32BE(Math.min(medium.blocks, UINT32_MAX), 4);
  answer.writeUInt32BE(medium.blockOctets, 8);
  answer[8] = 0x02; // formatted medium; above the 24 bits of the block length
  return new AnswerTask(answer, cdb.readUInt16BE(7));
}
