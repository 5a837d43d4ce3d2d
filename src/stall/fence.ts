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
 * 4. Only unlinks. A report of nothing but the client's own unlinks, with nothing left behind them, promises
 *    little: vhci sends submits before unlinks, so all that the driver had queued was here and has been
 *    unlinked. A transfer can still be on its way only if vhci's sender had looked for submits, and not yet for
 *    unlinks, when the driver submitted it. Its number shows that it is older than the unlink, and it is held
 *    like a queue. Any other arrival is the driver's next start, and is held for a moment only.
 * 5. Answers. A driver that has kept the same number of transfers here for a while sends one for each that
 *    comes back. When that number is complete again, the handler of what was reported has sent the last of them,
 *    and what it unlinked before follows at once: the others are held for a moment longer only.
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
  /** What vhci's sender is given for what it was asked to send before: steps 4 and 5. */
  readonly graceMilliseconds: number;
  /** A client that has sent so many in a row that made its number complete sends the next one in answer. */
  readonly steadyTransfers: number;
}

/** For a client that speaks the stall protocol. */
export const RETURN_RECOVERY: Recovery = { kind: 'return' };

/** An exact fence: see above. */
export const EXACT_RECOVERY: HoldRecovery = {
  kind: 'hold',
  settleMilliseconds: 0,
  holdMilliseconds: Number.POSITIVE_INFINITY,
  arrivalMilliseconds: Number.POSITIVE_INFINITY,
  graceMilliseconds: Number.POSITIVE_INFINITY,
  steadyTransfers: Number.POSITIVE_INFINITY,
};

/**
 * What is known of a transfer that arrives after a report: whether the client can have had the report when
 * it sent the transfer, or its driver when it submitted it. The latter runs later than the client's TCP.
 */
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
  /** The report was of the client's own unlinks alone, with nothing left behind them: step 4. */
  afterUnlinks: boolean;
  /** The hold is a long one, and nothing has been unlinked or cleared yet. */
  unanswered: boolean;
  /** The most transfers that were ever here at a time. */
  depth: number;
  /** Arrivals in a row that made it so many again, up to one more than is asked for. */
  steady: number;
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
    afterUnlinks: false,
    unanswered: false,
    depth: 0,
    steady: 0,
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
  if (others + 1 === fence.depth) {
    if (!isSteady(fence)) fence.steady++;
  } else if (others + 1 > fence.depth) {
    fence.depth = others + 1;
    fence.steady = 1;
  } else {
    fence.steady = 0;
  }
}

/** The client keeps the same number of transfers here: it has shown that before the one that came last. */
function isSteady({ steady, times }: Fence): boolean {
  return steady > (times?.steadyTransfers ?? 0);
}

/** The transfer that came last, with `here` in all, is the answer to the last one that was given back: step 5. */
export function isAnswer(fence: Fence, here: number, evidence: Evidence): boolean {
  return evidence === 'sent-after-report' && here === fence.depth && isSteady(fence);
}

/** Begins step 1; false if errors are reported at once. */
export function beginSettling(fence: Fence, now: number): boolean {
  const settleMilliseconds = fence.times?.settleMilliseconds ?? 0;
  if (settleMilliseconds === 0) return false;
  fence.settleEnd = now + SETTLES_MAX * settleMilliseconds;
  settle(fence, now);
  return true;
}

/** How long what stands behind an unlinked transfer waits for its handler; or nothing does, yet. */
export function barrierMilliseconds(fence: Fence, isEnd: boolean): number {
  return isEnd ? (fence.times?.graceMilliseconds ?? 0) : fence.patience;
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
  fence.afterUnlinks = false;
  fence.unanswered = waiting > 0;
  fence.deadline = now + fence.patience;
}

/** Only unlinks are reported now, or were a while ago, and nothing waits behind them: step 4. */
export function beginUnlinkHold(fence: Fence, now: number): void {
  holdUntil(fence, 0, now + (fence.times?.graceMilliseconds ?? 0));
  fence.afterUnlinks = true;
}

/** `waiting` transfers are held until some moment: they stood behind some that were unlinked. */
export function holdUntil(fence: Fence, waiting: number, until: number): void {
  fence.held = waiting;
  fence.late = false;
  fence.afterUnlinks = false;
  fence.unanswered = waiting > 0;
  fence.deadline = until;
}

/** A transfer arrived while holding, and is now the last of `waiting`. */
export function arrivedInHold(
  fence: Fence,
  waiting: number,
  evidence: Evidence,
  now: number,
): boolean {
  const isAnswered = isAnswer(fence, waiting, evidence);
  if (fence.held === 0 && isAnswered) return true;
  if (fence.afterUnlinks) arrivedAfterUnlinks(fence, evidence, now);
  else if (fence.held === 0) firstArrival(fence, evidence, now);
  // One that the client may have sent in answer must not prolong the hold of the others.
  else if (fence.held === waiting - 1) laterArrival(fence, evidence, now);
  if (isAnswered) {
    fence.unanswered = false;
    fence.deadline = Math.min(fence.deadline, now + (fence.times?.graceMilliseconds ?? 0));
  }
  return false;
}

/** Step 4: the hold does not grow with each arrival, or a driver that begins anew would wait for long. */
function arrivedAfterUnlinks(fence: Fence, evidence: Evidence, now: number): void {
  fence.held++;
  if (evidence !== 'sent-before-report') return;
  fence.afterUnlinks = false;
  fence.late = true;
  fence.unanswered = true;
  fence.deadline = now + fence.patience;
}

function firstArrival(fence: Fence, evidence: Evidence, now: number): void {
  fence.held = 1;
  fence.late = true;
  fence.unanswered = evidence === 'sent-before-report';
  const hold = fence.unanswered ? fence.patience : (fence.times?.arrivalMilliseconds ?? 0);
  fence.deadline = now + hold;
}

function laterArrival(fence: Fence, evidence: Evidence, now: number): void {
  if (fence.late) {
    fence.held++;
    fence.unanswered = true;
    fence.deadline = now + fence.patience;
  } else if (evidence === 'sent-before-report') {
    fence.held++;
  }
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
  fence.afterUnlinks = false;
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
  fence.afterUnlinks = false;
  fence.deadline = Number.POSITIVE_INFINITY;
}
