/**
 * The URB phase of a connection: commands in, URBs to the session, replies out.
 *
 * It translates and decides nothing about queues. Each CMD_SUBMIT gets one RET_SUBMIT, unless it is
 * unlinked in time; each CMD_UNLINK gets one RET_UNLINK. A URB that an unlink brings back with
 * octets moved is reported with both, RET_SUBMIT first: RET_UNLINK carries no data, and vhci takes
 * that order as "it had ended before", so what the device moved is not lost.
 */
import { assert } from '../core/assert.ts';
import type { EndpointInfo, UsbDevice } from '../core/device.ts';
import { RemoteProtocolError } from '../core/errors.ts';
import type { SessionLimits } from '../core/limits.ts';
import type { MemoryAccount } from '../core/memory-budget.ts';
import type { SessionClient } from '../core/session.ts';
import { OPERATION_BYTES, type TurnBudget } from '../core/turn-budget.ts';
import { type Room, Urb, type UrbStatus } from '../core/urb.ts';
import type { Evidence } from '../stall/fence.ts';
import type { BufferPool } from './buffer-pool.ts';
import { ClientMemory, costOf, ISO_PACKET_BYTES, type Unsent } from './client-memory.ts';
import { EarlyUnlinks } from './early-unlinks.ts';
import { CLEAR_STALL_FLAG } from './extension.ts';
import type { FrameHandler } from './framer.ts';
import { CmdUnlink, COMMAND, HEADER_OCTETS, IsoDescriptor } from './protocol.ts';
import type { ReplyWriter } from './reply-writer.ts';
import {
  bodyOctets,
  buildUrb,
  emptySubmitHeader,
  endpointOf,
  readSubmit,
  refusal,
} from './submit.ts';

const NO_OCTETS = Buffer.alloc(0);

/** What the socket knows. */
export interface Network extends Unsent {
  /** How much of what was ever sent the client's TCP has acknowledged, if that can be told. */
  ackedOctets(): number | undefined;
}

/** Where URBs go: a `DeviceSession` of this gateway, or a device of another server. */
export interface UrbSession {
  readonly device: Pick<UsbDevice, 'endpoint' | 'room'>;
  readonly isOpen: boolean;
  readonly outstandingCount: number;
  has(id: number): boolean;
  outstanding(id: number): Urb | undefined;
  submit(urb: Urb): void;
  unlink(id: number): void;
  overtaken(endpoint: EndpointInfo): void;
}

export interface UrbPhaseOptions {
  readonly deviceId: number;
  readonly limits: SessionLimits;
  readonly writer: ReplyWriter;
  readonly pool: BufferPool;
  readonly network: Network;
  /** What this client shares with others; absent if there are none. */
  readonly memory?: MemoryAccount;
  /** Agreed upon with the client; see extension.ts. */
  readonly stallProtocol: boolean;
  /** The writer's loans are given back when what it wrote has been sent. */
  readonly borrows?: boolean;
  /** What isochronous packets count in; whoever hands on the commands counts those. */
  readonly budget?: TurnBudget;
  /** A reply was written. */
  readonly onReply: () => void;
  readonly onDeviceRemoved: () => void;
  /** The session has failed; see `SessionClient`. */
  readonly onBug: (error: unknown) => void;
}

export class UrbPhase implements FrameHandler, SessionClient {
  readonly headerOctets = HEADER_OCTETS;
  readonly borrows: boolean;
  keepBody = true;
  readonly failed: (error: unknown) => void;
  readonly #options: UrbPhaseOptions;
  /** Set right after construction: the session needs its client first. */
  #session: UrbSession | null = null;
  readonly #header = emptySubmitHeader();
  #endpoint: EndpointInfo | undefined;
  /**
   * The endpoint last seen under each number, IN from 16 on. A URB that was under way when its
   * endpoint went away still brings packet descriptors if that was isochronous.
   */
  readonly #seen: (EndpointInfo | undefined)[] = new Array(32).fill(undefined);
  /** Packet descriptors stand at the end of the body. */
  #isochronous = false;
  /** Why the URB of `#header` is refused, or 'ok'. */
  #refusal: UrbStatus = 'ok';
  /** Where the body at hand is gathered, if that is the device's. */
  #room: Room | null = null;
  readonly #memory: ClientMemory;
  readonly #earlyUnlinks: EarlyUnlinks;

  constructor(options: UrbPhaseOptions) {
    this.#options = options;
    this.borrows = options.borrows ?? false;
    this.failed = options.onBug;
    const { limits, writer, network, memory } = options;
    this.#memory = new ClientMemory(limits, writer, network, memory);
    this.#earlyUnlinks = new EarlyUnlinks(limits.urbsMax);
  }

  begin(session: UrbSession): void {
    this.#session = session;
  }

  /** What the client holds counts for others from now on; nothing if it is gone. */
  noteMemory(isGone: boolean): void {
    if (isGone) this.#memory.free();
    else this.#memory.note(this.#session?.outstandingCount ?? 0, this.#earlyUnlinks.count);
  }

  header(view: DataView, at: number): number {
    const command = view.getUint32(at);
    if (command === COMMAND.submit) return this.#submitHeader(view, at);
    if (command === COMMAND.unlink) {
      this.#unlink(view, at);
      return 0;
    }
    throw new RemoteProtocolError(
      'bad-command',
      `Cannot accept command: ${command}, wanted 1 (submit) or 2 (unlink)`,
    );
  }

  room(octets: number): Buffer | null {
    const { device } = this.#openSession();
    if (this.#refusal !== 'ok' || this.#endpoint === undefined) return null;
    this.#room = device.room?.(this.#endpoint, octets) ?? null;
    return this.#room?.octets.subarray(0, octets) ?? null;
  }

  body(octets: Buffer, pooled: boolean): void {
    this.#memory.arrivingBytes = 0;
    // What is in a chunk has to be copied sooner or later: best to where it need not be again.
    const lasts = pooled || this.#room !== null;
    if (lasts) this.#lookAgain();
    const room = lasts ? null : this.room(octets.length);
    if (room !== null) octets.copy(room);
    this.#submit(room ?? octets, pooled);
  }

  /** Of the body of a URB that is refused only the packet descriptors are needed: see `refuse`. */
  keptOctets(octets: number): number {
    if (this.#refusal === 'ok') return octets;
    return Math.min(octets, this.#header.packetCount * IsoDescriptor.octets);
  }

  /** No more comes, in the middle of a body perhaps. */
  close(): void {
    this.#room?.giveBack();
    this.#room = null;
  }

  gaveBack(urb: Urb): void {
    const { writer, pool } = this.#options;
    this.#memory.outstandingBytes -= costOf(urb.octets, urb.packets);
    if (urb.pooled !== null) {
      pool.give(urb.pooled);
      urb.pooled = null;
    }
    urb.room?.giveBack();
    urb.room = null;
    const came = urb.status === 'unlinked' && urb.actualOctets === 0;
    if (!came || urb.unlinkTag < 0) writer.submitReply(urb);
    if (urb.unlinkTag >= 0) writer.unlinkReply(urb.unlinkTag, came ? 'unlinked' : 'ok');
    this.#options.onReply();
  }

  deviceRemoved(): void {
    this.#options.onDeviceRemoved();
  }

  /** The place in the stream behind the last report. */
  reportMark(): number {
    return this.#options.writer.position;
  }

  /**
   * A client that has not acknowledged a report cannot have known of it when it sent this. And a URB whose
   * number is older than the last unlink's was submitted before that, and so before the report of it:
   * clients number what their drivers ask for in that order (vhci: under one lock), whenever they send it.
   */
  evidence(mark: number, seqnum?: number): Evidence {
    if (seqnum !== undefined && this.#earlyUnlinks.isOlder(seqnum)) return 'sent-before-report';
    const acked = this.#options.network.ackedOctets();
    if (acked === undefined) return 'unknown';
    return acked < mark ? 'sent-before-report' : 'sent-after-report';
  }

  #submitHeader(view: DataView, at: number): number {
    const session = this.#openSession();
    const header = this.#header;
    readSubmit(view, at, header);
    this.#checkDevice(header.seqnum, header.deviceId);
    if (session.has(header.seqnum)) {
      throw new RemoteProtocolError(
        'duplicate-seqnum',
        `Cannot accept URB ${header.seqnum}: a URB of this number is outstanding, wanted a new one`,
      );
    }
    const { limits } = this.#options;
    this.#endpoint = endpointOf(header, session.device);
    const seen = this.#see(this.#endpoint);
    this.#isochronous = seen?.type === 'isochronous';
    const octets = bodyOctets(header, seen, limits);
    if (this.#isochronous) this.#options.budget?.spend(header.packetCount * OPERATION_BYTES);
    if (this.#wasUnlinked(header.seqnum)) {
      this.keepBody = false;
      return octets;
    }
    this.#refusal = session.isOpen ? refusal(header, this.#endpoint, limits) : 'shutdown';
    const cost = header.octets + (this.#isochronous ? header.packetCount * ISO_PACKET_BYTES : 0);
    if (this.#refusal === 'ok' && !this.#memory.admits(session.outstandingCount, cost))
      this.#refusal = 'no-memory';
    // Packet descriptors are needed even for a refusal; data alone is passed over.
    this.keepBody = this.#refusal === 'ok' || this.#isochronous;
    if (octets === 0) this.#submit(NO_OCTETS, false);
    else if (!this.keepBody) this.#refuse(this.#refusal, NO_OCTETS);
    else if (this.#refusal === 'ok') this.#memory.arrivingBytes = cost;
    return octets;
  }

  /** Whether the URB's unlink has overtaken it, which is answered then; see early-unlinks.ts. */
  #wasUnlinked(seqnum: number): boolean {
    const unlink = this.#earlyUnlinks.arrived(seqnum);
    if (this.#earlyUnlinks.isEmpty) return false;
    const { writer } = this.#options;
    for (const missed of this.#earlyUnlinks.takeMissed()) writer.unlinkReply(missed, 'ok');
    if (unlink === undefined) return false;
    writer.unlinkReply(unlink, 'unlinked');
    const session = this.#openSession();
    if (this.#endpoint !== undefined && session.isOpen) session.overtaken(this.#endpoint);
    return true;
  }

  /** The endpoint that the header names, or else the one that it named before. */
  #see(endpoint: EndpointInfo | undefined): EndpointInfo | undefined {
    const { endpoint: number, direction } = this.#header;
    if (number > 15) return undefined;
    const index = number | ((direction & 1) << 4);
    if (endpoint !== undefined) this.#seen[index] = endpoint;
    return this.#seen[index];
  }

  /** Anything may have happened while a body arrived in pieces. */
  #lookAgain(): void {
    const session = this.#openSession();
    const isThere = endpointOf(this.#header, session.device) === this.#endpoint;
    if (this.#refusal === 'ok' && !(session.isOpen && isThere)) this.#refusal = 'shutdown';
  }

  #submit(body: Buffer, pooled: boolean): void {
    const endpoint = this.#endpoint;
    const built =
      this.#refusal === 'ok' && endpoint !== undefined
        ? buildUrb(this.#header, endpoint, body)
        : this.#refusal;
    if (!(built instanceof Urb)) {
      this.#refuse(built, this.#isochronous ? body : NO_OCTETS);
      if (pooled) this.#options.pool.give(body);
      this.close();
      return;
    }
    if (pooled) built.pooled = body;
    const inRoom = this.#room !== null;
    built.room = this.#room;
    this.#room = null;
    if (this.#options.stallProtocol) {
      built.clearStall = (this.#header.transferFlags & CLEAR_STALL_FLAG) !== 0;
    }
    this.#memory.outstandingBytes += costOf(built.octets, built.packets);
    this.#openSession().submit(built);
    // The memory of a chunk is used again for the next one; what waits needs its own.
    if (built.outstanding && !pooled && !inRoom) built.dataOut = Buffer.from(built.dataOut);
  }

  /** `body` ends with the packet descriptors of an isochronous URB, or is empty. */
  #refuse(status: UrbStatus, body: Buffer): void {
    const { seqnum, packetCount } = this.#header;
    const descriptors = body.length === 0 ? body : body.subarray(-16 * packetCount);
    this.#options.writer.refusedReply(seqnum, status, packetCount === 0 ? NO_OCTETS : descriptors);
  }

  #unlink(view: DataView, at: number): void {
    const seqnum = view.getUint32(at + CmdUnlink.offsets.seqnum);
    this.#checkDevice(seqnum, view.getUint32(at + CmdUnlink.offsets.deviceId));
    const victim = view.getUint32(at + CmdUnlink.offsets.victim);
    this.#earlyUnlinks.unlinked(seqnum);
    const session = this.#openSession();
    const urb = session.outstanding(victim);
    if (urb === undefined && this.#earlyUnlinks.keep(victim, seqnum)) return;
    if (urb === undefined || urb.unlinkTag >= 0) {
      this.#options.writer.unlinkReply(seqnum, 'ok'); // its RET_SUBMIT has gone out before
      return;
    }
    urb.unlinkTag = seqnum;
    session.unlink(victim);
  }

  /** devid 0 is what some clients send; the kernel repeats the one of OP_REP_IMPORT. */
  #checkDevice(seqnum: number, deviceId: number): void {
    if (deviceId === this.#options.deviceId || deviceId === 0) return;
    throw new RemoteProtocolError(
      'bad-device-id',
      `Cannot accept command ${seqnum}: device id ${deviceId}, wanted ${this.#options.deviceId}`,
    );
  }

  #openSession(): UrbSession {
    assert(this.#session !== null, 'Cannot accept a command: no device is imported');
    return this.#session;
  }
}
