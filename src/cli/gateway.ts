/**
 * A running gateway: the registry of exports, the USB/IP server in front of it, and what
 * `urbgate status` wants to know. Commands come from `serve` and from the control socket.
 */
import type { Speed, UsbDevice } from '../core/device.ts';
import { disposeOf } from '../core/dispose.ts';
import { parseExportSpec } from '../core/export-spec.ts';
import type { PeerLines } from '../core/peer-log.ts';
import { timedRecovery } from '../core/recovery.ts';
import { type Export, type Holder, Registry } from '../core/registry.ts';
import type { DeviceSession } from '../core/session.ts';
import { formatAddress, type ListenAddress, type ServerLog, UsbipServer } from '../usbip/server.ts';
import { Backends } from '../xenring/backends.ts';
import type { Platform } from '../xenring/platform.ts';
import { Closing, type Rings } from './closing.ts';
import { type Log, peerLines } from './log.ts';
import { Openings } from './openings.ts';
import { type Opened, openSource, type Source } from './schemes.ts';

/** What has passed through an export, over all its clients. */
export interface UrbCounts {
  readonly urbs: number;
  readonly errors: number;
}

export interface ClientStatus extends UrbCounts {
  readonly peer: string;
  /** ISO 8601, UTC */
  readonly since: string;
  readonly outstanding: number;
}

export interface ExportStatus {
  readonly busId: string;
  readonly spec: string;
  /** vvvv:pppp */
  readonly deviceId: string;
  readonly speed: Speed;
  readonly label: string;
  /** Who has the device now. Its counts are part of `total`. */
  readonly client: ClientStatus | null;
  /** Why nobody can have it: a bug has left it in disorder. */
  readonly fault: string | null;
  readonly total: UrbCounts;
}

export interface GatewayStatus {
  readonly pid: number;
  readonly listening: readonly string[];
  readonly exports: readonly ExportStatus[];
}

export class Gateway {
  readonly #registry = new Registry();
  readonly #server: UsbipServer;
  readonly #log: Log;
  readonly #peerLines: PeerLines;
  readonly #ringLines: PeerLines;
  readonly #listening: string[] = [];
  readonly #rings: Rings[] = [];
  readonly #openings = new Openings();
  readonly #closing: Closing;
  #closed: Promise<void> | null = null;
  readonly #sources = new Set<Source>();
  /** Of devices that keep their bus id while they are gone, by that. */
  readonly #keepers = new Map<string, Source>();
  /** Sums over the sessions that have ended. */
  readonly #pasts = new WeakMap<Export, UrbCounts>();
  /** Kept from claim to release: the export has forgotten its holder when it says 'released'. */
  readonly #holders = new WeakMap<Export, Holder>();

  /** `stallHoldMilliseconds`: see `timedRecovery`. */
  constructor(log: Log, stallHoldMilliseconds?: number) {
    this.#log = log;
    this.#peerLines = peerLines(log, 'info');
    this.#ringLines = peerLines(log, 'debug');
    this.#closing = new Closing(log);
    this.#server = new UsbipServer({
      registry: this.#registry,
      session: { recovery: timedRecovery(stallHoldMilliseconds) },
      // Who attached and released what is said below, with more to it.
      log: quieter(log),
    });
    this.#registry.on('claimed', (one) => this.#claimed(one));
    this.#registry.on('released', (one) => this.#released(one));
  }

  /**
   * @throws {UserError} if the address cannot be had.
   */
  async listen(address: ListenAddress): Promise<ListenAddress> {
    const bound = await this.#server.listen(address);
    this.#listening.push(formatAddress(bound));
    return bound;
  }

  /** Serves the front ends of a platform, until `close`, which closes the platform too. */
  async serveRings(name: string, platform: Platform): Promise<void> {
    const backends = new Backends({
      platform,
      registry: this.#registry,
      log: this.#ringLines,
    });
    this.#rings.push({ name, platform, backends });
    await backends.start();
    this.#listening.push(`rings of ${name}`);
  }

  /**
   * Exports what a SPEC asks for: none yet, if it waits for devices.
   *
   * @param folder what relative paths in it are relative to.
   * @param busIdDefault for a device that neither the spec nor its scheme has one for; the next free
   * one if absent.
   * @throws {UserError} if that is impossible; nothing has changed then.
   */
  export(text: string, folder: string, busIdDefault?: string): Promise<ExportStatus[]> {
    return this.#openings.run(() => this.#export(text, folder, busIdDefault));
  }

  async #export(text: string, folder: string, busIdDefault?: string): Promise<ExportStatus[]> {
    const spec = parseExportSpec(text);
    if (spec.busId !== undefined) this.#registry.checkBusId(spec.busId, text);
    let busId = spec.busId;
    const context = {
      folder,
      onFault: (error: unknown) => {
        const stack = error instanceof Error ? error.stack : error;
        this.#peerLines.error(`Device ${text} failed: ${stack}`, 'device failures', text);
      },
      onAdded: (one: Opened) => this.#came(one, text, busId),
      onGone: (device: UsbDevice) => this.#gone(device),
      onRefused: (reason: string) => this.#peerLines.warn(reason, 'refused devices', text),
      onAwaited: (why: string) =>
        this.#peerLines.info(`${text} is awaited: ${why}`, 'awaited devices', text),
    };
    const source = await this.#openings.open(text, () => openSource(spec, context));
    const added: Export[] = [];
    try {
      for (const one of source.devices) {
        added.push(this.#add(one, text, spec.busId, busIdDefault));
      }
    } catch (error) {
      source.stop();
      for (const { busId } of added) await this.#registry.remove(busId);
      for (const { device } of source.devices.slice(added.length)) await disposeOf(device);
      throw error;
    }
    this.#sources.add(source);
    if (source.keepsBusId) {
      busId ??= added[0]?.busId ?? this.#freeBusId(busIdDefault);
      this.#registry.keep(busId);
      this.#keepers.set(busId, source);
    }
    for (const { busId } of added) this.#log.debug(`exported ${busId}: ${text}`);
    return added.map((one) => this.#statusOf(one));
  }

  /**
   * Takes an export back; its client, if any, is told that the device has gone. One that is awaited
   * under this bus id is so no longer.
   *
   * @throws {UserError} if there is no such bus id.
   */
  async unexport(busId: string): Promise<void> {
    const keeper = this.#keepers.get(busId);
    if (keeper !== undefined) {
      keeper.stop();
      this.#keepers.delete(busId);
      this.#sources.delete(keeper);
      this.#registry.giveUp(busId);
    }
    if (keeper === undefined || this.#registry.get(busId) !== undefined) {
      await this.#registry.remove(busId);
    }
    this.#log.debug(`unexported ${busId}`);
  }

  /**
   * Takes a device away from its client; resolves with the client's name when another one may have it.
   *
   * @throws {UserError} if there is no such bus id, nobody has the device, or it does not let go in time.
   */
  async kick(busId: string): Promise<string> {
    const peer = await this.#registry.kick(busId);
    this.#log.info(`${busId} was taken from ${peer}`);
    return peer;
  }

  status(): GatewayStatus {
    return {
      pid: process.pid,
      listening: this.#listening,
      exports: this.#registry.list().map((one) => this.#statusOf(one)),
    };
  }

  /** Says goodbye to every client, then lets go of every device. Never rejects. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** What `close` waits for, for people. */
  get unfinished(): readonly string[] {
    return this.#closing.unfinished;
  }

  async #close(): Promise<void> {
    for (const source of this.#sources) source.stop();
    const [openings, server, registry] = [this.#openings, this.#server, this.#registry];
    await this.#closing.close({ openings, server, rings: this.#rings, registry });
    for (const source of this.#sources) source.stop(); // those that came about meanwhile
    this.#peerLines.flush();
    this.#ringLines.flush();
  }

  #add(one: Opened, text: string, named?: string, busIdDefault?: string): Export {
    // Of several devices that one spec names, the first has the id, the others follow.
    const wanted = named ?? one.busId;
    if (wanted !== undefined) {
      return this.#registry.add(one.device, text, this.#registry.freeBusIdBelow(wanted));
    }
    return this.#registry.add(one.device, text, this.#freeBusId(busIdDefault));
  }

  /** The default if it is free, or else the next free one. */
  #freeBusId(busIdDefault: string | undefined): string {
    const isTaken = busIdDefault === undefined || this.#registry.get(busIdDefault) !== undefined;
    return isTaken ? this.#registry.freeBusId() : busIdDefault;
  }

  /** A device that a spec waits for was plugged in. */
  async #came(one: Opened, text: string, named: string | undefined): Promise<void> {
    try {
      const { busId, info } = this.#add(one, text, named);
      const line = `exporting ${busId} ${text} (${info.label})`;
      this.#peerLines.info(line, 'devices that came', text);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#peerLines.warn(message, 'refused devices', text);
      await disposeOf(one.device);
    }
  }

  #gone(device: UsbDevice): void {
    const gone = this.#registry.list().find((one) => one.device === device);
    if (gone === undefined) return;
    this.#peerLines.info(
      `${gone.busId} has gone: unplugged, or this machine slept (${gone.info.label})`,
      'devices that went',
      gone.spec,
    );
    this.#registry.remove(gone.busId).catch((error) => {
      this.#log.error({ err: error }, `Cannot remove ${gone.busId}`);
    });
  }

  #claimed(one: Export): void {
    if (one.holder === null) return;
    this.#holders.set(one, one.holder);
    const line = `${one.holder.peer} attached ${one.busId} (${one.info.label})`;
    this.#peerLines.info(line, 'attached devices', addressOf(one.holder));
  }

  #released(one: Export): void {
    const holder = this.#holders.get(one);
    if (holder === undefined) return;
    this.#holders.delete(one);
    const counts = countsOf(holder.session);
    this.#pasts.set(one, sum(this.#pastOf(one), counts));
    this.#peerLines.info(
      `${holder.peer} released ${one.busId} after ${counts.urbs} URBs, ${counts.errors} failed`,
      'released devices',
      addressOf(holder),
    );
  }

  #pastOf(one: Export): UrbCounts {
    return this.#pasts.get(one) ?? { urbs: 0, errors: 0 };
  }

  #statusOf(one: Export): ExportStatus {
    const { info } = one;
    const holder = one.holder;
    const past = this.#pastOf(one);
    return {
      busId: one.busId,
      spec: one.spec,
      deviceId: deviceIdText(info.vendorId, info.productId),
      speed: info.speed,
      label: info.label,
      client: holder && {
        peer: holder.peer,
        since: holder.since.toISOString(),
        ...countsOf(holder.session),
        outstanding: holder.session.outstandingCount,
      },
      fault: one.fault,
      total: holder === null ? past : sum(past, countsOf(holder.session)),
    };
  }
}

/** The log of a part whose news are said here, with more to it. */
function quieter(log: Log): ServerLog {
  return {
    info: (message) => log.debug(message),
    warn: (message) => log.warn(message),
    bug: (error, what) => log.error({ err: error }, what),
  };
}

/** Of a client, without the port: a guest has none. */
function addressOf({ peer }: Holder): string {
  return peer.replace(/:\d+$/, '');
}

function countsOf(session: DeviceSession): UrbCounts {
  return { urbs: session.urbCount, errors: session.errorCount };
}

function sum(a: UrbCounts, b: UrbCounts): UrbCounts {
  return { urbs: a.urbs + b.urbs, errors: a.errors + b.errors };
}

/** vvvv:pppp, as lsusb has it. */
export function deviceIdText(vendorId: number, productId: number): string {
  const hex = (value: number) => value.toString(16).padStart(4, '0');
  return `${hex(vendorId)}:${hex(productId)}`;
}
