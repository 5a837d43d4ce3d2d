/**
 * Capabilities of client and server, in octets that every known peer ignores.
 *
 * The busid of OP_REQ_IMPORT (32 octets) and the path of OP_REP_IMPORT (256 octets) are text that
 * ends at its first NUL. A peer that knows this extension puts a capability block right behind that
 * NUL: four octets of magic, then 32 bits, big-endian. What both name holds for the connection. A
 * server answers with a block only if the request had one, so others never see a difference.
 *
 * The whole of it: docs/wire-extension.md.
 */

/** Opens a capability block. */
const MAGIC = Buffer.from('URB\x01', 'latin1');
const BLOCK_OCTETS = 8;

export const CAPABILITY = {
  /** Clear-stall flag and returned URBs; see docs/stall-protocol.md. */
  stallProtocol: 0x0000_0001,
} as const;

/** What this implementation offers. */
export const CAPABILITIES_KNOWN: number = CAPABILITY.stallProtocol;

/** transfer_flags of CMD_SUBMIT: restart the endpoint's queue with this URB. */
export const CLEAR_STALL_FLAG = 0x8000_0000;

/** The bits behind the text in `field`, or undefined if no block is there. */
export function readCapabilities(field: Buffer): number | undefined {
  const at = field.indexOf(0) + 1;
  if (at === 0 || at + BLOCK_OCTETS > field.length) return undefined;
  if (!field.subarray(at, at + MAGIC.length).equals(MAGIC)) return undefined;
  return field.readUInt32BE(at + MAGIC.length);
}

/** Puts a block behind the text in `field`; false if there is no room for it. */
export function writeCapabilities(field: Buffer, bits: number): boolean {
  const at = field.indexOf(0) + 1;
  if (at === 0 || at + BLOCK_OCTETS > field.length) return false;
  MAGIC.copy(field, at);
  field.writeUInt32BE(bits >>> 0, at + MAGIC.length);
  return true;
}
