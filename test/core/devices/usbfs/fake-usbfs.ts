/**
 * The kernel's side of usbfs as far as a device sees it, by the rules of drivers/usb/core/devio.c:
 * what it refuses, what it takes back when a bulk URB fails, in which order things are reaped.
 */
import { strict as assert } from 'node:assert';
import {
  ERRNO,
  FLAG,
  IOCTL,
  PACKETS_MAX,
  UsbfsPacket,
  UsbfsUrb,
} from '../../../../src/core/devices/usbfs/abi.ts';
import type { Memory, UsbfsFile } from '../../../../src/core/devices/usbfs/kernel.ts';

const BULK = 3;
const CONTROL = 2;

/** One URB that the kernel has. */
export interface Pending {
  readonly address: number;
  readonly type: number;
  readonly endpoint: number;
  readonly flags: number;
  /** Of the buffer. */
  readonly octets: number;
  readonly buffer: number;
  /** What was in the buffer at submission. */
  readonly data: Buffer;
  readonly packets: number[];
}

export interface Ending {
  /** errno, positive */
  readonly errno?: number;
  readonly data?: Uint8Array;
  /** OUT */
  readonly octets?: number;
  readonly packets?: readonly { octets: number; errno?: number }[];
}

/** High speed; interface 0 with bulk, interface 1 with nothing, then isochronous and interrupt. */
export const DESCRIPTORS = Buffer.from(
  [
    '12010002ff000040 2505a0a4 0001 01 02 03 01',
    '09025500 02 01 00 c0 01',
    '0904 00 00 02 ff0000 00 07058102000200 07050202000200',
    '0904 01 00 00 ff0000 00',
    '0904 01 01 03 ff0000 00 07058301001401 07050401001401 07058503400004',
  ]
    .join('')
    .replaceAll(' ', ''),
  'hex',
);
DESCRIPTORS.writeUInt16LE(DESCRIPTORS.length - 18, 20);

export class FakeUsbfs implements UsbfsFile {
  readonly descriptors = DESCRIPTORS;
  readonly memories = new Map<number, Memory>();
  sharedLeft = Number.POSITIVE_INFINITY;
  plainLeft = Number.POSITIVE_INFINITY;
  /** Every submission, in order. */
  readonly submissions: Pending[] = [];
  readonly pending: Pending[] = [];
  /** Slow calls: name and arguments. */
  readonly calls: string[] = [];
  /** Answers to slow calls by name. */
  readonly answers = new Map<string, number>();
  /** Drivers of interfaces; null for none. */
  readonly drivers = new Map<number, string | null>([
    [0, 'usbfs'],
    [1, 'usbfs'],
  ]);
  /** -errno of the next submission. */
  refuseNext = 0;
  /** How often it was asked for something to reap. */
  reapCount = 0;
  /** Runs inside of that. */
  onReap: () => void = () => {};
  closed = false;
  /** What slow calls wait for; the device is locked meanwhile. */
  gate: Promise<void> = Promise.resolve();
  #locked = false;
  #watched = false;
  #gone = false;
  #nextAddress = 0x7f00_1000_0000;
  readonly #completed: Pending[] = [];
  readonly #disabled = new Set<number>();
  #ready: (last: boolean) => void = () => {};

  ioctl(request: number, argument: number): number {
    assert(!this.closed, 'ioctl after close');
    assert(!this.#locked, 'an ioctl would wait for the device');
    if (request === IOCTL.reapUrbNoDelay) return this.#reap(argument);
    if (this.#gone) return -ERRNO.ENODEV;
    if (request === IOCTL.submitUrb) return this.#submit(argument);
    if (request === IOCTL.getDriver) return this.#getDriver(argument);
    assert.equal(request, IOCTL.discardUrb);
    const one = this.pending.find(({ address }) => address === argument);
    if (one === undefined) return -ERRNO.EINVAL;
    this.#end(one, { errno: ERRNO.ENOENT });
    return 0;
  }

  async ioctlSlow(request: number, argument: number): Promise<number> {
    assert(!this.closed, 'ioctl after close');
    const name = Object.entries(IOCTL).find(([, code]) => code === request)?.[0] ?? '?';
    const { memory, at } = this.#at(argument);
    const [first, second] = [memory.octets.readUInt32LE(at), memory.octets.readUInt32LE(at + 4)];
    const call =
      name === 'ioctl'
        ? `connect ${first}`
        : name === 'reset'
          ? name
          : `${name} ${first}${name === 'setInterface' ? ` ${second}` : ''}`;
    this.calls.push(call);
    assert(!this.#locked, 'two slow calls at a time: one waits for the other in the kernel');
    this.#locked = true;
    await this.gate;
    this.#locked = false;
    if (this.#gone) return -ERRNO.ENODEV;
    return this.answers.get(call) ?? 0;
  }

  mapShared(octets: number): Memory | null {
    this.sharedLeft -= octets;
    if (this.sharedLeft >= 0) return this.#map(octets);
    this.sharedLeft += octets;
    return null;
  }

  mapPlain(octets: number): Memory | null {
    this.plainLeft -= octets;
    if (this.plainLeft >= 0) return this.#map(octets);
    this.plainLeft += octets;
    return null;
  }

  unmap({ address }: Memory): void {
    assert(this.memories.delete(address), 'unmapped what is not mapped');
  }

  watch(ready: (last: boolean) => void): void {
    assert(!this.closed, 'watched after close');
    assert(!this.#locked, 'watched while the kernel has locked the device');
    assert(!this.#watched, 'watched twice: the first watch is never closed');
    this.#watched = true;
    this.#ready = ready;
  }

  unwatch(): void {
    this.#watched = false;
    this.#ready = () => {};
  }

  close(): void {
    assert(!this.closed);
    this.closed = true;
  }

  /** The device ends a URB; the gateway hears of it at `wake`. */
  end(one: Pending | undefined, ending: Ending = {}): void {
    assert(one !== undefined && this.pending.includes(one), 'not pending');
    this.#end(one, ending);
  }

  wake(): void {
    this.#ready(this.#gone);
  }

  /** Ends a URB and says so. */
  finish(one: Pending | undefined, ending: Ending = {}): void {
    this.end(one, ending);
    this.wake();
  }

  /**
   * The machine sleeps, and wakes up again. Some host controllers still run when the port sleeps: then
   * what they have in hand ends in an error of the bus before the kernel takes the rest back.
   */
  sleep(busErrno = 0): void {
    const [first] = this.pending;
    if (busErrno !== 0 && first !== undefined) this.#end(first, { errno: busErrno });
    this.#takeAll();
    this.wake();
  }

  unplug(): void {
    this.#takeAll();
    this.#gone = true;
    this.wake();
  }

  #takeAll(): void {
    for (let one = this.pending[0]; one !== undefined; one = this.pending[0]) {
      this.#end(one, { errno: ERRNO.ESHUTDOWN });
    }
  }

  takeCalls(): string[] {
    return this.calls.splice(0);
  }

  #map(octets: number): Memory {
    const memory = { address: this.#nextAddress, octets: Buffer.alloc(octets) };
    this.#nextAddress += octets + 4096;
    this.memories.set(memory.address, memory);
    return memory;
  }

  #at(address: number): { memory: Memory; at: number } {
    for (const memory of this.memories.values()) {
      const at = address - memory.address;
      if (at >= 0 && at < memory.octets.length) return { memory, at };
    }
    throw new Error(`bad address ${address.toString(16)}`);
  }

  /** proc_getdriver */
  #getDriver(argument: number): number {
    const { memory, at } = this.#at(argument);
    const driver = this.drivers.get(memory.octets.readUInt32LE(at)) ?? null;
    if (driver === null) return -ERRNO.ENODATA;
    memory.octets.fill(0, at + 4, at + 260);
    memory.octets.write(driver, at + 4);
    return 0;
  }

  #submit(address: number): number {
    if (this.refuseNext !== 0) {
      const answer = this.refuseNext;
      this.refuseNext = 0;
      return answer;
    }
    const { memory, at } = this.#at(address);
    const raw = UsbfsUrb.read(memory.octets, at);
    const low = Buffer.from(raw.buffer).readUInt32LE(0);
    const buffer = Buffer.from(raw.buffer).readUInt32LE(4) * 2 ** 32 + low;
    const packets: number[] = [];
    assert(raw.packetCount <= PACKETS_MAX);
    for (let index = 0; index < raw.packetCount; index++) {
      const packet = at + UsbfsUrb.octets + index * UsbfsPacket.octets;
      packets.push(UsbfsPacket.read(memory.octets, packet).octets);
    }
    const block = this.#at(buffer);
    assert(block.at + raw.bufferOctets <= block.memory.octets.length, 'buffer too short');
    const data = Buffer.from(block.memory.octets.subarray(block.at, block.at + raw.bufferOctets));
    const { type, endpoint, flags, bufferOctets } = raw;
    const one = { address, type, endpoint, flags, octets: bufferOctets, buffer, data, packets };
    assert(!this.pending.some((other) => other.address === address), 'submitted twice');
    if (type === BULK) {
      if ((flags & FLAG.bulkContinuation) === 0) this.#disabled.delete(endpoint);
      if (this.#disabled.has(endpoint)) return -ERRNO.EREMOTEIO;
    }
    this.submissions.push(one);
    this.pending.push(one);
    return 0;
  }

  /** async_completed, with cancel_bulk_urbs. */
  #end(one: Pending, ending: Ending): void {
    const { errno = 0, data, packets = [] } = ending;
    this.pending.splice(this.pending.indexOf(one), 1);
    const { memory, at } = this.#at(one.address);
    const offset = UsbfsUrb.offsets;
    let actual = data?.length ?? ending.octets ?? 0;
    const block = this.#at(one.buffer);
    const from = block.at + (one.type === CONTROL ? 8 : 0);
    if (data !== undefined) block.memory.octets.set(data, from);
    for (const [index, packet] of packets.entries()) {
      const place = at + UsbfsUrb.octets + index * UsbfsPacket.octets;
      memory.octets.writeUInt32LE(packet.octets, place + UsbfsPacket.offsets.actualOctets);
      memory.octets.writeInt32LE(-(packet.errno ?? 0), place + UsbfsPacket.offsets.status);
      actual = index === 0 ? packet.octets : actual + packet.octets;
    }
    memory.octets.writeInt32LE(-errno, at + offset.status);
    memory.octets.writeUInt32LE(actual, at + offset.actualOctets);
    this.#completed.push(one);
    const fails = errno !== 0 && errno !== ERRNO.ENOENT && errno !== ERRNO.ECONNRESET;
    if (one.type !== BULK || !fails) return;
    const behind: Pending[] = [];
    let restarted = false;
    for (const other of this.pending) {
      if (other.endpoint !== one.endpoint) continue;
      restarted ||= (other.flags & FLAG.bulkContinuation) === 0;
      if (!restarted) behind.push(other);
    }
    if (!restarted) this.#disabled.add(one.endpoint);
    for (const other of behind.reverse()) this.#end(other, { errno: ERRNO.ECONNRESET });
  }

  #reap(argument: number): number {
    this.reapCount++;
    this.onReap();
    const one = this.#completed.shift();
    if (one === undefined) return this.#gone ? -ERRNO.ENODEV : -ERRNO.EAGAIN;
    const { memory, at } = this.#at(argument);
    memory.octets.writeUInt32LE(one.address >>> 0, at);
    memory.octets.writeUInt32LE(Math.floor(one.address / 2 ** 32), at + 4);
    return 0;
  }
}
