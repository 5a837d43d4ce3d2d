/**
 * The memory of one domain in `shm.ts`: a file that its peers map as a whole.
 *
 *   page 0      header
 *   page 1      ports: 256 of four words: state, the other end's port, its epoch, pending
 *   then        grants: two words a page: who may use it, how often it is mapped
 *   then        the pages; the grant reference of a page is its index
 *
 * Only its owner and, as said below, the peer named in an entry write to the entry. Nobody relies
 * on that: an owner keeps what it has granted and bound in memory of its own, and reads from here
 * only what a peer has to say; all indexes are compared before they are used. What is written
 * wrongly harms whoever wrote it, or makes that connection fail.
 *
 * All words are used through Atomics, which also order the accesses to the pages around them.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { openRegular } from '../../core/files.ts';
import { type Domain, PAGE_OCTETS, PlatformError } from '../platform.ts';
import { MappedMemory } from './mapped-memory.ts';

const READ_WRITE_NO_LINK = constants.O_RDWR | constants.O_NOFOLLOW;

export const PORTS_MAX = 256;
/** Below it nothing is granted (GNTTAB_NR_RESERVED_ENTRIES): a zeroed request names no page. */
export const FIRST_REFERENCE = 8;
const PAGES_MAX = 1 << 20;

const MAGIC = 0x6d687375; // "ushm"
const HEADER = { magic: 0, pages: 1, epoch: 2, ended: 3 } as const;

const PORT_WORDS = 4;
const GRANT_WORDS = 2;
const PORTS_AT = PAGE_OCTETS / 4;
const GRANTS_AT = (2 * PAGE_OCTETS) / 4;

export const PORT_OFFERED = 1 << 24;
export const PORT_BOUND = 2 << 24;
const GRANTED = 1 << 24;

function grantPages(pages: number): number {
  return Math.ceil((pages * GRANT_WORDS * 4) / PAGE_OCTETS);
}

function fileOctets(pages: number): number {
  return (2 + grantPages(pages) + pages) * PAGE_OCTETS;
}

export class ShmSegment {
  readonly fd: number;
  readonly inode: number;
  readonly pages: number;
  /** Tells two lives of one domain apart. */
  readonly epoch: number;
  readonly memory: Buffer;
  readonly words: Int32Array;
  readonly #mapped: MappedMemory;
  readonly #pagesAt: number;

  private constructor(fd: number, inode: number, pages: number, mapped: MappedMemory) {
    this.fd = fd;
    this.inode = inode;
    this.pages = pages;
    this.#mapped = mapped;
    this.memory = mapped.memory;
    this.#pagesAt = (2 + grantPages(pages)) * PAGE_OCTETS;
    this.words = new Int32Array(mapped.memory.buffer, 0, this.#pagesAt / 4);
    this.epoch = Atomics.load(this.words, HEADER.epoch);
  }

  /** Makes the file; it has its name when it is complete. */
  static create(path: string, pages: number, epoch: number): ShmSegment {
    const fd = openSync(`${path}.new`, 'wx+', 0o600);
    try {
      ftruncateSync(fd, fileOctets(pages));
      const mapped = MappedMemory.map(fd, 0, fileOctets(pages));
      const header = new Int32Array(mapped.memory.buffer, 0, 3);
      header[HEADER.magic] = MAGIC;
      header[HEADER.pages] = pages;
      header[HEADER.epoch] = epoch;
      renameSync(`${path}.new`, path);
      return new ShmSegment(fd, fstatSync(fd).ino, pages, mapped);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** A peer's. @throws {PlatformError} if it is not there, or is something else. */
  static open(path: string, peer: Domain): ShmSegment {
    let fd: number;
    try {
      fd = openRegular(path, READ_WRITE_NO_LINK);
    } catch {
      throw new PlatformError(`Cannot use memory of domain ${peer}: the domain is not there`);
    }
    try {
      const { size, ino } = fstatSync(fd);
      if (size < fileOctets(0) || size > fileOctets(PAGES_MAX)) throw wrong(peer);
      const mapped = MappedMemory.map(fd, 0, size);
      const header = new Int32Array(mapped.memory.buffer, 0, 3);
      const pages = Atomics.load(header, HEADER.pages);
      // The file's true size decides what may be touched.
      const right = pages >= 0 && pages <= PAGES_MAX && fileOctets(pages) === size;
      if (!right || header[HEADER.magic] !== MAGIC) {
        mapped.release();
        throw wrong(peer);
      }
      return new ShmSegment(fd, ino, pages, mapped);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** This life of its owner is over, and somebody has tidied up after it. */
  get ended(): boolean {
    return Atomics.load(this.words, HEADER.ended) !== 0;
  }

  /** Where in the file and in `memory` the page of a reference is. */
  pageAt(reference: number): number {
    return this.#pagesAt + reference * PAGE_OCTETS;
  }

  /** Index of the port's first word: its state. */
  portAt(port: number): number {
    return PORTS_AT + port * PORT_WORDS;
  }

  setGrant(reference: number, peer: Domain | null): void {
    Atomics.store(this.words, grantAt(reference), peer === null ? 0 : GRANTED | peer);
  }

  /** How often peers say that they have it mapped. */
  mapCount(reference: number): number {
    return Atomics.load(this.words, grantAt(reference) + 1);
  }

  resetMapCount(reference: number): void {
    Atomics.store(this.words, grantAt(reference) + 1, 0);
  }

  isGranted(reference: number, to: Domain): boolean {
    if (!Number.isInteger(reference) || reference < FIRST_REFERENCE || reference >= this.pages)
      return false;
    return Atomics.load(this.words, grantAt(reference)) === (GRANTED | to);
  }

  /** Counts a mapping by `to`, unless the page is not its to map. */
  countMap(reference: number, to: Domain): boolean {
    if (!this.isGranted(reference, to)) return false;
    Atomics.add(this.words, grantAt(reference) + 1, 1);
    // The grant may have ended before it was counted; who ends it looks at the count after that.
    if (this.isGranted(reference, to)) return true;
    this.countUnmap(reference);
    return false;
  }

  countUnmap(reference: number): void {
    Atomics.sub(this.words, grantAt(reference) + 1, 1);
  }

  close(): void {
    this.#mapped.release();
    closeSync(this.fd);
  }
}

/** Says to those who still map the file that its owner has gone. */
export function markEnded(path: string): void {
  const mark = Buffer.alloc(4, 1);
  let fd: number;
  try {
    fd = openRegular(path, READ_WRITE_NO_LINK);
  } catch {
    return; // it is not there, or something else is
  }
  writeSync(fd, mark, 0, mark.length, HEADER.ended * 4);
  closeSync(fd);
}

function grantAt(reference: number): number {
  return GRANTS_AT + reference * GRANT_WORDS;
}

function wrong(peer: Domain): PlatformError {
  return new PlatformError(`Cannot use memory of domain ${peer}: its file is not as it must be`);
}
