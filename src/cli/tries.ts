/**
 * One thing that is attached: asks for a connection, tries again when its time has come, and says how it
 * stands. What is connected, and how, is the caller's; when, `usbip/attachment.ts` decides.
 */
import type { Clock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { AttachmentAction, AttachmentOptions, AttachmentPhase } from '../usbip/attachment.ts';
import { AttachmentDriver } from '../usbip/attachment-driver.ts';
import type { Log } from './log.ts';

export interface TriesOptions extends AttachmentOptions {
  /** What is attached, for people. */
  readonly text: string;
  readonly log: Log;
  readonly clock: Clock;
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
  readonly #driver: AttachmentDriver;
  readonly #options: TriesOptions;
  #settle: () => void = () => {};
  #finish: () => void = () => {};

  constructor(options: TriesOptions) {
    this.#options = options;
    const { wait, persist, clock } = options;
    const act = (action: AttachmentAction, before: AttachmentPhase) => this.#act(action, before);
    this.#driver = new AttachmentDriver({ wait, persist, clock, act });
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
    return this.#driver.phase;
  }

  get hasEnded(): boolean {
    return this.#driver.phase === 'ended';
  }

  /** Why it has not come about. */
  get why(): string {
    return this.#driver.why;
  }

  /** The other side has gone; nothing is left of the connection. */
  lost(why: string): void {
    this.#driver.event({ type: 'lost', why });
  }

  /** Somebody has ended it at this machine. */
  detached(): void {
    this.#driver.event({ type: 'detached' });
  }

  /** Ends it, and tries no more. */
  async stop(): Promise<void> {
    this.#driver.event({ type: 'stop' });
    await this.ended;
  }

  #act(action: AttachmentAction, before: AttachmentPhase): void {
    const { phase } = this.#driver;
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
    const { phase, why } = this.#driver;
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
        else this.#driver.event({ type: 'connected' });
      },
      (error) => {
        if (!(error instanceof UserError)) log.error({ err: error }, `Cannot attach ${text}`);
        this.#driver.event({ type: 'failed', why: error.message });
      },
    );
  }
}
