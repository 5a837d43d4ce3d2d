/**
 * UNMAP and WRITE SAME: blocks that are given back, or all get the same content.
 *
 * Source: SBC-3, 5.28 and 5.42 to 5.45. A disk in memory drops its pages, an image file gets holes
 * where its file system can make them. Where it cannot, the disk is not thin and UNMAP is unknown.
 */
import { blockRange, readUInt64BE } from './cdb.ts';
import { type Medium, PIECE_OCTETS } from './medium.ts';
import type { LogicalUnit } from './scsi.ts';
import { eachPiece, rangeFault } from './scsi-blocks.ts';
import { SENSE, type Sense } from './sense.ts';
import { FailedTask, ParameterTask, type Task, writeFailure } from './task.ts';
import type { BlockRange } from './transfer.ts';

/** Ranges in one UNMAP. */
export const UNMAP_DESCRIPTORS_MAX = 256;
/** Blocks in one UNMAP, all ranges together. */
export const UNMAP_BLOCKS_MAX = 4 << 20;
const UNMAP_HEADER_OCTETS = 8;
const UNMAP_DESCRIPTOR_OCTETS = 16;

/** What memory forgets at a time. */
const DISCARD_PIECE_BYTES = 64 << 20;
/** To forget a page costs about as much as to write a KiB; a range costs something whatever its length. */
const costOfDiscard = (bytes: number) => 1024 + bytes / 64;

/** What one WRITE SAME writes at most; it makes the host's one block into many. */
export const WRITE_SAME_OCTETS_MAX = 32 << 20;

export function writeSameBlocksMax(medium: Medium): number {
  return WRITE_SAME_OCTETS_MAX / medium.blockOctets;
}

/** UNMAP (SBC-3, 5.28). */
export function unmap({ medium }: LogicalUnit, cdb: Buffer): Task {
  if (!medium.canDiscard) return new FailedTask(SENSE.invalidOpcode);
  if (medium.readonly) return new FailedTask(SENSE.writeProtected);
  const ANCHOR = 0x01;
  if ((cdb.readUInt8(1) & ANCHOR) !== 0) return new FailedTask(SENSE.invalidFieldInCommand);
  const octets = cdb.readUInt16BE(7);
  if (octets > 0 && octets < UNMAP_HEADER_OCTETS) return new FailedTask(SENSE.parameterListLength);
  if (octets > UNMAP_HEADER_OCTETS + UNMAP_DESCRIPTORS_MAX * UNMAP_DESCRIPTOR_OCTETS) {
    return new FailedTask(SENSE.invalidFieldInCommand);
  }
  return new ParameterTask(octets, (list, done) => {
    const ranges = parseUnmapList(medium, list);
    if (Array.isArray(ranges)) discardAll(medium, ranges, done);
    else done(ranges);
  });
}

/** SBC-3, table 97. Descriptors beyond what was sent do not count, nor does a broken last one. */
function parseUnmapList(medium: Medium, list: Buffer): BlockRange[] | Sense {
  const octets = Math.min(list.readUInt16BE(2), list.length - UNMAP_HEADER_OCTETS);
  const ranges: BlockRange[] = [];
  let total = 0;
  for (let i = 0; i + UNMAP_DESCRIPTOR_OCTETS <= octets; i += UNMAP_DESCRIPTOR_OCTETS) {
    const at = UNMAP_HEADER_OCTETS + i;
    const range = { block: readUInt64BE(list, at), blocks: list.readUInt32BE(at + 8) };
    const failure = rangeFault(medium, range);
    if (failure !== null) return failure;
    total += range.blocks;
    ranges.push(range);
  }
  return total > UNMAP_BLOCKS_MAX ? SENSE.invalidFieldInParameters : ranges;
}

function discardAll(
  medium: Medium,
  ranges: readonly BlockRange[],
  done: (failure: Sense | null) => void,
): void {
  const next = (index: number): void => {
    const range = ranges[index];
    if (range === undefined) done(null);
    else discardRange(medium, range, (failure) => (failure ? done(failure) : next(index + 1)));
  };
  next(0);
}

/** Piece by piece in memory, which does it at once; a file system is given all of the range. */
function discardRange(
  medium: Medium,
  range: BlockRange,
  done: (failure: Sense | null) => void,
): void {
  const { blockOctets } = medium;
  const end = (range.block + range.blocks) * blockOctets;
  const pieceBytesMax = medium.immediate ? DISCARD_PIECE_BYTES : Number.POSITIVE_INFINITY;
  const from = (offset: number): void => {
    const bytes = Math.min(pieceBytesMax, end - offset);
    medium.discard(offset, bytes, (error) => {
      if (error !== null) done(writeFailure(error, range.block));
      else if (offset + bytes === end) medium.goOn(costOfDiscard(bytes), () => done(null));
      else medium.goOn(costOfDiscard(bytes), () => from(offset + bytes));
    });
  };
  from(range.block * blockOctets);
}

/**
 * WRITE SAME(10/16) (SBC-3, 5.44 and 5.45). Zero blocks would mean all up to the disk's end; the
 * block limits page says that this is refused.
 */
export function writeSame({ medium, writeCache }: LogicalUnit, cdb: Buffer): Task {
  const flags = cdb.readUInt8(1);
  const [UNMAP, ANCHOR, NDOB] = [0x08, 0x10, 0x01];
  const range = blockRange(cdb);
  const isUnmap = (flags & UNMAP) !== 0;
  const isRefused =
    flags >> 5 !== 0 || // WRPROTECT
    (flags & (ANCHOR | NDOB)) !== 0 ||
    (isUnmap && !medium.canDiscard) ||
    range.blocks === 0 ||
    range.blocks > writeSameBlocksMax(medium);
  if (isRefused) return new FailedTask(SENSE.invalidFieldInCommand);
  const failure = rangeFault(medium, range);
  if (failure !== null) return new FailedTask(failure);
  if (medium.readonly) return new FailedTask(SENSE.writeProtected);
  return new ParameterTask(medium.blockOctets, (block, done) => {
    const ended = (sense: Sense | null): void => {
      if (sense !== null || writeCache) done(sense);
      else medium.sync((error) => done(error === null ? null : SENSE.writeError));
    };
    // Unmapped blocks read as zeros, so UNMAP must not be followed for any other content.
    if (isUnmap && block.every((octet) => octet === 0)) discardAll(medium, [range], ended);
    else repeatBlock(medium, range, block, ended);
  });
}

function repeatBlock(
  medium: Medium,
  range: BlockRange,
  block: Buffer,
  done: (failure: Sense | null) => void,
): void {
  const octets = Math.min(PIECE_OCTETS, range.blocks * medium.blockOctets);
  const piece = medium.piece();
  piece.subarray(0, octets).fill(block);
  eachPiece(
    medium,
    range,
    (offset, count, ended) => medium.write(offset, piece.subarray(0, count), ended),
    (error, failed) => {
      medium.recycle(piece);
      done(error === null ? null : writeFailure(error, failed));
    },
  );
}
