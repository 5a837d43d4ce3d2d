/**
 * Stands between a device elsewhere and the kernel's vhci: a thin driver around `UrbPhase`
 * (towards vhci, over an AF_UNIX pair), `RelaySession` (towards the server) and the fence between.
 *
 *   server --TCP-- RemoteDevice -- RelaySession -- UrbPhase --AF_UNIX-- vhci_rx, vhci_tx
 *
 * Its end: vhci lets go (somebody has detached the port), the server lets go, or `close`. Whichever
 * it is, the other side is let go too. When this process dies, the kernel sees the end of the
 * connection, and the device is unplugged cleanly.
 */
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { type Clock, systemClock } from '../core/clock.ts';
import { Containment } from '../core/containment.ts';
import { RemoteProtocolError } from '../core/errors.ts';
import { DEFAULT_LIMITS } from '../core/limits.ts';
import { BufferPool } from './buffer-pool.ts';
import { Framer } from './framer.ts';
import type { RelayDevice } from './relay-device.ts';
import { RelaySession } from './relay-session.ts';
import type { RemoteEndpoints } from './remote-endpoints.ts';
import { ReplyWriter } from './reply-writer.ts';
import { socketReading, writeGathered } from './sockets.ts';
import { type UnixPair, unixPair, unreadOctets } from './unix-pair.ts';
import { UrbPhase } from './urb-phase.ts';
import type { Vhci } from './vhci.ts';
import { VhciFence } from './vhci-fence.ts';
import { type VhciThreads, vhciThreads, watchThreads } from './vhci-threads.ts';

/** Shared by all: what is read is consumed in one turn. */
const READ_MEMORY = Buffer.allocUnsafeSlow(256 * 1024);
/** The fence is looked at in each turn of the event loop so many times, then each millisecond. */
const EAGER_LOOKS = 32;
/** Replies that wait for vhci before the server is not read from any more. */
const UNSENT_OCTETS_MAX = 4 << 20;

/** For vhci to read what is left when a link ends. */
const GOODBYE_MILLISECONDS = 2_000;

/** Who ended a link: vhci's side (`usbip detach`), the server's, or `close`. */
export type LinkEnd = 'detached' | 'lost' | 'closed';

export interface LinkCounts {
  readonly urbs: number;
  readonly errors: number;
  /** Fences, and those of them that ended by time. */
  readonly fences: number;
  readonly timedFences: number;
}

export interface LinkOptions {
  /** The port of vhci to take if it is free and of the right speed. */
  readonly wantedPort?: number;
  /** Watches vhci in the kernel's place; for tests. */
  readonly threads?: VhciThreads;
  /** A bug has ended the link. Default: its error goes where exceptions go. */
  readonly onBug?: (error: unknown) => void;
  /** Another clock is for tests. */
  readonly clock?: Clock;
}

export class VhciLink {
  readonly port: number;
  /** Resolves when both sides are let go. */
  readonly ended: Promise<LinkEnd>;
  readonly #remote: RelayDevice;
  readonly #clock: Clock;
  readonly #pair: UnixPair;
  readonly #socket: Socket;
  readonly #writer = new ReplyWriter();
  readonly #session: RelaySession;
  readonly #framer: Framer;
  readonly #fence: VhciFence;
  readonly #threads: VhciThreads;
  /** All that comes from vhci, the server and timers runs in here. */
  readonly #containment: Containment;
  readonly #take = (chunk: Buffer) => this.#taken(chunk);
  readonly #flushLater;
  readonly #lookLater;
  #received = 0;
  #flushScheduled = false;
  #lookScheduled = false;
  #looks = 0;
  #end: LinkEnd | null = null;
  #isClosed = false;
  #cancelGoodbye = () => {};

  /**
   * Attaches the device to a port of vhci.
   *
   * @throws {UserError} if vhci takes no device now; the remote device is the caller's then.
   */
  constructor(
    remote: RelayDevice,
    endpoints: RemoteEndpoints,
    vhci: Vhci,
    { wantedPort, threads, onBug, clock = systemClock }: LinkOptions = {},
  ) {
    this.#remote = remote;
    this.#clock = clock;
    this.#containment = new Containment((error) => {
      this.#end ??= 'lost';
      this.#socket.destroy();
      if (onBug === undefined) throw error;
      onBug(error);
    });
    this.#flushLater = this.#containment.guard(() => this.#flush());
    this.#lookLater = this.#containment.guard(() => {
      this.#lookScheduled = false;
      this.#look();
    });
    const { deviceId } = remote;
    this.#pair = unixPair();
    const before = vhciThreads();
    try {
      this.port = vhci.attach(this.#pair.theirs, deviceId, endpoints.speed, wantedPort);
    } catch (error) {
      closeSync(this.#pair.ours);
      closeSync(this.#pair.theirs);
      throw error;
    }
    this.#threads = threads ?? watchThreads(before);
    this.#socket = socketReading(this.#pair.ours, READ_MEMORY, (chunk) =>
      this.#containment.run(this.#take, chunk),
    );
    const urbs = this.#urbPhase(deviceId);
    this.#fence = new VhciFence({
      written: () =>
        this.#writer.position - this.#writer.pendingOctets - this.#socket.writableLength,
      unread: () => unreadOctets(this.#pair.theirs),
      receiverSleeps: () => this.#threads.receiverSleeps(),
      senderSleeps: () => this.#threads.senderSleeps(),
      received: () => this.#received,
      arrived: () => unreadOctets(this.#pair.ours),
    });
    this.#session = new RelaySession(remote, endpoints, urbs, this.#containment, (mark) =>
      this.#reported(mark),
    );
    urbs.begin(this.#session);
    this.#framer = new Framer(urbs, new BufferPool());
    this.ended = this.#listen();
  }

  get counts(): LinkCounts {
    const { urbCount: urbs, errorCount: errors } = this.#session;
    const { rounds: fences, timedRounds: timedFences } = this.#fence;
    return { urbs, errors, fences, timedFences };
  }

  /** Unplugs the device and lets go of it at the server. */
  async close(): Promise<void> {
    this.#letGo('closed');
    await this.ended;
  }

  #urbPhase(deviceId: number): UrbPhase {
    return new UrbPhase({
      deviceId,
      limits: DEFAULT_LIMITS,
      writer: this.#writer,
      pool: new BufferPool(),
      network: { unsentOctets: () => this.#socket.writableLength, ackedOctets: () => undefined },
      stallProtocol: false,
      onReply: () => this.#scheduleFlush(),
      onDeviceRemoved: () => {},
      onBug: (error) => this.#containment.bug(error),
    });
  }

  #taken(chunk: Buffer): void {
    this.#received += chunk.length;
    try {
      this.#framer.receive(chunk);
    } catch (error) {
      this.#letGo('lost');
      if (!(error instanceof RemoteProtocolError)) throw error;
    }
    this.#flush();
    if (this.#fence.waits) this.#look();
  }

  #listen(): Promise<LinkEnd> {
    const socket = this.#socket;
    const letGo = (end: LinkEnd) => this.#containment.guard(() => this.#letGo(end));
    socket.on('end', letGo('detached'));
    socket.on('error', letGo('detached'));
    this.#remote.closed.then(letGo('lost'));
    return new Promise((resolve) => {
      socket.once('close', async () => {
        this.#isClosed = true;
        this.#cancelGoodbye();
        closeSync(this.#pair.theirs);
        this.#threads.close();
        await this.#remote.close().catch((error) => this.#containment.bug(error));
        resolve(this.#end ?? 'detached');
      });
    });
  }

  #letGo(end: LinkEnd): void {
    if (this.#end !== null) return;
    this.#end = end;
    this.#flush();
    this.#socket.destroySoon();
    if (this.#isClosed) return;
    this.#cancelGoodbye = this.#clock.after(GOODBYE_MILLISECONDS, () => this.#socket.destroy());
  }

  #scheduleFlush(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    process.nextTick(this.#flushLater);
  }

  #flush(): void {
    this.#flushScheduled = false;
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded) return;
    const pieces = this.#writer.take();
    if (pieces.length === 0) return;
    writeGathered(socket, pieces, this.#writer.takeLoans());
    if (socket.writableLength > UNSENT_OCTETS_MAX) this.#waitForVhci();
    if (this.#fence.waits) this.#look();
  }

  #waitForVhci(): void {
    this.#remote.pause?.();
    this.#socket.once('drain', () => this.#remote.resume?.());
  }

  #reported(mark: number): void {
    this.#fence.reported(mark);
    this.#looks = 0;
    this.#scheduleLook();
  }

  #scheduleLook(): void {
    if (this.#lookScheduled) return;
    this.#lookScheduled = true;
    if (this.#looks++ < EAGER_LOOKS) setImmediate(this.#lookLater);
    else setTimeout(this.#lookLater, 1);
  }

  #look(): void {
    if (this.#isClosed) return;
    const mark = this.#fence.look(performance.now());
    if (mark >= 0) {
      this.#looks = 0;
      this.#session.fenceOpened(mark);
    }
    if (this.#fence.waits) this.#scheduleLook();
  }
}
