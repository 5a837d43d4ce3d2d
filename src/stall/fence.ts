/**
 * Fences: how the queue of a client that does not speak the stall protocol learns that the client's
 * completion handlers have run, so that what is behind a failed transfer may start.
 *
 * An exact fence is somebody else's knowledge (on the Xen ring: the front end has moved its
 * `rsp_event` past the report): all times of the recovery but the settling are infinite, and
 * nothing but `fenceOpened` of endpoint-queue.ts ends a hold.
 *
 * The timed fence, for stock clients across TCP, has no such knowledge. Nothing on the wire says
 * that a handler has returned; an acknowledgement says only that the client's TCP has the report.
 * What a handler does show is unlinks. So:
 *
 * 1. Settle. The error is not reported at once, but when nothing has arrived for a while. What was
 *    on its way is queued by then, and what arrives later was almost surely sent by a client that
 *    has the report.
 * 2. Hold. What was queued before the report is held for long, begun anew by each unlink: its
 *    handler is going to unlink it, or never will. When all of it is unlinked, or the endpoint is
 *    cleared, the fence opens. Each hold that runs out without an unlink halves the next (the
 *    patience that this driver has earned): that driver lets its other transfers go on.
 * 3. Arrivals, with nothing queued before the report. A single one may be the client's answer, such
 *    as the status that usb-storage reads after a short data phase, so it is held for a little only,
 *    or not at all if that is as good as certain: the client has the report, and has shown that it has
 *    one transfer here at a time. Several are a queue that was under way when the report left, and held like one.
 *
 * The functions say whether the fence opens. They count transfers and never see them.
 */

/** How the client learns of an error in time, and how the queue learns that it has. */
export type Recovery =
  /** Not at all: go on at once, as every other gateway does. For comparison. */
  | { readonly kind: 'none' }
  /** The client speaks the stall protocol: fail back what it sent before it knew of the error. */
  | { readonly kind: 'return' }
  /** Any other client: hold, until the fence opens. */
  | HoldRecovery;

export interface HoldRecovery {
  readonly kind: 'hold';
  /** An error is reported when nothing has arrived for so long (at most `SETTLES_MAX` times). */
  readonly settleMilliseconds: number;
  /** How long what was queued before the report is held: step 2. */
  readonly holdMilliseconds: number;
  /** How long a single first arrival after the report is held: step 3. */
  readonly arrivalMilliseconds: number;
  /** A client that has had so many transfers here, never two at a time, sends the next one in answer. */
  readonly loneTransfers: number;
}

/** For a client that speaks the stall protocol. */
export const RETURN_RECOVERY: Recovery = { kind: 'return' };

/** An exact fence: see above. */
export const EXACT_RECOVERY: HoldRecovery = {
  kind: 'hold',
  settleMilliseconds: 0,
  holdMilliseconds: Number.POSITIVE_INFINITY,
  arrivalMilliseconds: Number.POSITIVE_INFINITY,
  loneTransfers: Number.POSITIVE_INFINITY,
};

/** What is known of a transfer that arrives after an error was reported. */
export type Evidence = 'sent-before-report' | 'sent-after-report' | 'unknown';

/** An error is settled for at most so many times `settleMilliseconds`. */
const SETTLES_MAX = 8;

export interface Fence {
  /** Undefined for the other recoveries: nothing is ever held. */
  readonly times: HoldRecovery | undefined;
  /** How many of those that wait, from the head, the hold is about. */
  held: number;
  /** What is held arrived after the report: a second arrival makes the hold a long one. */
  late: boolean;
  /** The hold is a long one, and nothing has been unlinked or cleared yet. */
  unanswered: boolean;
  /** Transfers that came when no other was here, up to one more than is asked for; -1 once one was. */
  lone: number;
  /** The hold that this driver has earned. */
  patience: number;
  /** When the fence wants to be looked at again; Infinity for never. */
  deadline: number;
  settleEnd: number;
}

export function fence(recovery: Recovery): Fence {
  const times = recovery.kind === 'hold' ? recovery : undefined;
  return {
    times,
    held: 0,
    late: false,
    unanswered: false,
    lone: 0,
    patience: times?.holdMilliseconds ?? 0,
    deadline: Number.POSITIVE_INFINITY,
    settleEnd: 0,
  };
}

/** Nothing but `fenceOpened` ends a hold. */
export function isExact({ times }: Fence): boolean {
  return times?.arrivalMilliseconds === Number.POSITIVE_INFINITY;
}

/** A transfer arrives, in any phase, and `others` are here. */
export function arrived(fence: Fence, others: number): void {
  if (others > 0) fence.lone = -1;
  else if (fence.lone >= 0 && !isLone(fence)) fence.lone++;
}

/** The client has one transfer here at a time: it has shown that before the one that came last. */
function isLone({ lone, times }: Fence): boolean {
  return lone > (times?.loneTransfers ?? 0);
}

/** Begins step 1; false if errors are reported at once. */
export function beginSettling(fence: Fence, now: number): boolean {
  const settleMilliseconds = fence.times?.settleMilliseconds ?? 0;
  if (settleMilliseconds === 0) return false;
  fence.settleEnd = now + SETTLES_MAX * settleMilliseconds;
  settle(fence, now);
  return true;
}

/** Something has arrived while settling. */
export function settle(fence: Fence, now: number): void {
  const settleMilliseconds = fence.times?.settleMilliseconds ?? 0;
  fence.deadline = Math.min(now + settleMilliseconds, fence.settleEnd);
}

/** An error is reported now, with `waiting` transfers behind it. */
export function beginHold(fence: Fence, waiting: number, now: number): void {
  fence.held = waiting;
  fence.late = false;
  fence.unanswered = waiting > 0;
  fence.deadline = now + fence.patience;
}

/** `waiting` transfers are held until some moment, for a reason that was not reported. */
export function holdUntil(fence: Fence, waiting: number, until: number): void {
  fence.held = waiting;
  fence.late = false;
  fence.unanswered = false;
  fence.deadline = until;
}

/** A transfer arrived while holding, and is now the last of `waiting`. */
export function arrivedInHold(
  fence: Fence,
  waiting: number,
  evidence: Evidence,
  now: number,
): boolean {
  if (fence.held === 0) return firstArrival(fence, evidence, now);
  // One that the client may have sent in answer must not prolong the hold of the others.
  if (fence.held !== waiting - 1) return false;
  if (fence.late) {
    fence.held++;
    fence.unanswered = true;
    fence.deadline = now + fence.patience;
  } else if (evidence === 'sent-before-report') {
    fence.held++;
  }
  return false;
}

function firstArrival(fence: Fence, evidence: Evidence, now: number): boolean {
  if (evidence === 'sent-after-report' && isLone(fence)) return true;
  fence.held = 1;
  fence.late = true;
  fence.unanswered = evidence === 'sent-before-report';
  const hold = fence.unanswered ? fence.patience : (fence.times?.arrivalMilliseconds ?? 0);
  fence.deadline = now + hold;
  return false;
}

/** One was unlinked while holding, which the hold was about or not; `waiting` are left. */
export function unlinkedInHold(
  fence: Fence,
  isHeld: boolean,
  waiting: number,
  now: number,
): boolean {
  const { holdMilliseconds, arrivalMilliseconds } = fence.times as HoldRecovery;
  fence.unanswered = false;
  fence.patience = holdMilliseconds;
  if (!isHeld) {
    fence.deadline = Math.max(fence.deadline, now + arrivalMilliseconds);
    return false;
  }
  fence.held--;
  fence.deadline = now + fence.patience;
  if (fence.held > 0) return false;
  if (waiting === 0 && !isExact(fence)) return true;
  // What came later is held a little: more unlinks may follow.
  fence.held = waiting;
  fence.deadline = now + arrivalMilliseconds;
  return false;
}

/**
 * The endpoint was cleared while holding. vhci sends that request before unlinks that its driver
 * asked for earlier (vhci_tx_loop), so what is held waits a little longer for those.
 */
export function clearedInHold(fence: Fence, until: number): boolean {
  fence.unanswered = false;
  if (fence.held === 0) return true;
  fence.deadline = Math.min(fence.deadline, until);
  return false;
}

/** A hold has run out. */
export function ranOut(fence: Fence): void {
  if (!fence.unanswered || fence.times === undefined) return;
  fence.patience = Math.max(fence.patience / 2, fence.times.arrivalMilliseconds);
}

/** Nothing is held any more. */
export function opened(fence: Fence): void {
  fence.held = 0;
  fence.deadline = Number.POSITIVE_INFINITY;
}
