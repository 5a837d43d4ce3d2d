/** What isochronous packets have brought, as programs get it. */
import { keptIn } from '../core/kept-in.ts';
import type { Transfer, TransferResult } from '../core/transfer.ts';

/** On the ring each packet lies at its offset; in results they lie one behind the other. */
export function withoutGaps({ packets, into }: Transfer, result: TransferResult): TransferResult {
  if (packets === undefined || result.packets === undefined || result.data.length === 0) {
    return result;
  }
  const pieces = packets.map(({ offset }, n) =>
    result.data.subarray(offset, offset + (result.packets?.[n]?.actualOctets ?? 0)),
  );
  const dense = Buffer.concat(pieces);
  const data = into === undefined ? dense : keptIn(into, dense);
  return { ...result, data, actualOctets: data.length };
}
