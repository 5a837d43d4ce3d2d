/**
 * Line coding structure, 7 octets, little endian.
 *
 * Source: PSTN 1.2, 6.3.11, table 17. No wire is coded this way here; the device keeps the values
 * because hosts read them back.
 */
export const LINE_CODING_OCTETS = 7;

export interface LineCoding {
  /** dwDTERate */
  readonly bitsPerSecond: number;
  /** bCharFormat */
  readonly stopBits: 1 | 1.5 | 2;
  /** bParityType */
  readonly parity: (typeof PARITIES)[number];
  /** bDataBits */
  readonly dataBits: number;
}

/** By the number that stands in the structure. */
const STOP_BITS = [1, 1.5, 2] as const;
const PARITIES = ['none', 'odd', 'even', 'mark', 'space'] as const;
const DATA_BITS = [5, 6, 7, 8, 16];

export const LINE_CODING_DEFAULT: LineCoding = {
  bitsPerSecond: 115_200,
  stopBits: 1,
  parity: 'none',
  dataBits: 8,
};

/** Undefined if the octets are no line coding. */
export function parseLineCoding(octets: Buffer): LineCoding | undefined {
  if (octets.length !== LINE_CODING_OCTETS) return undefined;
  const stopBits = STOP_BITS[octets.readUInt8(4)];
  const parity = PARITIES[octets.readUInt8(5)];
  const dataBits = octets.readUInt8(6);
  if (stopBits === undefined || parity === undefined) return undefined;
  if (!DATA_BITS.includes(dataBits)) return undefined;
  return { bitsPerSecond: octets.readUInt32LE(0), stopBits, parity, dataBits };
}

export function writeLineCoding(coding: LineCoding): Buffer {
  const octets = Buffer.alloc(LINE_CODING_OCTETS);
  octets.writeUInt32LE(coding.bitsPerSecond, 0);
  octets.writeUInt8(STOP_BITS.indexOf(coding.stopBits), 4);
  octets.writeUInt8(PARITIES.indexOf(coding.parity), 5);
  octets.writeUInt8(coding.dataBits, 6);
  return octets;
}
