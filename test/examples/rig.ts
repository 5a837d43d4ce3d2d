/** Runs a device definition in the engine and talks to it as a host's class driver would. */
import { strict as assert } from 'node:assert';
import { type Clock, systemClock } from '../../src/core/clock.ts';
import type { EndpointInfo } from '../../src/core/device.ts';
import type { Bus, DeviceDefinition } from '../../src/core/devices/virtual/definition.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { type IsoPacket, type SetupPacket, Urb } from '../../src/core/urb.ts';

/** A bus that remembers which endpoints were woken, and calls nobody. */
export class FakeBus implements Bus {
  woken: number[] = [];

  wake(address: number): void {
    this.woken.push(address);
  }

  halt(): void {
    assert.fail('Cannot halt: no device here does');
  }

  /** The wakes since the last call. */
  take(): number[] {
    const { woken } = this;
    this.woken = [];
    return woken;
  }
}

/** Time that passes when the test says so. */
export class FakeClock implements Clock {
  #now = 1000;
  #timers: { at: number; call: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, call: () => void): () => void {
    const timer = { at: this.#now + milliseconds, call };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((one) => one !== timer);
    };
  }

  get timers(): number {
    return this.#timers.length;
  }

  /** Nothing runs for so long; then all timers are late. */
  freeze(milliseconds: number): void {
    this.#now += milliseconds;
    this.advance(0);
  }

  /** Fires the timers that are due now, but not those that they set. */
  advanceOnce(): void {
    const due = this.#timers.filter((one) => one.at <= this.#now);
    this.#timers = this.#timers.filter((one) => !due.includes(one));
    for (const { call } of due) call();
  }

  advance(milliseconds: number): void {
    const end = this.#now + milliseconds;
    for (;;) {
      const [next] = this.#timers.filter((one) => one.at <= end).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#timers = this.#timers.filter((one) => one !== next);
      this.#now = Math.max(this.#now, next.at);
      next.call();
    }
    this.#now = end;
  }
}

/** The eight octets of a request; `requestType` as in the specifications, 0xa1 say. */
export function setup(
  requestType: number,
  request: number,
  value: number,
  index: number,
  length: number,
): SetupPacket {
  return { requestType, request, value, index, length };
}

export class Rig<S> {
  readonly device: VirtualDevice<S>;
  readonly faults: unknown[] = [];
  readonly #waiting = new Map<Urb, (urb: Urb) => void>();
  #id = 0;

  constructor(definition: DeviceDefinition<S>, clock: Clock = systemClock) {
    this.device = new VirtualDevice(definition, {
      clock,
      onFault: (error) => this.faults.push(error),
    });
    this.open();
  }

  get state(): S {
    return this.device.state;
  }

  open(): void {
    this.device.open({
      completed: (urb) => {
        const resolve = this.#waiting.get(urb);
        assert(resolve !== undefined, 'a URB is given back that nobody has submitted');
        this.#waiting.delete(urb);
        resolve(urb);
      },
      removed: () => {},
      failed: (error) => assert.fail(`failed: ${error}`),
    });
  }

  /** URBs at the device. */
  get pending(): number {
    return this.#waiting.size;
  }

  async close(): Promise<void> {
    for (const urb of [...this.#waiting.keys()]) this.device.unlink(urb);
    await this.device.close();
  }

  async end(): Promise<void> {
    await this.close();
    await this.device.dispose();
    assert.deepEqual(this.faults, []);
  }

  submit(urb: Urb): Promise<Urb> {
    return new Promise((resolve) => {
      this.#waiting.set(urb, resolve);
      this.device.submit(urb);
    });
  }

  control(packet: SetupPacket, octets: Uint8Array = Buffer.alloc(0)): Promise<Urb> {
    return this.submit(Urb.control(this.#id++, this.endpoint(0), packet, Buffer.from(octets)));
  }

  /** SET_CONFIGURATION, and SET_INTERFACE for each pair given. */
  async configure(...settings: [number, number][]): Promise<void> {
    assert.equal((await this.control(setup(0x00, 9, 1, 0, 0))).status, 'ok');
    for (const [number, alternate] of settings) await this.select(number, alternate);
  }

  async select(number: number, alternate: number): Promise<void> {
    assert.equal((await this.control(setup(0x01, 11, alternate, number, 0))).status, 'ok');
  }

  async descriptor(type: number, index = 0): Promise<Buffer> {
    const urb = await this.control(setup(0x80, 6, (type << 8) | index, 0, 0xffff));
    assert.equal(urb.status, 'ok');
    return Buffer.from(urb.dataIn);
  }

  read(address: number, octets: number): Promise<Urb> {
    return this.submit(Urb.read(this.#id++, this.endpoint(address), octets));
  }

  /** A read that is taken back at once if the device has nothing to say. */
  poll(address: number, octets: number): Urb {
    const urb = Urb.read(this.#id++, this.endpoint(address), octets);
    void this.submit(urb);
    if (this.#waiting.has(urb)) this.device.unlink(urb);
    assert(!this.#waiting.has(urb), 'an unlinked URB has not come back');
    return urb;
  }

  write(address: number, octets: Uint8Array, zeroPacket = false): Promise<Urb> {
    return this.submit(
      Urb.write(this.#id++, this.endpoint(address), Buffer.from(octets), zeroPacket),
    );
  }

  /** An isochronous transfer whose packets lie one after the other. */
  stream(address: number, packetOctets: number[], octets?: Uint8Array): Promise<Urb> {
    const packets: IsoPacket[] = [];
    let offset = 0;
    for (const length of packetOctets) {
      packets.push({ offset, octets: length, actualOctets: 0, status: 'ok' });
      offset += length;
    }
    const data = octets === undefined ? [] : [Buffer.from(octets)];
    const endpoint = this.endpoint(address);
    return this.submit(Urb.isochronous(this.#id++, endpoint, offset, packets, ...data));
  }

  endpoint(address: number): EndpointInfo {
    const endpoint = this.device.endpoint(address);
    assert(endpoint !== undefined, `no endpoint 0x${address.toString(16)} in this setting`);
    return endpoint;
  }
}

/** The descriptors that make up a configuration, each as it stands. */
export function split(configuration: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0; at < configuration.length; ) {
    const length = configuration[at] ?? 0;
    assert(length >= 2 && at + length <= configuration.length, `bLength ${length} at ${at}`);
    parts.push(configuration.subarray(at, at + length));
    at += length;
  }
  return parts;
}
