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

const NO_BYTES = Buffer.alloc(0);

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
  /** IN data moved so far, when it came in more than one piece. */
  parts: Uint8Array[];
  /** In place of `parts` for a transfer of more than a slice that comes in pieces. */
  gathered: Buffer | null;
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
  const sliceEnd = run.moved + SLICE_BYTES;
  for (;;) {
    if (run.moved >= sliceEnd) return 'slice';
    const octetsMax = urb.octets - run.moved;
    const answer = onIn(state, octetsMax);
    if (run.urb !== urb) return null; // the handler has unplugged the device
    if (!(answer instanceof Uint8Array)) {
      if (answer.answer === 'nak') return null;
      return answer.answer === 'stall' ? markHalted(run) : answer.status;
    }
    if (answer.length > octetsMax) {
      take(run, answer.subarray(0, octetsMax));
      return 'babble';
    }
    take(run, answer);
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

function take<S>(run: EndpointRun<S>, octets: Uint8Array): void {
  if (octets.length === 0) return;
  const bytes = run.urb?.octets ?? 0;
  if (bytes > SLICE_BYTES && octets.length < bytes) {
    run.gathered ??= Buffer.allocUnsafeSlow(bytes);
    run.gathered.set(octets, run.moved);
  } else {
    run.parts.push(octets);
  }
  run.moved += octets.length;
}

/** What a transfer that has ended has brought. */
export function takeData<S>(run: EndpointRun<S>): Uint8Array {
  const { parts, gathered, moved } = run;
  if (gathered !== null) {
    run.gathered = null;
    return gathered.subarray(0, moved);
  }
  if (parts.length === 0) return NO_BYTES;
  const data = parts.length === 1 ? (parts[0] ?? NO_BYTES) : Buffer.concat(parts);
  parts.length = 0;
  return data;
}

function markHalted<S>(run: EndpointRun<S>): 'stall' {
  run.halted = true;
  return 'stall';
}
