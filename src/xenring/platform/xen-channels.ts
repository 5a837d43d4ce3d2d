/**
 * Event channels through /dev/xen/evtchn: one descriptor for all of them.
 *
 * Reading gives the ports that have events; the driver masks each of them until its number is
 * written back. That is done after the callbacks: events that come meanwhile make one more.
 */
import { assert } from '../../core/assert.ts';
import { guarded } from '../../core/foreign-calls.ts';
import { type Domain, type EventChannel, PlatformError } from '../platform.ts';
import { lastErrno, libc, whenReadable } from './libc.ts';
import { XenDevice } from './xen-device.ts';
import {
  EVTCHN_BIND_INTERDOMAIN,
  EVTCHN_BIND_UNBOUND,
  EVTCHN_NOTIFY,
  EVTCHN_UNBIND,
} from './xen-ioctls.ts';

/** Ports taken by one read; more come with the next. */
const PORTS_PER_READ = 64;
const PORT_OCTETS = 4;

export class XenChannels {
  readonly #device: XenDevice;
  readonly #channels = new Map<number, XenChannel>();
  readonly #ports = Buffer.alloc(PORTS_PER_READ * PORT_OCTETS);
  readonly #poll: { close(): void };
  readonly #read = libc().read;
  readonly #write = libc().write;
  #closed = false;

  constructor() {
    this.#device = new XenDevice('/dev/xen/evtchn');
    this.#poll = whenReadable(this.#device.fd, () => this.#dispatch());
  }

  get size(): number {
    return this.#channels.size;
  }

  /** @throws {PlatformError} */
  offer(peer: Domain): EventChannel {
    const argument = EVTCHN_BIND_UNBOUND.struct.write({ domain: peer });
    return this.#add(
      this.#device.control(EVTCHN_BIND_UNBOUND, argument),
      `offer a channel to domain ${peer}`,
    );
  }

  /** @throws {PlatformError} if the peer offers no such port. */
  bind(peer: Domain, port: number): EventChannel {
    const argument = EVTCHN_BIND_INTERDOMAIN.struct.write({ domain: peer, port });
    return this.#add(
      this.#device.control(EVTCHN_BIND_INTERDOMAIN, argument),
      `bind port ${port} of domain ${peer}`,
    );
  }

  close(): void {
    this.#closed = true;
    for (const channel of this.#channels.values()) channel.close();
    this.#poll.close();
    this.#device.close();
  }

  #add(port: number, what: string): EventChannel {
    if (port < 0) throw new PlatformError(`Cannot ${what}: ${lastErrno()}`);
    const channel = new XenChannel(this.#device, port, () => this.#channels.delete(port));
    this.#channels.set(port, channel);
    return channel;
  }

  #dispatch(): void {
    const octets = Number(this.#read(this.#device.fd, this.#ports, this.#ports.length));
    if (octets <= 0) return;
    for (let at = 0; at + PORT_OCTETS <= octets; at += PORT_OCTETS) {
      const channel = this.#channels.get(this.#ports.readUInt32LE(at));
      if (channel !== undefined) guarded(channel.onEvent); // the others are not read again
    }
    // A callback may have closed all, and the descriptor be another one by now.
    if (!this.#closed) this.#write(this.#device.fd, this.#ports, octets);
  }
}

class XenChannel implements EventChannel {
  readonly port: number;
  onEvent: () => void = () => {};
  readonly #device: XenDevice;
  readonly #onClose: () => void;
  /** The port, as notify and unbind both want it. */
  readonly #argument: Buffer;
  #closed = false;

  constructor(device: XenDevice, port: number, onClose: () => void) {
    this.#device = device;
    this.port = port;
    this.#onClose = onClose;
    this.#argument = EVTCHN_NOTIFY.struct.write({ port });
  }

  notify(): void {
    assert(!this.#closed, 'Cannot notify: the channel has been closed');
    this.#device.control(EVTCHN_NOTIFY, this.#argument);
  }

  close(): void {
    assert(!this.#closed, 'Cannot close a channel: it has been closed');
    this.#closed = true;
    this.#onClose();
    this.#device.control(EVTCHN_UNBIND, this.#argument);
  }
}
