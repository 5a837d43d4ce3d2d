/**
 * Test patterns, as usbtest.c fills and checks them (`simple_fill_buf`, `simple_check_buf`):
 * 0 is zeros, 1 is the position in the packet modulo 63.
 */

/** Octets of a pattern buffer, at least; a whole number of packets. */
const PATTERN_OCTETS_MIN = 256 * 1024;
/** Room for the running number at the start of a stamped packet. */
export const STAMP_OCTETS = 4;

const made = new Map<string, Buffer>();

/** A long run of packets that follow the pattern. Shared: do not write to it. */
export function patternOctets(pattern: 0 | 1, maxPacketOctets: number): Buffer {
  const key = `${pattern}/${maxPacketOctets}`;
  let octets = made.get(key);
  if (octets === undefined) {
    const count = Math.ceil(PATTERN_OCTETS_MIN / maxPacketOctets) * maxPacketOctets;
    octets = Buffer.alloc(count);
    if (pattern === 1) {
      for (let at = 0; at < count; at++) octets[at] = (at % maxPacketOctets) % 63;
    }
    made.set(key, octets);
  }
  return octets;
}
