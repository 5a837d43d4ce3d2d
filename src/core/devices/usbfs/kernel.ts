/**
 * System calls on one open device file of usbfs, through koffi: the only place that makes them.
 *
 * Addresses are plain numbers: those of a process fit 2^53, and the hot path has no BigInt then.
 */
import { closeSync, openSync, readFileSync } from 'node:fs';
import koffi from 'koffi';
import { guarded } from '../../foreign-calls.ts';
import { ARCHITECTURES } from './abi.ts';

/** Memory at an address that does not change. */
export interface Memory {
  readonly address: number;
  readonly octets: Buffer;
}

/** What the device needs of the kernel; tests supply their own. */
export interface UsbfsFile {
  /** The device descriptor, then each configuration with all that belongs to it. */
  readonly descriptors: Buffer;
  /** Returns what the kernel does, or -errno. */
  ioctl(request: number, argument: number): number;
  /** The same for calls that may wait for the device; on a thread of its own. */
  ioctlSlow(request: number, argument: number): Promise<number>;
  /** Memory that the host controller reaches; null if usbfs has no more to give. */
  mapShared(octets: number): Memory | null;
  /** Memory of this process. */
  mapPlain(octets: number): Memory | null;
  unmap(memory: Memory): void;
  /**
   * Calls back whenever there may be something to reap. `last`: it may be the last time, because the
   * device has gone or the file fails.
   */
  watch(ready: (last: boolean) => void): void;
  /** Calls back no more. */
  unwatch(): void;
  close(): void;
}

const supported = process.platform === 'linux' && ARCHITECTURES.includes(process.arch);

type PollHandle = ReturnType<typeof koffi.node.poll>;

const libc = supported ? koffi.load(null) : null;
const ioctl = libc?.func('int ioctl(int, ulong, uintptr_t)');
const mmap = libc?.func('intptr_t mmap(uintptr_t, size_t, int, int, int, int64_t)');
const munmap = libc?.func('int munmap(uintptr_t, size_t)');

/** <asm-generic/mman-common.h> */
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = 0x20;

/** A device has at most 255 configurations of 64 KiB; nothing real comes near. */
const DESCRIPTORS_OCTETS_MAX = 1 << 20;

export function isUsbfsSupported(): boolean {
  return supported;
}

/**
 * Opens a device file such as /dev/bus/usb/001/002.
 *
 * @throws {Error} of `openSync`, with its code.
 */
export function openUsbfsFile(path: string): UsbfsFile {
  return new KernelFile(path);
}

class KernelFile implements UsbfsFile {
  readonly descriptors: Buffer;
  readonly #fd: number;
  #poll: PollHandle | null = null;

  constructor(path: string) {
    this.#fd = openSync(path, 'r+');
    try {
      this.descriptors = readFileSync(this.#fd).subarray(0, DESCRIPTORS_OCTETS_MAX);
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  ioctl(request: number, argument: number): number {
    const answer: number = ioctl?.(this.#fd, request, argument);
    return answer < 0 ? -koffi.errno() : answer;
  }

  ioctlSlow(request: number, argument: number): Promise<number> {
    return new Promise((resolve, reject) => {
      ioctl?.async(this.#fd, request, argument, (error: Error | null, answer: number) => {
        if (error !== null) reject(error);
        else resolve(answer < 0 ? -koffi.errno() : answer); // koffi keeps the thread's errno
      });
    });
  }

  mapShared(octets: number): Memory | null {
    return map(octets, MAP_SHARED, this.#fd);
  }

  mapPlain(octets: number): Memory | null {
    return map(octets, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  }

  unmap({ address, octets }: Memory): void {
    munmap?.(address, octets.length);
  }

  watch(ready: (last: boolean) => void): void {
    this.unwatch(); // one that nobody closes would watch the number of a file that is closed
    // The file of a device that has gone says POLLERR, and uv_poll stops at that. koffi gives the
    // status of uv_poll first, which its declarations do not have.
    const onPoll = (...[status]: unknown[]) => guarded(() => ready(status !== 0));
    this.#poll = koffi.node.poll(this.#fd, { writable: true }, onPoll);
  }

  unwatch(): void {
    this.#poll?.close();
    this.#poll = null;
  }

  close(): void {
    this.unwatch();
    closeSync(this.#fd);
  }
}

function map(octets: number, flags: number, fd: number): Memory | null {
  const address: number = mmap?.(0, octets, PROT_READ_WRITE, flags, fd, 0) ?? -1;
  if (address === -1) return null;
  return { address, octets: Buffer.from(koffi.view(BigInt(address), octets)) };
}
