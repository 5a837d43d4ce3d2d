/**
 * Memory for the data of transfers, used again and again.
 *
 * Blocks mapped on the device file are reached by the host controller directly; usbfs gives only so
 * much of it to all programs together (usbfs_memory_mb, 16 MiB by default), and it has to be in one
 * piece. When there is none left, memory of the process serves, which the kernel copies.
 *
 * Blocks have sizes of powers of two. Both kinds have a bound; what lies free is unmapped when
 * another size needs the room.
 *
 * A block with data from the device may be lent to a transport until it has sent that, and one for data
 * to the device from its first octet on, which spares a copy each. A client that does not read, or
 * stops in the middle, could keep it for long; so there is a bound to what is lent, and beyond it data
 * is copied.
 */
import { assert } from '../../assert.ts';
import type { Room } from '../../urb.ts';
import type { Memory, UsbfsFile } from './kernel.ts';

const BLOCK_OCTETS_MIN = 4096;
/** What the largest block holds; longer transfers go in pieces. */
export const BLOCK_OCTETS_MAX = 1 << 20;
/** Of one device: half of what usbfs has by default. */
export const SHARED_OCTETS_MAX = 8 << 20;
const PLAIN_OCTETS_MAX = 8 << 20;
/** Of one device, on loan. */
export const LENT_OCTETS_MAX = 4 << 20;

export class Block implements Memory, Room {
  readonly address: number;
  readonly octets: Buffer;
  readonly shared: boolean;
  readonly #owner: TransferMemory;

  constructor({ address, octets }: Memory, shared: boolean, owner: TransferMemory) {
    this.address = address;
    this.octets = octets;
    this.shared = shared;
    this.#owner = owner;
  }

  giveBack(): void {
    this.#owner.takeBack(this);
  }
}

/** Blocks of one kind. */
class Arena {
  readonly #shared: boolean;
  readonly #octetsMax: number;
  readonly #file: UsbfsFile;
  readonly #owner: TransferMemory;
  /** By size: index n holds blocks of `BLOCK_OCTETS_MIN << n` octets. */
  readonly #free: Block[][] = [];
  #octets = 0;

  constructor(file: UsbfsFile, owner: TransferMemory, shared: boolean, octetsMax: number) {
    this.#file = file;
    this.#owner = owner;
    this.#shared = shared;
    this.#octetsMax = octetsMax;
  }

  take(octets: number): Block | null {
    const index = sizeIndex(octets);
    return this.#free[index]?.pop() ?? this.#map(BLOCK_OCTETS_MIN << index) ?? this.#larger(index);
  }

  #map(size: number): Block | null {
    if (!this.#makeRoom(size)) return null;
    const memory = this.#shared ? this.#file.mapShared(size) : this.#file.mapPlain(size);
    if (memory === null) return null;
    this.#octets += size;
    return new Block(memory, this.#shared, this.#owner);
  }

  #larger(index: number): Block | null {
    for (const blocks of this.#free.slice(index)) {
      const block = blocks?.pop();
      if (block !== undefined) return block;
    }
    return null;
  }

  give(block: Block): void {
    const index = sizeIndex(block.octets.length);
    this.#free[index] ??= [];
    this.#free[index].push(block);
  }

  /** Unmaps what lies free. */
  trim(): void {
    this.#makeRoom(this.#octetsMax);
  }

  #makeRoom(octets: number): boolean {
    for (let index = this.#free.length - 1; index >= 0; index--) {
      while (this.#octets + octets > this.#octetsMax) {
        const block = this.#free[index]?.pop();
        if (block === undefined) break;
        this.#octets -= block.octets.length;
        this.#file.unmap(block);
      }
    }
    return this.#octets + octets <= this.#octetsMax;
  }
}

export class TransferMemory {
  readonly #shared: Arena;
  readonly #plain: Arena;
  readonly #lent = new Set<Block>();
  #lentOctets = 0;
  #disposed = false;

  constructor(file: UsbfsFile) {
    this.#shared = new Arena(file, this, true, SHARED_OCTETS_MAX);
    this.#plain = new Arena(file, this, false, PLAIN_OCTETS_MAX);
  }

  /** A block of at least so many octets, or null. */
  take(octets: number): Block | null {
    assert(octets <= BLOCK_OCTETS_MAX, 'Cannot take memory: more than the largest block');
    return this.#shared.take(octets) ?? this.#plain.take(octets);
  }

  /** As `take`, but of any number of octets, and a smaller block rather than none. */
  takeUpTo(octets: number): Block | null {
    const most = Math.min(octets, BLOCK_OCTETS_MAX);
    for (let size = most; size > BLOCK_OCTETS_MIN; size = Math.ceil(size / 4)) {
      const block = this.#shared.take(size);
      if (block !== null) return block;
    }
    // The kernel needs memory of its own beside it: the less in one piece, the better.
    return this.take(Math.min(octets, PLAIN_PIECE_OCTETS));
  }

  give(block: Block): void {
    (block.shared ? this.#shared : this.#plain).give(block);
  }

  /** Leaves a block to whoever takes the data in it, until he gives it back; false if it is too much. */
  lend(block: Block): boolean {
    const octets = this.#lentOctets + block.octets.length;
    if (octets > LENT_OCTETS_MAX) return false;
    this.#lentOctets = octets;
    this.#lent.add(block);
    return true;
  }

  /** A block that the controller reaches, lent for data that is yet to come; null if there is none. */
  lendRoom(octets: number): Block | null {
    if (octets > BLOCK_OCTETS_MAX || this.#disposed) return null;
    const block = this.#shared.take(octets);
    if (block === null || this.lend(block)) return block;
    this.give(block);
    return null;
  }

  takeBack(block: Block): void {
    assert(this.#lent.delete(block), 'Cannot take back memory: it is not lent');
    this.#lentOctets -= block.octets.length;
    this.give(block);
    if (this.#disposed) this.#trim();
  }

  /** All blocks have been given back, but for those on loan, which go when they come. */
  dispose(): void {
    this.#disposed = true;
    this.#trim();
  }

  #trim(): void {
    this.#shared.trim();
    this.#plain.trim();
  }
}

const PLAIN_PIECE_OCTETS = 16384;

function sizeIndex(octets: number): number {
  return Math.max(0, 32 - Math.clz32((Math.max(1, octets) - 1) >>> 12));
}
