/** Fewer octets are copied faster one by one: the other way makes an object first. */
const ONE_BY_ONE_MAX = 64;

/**
 * A copy of the octets of `from` between two places, at the beginning of the memory that is given for it, or in
 * new memory.
 */
export function keptIn(
  into: Buffer | undefined,
  from: Uint8Array,
  start = 0,
  end = from.length,
): Buffer {
  const length = end - start;
  const memory = into ?? Buffer.allocUnsafe(length);
  const kept = memory.length === length ? memory : memory.subarray(0, length);
  if (length > ONE_BY_ONE_MAX) {
    kept.set(length === from.length ? from : from.subarray(start, end));
  } else {
    for (let at = 0; at < length; at++) kept[at] = from[start + at] as number;
  }
  return kept;
}
