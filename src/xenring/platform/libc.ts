/**
 * The few calls of the C library that Node.js does not have, for Linux with 64-bit pointers.
 *
 * Addresses are numbers: user space ends below 2^47, far inside what a number holds exactly, and a
 * BigInt would be an allocation for each call.
 */
import koffi from 'koffi';
import { UserError } from '../../core/errors.ts';
import { guarded } from '../../core/foreign-calls.ts';
import { PlatformError } from '../platform.ts';

export const PROT_NONE = 0;
export const PROT_READ_WRITE = 3;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;

export const LOCK_EXCLUSIVE = 2;
export const LOCK_DO_NOT_WAIT = 4;

export interface Libc {
  /** `argument` is memory that the call reads and writes. */
  readonly ioctl: (fd: number, request: number, argument: Buffer) => number;
  readonly mmap: (
    address: number,
    octets: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ) => number;
  readonly munmap: (address: number, octets: number) => number;
  readonly read: (fd: number, into: Buffer, octets: number) => number;
  readonly write: (fd: number, from: Buffer, octets: number) => number;
  readonly mkfifo: (path: string, mode: number) => number;
  readonly flock: (fd: number, operation: number) => number;
}

let loaded: Libc | null = null;

/** @throws {UserError} where there is no such C library. */
export function libc(): Libc {
  loaded ??= load();
  return loaded;
}

function load(): Libc {
  if (process.platform !== 'linux' || koffi.sizeof('void *') !== 8)
    throw new UserError(
      `Cannot share memory: this is ${process.platform} on ${process.arch}, wanted 64-bit Linux`,
    );
  const library = koffi.load(null);
  return {
    ioctl: library.func('ioctl', 'int', ['int', 'ulong', 'void *']),
    mmap: library.func('mmap', 'intptr', ['uintptr', 'size_t', 'int', 'int', 'int', 'int64']),
    munmap: library.func('munmap', 'int', ['uintptr', 'size_t']),
    read: library.func('read', 'int64', ['int', 'void *', 'size_t']),
    write: library.func('write', 'int64', ['int', 'void *', 'size_t']),
    mkfifo: library.func('mkfifo', 'int', ['str', 'uint']),
    flock: library.func('flock', 'int', ['int', 'int']),
  } as unknown as Libc;
}

let errnoNames: ReadonlyMap<number, string> | null = null;

/** Why the call before this one failed, as a name: "EINVAL". */
export function lastErrno(): string {
  errnoNames ??= new Map(Object.entries(koffi.os.errno).map(([name, number]) => [number, name]));
  const number = koffi.errno();
  return errnoNames.get(number) ?? `errno ${number}`;
}

/** @throws {PlatformError} if the call whose result this is has failed. */
export function expectDone(result: number, what: string): void {
  if (result < 0) throw new PlatformError(`${what}: ${lastErrno()}`);
}

/** Calls back from the event loop while `fd` has something to read; returns what ends that. */
export function whenReadable(fd: number, onReadable: () => void): { close(): void } {
  // The handle must be kept: once it is collected, there are no more calls.
  return koffi.node.poll(fd, { readable: true }, () => guarded(onReadable));
}

/** Where `memory` begins. It must not be garbage while the number is in use. */
export function addressOf(memory: Uint8Array): number {
  return Number(koffi.address(memory));
}

/** The memory at an address as an ArrayBuffer, without a copy. */
export function viewOf(address: number, octets: number): ArrayBuffer {
  return koffi.view(BigInt(address), octets);
}
