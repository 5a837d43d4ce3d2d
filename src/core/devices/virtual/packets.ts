/**
 * The rules of packets on bulk and interrupt endpoints of virtual devices: what a handler's answer
 * does to the transfer at its endpoint (see `InHandler` and `OutHandler` for the rules).
 *
 * These functions call handlers and nobody else: whatever they throw is the device's fault.
 */
import { strict as assert } from 'node:assert';
import type { EndpointInfo } from '../../device.ts';
import type { Urb, UrbStatus } from '../../urb.ts';
import type { EndpointDefinition, InHandler, OutHandler } from './definition.ts';
import type { Pace } from './isochronous.ts';

/**
 * Bytes of one transfer that handlers move in one turn of the event loop. What a longer IN transfer
 * brings is put together on the way: to touch many megabytes of fresh memory at once takes longest of all.
 */
export const SLICE_BYTES = 2 << 20;

/** An endpoint of the active configuration, and the URB it is working on. */
export interface EndpointRun<S> {
  readonly info: EndpointInfo;
  readonly definition: EndpointDefinition<S>;
  halted: boolean;
  urb: Urb | null;
  /** Octets of `urb` that handlers have moved so far. */
  moved: number;
  /** IN data moved so far; of a long transfer one piece, as long as it may become. */
  parts: Uint8Array[];
  readonly pace: Pace;
  cancelTimer: (() => void) | null;
}

/** How the transfer ended; null if it goes on when the endpoint is woken, 'slice' if in the next turn. */
export type Progress = UrbStatus | 'slice' | null;

/** Asks the endpoint's handler until its transfer ends or the handler says `nak`. */
export function moveData<S>(run: EndpointRun<S>, state: S): Progress {
  const { urb, definition } = run;
  if (urb === null || urb.packets !== null) return null;
  if (run.halted) return 'stall';
  if ('onIn' in definition) return moveIn(run, urb, state, definition.onIn);
  if ('onOut' in definition) return moveOut(run, urb, state, definition.onOut);
  return null;
}

function moveIn<S>(run: EndpointRun<S>, urb: Urb, state: S, onIn: InHandler<S>): Progress {
  const isLong = urb.octets > SLICE_BYTES;
  const sliceEnd = run.moved + SLICE_BYTES;
  for (;;) {
    if (isLong && run.moved >= sliceEnd) return 'slice';
    const octetsMax = urb.octets - run.moved;
    const answer = onIn(state, octetsMax);
    if (run.urb !== urb) return null; // the handler has unplugged the device
    if (!(answer instanceof Uint8Array)) {
      if (answer.answer === 'nak') return null;
      return answer.answer === 'stall' ? markHalted(run) : answer.status;
    }
    if (answer.length > octetsMax) {
      take(run, urb, isLong, answer.subarray(0, octetsMax));
      return 'babble';
    }
    take(run, urb, isLong, answer);
    if (run.moved === urb.octets) return 'ok';
    const short = answer.length === 0 || answer.length % run.info.maxPacketOctets !== 0;
    if (short) return urb.shortNotOk ? 'short' : 'ok';
  }
}

function moveOut<S>(run: EndpointRun<S>, urb: Urb, state: S, onOut: OutHandler<S>): Progress {
  const wantsZeroPacket =
    urb.zeroPacket && urb.octets > 0 && urb.octets % run.info.maxPacketOctets === 0;
  const sliceEnd = run.moved + SLICE_BYTES;
  for (;;) {
    if (run.moved >= sliceEnd) return 'slice';
    const rest = run.moved === 0 ? urb.dataOut : urb.dataOut.subarray(run.moved);
    const answer = onOut(state, rest);
    if (run.urb !== urb) return null; // the handler has unplugged the device
    switch (answer.answer) {
      case 'nak':
        return null;
      case 'stall':
        return markHalted(run);
      case 'fail':
        return answer.status;
      case 'took':
        assert(answer.octets > 0 && answer.octets <= rest.length);
        run.moved += answer.octets;
        break;
      case 'ack':
        run.moved = urb.octets;
        break;
    }
    if (run.moved < urb.octets) continue;
    // The zero packet is offered once, as no octets, when all data is taken.
    if (wantsZeroPacket && rest.length > 0) continue;
    return 'ok';
  }
}

function take<S>(run: EndpointRun<S>, urb: Urb, isLong: boolean, bytes: Uint8Array): void {
  if (bytes.length === 0) return;
  if (isLong && bytes.length < urb.octets) gather(run, urb, bytes);
  else run.parts.push(bytes);
  run.moved += bytes.length;
}

/** The pieces of a long transfer are put together as they come. */
function gather<S>(run: EndpointRun<S>, urb: Urb, bytes: Uint8Array): void {
  run.parts[0] ??= Buffer.allocUnsafeSlow(urb.octets);
  run.parts[0].set(bytes, run.moved);
}

/** What a transfer that has ended has brought; it came in pieces. */
export function joined<S>({ parts, moved }: EndpointRun<S>): Uint8Array {
  const [first] = parts;
  if (parts.length > 1 || first === undefined) return Buffer.concat(parts);
  return first.length === moved ? first : first.subarray(0, moved);
}

function markHalted<S>(run: EndpointRun<S>): 'stall' {
  run.halted = true;
  return 'stall';
}
