/** A copy of data that came, at the beginning of the memory that is given for it, or in new memory. */
export function keptIn(into: Buffer | undefined, octets: Uint8Array): Buffer {
  const { length } = octets;
  // In half the time of `Buffer.from`, which looks first what it is given.
  const memory = into ?? Buffer.allocUnsafe(length);
  const kept = memory.length === length ? memory : memory.subarray(0, length);
  kept.set(octets);
  return kept;
}
