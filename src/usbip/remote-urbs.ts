/** From a URB to a transfer of the client side, and from its result back to the URB. */
import type { Speed } from '../core/device.ts';
import type { Transfer, TransferResult } from '../core/transfer.ts';
import { type SetupPacket, type Urb, writeSetup } from '../core/urb.ts';

const MICROFRAME_MICROSECONDS = 125;
const FRAME_MICROSECONDS = 1000;

/**
 * `dataOut` is what the URB sends, in memory that stays as it is until the transfer is done; `into`
 * is where what comes is put.
 */
export function transferOf(urb: Urb, speed: Speed, dataOut: Buffer, into?: Buffer): Transfer {
  const { endpoint, setup, packets } = urb;
  return {
    endpoint: endpoint.address,
    type: endpoint.type,
    ...(urb.in ? { octets: urb.octets } : { data: dataOut }),
    ...(into !== undefined && { into }),
    ...(setup !== null && { setup: setupOctets(setup) }),
    ...(packets !== null && { packets }),
    ...(endpoint.intervalMicroseconds > 0 && { interval: intervalOf(urb, speed) }),
    shortNotOk: urb.shortNotOk,
    zeroPacket: urb.zeroPacket,
  };
}

/** What the driver asked for, who may know better than the descriptor; else what that says. */
function intervalOf({ interval, endpoint }: Urb, speed: Speed): number {
  if (interval > 0) return interval;
  const slow = speed === 'low' || speed === 'full';
  const unit = slow ? FRAME_MICROSECONDS : MICROFRAME_MICROSECONDS;
  return Math.max(1, Math.round(endpoint.intervalMicroseconds / unit));
}

function setupOctets(setup: SetupPacket): Buffer {
  const octets = Buffer.alloc(8);
  writeSetup(octets, setup);
  return octets;
}

export function fillIn(urb: Urb, result: TransferResult): void {
  const { status, actualOctets } = result;
  urb.status = status;
  urb.actualOctets = actualOctets;
  if (urb.in) urb.dataIn = result.data;
  if (urb.packets === null) return;
  urb.startFrame = result.startFrame ?? 0;
  for (const [n, packet] of urb.packets.entries()) {
    const answer = result.packets?.[n];
    packet.actualOctets = answer?.actualOctets ?? 0;
    packet.status = answer?.status ?? status;
  }
}
