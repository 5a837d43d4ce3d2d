/**
 * One client's connection, without its socket: octets in, octets out.
 *
 *   operation --(device list)--> ending
 *   operation --(import granted)--> urbs --(device removed)--> ending
 *   operation --(import refused)--> ending
 *   operation --(import of a device that is being let go of)--> waiting --> granted or refused
 *
 * `receive` takes what arrives and throws `RemoteProtocolError` when the client broke the protocol;
 * `takeOutput` returns what there is to send. Replies also appear between two calls, when a device
 * ends a URB on its own time; `onOutput` says so.
 *
 * What is more than one turn's work of what `receive` got is kept (`isBehind`) until `goOn`.
 */
import { assert } from '../core/assert.ts';
import { systemClock } from '../core/clock.ts';
import type { Containment } from '../core/containment.ts';
import type { SessionLimits } from '../core/limits.ts';
import type { MemoryBudget } from '../core/memory-budget.ts';
import type { Claim, Registry } from '../core/registry.ts';
import type { SessionOptions } from '../core/session.ts';
import { OPERATION_BYTES, TurnBudget } from '../core/turn-budget.ts';
import type { Loan } from '../core/urb.ts';
import { RETURN_RECOVERY } from '../stall/fence.ts';
import type { BufferPool } from './buffer-pool.ts';
import {
  CAPABILITIES_KNOWN,
  CAPABILITY,
  readCapabilities,
  writeCapabilities,
} from './extension.ts';
import { Framer } from './framer.ts';
import {
  deviceIdOf,
  deviceListReply,
  importRefusal,
  importReply,
  parseOperation,
  pathOf,
} from './operations.ts';
import { ImportRequest, OPERATION, OpCommon } from './protocol.ts';
import { ReplyWriter } from './reply-writer.ts';
import { type Network, UrbPhase } from './urb-phase.ts';

export interface ConnectionOptions {
  readonly registry: Registry;
  /** The peer's address, for people. */
  readonly peer: string;
  readonly limits: SessionLimits;
  readonly pool: BufferPool;
  readonly network: Network;
  /** What all clients share; absent if there is one. */
  readonly memory?: MemoryBudget;
  /** See `Recovery`; default is by time. */
  readonly session?: SessionOptions;
  /** What it answers to clients that know the extension; 0 makes it a server without. */
  readonly capabilities?: number;
  /** Where bugs are told: close the connection then. */
  readonly containment: Containment;
  readonly onOutput: () => void;
  readonly onEvent: (event: ConnectionEvent) => void;
}

/** What is worth a line in the log. */
export type ConnectionEvent =
  | { readonly type: 'listed' }
  | { readonly type: 'imported'; readonly busId: string }
  | { readonly type: 'refused'; readonly busId: string; readonly reason: string };

/**
 * How long an import waits for the client before to let go of the device: longer than a reset, and than
 * a waiting packet of the usb package (docs/decisions/0070).
 */
const RELEASE_MILLISECONDS = 5_000;

/** Commands between two looks at the budget, which cost more than a command would bear. */
const COMMANDS_TOGETHER = 8;

/** An import that is not answered yet. */
interface Waiting {
  readonly busId: string;
  readonly offered: number | undefined;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #framer: Framer;
  readonly #writer = new ReplyWriter();
  readonly #budget = new TurnBudget();
  /** Input that waits for the next turn, from `#restStart` on; of the pool. */
  #rest: Buffer | null = null;
  #restStart = 0;
  #urbs: UrbPhase | null = null;
  #claim: Claim | null = null;
  #waiting: Waiting | null = null;
  #ending = false;
  /** `close` was called: what arrives is not looked at any more. */
  #closing = false;
  #receiving = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#framer = new Framer(this.#frameHandler(), options.pool);
  }

  /** True when nothing more is expected: send what there is, then close. */
  get ending(): boolean {
    return this.#ending;
  }

  /** An import waits for the client before to let go of the device, for a limited time. */
  get isWaiting(): boolean {
    return this.#waiting !== null;
  }

  /** Bus id of the imported device. */
  get busId(): string | undefined {
    return this.#claim?.export.busId;
  }

  /**
   * Takes octets from the client: one turn's work of them, the rest is kept for `goOn`.
   *
   * @param isSameTurn - the chunk came in the same turn of the event loop as the one before
   * @throws {RemoteProtocolError} if they break the protocol; close the connection then.
   */
  receive(chunk: Buffer, isSameTurn = false): void {
    if (this.#isOver) return;
    assert(this.#rest === null, 'Cannot take more: there is a rest, which comes first');
    if (!isSameTurn) this.#budget.renew();
    const end = this.#feed(chunk, 0);
    if (end === chunk.length || this.#isOver) return;
    this.#rest = this.#options.pool.take(chunk.length - end);
    this.#restStart = 0;
    chunk.copy(this.#rest, 0, end);
  }

  /** This turn's work is done, and perhaps not all of it: `goOn` in the next turn, before `receive`. */
  get isBehind(): boolean {
    return (this.#rest !== null || this.#budget.isSpent) && !this.#isOver;
  }

  /**
   * Takes what `receive` has left, up to one turn's work; the turn is a new one.
   *
   * @throws {RemoteProtocolError} as `receive`.
   */
  goOn(): void {
    const rest = this.#rest;
    this.#budget.renew();
    if (rest === null) return;
    this.#restStart = this.#feed(rest, this.#restStart);
    if (this.#restStart === rest.length || this.#isOver) this.#dropRest();
  }

  get #isOver(): boolean {
    return this.#ending || this.#closing;
  }

  /** A few commands after the other, until the budget is spent. Returns where the rest begins. */
  #feed(chunk: Buffer, start: number): number {
    this.#receiving = true;
    let at = start;
    try {
      // What is in the chunk is here already: to go through a part of it costs less than to keep that.
      do {
        const { position } = this.#writer;
        const from = at;
        at = this.#framer.receive(chunk, from, COMMANDS_TOGETHER);
        const movedBytes = at - from + this.#writer.position - position;
        this.#budget.spend(COMMANDS_TOGETHER * OPERATION_BYTES + movedBytes);
      } while (at < chunk.length && !this.#budget.isSpent);
      return at;
    } finally {
      this.#receiving = false;
    }
  }

  #dropRest(): void {
    if (this.#rest !== null) this.#options.pool.give(this.#rest);
    this.#rest = null;
  }

  /**
   * What there is to send, in order, for one gathered write. To be called also when what was sent before has
   * left and when the connection is closed, since memory is accounted for here.
   */
  takeOutput(): Uint8Array[] {
    this.#urbs?.noteMemory(this.#closing);
    return this.#writer.take();
  }

  /** What is lent of the output taken so far: to be given back when that has been sent, or never is. */
  takeLoans(): Loan[] {
    return this.#writer.takeLoans();
  }

  /**
   * Gives back the URBs and the device; resolves when another client may have it, and when all
   * replies are there to be sent.
   */
  async close(): Promise<void> {
    this.#closing = true;
    this.#waiting = null;
    this.#dropRest();
    this.#urbs?.close();
    await this.#claim?.release();
    this.#ending = true;
  }

  /** Chooses per frame between the two phases; `#urbs` tells which one it is. */
  #frameHandler() {
    const connection = this;
    return {
      get headerOctets() {
        return connection.#urbs?.headerOctets ?? OpCommon.octets;
      },
      get keepBody() {
        return connection.#urbs?.keepBody ?? true;
      },
      header(view: DataView, at: number): number {
        if (connection.#ending) return 0;
        if (connection.#urbs !== null) return connection.#urbs.header(view, at);
        if (connection.#waiting !== null) return connection.#refuseEager(connection.#waiting);
        return connection.#operationHeader(Buffer.from(view.buffer, at, OpCommon.octets));
      },
      keptOctets: (octets: number) => connection.#urbs?.keptOctets(octets) ?? octets,
      room: (octets: number) => connection.#urbs?.room(octets) ?? null,
      body(octets: Buffer, pooled: boolean): void {
        if (connection.#urbs !== null) connection.#urbs.body(octets, pooled);
        else connection.#import(ImportRequest.read(octets).busId, readCapabilities(octets));
      },
    };
  }

  #operationHeader(head: Buffer): number {
    const request = parseOperation(head);
    if (request.code === OPERATION.requestDeviceList) {
      this.#writer.append(deviceListReply(this.#options.registry.list()));
      this.#options.onEvent({ type: 'listed' });
      this.#ending = true;
    }
    return request.bodyOctets;
  }

  /** `offered`: the client's capabilities, if it knows of any. */
  #import(busId: string, offered: number | undefined): void {
    const { registry, session, containment } = this.#options;
    const freed = registry.freed(busId);
    if (freed === null) {
      this.#claimDevice(busId, offered);
      return;
    }
    const waiting = { busId, offered };
    const goOn = containment.guard(() => {
      cancel();
      if (this.#waiting !== waiting) return;
      this.#waiting = null;
      this.#claimDevice(busId, offered);
      this.#announce();
    });
    const cancel = (session?.clock ?? systemClock).after(RELEASE_MILLISECONDS, goOn);
    this.#waiting = waiting;
    void freed.then(goOn);
  }

  /** One that sends commands before it has the answer would have them kept meanwhile: not for long waits. */
  #refuseEager({ busId }: Waiting): number {
    this.#waiting = null;
    this.#refuse(busId, 'busy');
    return 0;
  }

  #refuse(busId: string, reason: string): void {
    const status = reason === 'busy' ? 'busy' : reason === 'unknown' ? 'noDevice' : 'deviceError';
    this.#writer.append(importRefusal(status));
    this.#options.onEvent({ type: 'refused', busId, reason });
    this.#ending = true;
  }

  #claimDevice(busId: string, offered: number | undefined): void {
    const { registry, peer, limits, pool, network, session, containment, onEvent } = this.#options;
    const memory = this.#options.memory?.account();
    const { capabilities = CAPABILITIES_KNOWN } = this.#options;
    const wanted = registry.get(busId);
    const agreed = (offered ?? 0) & capabilities;
    const stallProtocol = (agreed & CAPABILITY.stallProtocol) !== 0;
    const urbs = new UrbPhase({
      deviceId: wanted === undefined ? 0 : deviceIdOf(wanted),
      limits,
      writer: this.#writer,
      pool,
      network,
      ...(memory && { memory }),
      stallProtocol,
      borrows: true,
      onBug: (error) => containment.bug(error),
      budget: this.#budget,
      onReply: () => this.#announce(),
      onDeviceRemoved: () => {
        this.#ending = true;
        this.#announce();
      },
    });
    const recovery = stallProtocol ? { ...session, recovery: RETURN_RECOVERY } : session;
    const claim = this.#tryClaim(() => registry.claim(busId, peer, urbs, recovery));
    if (typeof claim === 'string') {
      this.#refuse(busId, claim);
      return;
    }
    urbs.begin(claim.session);
    this.#claim = claim;
    this.#urbs = urbs;
    const reply = importReply(claim.export);
    if (offered !== undefined && capabilities !== 0) writeCapabilities(pathOf(reply), agreed);
    this.#writer.append(reply);
    onEvent({ type: 'imported', busId });
  }

  /** A device that cannot be opened refuses the import; the reason goes to the log. */
  #tryClaim(claim: () => Claim | string): Claim | string {
    try {
      return claim();
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  #announce(): void {
    if (!this.#receiving) this.#options.onOutput();
  }
}
