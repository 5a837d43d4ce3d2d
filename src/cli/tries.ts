/**
 * Drives `usbip/attachment.ts`: asks for a connection, tries again when its time has come, and says
 * how it stands. What is connected, and how, is the caller's.
 */
import { UserError } from '../core/errors.ts';
import {
  type Attachment,
  type AttachmentEvent,
  type AttachmentOptions,
  type AttachmentPhase,
  attachment,
  step,
} from '../usbip/attachment.ts';
import type { Log } from './log.ts';

export interface TriesOptions extends AttachmentOptions {
  /** What is attached, for people. */
  readonly text: string;
  readonly log: Log;
  /**
   * Makes the connection, and resolves when it is there.
   *
   * @throws {UserError} why it cannot be made now; it must have left nothing then.
   */
  readonly connect: () => Promise<void>;
  /** Ends the connection, if there is one. */
  readonly letGo: () => Promise<void>;
  /** In words, where it was attached to. */
  readonly place: () => string;
}

export class Tries {
  /** Resolves when it was connected for the first time, waits or has ended; rejects never. */
  readonly settled: Promise<void>;
  /** Resolves when it has ended for good. */
  readonly ended: Promise<void>;
  readonly #machine: Attachment;
  readonly #options: TriesOptions;
  #timer: NodeJS.Timeout | undefined;
  #settle: () => void = () => {};
  #finish: () => void = () => {};

  constructor(options: TriesOptions) {
    this.#options = options;
    this.#machine = attachment(options);
    this.settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  /** The first try. */
  begin(): void {
    this.#connect();
  }

  get phase(): AttachmentPhase {
    return this.#machine.phase;
  }

  get hasEnded(): boolean {
    return this.#machine.phase === 'ended';
  }

  /** Why it has not come about. */
  get why(): string {
    return this.#machine.why;
  }

  /** The other side has gone; nothing is left of the connection. */
  lost(why: string): void {
    this.#event({ type: 'lost', why });
  }

  /** Somebody has ended it at this machine. */
  detached(): void {
    this.#event({ type: 'detached' });
  }

  /** Ends it, and tries no more. */
  async stop(): Promise<void> {
    this.#event({ type: 'stop' });
    await this.ended;
  }

  #event(event: AttachmentEvent): void {
    const before = this.#machine.phase;
    const action = step(this.#machine, event, performance.now(), Math.random());
    const { phase, deadline } = this.#machine;
    clearTimeout(this.#timer);
    if (phase === 'waiting') {
      const wait = Math.max(0, deadline - performance.now());
      this.#timer = setTimeout(() => this.#event({ type: 'elapsed' }), wait + 1);
    }
    if (phase !== before) this.#say();
    if (phase !== 'connecting') this.#settle();
    if (action === 'connect') this.#connect();
    if (phase === 'ended' && before !== 'ended') {
      const gone = action === 'letGo' ? this.#options.letGo() : undefined;
      Promise.resolve(gone).finally(() => this.#finish());
    }
  }

  #say(): void {
    const { log, text, place } = this.#options;
    const { phase, why } = this.#machine;
    if (phase === 'attached') log.info(`${text} attached${place()}`);
    else if (phase === 'waiting') log.info(`${text} is awaited: ${why}`);
    else if (phase === 'ended') log.info(`${text} ended: ${why}`);
  }

  #connect(): void {
    const { connect, letGo, log, text } = this.#options;
    connect().then(
      () => {
        if (this.hasEnded)
          letGo(); // it was stopped meanwhile
        else this.#event({ type: 'connected' });
      },
      (error) => {
        if (!(error instanceof UserError)) log.error({ err: error }, `Cannot attach ${text}`);
        this.#event({ type: 'failed', why: error.message });
      },
    );
  }
}
