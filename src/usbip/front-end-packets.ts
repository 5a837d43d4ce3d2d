/**
 * Packet descriptors of isochronous transfers, at the client: out with a CMD_SUBMIT, back with its
 * RET_SUBMIT. A server's numbers are checked against the request's: CVE-2026-31607 was a client that
 * took the count from the reply.
 */
import { RemoteProtocolError } from '../core/errors.ts';
import {
  type PacketRequest,
  type PacketResult,
  roomOf,
  type Transfer,
  type TransferResult,
} from '../core/transfer.ts';
import { IsoDescriptor, RetSubmit } from './protocol.ts';
import { statusOf } from './status.ts';

/**
 * The same transfer with its packets close together and filling the buffer, which usbipd-win wants.
 * Results are like that whatever was asked for.
 */
export function withoutGaps(transfer: Transfer, isIn: boolean): Transfer {
  const { packets, data } = transfer;
  if (packets === undefined) return transfer;
  let sum = 0;
  let isDense = true;
  const dense = packets.map(({ offset, octets }) => {
    isDense &&= offset === sum;
    sum += octets;
    return { offset: sum - octets, octets };
  });
  if (isDense && sum === roomOf(transfer, isIn)) return transfer;
  if (isIn) return { ...transfer, octets: sum, packets: dense };
  const pieces = packets.map(({ offset, octets }) => data?.subarray(offset, offset + octets));
  const whole = Buffer.concat(pieces.filter((piece) => piece !== undefined));
  return { ...transfer, data: whole, packets: dense };
}

export function packetDescriptors(packets: readonly PacketRequest[]): Buffer {
  const all = Buffer.alloc(packets.length * IsoDescriptor.octets);
  for (const [n, { offset, octets }] of packets.entries()) {
    const fields = { offset, length: octets, actualLength: 0, status: 0 };
    IsoDescriptor.write(fields, all, n * IsoDescriptor.octets);
  }
  return all;
}

/**
 * Octets of descriptors behind a reply; 0 if the transfer is not isochronous.
 *
 * @throws {RemoteProtocolError} if there are not as many as were asked for.
 */
export function packetsOctets({ packets }: Transfer, view: DataView, at: number): number {
  if (packets === undefined) return 0;
  const count = view.getInt32(at + RetSubmit.offsets.numberOfPackets);
  if (count !== packets.length) {
    throw new RemoteProtocolError(
      'bad-packet-count',
      `Cannot accept isochronous reply: ${count} packets, wanted ${packets.length}`,
    );
  }
  return count * IsoDescriptor.octets;
}

/**
 * The result of an isochronous transfer; `body` is its data if IN, then the descriptors.
 *
 * @throws {RemoteProtocolError} if the packets' octets are more than was asked for, or not in sum
 * what the header says.
 */
export function readPackets(
  requests: readonly PacketRequest[],
  isIn: boolean,
  result: TransferResult,
  body: Buffer,
): TransferResult {
  const dataOctets = isIn ? result.actualOctets : 0;
  let sum = 0;
  const packets: PacketResult[] = requests.map(({ octets }, n) => {
    const { actualLength, status } = IsoDescriptor.read(
      body,
      dataOctets + n * IsoDescriptor.octets,
    );
    if (actualLength > octets) throw badLength(`${actualLength} octets in a packet of ${octets}`);
    sum += actualLength;
    return { actualOctets: actualLength, status: statusOf(status) };
  });
  if (isIn && sum !== dataOctets) throw badLength(`packets of ${sum} octets in ${dataOctets}`);
  return { ...result, data: body.subarray(0, dataOctets), packets };
}

function badLength(what: string): RemoteProtocolError {
  return new RemoteProtocolError('bad-length', `Cannot accept isochronous reply: ${what}`);
}
