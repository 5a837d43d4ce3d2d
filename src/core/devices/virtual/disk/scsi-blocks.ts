/**
 * READ, WRITE, VERIFY, SYNCHRONIZE CACHE and START STOP UNIT: the blocks and their way to stable
 * storage. Source: SBC-3, 5.
 */
import { blockRange, cdbOctets } from './cdb.ts';
import { type Medium, PIECE_OCTETS } from './medium.ts';
import type { LogicalUnit } from './scsi.ts';
import { SENSE, type Sense } from './sense.ts';
import { DoneTask, FailedTask, syncMedium, type Task, WorkTask } from './task.ts';
import { type BlockRange, ReadTask, WriteTask } from './transfer.ts';

/** Longest READ, WRITE or VERIFY: what fits the 10-octet commands, which most hosts use. */
export const TRANSFER_BLOCKS_MAX = 0xffff;

/** READ(6/10/12/16). FUA asks for nothing more: what is cached above the medium is the medium's. */
export function read({ medium }: LogicalUnit, cdb: Buffer): Task {
  const range = blockRange(cdb);
  const failure = transferFault(medium, cdb, range);
  return failure === null ? new ReadTask(medium, range) : new FailedTask(failure);
}

/** WRITE(6/10/12/16). */
export function write({ medium, writeCache }: LogicalUnit, cdb: Buffer): Task {
  const range = blockRange(cdb);
  const failure = transferFault(medium, cdb, range);
  if (failure !== null) return new FailedTask(failure);
  if (medium.readonly) return new FailedTask(SENSE.writeProtected);
  const FUA = 0x08;
  const isForced = cdbOctets(cdb) > 6 && (cdb.readUInt8(1) & FUA) !== 0;
  return new WriteTask(medium, range, { sync: isForced || !writeCache });
}

/** What is wrong with the range of a transfer, if anything is. */
function transferFault(medium: Medium, cdb: Buffer, range: BlockRange): Sense | null {
  // RDPROTECT and WRPROTECT ask for protection information, which no block here has. In the
  // 6-octet commands these bits were once the unit number.
  if (cdbOctets(cdb) > 6 && cdb.readUInt8(1) >> 5 !== 0) return SENSE.invalidFieldInCommand;
  if (range.blocks > TRANSFER_BLOCKS_MAX) return SENSE.invalidFieldInCommand;
  return rangeFault(medium, range);
}

/** 5/21/00 if the range goes beyond the disk's end. */
export function rangeFault(medium: Medium, range: BlockRange): Sense | null {
  return range.block + range.blocks > medium.blocks ? SENSE.blockOutOfRange : null;
}

/**
 * VERIFY(10/16) (SBC-3, 5.31): reads the blocks and drops them. The comparison with data of the
 * host (BYTCHK) is not supported; Windows and Linux tools do not ask for it.
 */
export function verify({ medium }: LogicalUnit, cdb: Buffer): Task {
  const range = blockRange(cdb);
  const BYTCHK = 0x06;
  if ((cdb.readUInt8(1) & BYTCHK) !== 0) return new FailedTask(SENSE.invalidFieldInCommand);
  const failure = transferFault(medium, cdb, range);
  if (failure !== null) return new FailedTask(failure);
  if (medium.immediate) return new DoneTask(); // memory does not fail
  return new WorkTask((done) => {
    const piece = medium.piece();
    const read: PieceMove = (offset, octets, ended) =>
      medium.read(offset, piece.subarray(0, octets), ended);
    eachPiece(medium, range, read, (error, block) => {
      medium.recycle(piece);
      done(error === null ? null : { ...SENSE.unrecoveredReadError, block });
    });
  });
}

export type PieceMove = (
  offset: number,
  octets: number,
  ended: (error: Error | null) => void,
) => void;

/**
 * Moves a range piece by piece, one at a time, until one fails. `done` gets the first block of the
 * failed piece. With an immediate medium the pieces of a slice nest.
 */
export function eachPiece(
  medium: Medium,
  range: BlockRange,
  move: PieceMove,
  done: (error: Error | null, block: number) => void,
): void {
  const end = (range.block + range.blocks) * medium.blockOctets;
  const from = (offset: number): void => {
    if (offset >= end) {
      done(null, 0);
      return;
    }
    const octets = Math.min(PIECE_OCTETS, end - offset);
    move(offset, octets, (error) => {
      if (error === null) medium.goOn(octets, () => from(offset + octets));
      else done(error, offset / medium.blockOctets);
    });
  };
  from(range.block * medium.blockOctets);
}

/**
 * SYNCHRONIZE CACHE(10/16) (SBC-3, 5.23). Stores everything, whatever the range, and even with
 * IMMED ends only when it is stored: the bit permits an early answer, it does not need one.
 */
export function synchronizeCache({ medium }: LogicalUnit, cdb: Buffer): Task {
  const failure = rangeFault(medium, blockRange(cdb));
  if (failure !== null) return new FailedTask(failure);
  return new WorkTask((done) => syncMedium(medium, done));
}

/**
 * START STOP UNIT (SBC-3, 5.20). Stopping or ejecting stores the cache, as the standard demands,
 * and nothing else: a unit that came back only with another START would be lost to hosts that
 * detach and attach again.
 */
export function startStopUnit({ medium }: LogicalUnit, cdb: Buffer): Task {
  const [START, NO_FLUSH] = [0x01, 0x04];
  if ((cdb.readUInt8(4) & (START | NO_FLUSH)) !== 0) return new DoneTask();
  return new WorkTask((done) => syncMedium(medium, done));
}
