/**
 * Hands the connection to a server over to the kernel's vhci, as `usbip attach` does: no process is
 * between them any more, and none keeps the guarantee at this side.
 *
 * Nobody tells when the kernel lets go, so the port is looked at once in a while. If its state file
 * has gone too, somebody has detached it; else the server has.
 */
import type { Speed } from '../core/device.ts';
import { importSocket } from './import-socket.ts';
import { deviceIdOf } from './operations.ts';
import { DeviceRecord, OpCommon, SPEED_NAMES } from './protocol.ts';
import type { ListenAddress } from './server.ts';
import { descriptorOf } from './sockets.ts';
import type { Vhci } from './vhci.ts';
import type { LinkCounts, LinkEnd } from './vhci-link.ts';

const LOOK_MILLISECONDS = 500;

export class DirectLink {
  readonly port: number;
  readonly speed: Speed;
  readonly ended: Promise<LinkEnd>;
  readonly stallProtocol = false;
  /** What passes is not seen. */
  readonly counts: LinkCounts = { urbs: 0, errors: 0, fences: 0, timedFences: 0 };
  readonly #vhci: Vhci;
  #end: (end: LinkEnd) => void = () => {};
  readonly #timer: NodeJS.Timeout;

  private constructor(vhci: Vhci, port: number, speed: Speed) {
    this.#vhci = vhci;
    this.port = port;
    this.speed = speed;
    this.#timer = setInterval(() => this.#look(), LOOK_MILLISECONDS);
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /**
   * @throws {UserError} if the server refuses, or vhci takes no device now.
   */
  static async attach(
    server: ListenAddress,
    busId: string,
    vhci: Vhci,
    wantedPort?: number,
  ): Promise<DirectLink> {
    const { socket, reply } = await importSocket(server, busId, { stallProtocol: false });
    try {
      const record = DeviceRecord.read(reply, OpCommon.octets);
      const speed = SPEED_NAMES.get(record.speed) ?? 'high';
      const port = vhci.attach(descriptorOf(socket), deviceIdOf(record), speed, wantedPort);
      return new DirectLink(vhci, port, speed);
    } finally {
      socket.on('close', () => {});
      socket.destroy(); // only our descriptor of it: the kernel has its own
    }
  }

  async close(): Promise<void> {
    this.#finish('closed');
    this.#vhci.detach(this.port);
  }

  #look(): void {
    try {
      if (this.#vhci.port(this.port)?.state !== 'free') return;
      this.#finish(this.#vhci.recorded(this.port) === undefined ? 'detached' : 'lost');
    } catch {
      this.#finish('lost'); // vhci itself has gone
    }
  }

  #finish(end: LinkEnd): void {
    clearInterval(this.#timer);
    this.#end(end);
  }
}
