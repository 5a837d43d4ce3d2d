/**
 * How the client's completion handlers are waited for after an error, where the client says nothing of
 * them: by time. The figures are measured: docs/stall-protocol.md.
 */
import type { Recovery } from '../stall/fence.ts';

/** For clients that do not speak the stall protocol and offer no fence. 0 holds nothing. */
export function timedRecovery(holdMilliseconds = 1000): Recovery {
  if (holdMilliseconds === 0) return { kind: 'none' };
  const arrivalMilliseconds = Math.min(50, holdMilliseconds);
  return {
    kind: 'hold',
    settleMilliseconds: 5,
    holdMilliseconds,
    arrivalMilliseconds,
    graceMilliseconds: Math.min(GRACE_MILLISECONDS, holdMilliseconds),
    steadyTransfers: STEADY_TRANSFERS,
  };
}

/**
 * A driver that kills its transfers and starts anew, as at each open of a serial port, waits no longer,
 * nor do the others of a driver that has answered an error by its next transfer.
 */
const GRACE_MILLISECONDS = 10;

/**
 * The first ones of a driver that will queue several come one by one too, with the next on its way to a
 * gateway that takes it for the answer to the one before.
 */
const STEADY_TRANSFERS = 8;

/**
 * Endpoint 0 stalls as a matter of course (that is how a device says no), and drivers with several
 * requests queued there let them go on: it is held for a few round trips only, and reports at once.
 */
const CONTROL_HOLD_MILLISECONDS = 20;

/** What `recovery` is at endpoint 0. */
export function controlRecovery(recovery: Recovery): Recovery {
  if (recovery.kind !== 'hold') return recovery;
  const shorter = (milliseconds: number) =>
    Number.isFinite(milliseconds)
      ? Math.min(milliseconds, CONTROL_HOLD_MILLISECONDS)
      : milliseconds;
  return {
    kind: 'hold',
    settleMilliseconds: 0,
    holdMilliseconds: shorter(recovery.holdMilliseconds),
    arrivalMilliseconds: shorter(recovery.arrivalMilliseconds),
    graceMilliseconds: shorter(recovery.graceMilliseconds),
    steadyTransfers: Number.isFinite(recovery.steadyTransfers) ? 0 : recovery.steadyTransfers,
  };
}
