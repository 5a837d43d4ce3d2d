/** One attached device and what it has: its source, its place in vhci, and tries for both. */
import type { Clock } from '../core/clock.ts';
import type { PeerLines } from '../core/peer-log.ts';
import type { Vhci } from '../usbip/vhci.ts';
import type { AttachmentStatus } from './attach-protocol.ts';
import type { Link, Source } from './attach-source.ts';
import { Tries } from './tries.ts';

const WHY_LOST = 'the server or the device has gone';
/** vhci frees a port a moment after its connection has ended. */
const PORT_FREE_MILLISECONDS = 5_000;
const PORT_LOOK_MILLISECONDS = 50;

/** Something that a supervisor has: an attached device, or what devices come from. */
export interface Attachment {
  readonly id: string;
  /** What it is, for people. */
  readonly text: string;
  /** Of vhci; null while there is none. */
  readonly port: number | null;
  readonly hasEnded: boolean;
  /** Why it has not come about. */
  readonly why: string;
  /** Resolves when it was attached for the first time, waits or has ended; rejects never. */
  readonly settled: Promise<void>;
  /** Resolves when it has ended for good. */
  readonly ended: Promise<void>;
  status(): AttachmentStatus;
  /** Lets go of it, and tries no more. */
  stop(): Promise<void>;
}

export interface SupervisedOptions {
  readonly id: string;
  /** What is attached, for people. */
  readonly text: string;
  readonly source: Source;
  readonly wait: boolean;
  readonly persist: boolean;
  readonly vhci: Vhci;
  readonly lines: PeerLines;
  readonly clock: Clock;
  /** The port of vhci where it is to be, if that is free. */
  readonly wantedPort?: number;
}

export class Supervised implements Attachment {
  readonly id: string;
  readonly text: string;
  readonly settled: Promise<void>;
  readonly ended: Promise<void>;
  readonly #options: SupervisedOptions;
  readonly #tries: Tries;
  #link: Link | null = null;
  /** Where it was last: it goes back there if that is free. */
  #port: number | undefined;
  #attachedCount = 0;
  #attachedSince: Date | null = null;
  #lostSince: Date | null = null;

  constructor(options: SupervisedOptions) {
    const { id, wait, persist, text, lines, clock, wantedPort } = options;
    this.id = id;
    this.text = text;
    this.#options = options;
    this.#port = wantedPort;
    this.#tries = new Tries({
      wait,
      persist,
      text,
      lines,
      clock,
      connect: () => this.#connect(),
      letGo: async () => await this.#link?.close(),
      place: () => ` to vhci port ${this.port}`,
    });
    this.settled = this.#tries.settled;
    this.ended = this.#tries.ended;
    this.#tries.begin();
  }

  get port(): number | null {
    return this.#link?.port ?? null;
  }

  get hasEnded(): boolean {
    return this.#tries.hasEnded;
  }

  get why(): string {
    return this.#tries.why;
  }

  async stop(): Promise<void> {
    await this.#tries.stop();
  }

  status(): AttachmentStatus {
    const { id, wait, persist, vhci, source } = this.#options;
    const { phase, why } = this.#tries;
    const link = this.#link;
    const counts = link?.counts ?? { urbs: 0, errors: 0, fences: 0, timedFences: 0 };
    return {
      id,
      ...source.status,
      phase,
      port: link?.port ?? null,
      localBusId: link === null ? null : (vhci.port(link.port)?.localBusId ?? null),
      wait,
      persist,
      why: why === '' ? null : why,
      attachedCount: this.#attachedCount,
      attachedSince: this.#attachedSince?.toISOString() ?? null,
      lostSince: this.#lostSince?.toISOString() ?? null,
      ...counts,
    };
  }

  async #connect(): Promise<void> {
    const { source, vhci, lines, text } = this.#options;
    const wantedPort = this.#port;
    if (wantedPort !== undefined) await this.#untilFree(wantedPort);
    const link = await source.attach(vhci, {
      ...(wantedPort !== undefined && { wantedPort }),
      onBug: (error) => lines.bug(error, `${text}: let go of by a bug`, text),
    });
    this.#link = link;
    this.#port = link.port;
    this.#attachedCount++;
    this.#attachedSince = new Date();
    this.#note(() => vhci.record(link.port, source.record));
    const ended = link.ended.then((end) => {
      this.#link = null;
      this.#lostSince = new Date();
      this.#note(() => vhci.forget(link.port));
      if (end === 'lost') this.#tries.lost(WHY_LOST);
      else if (end === 'detached') this.#tries.detached();
    });
    this.#tries.containment.watch(ended);
  }

  /** Notes for other tools: an attachment does without them. */
  #note(work: () => void): void {
    const { lines, text } = this.#options;
    try {
      work();
    } catch (error) {
      const { message } = error as Error;
      const what = `${text}: cannot note its port for usbip port: ${message}`;
      lines.warn(what, 'failed notes', text);
    }
  }

  /** After a loss, vhci may not have noticed yet. */
  async #untilFree(port: number): Promise<void> {
    const { clock, vhci } = this.#options;
    const end = clock.now() + PORT_FREE_MILLISECONDS;
    while (clock.now() < end && vhci.port(port)?.state !== 'free') {
      await new Promise<void>((resolve) => clock.after(PORT_LOOK_MILLISECONDS, resolve));
    }
  }
}
