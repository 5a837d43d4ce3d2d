/**
 * What this domain has open of its peers: their segment and their doorbell.
 *
 * A peer that was killed and started again is another life of the domain, with files of its own.
 * What maps or binds looks whether that has happened; what copies does so when it finds no grant.
 */
import { closeSync, constants, fstatSync, openSync, statSync } from 'node:fs';
import { assert } from '../../core/assert.ts';
import { type Domain, PlatformError } from '../platform.ts';
import { libc } from './libc.ts';
import type { ShmFolder } from './shm-folder.ts';
import { ShmSegment } from './shm-segment.ts';

const BELL = Buffer.alloc(1);

/** One life of a peer. Open as long as somebody holds it. */
export class ShmPeer {
  readonly domain: Domain;
  readonly segment: ShmSegment;
  readonly #events: number;
  readonly #write = libc().write;
  #holders = 1;

  /** @throws {PlatformError} if the peer is not there. */
  constructor(folder: ShmFolder, domain: Domain) {
    this.domain = domain;
    const { O_WRONLY, O_NONBLOCK, O_NOFOLLOW } = constants;
    try {
      this.#events = openSync(folder.events(domain), O_WRONLY | O_NONBLOCK | O_NOFOLLOW);
    } catch {
      throw new PlatformError(`Cannot reach domain ${domain}: nobody is there`);
    }
    try {
      // A file would grow with each event.
      if (!fstatSync(this.#events).isFIFO())
        throw new PlatformError(`Cannot reach domain ${domain}: its doorbell is no FIFO`);
      this.segment = ShmSegment.open(folder.pages(domain), domain);
    } catch (error) {
      closeSync(this.#events);
      throw error;
    }
  }

  hold(): this {
    this.#holders++;
    return this;
  }

  release(): void {
    assert(this.#holders > 0, 'Cannot release a peer: nobody holds it');
    this.#holders--;
    if (this.#holders > 0) return;
    this.segment.close();
    closeSync(this.#events);
  }

  /** A full pipe has enough in it, and a dead peer does not care. */
  ring(): void {
    this.#write(this.#events, BELL, 1);
  }
}

export class ShmPeers {
  readonly #folder: ShmFolder;
  readonly #current = new Map<Domain, ShmPeer>();

  constructor(folder: ShmFolder) {
    this.#folder = folder;
  }

  /** The peer as this process last saw it, or its next life. @throws {PlatformError} */
  known(domain: Domain): ShmPeer {
    const known = this.#current.get(domain);
    return known === undefined || known.segment.ended ? this.fresh(domain) : known;
  }

  /** The peer as it is now. @throws {PlatformError} if it is not there. */
  fresh(domain: Domain): ShmPeer {
    const known = this.#current.get(domain);
    const path = this.#folder.pages(domain);
    const inode = statSync(path, { throwIfNoEntry: false })?.ino;
    if (known !== undefined) {
      if (known.segment.inode === inode) return known;
      this.#current.delete(domain);
      known.release();
    }
    const peer = new ShmPeer(this.#folder, domain);
    this.#current.set(domain, peer);
    return peer;
  }

  close(): void {
    for (const peer of this.#current.values()) peer.release();
    this.#current.clear();
  }
}
