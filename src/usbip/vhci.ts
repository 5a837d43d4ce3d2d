/**
 * The kernel's virtual host controller (vhci-hcd), through its files in sysfs.
 *
 * `status`, `status.1`, ... list the ports of each controller, half of them for USB 2 and half for
 * SuperSpeed; to write "port descriptor device-id speed" to `attach` gives a connection to the
 * kernel, and to write a port to `detach` takes the device out.
 *
 * Stock `usbip port` shows "host port busid" from /var/run/vhci_hcd/portN, which `usbip attach`
 * writes and `usbip detach` removes. So do we: each tool works on the other's ports.
 *
 * Sources: drivers/usb/usbip/vhci_sysfs.c; tools/usb/usbip: libsrc/vhci_driver.c,
 * src/usbip_attach.c, src/usbip_detach.c.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Speed } from '../core/device.ts';
import { UserError } from '../core/errors.ts';
import { readRegular } from '../core/files.ts';
import { SPEED } from './protocol.ts';

/** vhci-hcd has all its files in its first controller's folder. */
const SYSFS_FOLDER = '/sys/devices/platform/vhci_hcd.0';
/** VHCI_STATE_PATH of the tools. */
const STATE_FOLDER = '/var/run/vhci_hcd';

/** What `usbip port` reads is at most as long as its buffers: NI_MAXHOST, NI_MAXSERV, 32. */
const RECORD_OCTETS_MAX = 100;

/** Numbers of enum usbip_device_status. */
const STATES = new Map([
  [4, 'free'],
  [5, 'attaching'],
  [6, 'used'],
  [7, 'error'],
] as const);
export type PortState = 'free' | 'attaching' | 'used' | 'error';

export interface VhciPort {
  readonly port: number;
  readonly hub: 'hs' | 'ss';
  readonly state: PortState;
  /** Bus number and device number at the server, as one number; 0 unless used. */
  readonly deviceId: number;
  /** Where the kernel has the device, such as 3-1; null until it has one. */
  readonly localBusId: string | null;
}

/** What the state file of a port says: where its device comes from. */
export interface PortRecord {
  readonly host: string;
  readonly service: string;
  readonly busId: string;
}

/** Ports of one status file; lines that make no sense are passed over. */
export function parseStatus(text: string): VhciPort[] {
  const ports: VhciPort[] = [];
  for (const line of text.split('\n')) {
    // hub port sta spd dev sockfd local_busid
    const [hub, port, state, , deviceId, , localBusId] = line.trim().split(/\s+/);
    if ((hub !== 'hs' && hub !== 'ss') || !/^\d+$/.test(port ?? '')) continue;
    const known = STATES.get(Number(state) as 4);
    if (known === undefined) continue;
    ports.push({
      port: Number(port),
      hub,
      state: known,
      deviceId: Number.parseInt(deviceId ?? '0', 16),
      localBusId: known === 'used' && localBusId !== undefined ? localBusId : null,
    });
  }
  return ports;
}

/** The hub that a device of this speed belongs to. */
export function hubOf(speed: Speed): VhciPort['hub'] {
  return speed === 'super' || speed === 'super-plus' ? 'ss' : 'hs';
}

export class Vhci {
  readonly #sysfs: string;
  readonly #state: string;

  /** Other folders are for tests. */
  constructor(sysfs = SYSFS_FOLDER, state = STATE_FOLDER) {
    this.#sysfs = sysfs;
    this.#state = state;
  }

  /**
   * @throws {UserError} if the kernel has no vhci now, or this is not its owner.
   */
  ports(): VhciPort[] {
    try {
      return readdirSync(this.#sysfs)
        .filter((name) => /^status(\.\d+)?$/.test(name))
        .flatMap((name) => parseStatus(readFileSync(join(this.#sysfs, name), 'utf8')))
        .sort((one, other) => one.port - other.port);
    } catch {
      throw new UserError(
        `Cannot use vhci: ${this.#sysfs} is not there, wanted the kernel's module: ` +
          'modprobe vhci-hcd',
      );
    }
  }

  port(number: number): VhciPort | undefined {
    return this.ports().find(({ port }) => port === number);
  }

  /**
   * Gives a connection to the kernel: on the wanted port if that is free and of the right speed,
   * else on the first free one.
   *
   * @param fd a stream socket of this process; the kernel keeps the socket, not the number.
   * @throws {UserError} if no port is free or the kernel refuses.
   */
  attach(fd: number, deviceId: number, speed: Speed, wanted?: number): number {
    const hub = hubOf(speed);
    const free = this.ports().filter((one) => one.hub === hub && one.state === 'free');
    const first = free.find(({ port }) => port === wanted);
    const candidates = first === undefined ? free : [first, ...free.filter((one) => one !== first)];
    // vhci knows no SuperSpeedPlus before Linux 6.12, and carries it as SuperSpeed all the same.
    const speedNumber = speed === 'super-plus' ? SPEED.super : SPEED[speed];
    for (const { port } of candidates) {
      // Another process may have taken it meanwhile.
      if (this.#tryAttach(port, fd, deviceId, speedNumber)) return port;
    }
    throw new UserError(
      `Cannot attach a device of ${speed} speed: no ${hub} port of vhci is free, wanted one; ` +
        'see urbgate port',
    );
  }

  #tryAttach(port: number, fd: number, deviceId: number, speed: number): boolean {
    try {
      writeFileSync(join(this.#sysfs, 'attach'), `${port} ${fd} ${deviceId} ${speed}`);
      return true;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === 'EBUSY') return false;
      if (code === 'EACCES') {
        throw new UserError('Cannot attach a device: only root may give devices to the kernel');
      }
      throw new UserError(
        `Cannot attach a device of speed ${speed} to vhci port ${port}: the kernel says ${message}`,
      );
    }
  }

  /**
   * Takes a device out; false if the port was free. It becomes free a little later.
   *
   * @throws {UserError} if there is no such port, or the kernel refuses.
   */
  detach(port: number): boolean {
    const found = this.port(port);
    if (found === undefined) {
      throw new UserError(`Cannot detach port ${port}: vhci has no such port, see urbgate port`);
    }
    this.forget(port);
    if (found.state === 'free') return false;
    try {
      writeFileSync(join(this.#sysfs, 'detach'), String(port));
    } catch (error) {
      if (this.port(port)?.state === 'free') return false;
      throw new UserError(`Cannot detach port ${port}: ${(error as Error).message}`);
    }
    return true;
  }

  /** Notes where the device of a port comes from, as `usbip attach` does. */
  record(port: number, { host, service, busId }: PortRecord): void {
    const line = `${host} ${service} ${busId}\n`;
    if (Buffer.byteLength(line) > RECORD_OCTETS_MAX) return; // the tool could not read it back
    mkdirSync(this.#state, { recursive: true, mode: 0o700 });
    // Whatever is there goes, and is not written to: it may be a link.
    const path = this.#recordPath(port);
    rmSync(path, { force: true });
    writeFileSync(path, line, { mode: 0o700, flag: 'wx' });
  }

  recorded(port: number): PortRecord | undefined {
    const text = this.#recordText(port);
    const [host, service, busId] = text.trim().split(' ');
    if (host === undefined || service === undefined || busId === undefined) return undefined;
    return { host, service, busId };
  }

  /** '' if there is none that can be read: names are a nicety. */
  #recordText(port: number): string {
    try {
      return readRegular(this.#recordPath(port), RECORD_OCTETS_MAX).toString('utf8');
    } catch {
      return '';
    }
  }

  /** Removes what `record` wrote; the folder goes with its last file, as the tool has it. */
  forget(port: number): void {
    rmSync(this.#recordPath(port), { force: true });
    if (existsSync(this.#state) && readdirSync(this.#state).length === 0) {
      rmSync(this.#state, { recursive: true, force: true });
    }
  }

  #recordPath(port: number): string {
    return join(this.#state, `port${port}`);
  }
}
