/**
 * What becomes of one attachment: a device of a server that is to be at this machine, tried again
 * for as long as its user wants.
 *
 * Pure: events in, what to do out, time and chance as arguments. `connect` asks the driver to find the
 * device, import it and give it to vhci; `letGo` to end whatever it has. The driver answers with
 * `connected` or `failed`, and says `lost` or `detached` when an attached device goes.
 *
 * - `wait` tries until the device is there for the first time.
 * - `persist` tries again when it was there and was lost: the server restarted, the device was
 *   unplugged, the network failed. Not when somebody detached it here: that is a wish.
 * - The pause between two tries doubles, up to a limit, and varies by chance, so that many clients
 *   of a server that comes back do not come all at once.
 */
import { assert } from '../core/assert.ts';

export type AttachmentPhase = 'connecting' | 'attached' | 'waiting' | 'ended';

export interface AttachmentOptions {
  readonly wait: boolean;
  readonly persist: boolean;
}

export type AttachmentEvent =
  | { readonly type: 'connected' }
  | { readonly type: 'failed'; readonly why: string }
  /** The server, the device or the connection has gone. */
  | { readonly type: 'lost'; readonly why: string }
  /** The port of vhci was detached here, by whatever tool. */
  | { readonly type: 'detached' }
  /** The user does not want it any more. */
  | { readonly type: 'stop' }
  /** The deadline has come. */
  | { readonly type: 'elapsed' };

export type AttachmentAction = 'none' | 'connect' | 'letGo';

export interface Attachment {
  readonly options: AttachmentOptions;
  phase: AttachmentPhase;
  /** It was at this machine at least once. */
  wasAttached: boolean;
  /** Tries since it was attached last. */
  tries: number;
  /** While waiting: when `elapsed` is wanted. Else Infinity. */
  deadline: number;
  /** Why it is not attached, for people. */
  why: string;
}

/** Where each event is possible; in other phases it says nothing new. */
export const ATTACHMENT_TRANSITIONS: Readonly<
  Record<AttachmentPhase, Partial<Record<AttachmentEvent['type'], readonly AttachmentPhase[]>>>
> = {
  connecting: { connected: ['attached'], failed: ['waiting', 'ended'], stop: ['ended'] },
  attached: { lost: ['waiting', 'ended'], detached: ['ended'], stop: ['ended'] },
  waiting: { elapsed: ['connecting'], stop: ['ended'] },
  ended: {},
};

const PAUSE_MILLISECONDS_MIN = 250;
const PAUSE_MILLISECONDS_MAX = 10_000;

/** Begins: the driver is to connect. */
export function attachment(options: AttachmentOptions): Attachment {
  const deadline = Number.POSITIVE_INFINITY;
  return { options, phase: 'connecting', wasAttached: false, tries: 1, deadline, why: '' };
}

/** `chance` is a number from 0 to 1, another each time. */
export function step(
  attachment: Attachment,
  event: AttachmentEvent,
  now: number,
  chance: number,
): AttachmentAction {
  if (ATTACHMENT_TRANSITIONS[attachment.phase][event.type] === undefined) return 'none';
  switch (event.type) {
    case 'connected':
      attachment.wasAttached = true;
      attachment.tries = 0;
      attachment.why = '';
      enter(attachment, event, 'attached');
      return 'none';
    case 'failed':
    case 'lost': {
      attachment.why = event.why;
      const { wait, persist } = attachment.options;
      const again = attachment.wasAttached ? persist : wait;
      enter(attachment, event, again ? 'waiting' : 'ended');
      if (again) attachment.deadline = now + pauseMilliseconds(attachment.tries, chance);
      return 'none';
    }
    case 'elapsed':
      if (now < attachment.deadline) return 'none';
      attachment.tries++;
      enter(attachment, event, 'connecting');
      return 'connect';
    case 'detached':
      attachment.why = 'detached at this machine';
      enter(attachment, event, 'ended');
      return 'none';
    case 'stop': {
      attachment.why = 'detached';
      enter(attachment, event, 'ended');
      return 'letGo';
    }
  }
}

/** Before the try after `tries` of them: at least half of what it could be. */
export function pauseMilliseconds(tries: number, chance: number): number {
  const doubled = PAUSE_MILLISECONDS_MIN * 2 ** Math.min(tries, 16);
  return Math.min(PAUSE_MILLISECONDS_MAX, doubled) * (0.5 + 0.5 * chance);
}

function enter(attachment: Attachment, event: AttachmentEvent, to: AttachmentPhase): void {
  const allowed = ATTACHMENT_TRANSITIONS[attachment.phase][event.type];
  assert(allowed?.includes(to), 'Cannot change the phase: there is no such transition');
  attachment.phase = to;
  attachment.deadline = Number.POSITIVE_INFINITY;
}
