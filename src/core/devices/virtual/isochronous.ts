/**
 * Isochronous transfers of virtual devices.
 *
 * A paced endpoint keeps a bus's time: a URB of n packets ends n service intervals after the one
 * before it ended, so the average rate is exact although timers are late. A client that falls
 * behind by more than `SLACK_MILLISECONDS` has lost its place, as on a bus, and begins anew.
 */
import type { EndpointInfo } from '../../device.ts';
import type { IsoPacket, Urb } from '../../urb.ts';
import type { EndpointDefinition } from './definition.ts';

const SLACK_MILLISECONDS = 250;

export type IsoDefinition<S> = Extract<EndpointDefinition<S>, { type: 'isochronous' }>;
type IsoIn<S> = Extract<IsoDefinition<S>, { onPacketIn: unknown }>;
type IsoOut<S> = Extract<IsoDefinition<S>, { onPacketOut: unknown }>;

/** Where a paced endpoint's schedule has come to. */
export interface Pace {
  /** When the last URB ends, by the clock. */
  busyUntilMilliseconds: number;
}

/** Schedules a URB behind the last one; returns when it ends. */
export function schedule(
  pace: Pace,
  endpoint: EndpointInfo,
  urb: Urb,
  nowMilliseconds: number,
): number {
  const late = nowMilliseconds - pace.busyUntilMilliseconds;
  const start = late > SLACK_MILLISECONDS ? nowMilliseconds : pace.busyUntilMilliseconds;
  const count = urb.packets?.length ?? 0;
  pace.busyUntilMilliseconds = start + (count * endpoint.intervalMicroseconds) / 1000;
  urb.startFrame = Math.floor(start) & 0x7ff; // 11 bits, as on the bus
  return pace.busyUntilMilliseconds;
}

/** Runs all packets of a URB through the endpoint's handler and fills in the result. */
export function movePackets<S>(
  definition: IsoDefinition<S>,
  endpoint: EndpointInfo,
  state: S,
  urb: Urb,
): void {
  const packets = urb.packets ?? [];
  urb.actualOctets =
    'onPacketIn' in definition
      ? movePacketsIn(definition, endpoint, state, urb, packets)
      : movePacketsOut(definition, state, urb, packets);
  urb.status = 'ok';
}

/** The device broke down in the middle: a URB whose packets do not add up would confuse the client. */
export function failPackets(urb: Urb): void {
  for (const packet of urb.packets ?? []) {
    packet.actualOctets = 0;
    packet.status = 'protocol-error';
  }
  urb.actualOctets = 0;
  urb.status = 'protocol-error';
}

/**
 * A client may ask for packets of any length. What a service interval of the endpoint cannot move is
 * neither asked of the device nor made room for.
 */
function movePacketsIn<S>(
  definition: IsoIn<S>,
  endpoint: EndpointInfo,
  state: S,
  urb: Urb,
  packets: IsoPacket[],
): number {
  const bytesMaxOf = ({ octets }: IsoPacket) => Math.min(octets, endpoint.intervalOctets);
  const room = Buffer.allocUnsafe(packets.reduce((sum, packet) => sum + bytesMaxOf(packet), 0));
  let filled = 0;
  for (const packet of packets) {
    const bytesMax = bytesMaxOf(packet);
    const answer = definition.onPacketIn(state, bytesMax);
    if (answer instanceof Uint8Array) {
      const kept = answer.length > bytesMax ? answer.subarray(0, bytesMax) : answer;
      room.set(kept, filled);
      filled += kept.length;
      packet.actualOctets = kept.length;
      packet.status = kept === answer ? 'ok' : 'babble';
    } else {
      packet.actualOctets = 0;
      packet.status = answer.status;
    }
  }
  urb.dataIn = room.subarray(0, filled);
  return filled;
}

function movePacketsOut<S>(
  definition: IsoOut<S>,
  state: S,
  urb: Urb,
  packets: IsoPacket[],
): number {
  let moved = 0;
  for (const packet of packets) {
    const octets = urb.dataOut.subarray(packet.offset, packet.offset + packet.octets);
    const answer = definition.onPacketOut(state, octets);
    packet.status = answer.answer === 'ack' ? 'ok' : answer.status;
    packet.actualOctets = packet.status === 'ok' ? packet.octets : 0;
    moved += packet.actualOctets;
  }
  return moved;
}
