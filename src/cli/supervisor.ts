/**
 * All attachments of a machine: one process, whose death unplugs them cleanly, since the kernel then
 * sees the end of each connection.
 */
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { PeerLines } from '../core/peer-log.ts';
import type { Vhci } from '../usbip/vhci.ts';
import {
  type AttachmentStatus,
  type AttachRequest,
  isRing,
  parseSupervisorRequest,
  type RingRequest,
  type SupervisorStatus,
  targetText,
} from './attach-protocol.ts';
import { RemoteSource, type Source } from './attach-source.ts';
import { type Answer, answerWith } from './control-protocol.ts';
import { bugsOf } from './control-server.ts';
import { type GuestRings, XenGuestRings } from './guest-rings.ts';
import { type Log, peerLines } from './log.ts';
import { type Attachment, Supervised } from './supervised.ts';
import { SupervisedController } from './supervised-controller.ts';

/** Attachments of one machine; vhci can be built with as many ports. */
const ATTACHMENTS_MAX = 128;

export class Supervisor {
  readonly #vhci: Vhci;
  readonly #log: Log;
  /** What servers and guests cause. */
  readonly #lines: PeerLines;
  readonly #rings: GuestRings;
  readonly #attachments = new Map<string, Attachment>();
  readonly #clock: Clock;
  #count = 0;
  /** Called when the last attachment has ended. */
  onIdle: () => void = () => {};

  /** Other rings and another clock are for tests. */
  constructor(
    vhci: Vhci,
    log: Log,
    rings: GuestRings = new XenGuestRings(),
    clock: Clock = systemClock,
  ) {
    this.#vhci = vhci;
    this.#rings = rings;
    this.#log = log;
    this.#lines = peerLines(log);
    this.#clock = clock;
  }

  get attachmentCount(): number {
    return this.#attachments.size;
  }

  status(): SupervisorStatus {
    const attachments = [...this.#attachments.values()].map((one) => one.status());
    return { pid: process.pid, attachments };
  }

  /**
   * Attaches a device, or a controller of this guest and what is plugged into it. Resolves when it is
   * attached, or, for one that is to be waited for, when it is known not to be there yet.
   *
   * @throws {UserError} if it cannot be attached and is not to be waited for.
   */
  async attach(request: AttachRequest): Promise<AttachmentStatus> {
    this.#vhci.ports(); // to know at once if there is no vhci
    const one = isRing(request)
      ? this.#attachController(request)
      : this.#supervise(targetText(request), new RemoteSource(request), request);
    await one.settled;
    if (one.hasEnded) throw new UserError(one.why);
    return one.status();
  }

  #attachController(request: RingRequest): Attachment {
    for (const one of this.#attachments.values()) {
      if (!(one instanceof SupervisedController)) continue;
      if (one.controller !== request.controller || one.hasEnded) continue;
      one.again(request);
      return one;
    }
    const wishes = { wait: true, persist: false };
    return this.#add(
      (id) =>
        new SupervisedController({
          id,
          request,
          rings: this.#rings,
          log: this.#log,
          lines: this.#lines,
          clock: this.#clock,
          supervise: (text, source, wantedPort) =>
            this.#supervise(text, source, wishes, wantedPort),
        }),
    );
  }

  #supervise(
    text: string,
    source: Source,
    { wait, persist }: { readonly wait: boolean; readonly persist: boolean },
    wantedPort?: number,
  ): Supervised {
    const place = wantedPort === undefined ? {} : { wantedPort };
    const [vhci, lines, clock] = [this.#vhci, this.#lines, this.#clock];
    const options = { text, source, wait, persist, vhci, lines, clock, ...place };
    return this.#add((id) => new Supervised({ id, ...options }));
  }

  #add<A extends Attachment>(make: (id: string) => A): A {
    if (this.#attachments.size >= ATTACHMENTS_MAX) {
      throw new UserError(`Cannot attach: there are ${ATTACHMENTS_MAX} attachments, the most`);
    }
    const one = make(`a${++this.#count}`);
    this.#attachments.set(one.id, one);
    one.ended.then(() => {
      this.#attachments.delete(one.id);
      if (this.#attachments.size === 0) this.onIdle();
    });
    return one;
  }

  /**
   * Ends attachments: of a port, by id, or all. Returns what was detached, in words.
   *
   * @throws {UserError} if there is no such attachment.
   */
  async detach(target: string): Promise<string[]> {
    const all = [...this.#attachments.values()];
    const chosen =
      target === 'all'
        ? all
        : all.filter(({ id, port }) => id === target || String(port) === target);
    if (chosen.length === 0 && target !== 'all') {
      throw new UserError(`Cannot detach ${target}: nothing is attached there, see urbgate port`);
    }
    const names = chosen.map(({ id, port }) => (port === null ? id : `port ${port}`));
    await Promise.all(chosen.map((one) => one.stop()));
    return names;
  }

  answer(request: unknown): Promise<Answer> {
    return answerWith(async () => {
      const wanted = parseSupervisorRequest(request);
      switch (wanted.command) {
        case 'status':
          return this.status();
        case 'attach':
          return await this.attach(wanted);
        case 'detach':
          return await this.detach(wanted.target);
      }
    }, bugsOf(this.#log));
  }

  /** What is attached, or awaited, for people. */
  get unfinished(): readonly string[] {
    return [...this.#attachments.values()].map(({ text, id }) => `${text} (${id})`);
  }

  async close(): Promise<void> {
    await this.detach('all');
    this.#lines.flush();
  }
}
