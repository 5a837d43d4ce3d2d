/**
 * Sense data: why a command failed. Source: SPC-4, 4.5; keys in table 48, codes in annex D.
 */

export interface Sense {
  /** Sense key. */
  readonly key: number;
  /** Additional sense code (ASC). */
  readonly code: number;
  /** Additional sense code qualifier (ASCQ). */
  readonly qualifier: number;
  /** For a medium error: the first logical block that could not be read or written. */
  readonly block?: number;
  /** It belongs to an earlier command, which had been reported as done. */
  readonly deferred?: boolean;
}

const sense = (key: number, code: number, qualifier: number): Sense => ({ key, code, qualifier });

export const SENSE = {
  none: sense(0x0, 0x00, 0x00),
  writeError: sense(0x3, 0x0c, 0x00),
  unrecoveredReadError: sense(0x3, 0x11, 0x00),
  parameterListLength: sense(0x5, 0x1a, 0x00),
  invalidOpcode: sense(0x5, 0x20, 0x00),
  blockOutOfRange: sense(0x5, 0x21, 0x00),
  invalidFieldInCommand: sense(0x5, 0x24, 0x00),
  invalidFieldInParameters: sense(0x5, 0x26, 0x00),
  savingNotSupported: sense(0x5, 0x39, 0x00),
  writeProtected: sense(0x7, 0x27, 0x00),
  /** "Space allocation failed write protect": the thin disk has no room (SBC-3, 4.7.3.6). */
  spaceAllocationFailed: sense(0x7, 0x27, 0x07),
} as const;

/** Octets of the fixed format without bytes of our own. */
export const FIXED_SENSE_OCTETS = 18;

/** Fixed format (SPC-4, 4.5.3). A block address of more than 32 bits does not fit: not VALID. */
export function fixedSense(sense: Sense): Buffer {
  const octets = Buffer.alloc(FIXED_SENSE_OCTETS);
  octets[0] = sense.deferred ? 0x71 : 0x70;
  octets[2] = sense.key;
  octets[7] = FIXED_SENSE_OCTETS - 8;
  octets[12] = sense.code;
  octets[13] = sense.qualifier;
  if (sense.block !== undefined && sense.block <= 0xffffffff) {
    octets[0] |= 0x80;
    octets.writeUInt32BE(sense.block, 3);
  }
  return octets;
}

/** Descriptor format (SPC-4, 4.5.2), with an information descriptor for the block address. */
export function descriptorSense(sense: Sense): Buffer {
  const hasBlock = sense.block !== undefined;
  const octets = Buffer.alloc(hasBlock ? 20 : 8);
  octets[0] = sense.deferred ? 0x73 : 0x72;
  octets[1] = sense.key;
  octets[2] = sense.code;
  octets[3] = sense.qualifier;
  octets[7] = octets.length - 8;
  if (hasBlock) {
    octets[8] = 0x00; // information
    octets[9] = 0x0a;
    octets[10] = 0x80; // VALID
    octets.writeBigUInt64BE(BigInt(sense.block), 12);
  }
  return octets;
}
