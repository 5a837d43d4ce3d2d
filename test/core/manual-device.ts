/** A device whose every step a test takes by hand. */
import { strict as assert } from 'node:assert';
import { controlEndpoint } from '../../src/core/descriptors.ts';
import type {
  DeviceHost,
  DeviceInfo,
  EndpointInfo,
  TransferType,
  UsbDevice,
} from '../../src/core/device.ts';
import type { SessionClient } from '../../src/core/session.ts';
import { type SetupPacket, Urb, type UrbStatus } from '../../src/core/urb.ts';

export const endpointInfo = (
  address: number,
  type: TransferType = 'bulk',
  interfaceNumber = 0,
): EndpointInfo => ({
  address,
  direction: (address & 0x80) !== 0 ? 'in' : 'out',
  type,
  interfaceNumber,
  maxPacketOctets: 64,
  intervalOctets: 64,
  intervalMicroseconds: 1000,
});

export const bulkIn = endpointInfo(0x81);
export const bulkOut = endpointInfo(0x02);
export const isoIn = endpointInfo(0x83, 'isochronous');
export const control = controlEndpoint(64);

const info: DeviceInfo = {
  speed: 'high',
  vendorId: 1,
  productId: 2,
  deviceVersion: 3,
  class: 0,
  subclass: 0,
  protocol: 0,
  configurationValue: 1,
  configurationCount: 1,
  interfaces: [],
  label: 'manual',
};

export class ManualDevice implements UsbDevice {
  readonly info = info;
  readonly queueModel = 'serial';
  /** Ids of what the device has now, in the order of submission. */
  readonly atDevice: Urb[] = [];
  /** "submit 1", "unlink 1", "open", "close", "dispose". */
  readonly log: string[] = [];
  /** Runs inside `submit`, after the URB was taken. */
  onSubmit: (urb: Urb) => void = () => {};
  /** Runs inside `unlink`; default: completes as unlinked at once. */
  onUnlink: (urb: Urb) => void = (urb) => {
    if (this.atDevice.includes(urb)) this.complete(urb, 'unlinked');
  };
  /** What `close` and `dispose` wait for. */
  closing: Promise<void> = Promise.resolve();
  #host: DeviceHost | null = null;

  endpoint(address: number): EndpointInfo | undefined {
    return address === 0 ? control : endpointInfo(address);
  }

  open(host: DeviceHost): void {
    assert(this.#host === null, 'the device is open');
    this.log.push('open');
    this.#host = host;
  }

  submit(urb: Urb): void {
    this.log.push(`submit ${urb.id}`);
    assert(!this.atDevice.includes(urb), 'a URB was started twice');
    this.atDevice.push(urb);
    this.onSubmit(urb);
  }

  unlink(urb: Urb): void {
    this.log.push(`unlink ${urb.id}`);
    this.onUnlink(urb);
  }

  complete(urb: Urb | undefined, status: UrbStatus = 'ok', octets = 0): void {
    assert(urb !== undefined);
    const at = this.atDevice.indexOf(urb);
    assert(at >= 0, `URB ${urb.id} is not at the device`);
    this.atDevice.splice(at, 1);
    urb.status = status;
    urb.actualOctets = octets;
    if (urb.in) urb.dataIn = Buffer.alloc(octets);
    this.#host?.completed(urb);
  }

  unplug(): void {
    this.#host?.removed();
  }

  reset(): void {}

  async close(): Promise<void> {
    this.log.push('close');
    assert.deepEqual(this.atDevice, [], 'URBs are at the device');
    await this.closing;
    this.#host = null;
    this.log.push('closed');
  }

  async dispose(): Promise<void> {
    assert(this.#host === null, 'the device is open');
    this.log.push('dispose');
  }

  take(): string[] {
    return this.log.splice(0);
  }
}

/** Notes what it gets back: "1 ok 0", "removed". */
export class NotingClient implements SessionClient {
  readonly log: string[] = [];
  /** Runs inside `gaveBack`. */
  onGaveBack: (urb: Urb) => void = () => {};

  gaveBack(urb: Urb): void {
    assert.equal(urb.outstanding, false);
    this.log.push(`${urb.id} ${urb.status} ${urb.actualOctets}`);
    this.onGaveBack(urb);
  }

  deviceRemoved(): void {
    this.log.push('removed');
  }

  take(): string[] {
    return this.log.splice(0);
  }
}

export const read = (id: number, endpoint = bulkIn, octets = 64, shortNotOk = false): Urb =>
  Urb.read(id, endpoint, octets, shortNotOk);

export const write = (id: number, endpoint = bulkOut): Urb =>
  Urb.write(id, endpoint, Buffer.from('data'));

export const stream = (id: number): Urb => Urb.isochronous(id, isoIn, 0, []);

export const request = (
  id: number,
  requestType: number,
  code: number,
  value = 0,
  index = 0,
): Urb => {
  const setup: SetupPacket = { requestType, request: code, value, index, length: 0 };
  return Urb.control(id, control, setup);
};
