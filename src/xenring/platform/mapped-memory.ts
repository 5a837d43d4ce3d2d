/**
 * Pages of a file or device, mapped, seen as a Buffer, and let go of without danger.
 *
 * After munmap, a Buffer that somebody still holds would end the process at its next use, and such
 * an ArrayBuffer cannot be detached. So `release` puts private empty pages in the place of the
 * shared ones: whoever is late reads zeros and writes into nothing. That place in the address space
 * is given back when the ArrayBuffer is garbage.
 */
import { assert } from '../../core/assert.ts';
import { PAGE_OCTETS, PlatformError } from '../platform.ts';
import {
  lastErrno,
  libc,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ_WRITE,
  viewOf,
} from './libc.ts';

interface Place {
  readonly address: number;
  readonly octets: number;
}

const emptyPlaces = new FinalizationRegistry((place: Place) => {
  libc().munmap(place.address, place.octets);
});

export class MappedMemory {
  readonly memory: Buffer;
  readonly #address: number;
  #released = false;

  private constructor(address: number, octets: number) {
    this.#address = address;
    this.memory = Buffer.from(viewOf(address, octets));
  }

  /** Maps `octets` of `fd` from `offset`. @throws {PlatformError} */
  static map(fd: number, offset: number, octets: number): MappedMemory {
    const address = libc().mmap(0, octets, PROT_READ_WRITE, MAP_SHARED, fd, offset);
    if (address === -1) throw cannotMap(octets);
    return new MappedMemory(address, octets);
  }

  /** Maps pages that need not be neighbours, one after the other. @throws {PlatformError} */
  static mapPages(fd: number, offsets: readonly number[]): MappedMemory {
    const octets = offsets.length * PAGE_OCTETS;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const address = libc().mmap(0, octets, PROT_NONE, flags, -1, 0);
    if (address === -1) throw cannotMap(octets);
    for (const [index, offset] of offsets.entries()) {
      const at = address + index * PAGE_OCTETS;
      const fixed = MAP_SHARED | MAP_FIXED;
      if (libc().mmap(at, PAGE_OCTETS, PROT_READ_WRITE, fixed, fd, offset) === -1) {
        const error = cannotMap(octets);
        libc().munmap(address, octets);
        throw error;
      }
    }
    return new MappedMemory(address, octets);
  }

  release(): void {
    assert(!this.#released, 'Cannot release memory: it has been released');
    this.#released = true;
    const { length: octets } = this.memory;
    const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
    const done = libc().mmap(this.#address, octets, PROT_READ_WRITE, flags, -1, 0);
    assert(done === this.#address, 'Cannot release memory: its place cannot be filled');
    emptyPlaces.register(this.memory.buffer, { address: this.#address, octets });
  }
}

function cannotMap(octets: number): PlatformError {
  return new PlatformError(`Cannot map ${octets} octets: ${lastErrno()}`);
}
