/**
 * Event channels between the domains of `shm.ts`.
 *
 * Each port has a word in its owner's segment, "pending", and each domain has one FIFO, its
 * doorbell. To notify is to set the word of the other end's port, and if it was not set, to write
 * an octet into the other end's FIFO. Whoever reads that octet looks at the words of all its ports;
 * what the octets are does not matter, so nothing that others write there leads astray.
 *
 *   offered --(the peer binds)--> bound --(the peer closes)--> offered     its owner closes: free
 *
 * Whoever binds writes into the offered port's entry where its own end is. A bound entry whose
 * other end is of an earlier life of the same peer may be bound again.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { assert } from '../../core/assert.ts';
import { guarded } from '../../core/foreign-calls.ts';
import { type Domain, type EventChannel, PlatformError } from '../platform.ts';
import { expectDone, libc, whenReadable } from './libc.ts';
import type { ShmPeer, ShmPeers } from './shm-peers.ts';
import { PORT_BOUND, PORT_OFFERED, PORTS_MAX, type ShmSegment } from './shm-segment.ts';

/** Words of a port's entry after its state. */
const OTHER_PORT = 1;
const OTHER_EPOCH = 2;
const PENDING = 3;

const READ_OCTETS = 4096;

export class ShmChannels {
  readonly #domain: Domain;
  readonly #segment: ShmSegment;
  readonly #peers: ShmPeers;
  readonly #channels = new Map<number, ShmChannel>();
  readonly #fd: number;
  readonly #poll: { close(): void };
  readonly #scratch = Buffer.alloc(READ_OCTETS);
  readonly #bell = Buffer.alloc(1);
  #lastPort = 0;

  constructor(domain: Domain, segment: ShmSegment, peers: ShmPeers, path: string) {
    this.#domain = domain;
    this.#segment = segment;
    this.#peers = peers;
    expectDone(libc().mkfifo(path, 0o600), `Cannot make ${path}`);
    // For writing, too: else there would be an end of file when the last peer goes.
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    this.#poll = whenReadable(this.#fd, () => this.#dispatch());
  }

  get size(): number {
    return this.#channels.size;
  }

  offer(peer: Domain): EventChannel {
    const port = this.#freePort();
    this.#clear(port);
    Atomics.store(this.#segment.words, this.#segment.portAt(port), PORT_OFFERED | peer);
    return this.#add(new ShmChannel(this, port, peer, null));
  }

  /** @throws {PlatformError} if there is no such offer. */
  bind(peer: Domain, otherPort: number): EventChannel {
    const link = this.#peers.fresh(peer);
    const { words } = link.segment;
    const at = this.#offerAt(link, otherPort);
    const port = this.#freePort();
    const seen = Atomics.load(words, at);
    this.#clear(port);
    Atomics.store(this.#segment.words, this.#segment.portAt(port), PORT_BOUND | peer);
    Atomics.store(words, at + OTHER_PORT, port);
    Atomics.store(words, at + OTHER_EPOCH, this.#segment.epoch);
    if (Atomics.compareExchange(words, at, seen, PORT_BOUND | this.#domain) !== seen) {
      Atomics.store(this.#segment.words, this.#segment.portAt(port), 0);
      throw noSuchOffer(peer, otherPort);
    }
    const end = { link: link.hold(), port: otherPort };
    // Whoever was bound before may have been killed between the bit and the bell.
    if (Atomics.load(words, at + PENDING) !== 0) link.ring();
    // What the offerer has said before anybody listened is said now (as Xen does).
    Atomics.store(this.#segment.words, this.#segment.portAt(port) + PENDING, 1);
    libc().write(this.#fd, this.#bell, 1);
    return this.#add(new ShmChannel(this, port, peer, end));
  }

  closeAll(): void {
    for (const channel of this.#channels.values()) channel.close();
    this.#poll.close();
    closeSync(this.#fd);
  }

  /** For `ShmChannel`: sets the bit of the other end. */
  ring({ link, port }: OtherEnd): void {
    const { words } = link.segment;
    const at = link.segment.portAt(port);
    const state = Atomics.load(words, at);
    if (state !== (PORT_BOUND | this.#domain) && state !== (PORT_OFFERED | this.#domain)) return;
    if (Atomics.exchange(words, at + PENDING, 1) === 0) link.ring();
  }

  /** For `ShmChannel`: frees the port. */
  remove(port: number): void {
    this.#channels.delete(port);
    Atomics.store(this.#segment.words, this.#segment.portAt(port), 0);
  }

  /** For `ShmChannel`: what was bound from `port` may be bound again. */
  unbind(port: number, { link, port: otherPort }: OtherEnd): void {
    const { words } = link.segment;
    const at = link.segment.portAt(otherPort);
    const mine = PORT_BOUND | this.#domain;
    if (Atomics.load(words, at + OTHER_PORT) === port)
      Atomics.compareExchange(words, at, mine, PORT_OFFERED | this.#domain);
  }

  #add(channel: ShmChannel): EventChannel {
    this.#channels.set(channel.port, channel);
    return channel;
  }

  #dispatch(): void {
    const octets = Number(libc().read(this.#fd, this.#scratch, READ_OCTETS));
    if (octets <= 0) return;
    const { words } = this.#segment;
    for (const [port, channel] of this.#channels) {
      const at = this.#segment.portAt(port) + PENDING;
      if (Atomics.load(words, at) === 0 || Atomics.exchange(words, at, 0) === 0) continue;
      guarded(channel.onEvent); // the others' bits are found by this look alone
    }
  }

  /**
   * For `ShmChannel`: where an offered port was bound, by the peer's account of it. `known` is what
   * was found the last time; what is returned is the same, or newly held.
   */
  otherEnd(port: number, peer: Domain, known: OtherEnd | null): OtherEnd | null {
    const { words } = this.#segment;
    const at = this.#segment.portAt(port);
    if (Atomics.load(words, at) !== (PORT_BOUND | peer)) return null;
    const otherPort = Atomics.load(words, at + OTHER_PORT);
    const epoch = Atomics.load(words, at + OTHER_EPOCH);
    if (known !== null && known.port === otherPort && known.link.segment.epoch === epoch)
      return known;
    if (otherPort <= 0 || otherPort >= PORTS_MAX) return null;
    const link = this.#peerOf(epoch, peer);
    return link === null ? null : { link: link.hold(), port: otherPort };
  }

  #peerOf(epoch: number, peer: Domain): ShmPeer | null {
    try {
      const known = this.#peers.known(peer);
      if (known.segment.epoch === epoch) return known;
      const fresh = this.#peers.fresh(peer);
      return fresh.segment.epoch === epoch ? fresh : null;
    } catch (error) {
      if (error instanceof PlatformError) return null;
      throw error;
    }
  }

  /** @throws {PlatformError} if that port cannot be bound from here. */
  #offerAt(link: ShmPeer, port: number): number {
    if (!Number.isInteger(port) || port <= 0 || port >= PORTS_MAX)
      throw noSuchOffer(link.domain, port);
    const at = link.segment.portAt(port);
    const state = Atomics.load(link.segment.words, at);
    if (state === (PORT_OFFERED | this.#domain)) return at;
    // Bound by this domain's life before: its end has gone with it.
    const left = Atomics.load(link.segment.words, at + OTHER_EPOCH) !== this.#segment.epoch;
    if (state === (PORT_BOUND | this.#domain) && left) return at;
    throw noSuchOffer(link.domain, port);
  }

  #freePort(): number {
    for (let step = 1; step < PORTS_MAX; step++) {
      const port = ((this.#lastPort + step - 1) % (PORTS_MAX - 1)) + 1;
      if (this.#channels.has(port)) continue;
      this.#lastPort = port;
      return port;
    }
    throw new PlatformError(`Cannot open a channel: ${PORTS_MAX - 1} are open, that is all`);
  }

  #clear(port: number): void {
    const at = this.#segment.portAt(port);
    for (const word of [0, OTHER_PORT, OTHER_EPOCH, PENDING])
      Atomics.store(this.#segment.words, at + word, 0);
  }
}

interface OtherEnd {
  readonly link: ShmPeer;
  readonly port: number;
}

class ShmChannel implements EventChannel {
  readonly port: number;
  onEvent: () => void = () => {};
  readonly #channels: ShmChannels;
  readonly #peer: Domain;
  /** Whether this end was bound to the other one, which then stays where it is. */
  readonly #binder: boolean;
  #end: OtherEnd | null;
  #closed = false;

  constructor(channels: ShmChannels, port: number, peer: Domain, bound: OtherEnd | null) {
    this.#channels = channels;
    this.port = port;
    this.#peer = peer;
    this.#binder = bound !== null;
    this.#end = bound;
  }

  notify(): void {
    assert(!this.#closed, 'Cannot notify: the channel has been closed');
    if (!this.#binder) this.#lookAgain();
    if (this.#end !== null) this.#channels.ring(this.#end);
  }

  close(): void {
    assert(!this.#closed, 'Cannot close a channel: it has been closed');
    this.#closed = true;
    this.#channels.remove(this.port);
    if (this.#end === null) return;
    if (this.#binder) this.#channels.unbind(this.port, this.#end);
    this.#end.link.release();
  }

  #lookAgain(): void {
    const end = this.#channels.otherEnd(this.port, this.#peer, this.#end);
    if (end === this.#end) return;
    this.#end?.link.release();
    this.#end = end;
  }
}

function noSuchOffer(peer: Domain, port: number): PlatformError {
  return new PlatformError(
    `Cannot bind port ${port} of domain ${peer}: it is not offered to this domain`,
  );
}
