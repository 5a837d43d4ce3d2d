/**
 * A gateway with a device behind the usbfs driver, on a machine that has none:
 *
 *     node usbfs-stand-in.js        prints "Listening on 127.0.0.1:PORT"; the bus id is 1-1
 *
 * All of the gateway is the product's but the device file. In its place stands an event counter
 * (eventfd(2)): to submit is to add one to it, to reap is to take one from it, and it wakes the event
 * loop as the device file does. So a URB costs the same calls through koffi, system calls and wake-ups
 * as through usbfs, less what the kernel and the device themselves take.
 *
 * The device is a source and sink: IN transfers bring zeros, OUT ones are swallowed, and control
 * requests bring the device descriptor.
 */
import koffi from 'koffi';
import { ERRNO, IOCTL, UsbfsUrb } from '../../src/core/devices/usbfs/abi.ts';
import type { Memory, UsbfsFile } from '../../src/core/devices/usbfs/kernel.ts';
import { UsbfsDevice } from '../../src/core/devices/usbfs/usbfs-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { UsbipServer } from '../../src/usbip/server.ts';

const libc = koffi.load(null);
const eventfd = libc.func('int eventfd(uint, int)');
const write = libc.func('int64_t write(int, uintptr_t, size_t)');
const read = libc.func('int64_t read(int, uintptr_t, size_t)');
const mmap = libc.func('intptr_t mmap(uintptr_t, size_t, int, int, int, int64_t)');
const munmap = libc.func('int munmap(uintptr_t, size_t)');

const EFD_SEMAPHORE_NONBLOCK = 0o4001;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const COUNTER_OCTETS = 8;
const SETUP_OCTETS = 8;
const DEVICE_DESCRIPTOR_OCTETS = 18;

/** USB 2, high speed, one interface with bulk IN endpoint 1 and bulk OUT endpoint 2. */
const DESCRIPTORS = Buffer.from(
  '1201000200000040091201000001000000010902200001010080320904000002ff00000007058102000200' +
    '07050202000200',
  'hex',
);

class StandIn implements UsbfsFile {
  readonly descriptors = DESCRIPTORS;
  readonly #fd: number = eventfd(0, EFD_SEMAPHORE_NONBLOCK);
  readonly #one = map(COUNTER_OCTETS);
  readonly #taken = map(COUNTER_OCTETS);
  readonly #memories: Memory[] = [];
  readonly #ended: number[] = [];
  #poll: ReturnType<typeof koffi.node.poll> | null = null;

  constructor() {
    this.#one.octets.writeBigUInt64LE(1n);
  }

  ioctl(request: number, argument: number): number {
    if (request === IOCTL.submitUrb) {
      this.#transfer(argument);
      write(this.#fd, this.#one.address, COUNTER_OCTETS);
      return 0;
    }
    if (request !== IOCTL.reapUrbNoDelay) return -ERRNO.EINVAL;
    if (read(this.#fd, this.#taken.address, COUNTER_OCTETS) < 0) return -ERRNO.EAGAIN;
    const address = this.#ended.shift() ?? 0;
    const { octets, at } = this.#find(argument);
    octets.writeUInt32LE(address >>> 0, at);
    octets.writeUInt32LE(Math.floor(address / 2 ** 32), at + 4);
    return 0;
  }

  async ioctlSlow(): Promise<number> {
    return 0;
  }

  #transfer(address: number): void {
    const { octets, at } = this.#find(address);
    const offset = UsbfsUrb.offsets;
    let length = octets.readUInt32LE(at + offset.bufferOctets);
    const data = this.#find(
      octets.readUInt32LE(at + offset.buffer) +
        octets.readUInt32LE(at + offset.buffer + 4) * 2 ** 32,
    );
    if (octets.readUInt8(at + offset.endpoint) === 0) {
      length = Math.min(length - SETUP_OCTETS, DEVICE_DESCRIPTOR_OCTETS);
      DESCRIPTORS.copy(data.octets, data.at + SETUP_OCTETS, 0, length);
    } else {
      // Nothing but descriptors and zeros is ever in this memory.
      const spoilt = SETUP_OCTETS + DEVICE_DESCRIPTOR_OCTETS;
      data.octets.fill(0, data.at, data.at + Math.min(length, spoilt));
    }
    octets.writeUInt32LE(length, at + offset.actualOctets);
    octets.writeInt32LE(0, at + offset.status);
    this.#ended.push(address);
  }

  #find(address: number): { octets: Buffer; at: number } {
    for (const memory of this.#memories) {
      const at = address - memory.address;
      if (at >= 0 && at < memory.octets.length) return { octets: memory.octets, at };
    }
    throw new RangeError(`Cannot find address ${address}: it is not mapped`);
  }

  mapShared(octets: number): Memory {
    return this.mapPlain(octets);
  }

  mapPlain(octets: number): Memory {
    const memory = map(octets);
    this.#memories.push(memory);
    return memory;
  }

  unmap(memory: Memory): void {
    const index = this.#memories.findIndex(({ address }) => address === memory.address);
    this.#memories.splice(index, 1);
    munmap(memory.address, memory.octets.length);
  }

  watch(ready: (last: boolean) => void): void {
    this.#poll = koffi.node.poll(this.#fd, { readable: true }, () => ready(false));
  }

  unwatch(): void {
    this.#poll?.close();
    this.#poll = null;
  }

  close(): void {
    this.unwatch();
  }
}

function map(octets: number): Memory {
  const address: number = mmap(0, octets, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  if (address === -1) throw new RangeError(`Cannot map ${octets} octets: there is no memory`);
  return { address, octets: Buffer.from(koffi.view(BigInt(address), octets)) };
}

const registry = new Registry();
const device = await UsbfsDevice.take(new StandIn(), {
  speed: 'high',
  configurationValue: 1,
  label: 'Stand-in',
  isStray: false,
  onGone: () => {},
});
registry.add(device, 'stand-in', '1-1');
const log = { info: () => {}, warn: (message: string) => process.stderr.write(`${message}\n`) };
const server = new UsbipServer({ registry, log });
const { host, port } = await server.listen({ host: '127.0.0.1', port: 0 });
process.stdout.write(`Listening on ${host}:${port}\n`);
process.once('SIGTERM', () => process.exit(0));
