/**
 * The npm package `usb` as far as a device sees it, by what version 3.1.0 was seen to do: what it
 * refuses while a transfer is outstanding, what ends a transfer, what a claim over a claim does.
 */
import { strict as assert } from 'node:assert';
import type {
  ControlSetup,
  PackageDevice,
  UsbPackage,
} from '../../../../src/core/devices/webusb/package.ts';
import { DESCRIPTORS } from '../usbfs/fake-usbfs.ts';

const DEVICE_OCTETS = 18;
const BORROWED = 'The same native value cannot be borrowed mutably while another borrow is active';

/** One transfer that the package has. */
export interface Transfer {
  /** Address of the endpoint. */
  readonly endpoint: number;
  /** Asked for, or to be written. */
  readonly octets: number;
  readonly milliseconds: number;
  /** OUT: what it was given. */
  readonly data: Buffer;
  /** IN: ends well, with data. */
  arrive(data: Uint8Array): Promise<void>;
  /** OUT: ends well; all has gone unless it is said how much. */
  leave(octets?: number): Promise<void>;
  /** Ends as the package says it: 'Stall', 'Cancelled' at its deadline, 'Disconnected', 'Fault'... */
  fail(what: string): Promise<void>;
}

/** Lets promises run. */
export const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

export class FakePackageDevice implements PackageDevice {
  handle = 'bus 1, address 7';
  vendorId = 0x0525;
  productId = 0xa4a0;
  deviceClass = 0;
  usbVersionMajor = 2;
  bus = '001';
  address = 7;
  ports: number[] = [1, 2];
  speed: string | undefined = 'high';
  manufacturerName: string | null = 'Maker';
  productName: string | null = 'Thing';
  serialNumber: string | null = 'S1';
  /** What is outstanding, in order. */
  readonly transfers: Transfer[] = [];
  /** Calls with what they were given, in order. */
  readonly calls: string[] = [];
  /** What the next call of a name fails with. */
  readonly failures = new Map<string, string>();
  /** Kernel drivers, by interface. */
  readonly drivers = new Set<number>([0, 1]);
  readonly claimed = new Set<number>();
  descriptors = DESCRIPTORS;
  configurationValue = 1;
  opened = false;
  /** Answers a control request that is none of the standard ones below; default: at once, with nothing. */
  onControl: (setup: ControlSetup, data: Uint8Array | number) => Promise<Buffer> = async () =>
    Buffer.alloc(0);
  /** What calls other than transfers wait for. */
  gate: Promise<void> = Promise.resolve();
  #controls = 0;

  async open(): Promise<void> {
    await this.#call('open');
    this.opened = true;
  }

  async close(): Promise<void> {
    this.#borrow();
    await this.#call('close');
    assert.deepEqual([...this.claimed], [], 'closed with interfaces claimed');
    this.opened = false;
  }

  async reset(): Promise<void> {
    await this.#call('reset');
    assert.deepEqual([...this.claimed], [], 'the kernel would give the interfaces to its drivers');
  }

  async selectConfiguration(value: number): Promise<void> {
    await this.#call(`selectConfiguration ${value}`);
    if (this.claimed.size > 0)
      throw new Error('selectConfiguration error: device is busy (errno 16)');
    this.configurationValue = value;
    for (const number of [0, 1]) this.drivers.add(number);
  }

  async claimInterface(number: number): Promise<void> {
    this.#borrow();
    await this.#call(`claim ${number}`);
    if (this.drivers.has(number)) {
      throw new Error('claimInterface error: interface is busy (errno 16)');
    }
    // The old claim ends after the new one has begun, and takes it with it.
    if (!this.claimed.delete(number)) this.claimed.add(number);
  }

  async releaseInterface(number: number): Promise<void> {
    this.#borrow();
    await this.#call(`release ${number}`);
    this.claimed.delete(number);
  }

  async selectAlternateInterface(number: number, alternate: number): Promise<void> {
    this.#borrow();
    await this.#call(`alternate ${number} ${alternate}`);
    if (!this.claimed.has(number)) throw new Error('selectAlternateInterface error: invalid state');
  }

  async clearHalt(direction: 'in' | 'out', number: number): Promise<void> {
    const address = number | (direction === 'in' ? 0x80 : 0);
    await this.#call(`clearHalt ${address.toString(16)}`);
    if (this.#isBusy(address)) throw new Error('clearHalt error: endpoint not found');
  }

  async detachKernelDriver(number: number): Promise<void> {
    await this.#call(`detach ${number}`);
    if (this.claimed.delete(number)) {
      const [first, second] = number === 0 ? [0x81, 0x02] : [0x83, 0x85];
      for (const one of this.at(first, second)) await one.fail('Disconnected');
      return;
    }
    if (!this.drivers.delete(number)) {
      throw new Error('detachKernelDriver error: no kernel driver attached (errno 61)');
    }
  }

  async attachKernelDriver(number: number): Promise<void> {
    await this.#call(`attach ${number}`);
    assert(!this.claimed.has(number), 'a driver for an interface that is claimed');
    this.drivers.add(number);
  }

  async controlTransferIn(
    setup: ControlSetup,
    octets: number,
    _milliseconds: number,
  ): Promise<{ data?: DataView }> {
    const answer = await this.#control(setup, octets);
    return { data: new DataView(Uint8Array.from(answer).buffer) };
  }

  async controlTransferOut(
    setup: ControlSetup,
    data: Uint8Array,
    _milliseconds: number,
  ): Promise<{ bytesWritten: number }> {
    await this.#control(setup, data);
    return { bytesWritten: data.length };
  }

  transferIn(number: number, octets: number, milliseconds: number): Promise<{ data?: DataView }> {
    return this.#transfer(number | 0x80, octets, milliseconds, Buffer.alloc(0)).then((data) => ({
      data: new DataView(Uint8Array.from(data).buffer),
    }));
  }

  transferOut(
    number: number,
    data: Uint8Array,
    milliseconds: number,
  ): Promise<{ bytesWritten: number }> {
    const written = Buffer.from(data);
    return this.#transfer(number, data.length, milliseconds, written).then((sent) => ({
      bytesWritten: sent.length,
    }));
  }

  /** Outstanding transfers of endpoints. */
  at(...endpoints: number[]): Transfer[] {
    return this.transfers.filter(({ endpoint }) => endpoints.includes(endpoint));
  }

  /** The one outstanding transfer of an endpoint. */
  only(endpoint: number): Transfer {
    const [one, ...others] = this.at(endpoint);
    assert(one !== undefined, `nothing is outstanding at ${endpoint.toString(16)}`);
    assert.equal(others.length, 0);
    return one;
  }

  takeCalls(): string[] {
    return this.calls.splice(0);
  }

  async #call(call: string): Promise<void> {
    this.calls.push(call);
    await this.gate;
    const failure = this.failures.get(call);
    this.failures.delete(call);
    if (failure !== undefined) throw new Error(failure);
  }

  #borrow(): void {
    if (this.transfers.length + this.#controls > 0) throw new Error(BORROWED);
  }

  #isBusy(endpoint: number): boolean {
    return this.at(endpoint).length > 0;
  }

  async #control(setup: ControlSetup, data: Uint8Array | number): Promise<Buffer> {
    const { requestType, recipient, request, value } = setup;
    this.#controls++;
    try {
      if (requestType === 'standard' && recipient === 'device' && typeof data === 'number') {
        if (request === 6) return this.#descriptor(value >> 8, value & 255).subarray(0, data);
        if (request === 8) return Buffer.of(this.configurationValue);
      }
      this.calls.push(`control ${requestType} ${recipient} ${request}`);
      return await this.onControl(setup, data);
    } finally {
      this.#controls--;
    }
  }

  #descriptor(type: number, at: number): Buffer {
    if (type === 1) return this.descriptors.subarray(0, DEVICE_OCTETS);
    if (type === 2 && at === 0) return this.descriptors.subarray(DEVICE_OCTETS);
    throw new Error('controlTransferIn error: endpoint stalled');
  }

  #transfer(
    endpoint: number,
    octets: number,
    milliseconds: number,
    data: Buffer,
  ): Promise<Uint8Array> {
    const name = (endpoint & 0x80) === 0 ? 'transferOut' : 'transferIn';
    const interfaceNumber = [0x81, 0x02].includes(endpoint) ? 0 : 1;
    if (!this.claimed.has(interfaceNumber) || this.#isBusy(endpoint)) {
      return Promise.reject(new Error(`${name} error: endpoint not found`));
    }
    return new Promise((resolve, reject) => {
      const end = async (how: () => void) => {
        const place = this.transfers.indexOf(transfer);
        assert(place >= 0, 'a transfer ended twice');
        this.transfers.splice(place, 1);
        how();
        await settle();
      };
      const transfer: Transfer = {
        endpoint,
        octets,
        milliseconds,
        data,
        arrive: (read) => end(() => resolve(read)),
        leave: (count = octets) => end(() => resolve(Buffer.alloc(count))),
        fail: (what) => end(() => reject(new Error(`${name} error: ${what}`))),
      };
      this.transfers.push(transfer);
    });
  }
}

export class FakePackage implements UsbPackage {
  devices: FakePackageDevice[] = [];
  fails = false;
  looks = 0;

  async getDevices(): Promise<readonly PackageDevice[]> {
    this.looks++;
    if (this.fails) throw new Error('getDevices error: none');
    return [...this.devices];
  }
}
