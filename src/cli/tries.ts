/**
 * One thing that is attached: asks for a connection, tries again when its time has come, and says how it
 * stands. What is connected, and how, is the caller's; when, `usbip/attachment.ts` decides.
 */
import type { Clock } from '../core/clock.ts';
import { Containment } from '../core/containment.ts';
import { UserError } from '../core/errors.ts';
import { LET_GO_MILLISECONDS } from '../core/limits.ts';
import type { PeerLines } from '../core/peer-log.ts';
import { within } from '../core/within.ts';
import type {
  AttachmentAction,
  AttachmentEvent,
  AttachmentOptions,
  AttachmentPhase,
} from '../usbip/attachment.ts';
import { AttachmentDriver } from '../usbip/attachment-driver.ts';

export interface TriesOptions extends AttachmentOptions {
  /** What is attached, for people. */
  readonly text: string;
  readonly lines: PeerLines;
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
  /** All that happens to it runs in here: a bug ends it, and no other attachment. */
  readonly containment = new Containment((error) => this.#failed(error));
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
    this.#driver = new AttachmentDriver({
      wait,
      persist,
      clock: this.containment.clock(clock),
      act,
    });
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
    return this.#driver.phase === 'ended' || this.containment.isBroken;
  }

  /** Why it has not come about. */
  get why(): string {
    return this.containment.isBroken ? 'a bug has ended it, see the log' : this.#driver.why;
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
    this.containment.run((one) => this.#driver.event(one), event);
  }

  #act(action: AttachmentAction, before: AttachmentPhase): void {
    const { phase } = this.#driver;
    if (phase !== before) this.#say();
    if (phase !== 'connecting') this.#settle();
    if (action === 'connect') this.#connect();
    if (phase === 'ended' && before !== 'ended') {
      const gone = action === 'letGo' ? this.#letGo() : Promise.resolve();
      this.containment.watch(gone.finally(() => this.#finish()));
    }
  }

  /** It is let go of, whoever refuses that, or takes too long. Never rejects. */
  async #letGo(): Promise<void> {
    const { letGo, lines, clock, text } = this.#options;
    const late = () => {
      throw new UserError(
        `Cannot let go of ${text}: it is still attached after ${LET_GO_MILLISECONDS / 1000} s, wanted its port to be free`,
      );
    };
    try {
      await within(letGo(), LET_GO_MILLISECONDS, late, clock);
    } catch (error) {
      const isExpected = error instanceof UserError;
      if (isExpected) lines.warn(error.message, 'failed releases', text);
      else lines.bug(error, `Cannot let go of ${text}`, text);
    }
  }

  #failed(error: unknown): void {
    const { lines, text } = this.#options;
    lines.bug(error, `${text} ended by a bug`, text);
    this.#settle();
    void this.#letGo().finally(() => this.#finish());
  }

  #say(): void {
    const { lines, text, place } = this.#options;
    const { phase, why } = this.#driver;
    if (phase === 'attached') lines.info(`${text} attached${place()}`, 'attachments', text);
    else if (phase === 'waiting') lines.info(`${text} is awaited: ${why}`, 'waits', text);
    else if (phase === 'ended') lines.info(`${text} ended: ${why}`, 'ends', text);
  }

  #connect(): void {
    const { connect, lines, text } = this.#options;
    const connected = connect().then(
      async () => {
        if (this.hasEnded)
          await this.#letGo(); // it was stopped meanwhile
        else this.#event({ type: 'connected' });
      },
      (error) => {
        if (!(error instanceof UserError)) {
          lines.error(`Cannot attach ${text}: ${error.stack}`, 'failed attachments', text);
        }
        this.#event({ type: 'failed', why: error.message });
      },
    );
    this.containment.watch(connected);
  }
}
