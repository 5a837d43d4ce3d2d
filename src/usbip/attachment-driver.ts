/**
 * Drives what becomes of an attachment (attachment.ts): has its timer, and a number by chance for each
 * step. Whoever makes the connection says what happened by `event` and does what `act` is told.
 */
import type { Clock } from '../core/clock.ts';
import {
  type AttachmentAction,
  type AttachmentEvent,
  type AttachmentOptions,
  type AttachmentPhase,
  attachment,
  step,
} from './attachment.ts';

export interface AttachmentDriverOptions extends AttachmentOptions {
  readonly clock: Clock;
  /** Called after each event; `before` is the phase before it. */
  readonly act: (action: AttachmentAction, before: AttachmentPhase) => void;
}

export class AttachmentDriver {
  readonly #machine;
  readonly #clock: Clock;
  readonly #act: AttachmentDriverOptions['act'];
  #cancelTimer = () => {};

  /** Begins in the phase 'connecting': the caller is to connect. */
  constructor({ clock, act, wait, persist }: AttachmentDriverOptions) {
    this.#machine = attachment({ wait, persist });
    this.#clock = clock;
    this.#act = act;
  }

  get phase(): AttachmentPhase {
    return this.#machine.phase;
  }

  /** Why it is not attached, for people. */
  get why(): string {
    return this.#machine.why;
  }

  event(event: AttachmentEvent): void {
    const before = this.#machine.phase;
    const now = this.#clock.now();
    const action = step(this.#machine, event, now, Math.random());
    this.#cancelTimer();
    const { phase, deadline } = this.#machine;
    if (phase === 'waiting') {
      const elapsed = () => this.event({ type: 'elapsed' });
      this.#cancelTimer = this.#clock.after(Math.max(0, deadline - now), elapsed);
    }
    this.#act(action, before);
  }
}
