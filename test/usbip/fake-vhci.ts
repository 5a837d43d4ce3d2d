/** A vhci that a test leads by the hand: its files in a folder, its two threads this process. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import type { Speed } from '../../src/core/device.ts';
import { descriptorOf } from '../../src/usbip/sockets.ts';
import { unreadOctets } from '../../src/usbip/unix-pair.ts';
import { Vhci } from '../../src/usbip/vhci.ts';
import { type Reply, Wire } from './scripted-client.ts';

const dup: (fd: number) => number = koffi.load(null).func('int dup(int fd)');

/** What the kernel does with the socket that it was given. */
export class FakeKernel {
  readonly wire = new Wire();
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #waiting = new Set<() => void>();
  /** Runs for each reply, before anything else is read: where completion handlers would. */
  onReply: (reply: Reply) => void = () => {};

  constructor(fd: number) {
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.closed = new Promise((resolve) => this.#socket.once('close', () => resolve()));
    this.#socket.on('error', () => {});
    this.#socket.on('data', (octets) => {
      for (const reply of this.wire.receive(octets)) this.onReply(reply);
      for (const look of [...this.#waiting]) look();
    });
  }

  send(...octets: Uint8Array[]): void {
    for (const one of octets) this.#socket.write(one);
  }

  /** Octets that wait to be read. */
  get unread(): number {
    return unreadOctets(descriptorOf(this.#socket));
  }

  /** Reads no replies until `resume`. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Waits for a reply, there already or still to come. */
  reply(seqnum: number): Promise<Reply> {
    return new Promise((resolve) => {
      const look = () => {
        const found = this.wire.replies.find((one) => one.seqnum === seqnum);
        if (found === undefined) return;
        this.#waiting.delete(look);
        resolve(found);
      };
      this.#waiting.add(look);
      look();
    });
  }

  /** As `usbip detach` does: the kernel shuts the socket down for everybody who has it. */
  detach(): void {
    this.#socket.end();
    this.#socket.destroySoon();
  }
}

export class FakeVhci extends Vhci {
  readonly folder: string;
  /** By port, whoever was attached last. */
  readonly attached = new Map<number, FakeKernel>();
  onAttached: (port: number) => void = () => {};

  constructor() {
    const folder = mkdtempSync(join(tmpdir(), 'urbgate-vhci-'));
    super(folder, join(folder, 'state'));
    this.folder = folder;
    this.#show();
  }

  override attach(fd: number, deviceId: number, speed: Speed, wanted?: number): number {
    writeFileSync(join(this.folder, 'attach'), '');
    const port = super.attach(fd, deviceId, speed, wanted);
    const kernel = new FakeKernel(dup(fd));
    this.attached.set(port, kernel);
    this.#show();
    kernel.closed.then(() => {
      if (this.attached.get(port) === kernel) this.attached.delete(port);
      this.#show();
    });
    this.onAttached(port);
    return port;
  }

  override detach(port: number): boolean {
    this.forget(port);
    const kernel = this.attached.get(port);
    kernel?.detach();
    return kernel !== undefined;
  }

  remove(): void {
    for (const kernel of this.attached.values()) kernel.detach();
    this.#show = () => {};
    rmSync(this.folder, { recursive: true, force: true });
  }

  #show = () => {
    const line = (hub: string, port: number) => {
      const number = String(port).padStart(4, '0');
      return this.attached.has(port)
        ? `${hub}  ${number} 006 003 00010002 000003 3-${port + 1}`
        : `${hub}  ${number} 004 000 00000000 000000 0-0`;
    };
    const lines = [0, 1, 2, 3].map((port) => line('hs', port));
    lines.push(...[8, 9].map((port) => line('ss', port)));
    writeFileSync(join(this.folder, 'status'), `hub port sta spd\n${lines.join('\n')}\n`);
  };
}
