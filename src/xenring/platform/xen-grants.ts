/**
 * Pages shared through the grant table: ours with gntalloc, those of other domains with gntdev.
 *
 * gntdev's copy takes a list of segments at a time, each with a status of its own. The list is made
 * once; a copy writes into it and makes one system call for 16 segments, what a URB has at most
 * (USBIF_MAX_SEGMENTS_PER_REQUEST). What is copied to or from must be memory of this process, not
 * pages of another domain.
 */
import { assert } from '../../core/assert.ts';
import {
  type Domain,
  type GrantedPages,
  type GrantSegment,
  type MappedPages,
  PAGE_OCTETS,
  PlatformError,
} from '../platform.ts';
import { addressOf, lastErrno } from './libc.ts';
import { MappedMemory } from './mapped-memory.ts';
import { XenDevice } from './xen-device.ts';
import {
  COPY_FROM_GRANT,
  COPY_TO_GRANT,
  CopySegment,
  GNTALLOC_ALLOC,
  GNTALLOC_DEALLOC,
  GNTALLOC_WRITABLE,
  GNTDEV_COPY,
  GNTDEV_MAP,
  GNTDEV_REFERENCE_OCTETS,
  GNTDEV_UNMAP,
  HALF,
} from './xen-ioctls.ts';

const SEGMENTS_PER_CALL = 16;
/** Pages of one grant or mapping: a URB of the largest size with room to spare. */
export const PAGES_PER_CALL_MAX = 8192;

export class XenGrants {
  readonly #gntdev: XenDevice;
  /** Opened when first needed: back ends grant nothing. */
  #gntalloc: XenDevice | null = null;
  readonly #granted = new Set<GrantedPages>();
  readonly #mapped = new Set<MappedPages>();
  readonly #copySegments = Buffer.alloc(CopySegment.octets * SEGMENTS_PER_CALL);
  readonly #copyRequest = Buffer.alloc(GNTDEV_COPY.struct.octets);
  grantedPages = 0;
  mappedPages = 0;

  constructor() {
    this.#gntdev = new XenDevice('/dev/xen/gntdev');
    // The list is a Buffer of this object: it neither moves nor vanishes.
    const address = addressOf(this.#copySegments);
    const [low, high] = halves(address);
    const count = { count: 0, pad: 0 };
    GNTDEV_COPY.struct.write({ ...count, segmentsLow: low, segmentsHigh: high }, this.#copyRequest);
  }

  /** @throws {PlatformError} if there are not so many pages or references. */
  grant(peer: Domain, pages: number): GrantedPages {
    assert(pages > 0 && pages <= PAGES_PER_CALL_MAX, `Cannot grant ${pages} pages`);
    this.#gntalloc ??= new XenDevice('/dev/xen/gntalloc');
    const { struct } = GNTALLOC_ALLOC;
    const argument = Buffer.alloc(struct.octets + (pages - 1) * 4);
    const none = { indexLow: 0, indexHigh: 0, reference: 0, pad: 0 };
    struct.write({ domain: peer, flags: GNTALLOC_WRITABLE, count: pages, ...none }, argument);
    if (this.#gntalloc.control(GNTALLOC_ALLOC, argument) < 0)
      throw new PlatformError(`Cannot grant ${pages} pages to domain ${peer}: ${lastErrno()}`);
    const { indexLow, indexHigh } = struct.read(argument);
    const device = this.#gntalloc;
    const free = (): void => {
      const ending = { indexLow, indexHigh, count: pages, pad: 0 };
      device.control(GNTALLOC_DEALLOC, GNTALLOC_DEALLOC.struct.write(ending));
    };
    const memory = mapOr(device, indexHigh * HALF + indexLow, pages, free);
    memory.memory.fill(0);
    this.grantedPages += pages;
    const at = struct.offsets.reference;
    const granted: GrantedPages = {
      memory: memory.memory,
      references: Array.from({ length: pages }, (_, i) => argument.readUInt32LE(at + i * 4)),
      end: () => {
        assert(this.#granted.delete(granted), 'Cannot end a grant: it has ended');
        this.grantedPages -= pages;
        memory.release();
        free();
      },
    };
    this.#granted.add(granted);
    return granted;
  }

  /** @throws {PlatformError} if one of them is not granted to this domain. */
  map(peer: Domain, references: readonly number[]): MappedPages {
    const pages = references.length;
    assert(pages > 0 && pages <= PAGES_PER_CALL_MAX, `Cannot map ${pages} pages`);
    const { struct } = GNTDEV_MAP;
    const argument = Buffer.alloc(struct.octets + (pages - 1) * GNTDEV_REFERENCE_OCTETS);
    argument.writeUInt32LE(pages, struct.offsets.count);
    for (const [index, reference] of references.entries()) {
      const more = index * GNTDEV_REFERENCE_OCTETS;
      argument.writeUInt32LE(peer, struct.offsets.domain + more);
      argument.writeUInt32LE(reference, struct.offsets.reference + more);
    }
    if (this.#gntdev.control(GNTDEV_MAP, argument) < 0)
      throw new PlatformError(`Cannot map ${pages} pages of domain ${peer}: ${lastErrno()}`);
    const { indexLow, indexHigh } = struct.read(argument);
    const forget = (): void => {
      const ending = { indexLow, indexHigh, count: pages, pad: 0 };
      this.#gntdev.control(GNTDEV_UNMAP, GNTDEV_UNMAP.struct.write(ending));
    };
    const memory = mapOr(this.#gntdev, indexHigh * HALF + indexLow, pages, forget);
    this.mappedPages += pages;
    const mapped: MappedPages = {
      memory: memory.memory,
      unmap: () => {
        assert(this.#mapped.delete(mapped), 'Cannot unmap pages: they have been unmapped');
        this.mappedPages -= pages;
        memory.release();
        forget();
      },
    };
    this.#mapped.add(mapped);
    return mapped;
  }

  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void {
    this.#copy(peer, segments, target, COPY_FROM_GRANT);
  }

  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void {
    this.#copy(peer, segments, source, COPY_TO_GRANT);
  }

  close(): void {
    for (const mapped of this.#mapped) mapped.unmap();
    for (const granted of this.#granted) granted.end();
    this.#gntdev.close();
    this.#gntalloc?.close();
  }

  #copy(
    peer: Domain,
    segments: readonly GrantSegment[],
    local: Uint8Array,
    flag: typeof COPY_FROM_GRANT | typeof COPY_TO_GRANT,
  ): void {
    const address = addressOf(local);
    let done = 0;
    let listed = 0;
    for (let index = 0; index < segments.length; index++) {
      const segment = segments[index] as GrantSegment;
      const left = local.length - done;
      assert(flag === COPY_TO_GRANT || segment.octets <= left, 'Cannot copy: too short a target');
      const octets = Math.min(segment.octets, left);
      if (segment.offset + segment.octets > PAGE_OCTETS) throw cannotCopy(peer, 'beyond a page');
      if (octets > 0) {
        this.#list(listed, peer, segment, address + done, octets, flag);
        listed++;
      }
      done += octets;
      if (listed < SEGMENTS_PER_CALL && index < segments.length - 1) continue;
      this.#copyListed(peer, listed);
      listed = 0;
    }
  }

  #list(
    index: number,
    peer: Domain,
    segment: GrantSegment,
    address: number,
    octets: number,
    flag: typeof COPY_FROM_GRANT | typeof COPY_TO_GRANT,
  ): void {
    const { offsets } = CopySegment;
    const list = this.#copySegments;
    const at = index * CopySegment.octets;
    const fromGrant = flag === COPY_FROM_GRANT;
    const foreign = at + (fromGrant ? offsets.source : offsets.destination);
    const local = at + (fromGrant ? offsets.destination : offsets.source);
    list.writeUInt32LE(segment.reference, foreign);
    list.writeUInt16LE(segment.offset, foreign + 4);
    list.writeUInt16LE(peer, foreign + 6);
    list.writeUInt32LE(address % HALF, local);
    list.writeUInt32LE(Math.floor(address / HALF), local + 4);
    list.writeUInt16LE(octets, at + offsets.octets);
    list.writeUInt16LE(flag, at + offsets.flags);
    list.writeUInt32LE(0, at + offsets.status);
  }

  #copyListed(peer: Domain, count: number): void {
    if (count === 0) return;
    this.#copyRequest.writeUInt32LE(count, GNTDEV_COPY.struct.offsets.count);
    if (this.#gntdev.control(GNTDEV_COPY, this.#copyRequest) < 0)
      throw cannotCopy(peer, lastErrno());
    for (let index = 0; index < count; index++) {
      const at = index * CopySegment.octets + CopySegment.offsets.status;
      const status = this.#copySegments.readInt16LE(at);
      if (status !== 0) throw cannotCopy(peer, `grant status ${status}`);
    }
  }
}

/** @throws {PlatformError} after `undo`, if they cannot be mapped. */
function mapOr(device: XenDevice, offset: number, pages: number, undo: () => void): MappedMemory {
  try {
    return MappedMemory.map(device.fd, offset, pages * PAGE_OCTETS);
  } catch (error) {
    undo();
    throw error;
  }
}

function halves(value: number): [low: number, high: number] {
  return [value % HALF, Math.floor(value / HALF)];
}

function cannotCopy(peer: Domain, why: string): PlatformError {
  return new PlatformError(`Cannot copy from or to pages of domain ${peer}: ${why}`);
}
