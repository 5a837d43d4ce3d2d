/**
 * When a stock front end has handled an error, seen from its ring (docs/stall-protocol.md).
 *
 * xen-hcd calls completion handlers inside its loop over responses; what they unlink is put into
 * the ring at once; and only then does it publish the index of the response that it waits for next,
 * `responseEvent`. So when that has passed the response of an error, its handlers have run and their
 * unlinks are in the ring. Hence the order that `open` relies on: `responseEvent` is read, then the
 * ring is taken up to its end, then fences are opened. Nobody sends an event when there was nothing
 * to unlink: while URBs are held, somebody must look again.
 *
 * One thing a stock front end cannot say: when its ring is full, unlinks stay in a list that it
 * never looks at again (pending_unlink_list in xen-hcd.c). If the ring may have been full while
 * handlers ran, held URBs that are short-not-ok are answered with no octets: who unlinked them does
 * not see it, and to anyone else it is what it says, a short read behind another. Not on endpoint
 * 0, where drivers let other requests go on and expect them in order (usbtest case 10); and not those that
 * came behind an unlink of the handlers': they are the driver's next, and its own (decision 0071).
 */
import type { DeviceSession } from '../core/session.ts';

/** What the ring says about its own fill. */
export interface RingFill {
  readonly slots: number;
  /** Requests taken, as an index. */
  readonly taken: number;
}

export class Fences {
  readonly #ring: RingFill;
  /** Sessions with reports that are not handled, and `responseEvent` before the first of them. */
  readonly #reported = new Map<DeviceSession, number>();

  constructor(ring: RingFill) {
    this.#ring = ring;
  }

  /** A session has reported an error; its response is published, or will be. */
  reported(session: DeviceSession, event: number): void {
    if (!this.#reported.has(session)) this.#reported.set(session, event);
  }

  forget(session: DeviceSession): void {
    this.#reported.delete(session);
  }

  /** Opens the fences of errors that are handled; `event` was read before the ring. */
  open(event: number): void {
    if (this.#reported.size === 0) return;
    const handled = (mark: number) => ((event - mark) | 0) > 0;
    for (const [session, before] of [...this.#reported]) {
      const mayHaveBeenFull = (this.#ring.taken - (before - 1)) >>> 0 >= this.#ring.slots;
      if (mayHaveBeenFull) failUnsendable(session, handled);
      // What starts now may fail at once, and is a report of its own: this one is not to count for it.
      this.#reported.delete(session);
      const others = session.openFences(handled);
      const closed = session.fences !== 'open' && !this.#reported.has(session);
      if (others || closed) this.#reported.set(session, before);
    }
  }

  /** Whether URBs are held. */
  get blocked(): boolean {
    for (const session of this.#reported.keys()) if (session.fences === 'blocked') return true;
    return false;
  }
}

function failUnsendable(session: DeviceSession, handled: (mark: number) => boolean): void {
  for (const urb of session.heldUrbs(handled)) {
    if (urb.shortNotOk && urb.endpoint.type !== 'control') session.unlink(urb.id);
  }
}
