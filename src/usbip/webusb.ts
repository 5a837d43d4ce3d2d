/**
 * `navigator.usb` of WebUSB for the devices of USB/IP servers.
 *
 * A server's list says little of a device, so each new one is imported for a moment to read its
 * descriptors. One that another client has at that time is left out, and looked at again next time.
 * Nobody grants permissions here: what a server exports may be used.
 */
import { UserError } from '../core/errors.ts';
import { importDevice } from './client.ts';
import { type ListedDevice, listDevices } from './list-client.ts';
import { formatAddress, type ListenAddress } from './server.ts';
import { readFacts } from './webusb-descriptors.ts';
import { WebUsbDevice } from './webusb-device.ts';
import { fault } from './webusb-transfers.ts';
import type { UsbDeviceFilter } from './webusb-types.ts';

export interface RemoteUsbOptions {
  /** Looks for devices that come and go so often; default: only when `getDevices` is called. */
  readonly watchMilliseconds?: number;
}

/** USBConnectionEvent: 'connect' or 'disconnect'. */
export class UsbConnectionEvent extends Event {
  readonly device: WebUsbDevice;

  constructor(type: 'connect' | 'disconnect', device: WebUsbDevice) {
    super(type);
    this.device = device;
  }
}

type Handler = ((event: UsbConnectionEvent) => void) | null;

export class RemoteUsb extends EventTarget {
  onconnect: Handler = null;
  ondisconnect: Handler = null;
  readonly #servers: readonly ListenAddress[];
  /** By server, bus id and what the device is. */
  #devices = new Map<string, WebUsbDevice>();
  #looking: Promise<void> | null = null;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(servers: ListenAddress | readonly ListenAddress[], options: RemoteUsbOptions = {}) {
    super();
    this.#servers = 'host' in servers ? [servers] : servers;
    if (options.watchMilliseconds !== undefined) {
      const look = () => this.#look().catch(() => {}); // a server that is away is no news
      this.#timer = setInterval(look, options.watchMilliseconds).unref();
    }
  }

  /**
   * All devices of the servers that can be had.
   *
   * @throws {UserError} if a server cannot be reached.
   */
  async getDevices(): Promise<WebUsbDevice[]> {
    await this.#look();
    return [...this.#devices.values()];
  }

  /**
   * The first device that fits one of the filters; no filter fits all.
   *
   * @throws {DOMException} NotFoundError if there is none.
   * @throws {TypeError} if a filter has a part without the one that it belongs to.
   */
  async requestDevice(options: {
    readonly filters: readonly UsbDeviceFilter[];
    readonly exclusionFilters?: readonly UsbDeviceFilter[];
  }): Promise<WebUsbDevice> {
    const { filters, exclusionFilters = [] } = options;
    for (const filter of [...filters, ...exclusionFilters]) assertValid(filter);
    for (const device of await this.getDevices()) {
      const wanted = filters.length === 0 || filters.some((filter) => fits(device, filter));
      if (wanted && !exclusionFilters.some((filter) => fits(device, filter))) return device;
    }
    throw fault('NotFoundError', 'the servers have no device that fits');
  }

  /** Stops watching. Devices stay as they are. */
  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): Promise<void> {
    this.#looking ??= this.#lookOnce().finally(() => {
      this.#looking = null;
    });
    return this.#looking;
  }

  async #lookOnce(): Promise<void> {
    const seen = new Set<string>();
    for (const server of this.#servers) {
      for (const listed of await listDevices(server)) {
        const key = keyOf(server, listed);
        seen.add(key);
        if (!this.#devices.has(key)) await this.#add(key, server, listed.busId);
      }
    }
    for (const [key, device] of this.#devices) {
      if (!seen.has(key)) this.#remove(key, device);
    }
  }

  async #add(key: string, server: ListenAddress, busId: string): Promise<void> {
    try {
      const remote = await importDevice(server, busId);
      try {
        const gone = (one: WebUsbDevice) => this.#remove(key, one);
        const device = new WebUsbDevice(server, busId, await readFacts(remote), gone);
        this.#devices.set(key, device);
        this.#tell('connect', device);
      } finally {
        await remote.close();
      }
    } catch (error) {
      if (!(error instanceof UserError)) throw error; // else: somebody has it, or it is broken
    }
  }

  #remove(key: string, device: WebUsbDevice): void {
    if (this.#devices.get(key) !== device) return;
    this.#devices.delete(key);
    device.disconnected();
    this.#tell('disconnect', device);
  }

  #tell(type: 'connect' | 'disconnect', device: WebUsbDevice): void {
    const event = new UsbConnectionEvent(type, device);
    const handler = type === 'connect' ? this.onconnect : this.ondisconnect;
    handler?.call(this, event);
    this.dispatchEvent(event);
  }
}

function keyOf(server: ListenAddress, { busId, vendorId, productId, deviceNumber }: ListedDevice) {
  return [formatAddress(server), busId, deviceNumber, vendorId, productId].join(' ');
}

/** "A filter is valid". */
function assertValid({
  vendorId,
  productId,
  classCode,
  subclassCode,
  protocolCode,
}: UsbDeviceFilter): void {
  const lacks = (part: number | undefined, of: number | undefined) =>
    part !== undefined && of === undefined;
  if (lacks(productId, vendorId)) throw new TypeError('Cannot filter: productId without vendorId');
  if (lacks(subclassCode, classCode)) {
    throw new TypeError('Cannot filter: subclassCode without classCode');
  }
  if (lacks(protocolCode, subclassCode)) {
    throw new TypeError('Cannot filter: protocolCode without subclassCode');
  }
}

/** "A USB device matches a device filter". */
function fits(device: WebUsbDevice, filter: UsbDeviceFilter): boolean {
  const { vendorId, productId, classCode, subclassCode, protocolCode, serialNumber } = filter;
  if (vendorId !== undefined && vendorId !== device.vendorId) return false;
  if (productId !== undefined && productId !== device.productId) return false;
  if (serialNumber !== undefined && serialNumber !== device.serialNumber) return false;
  if (classCode === undefined) return true;
  const same = (of: number, sub: number, protocol: number) =>
    of === classCode &&
    (subclassCode === undefined || sub === subclassCode) &&
    (protocolCode === undefined || protocol === protocolCode);
  if (same(device.deviceClass, device.deviceSubclass, device.deviceProtocol)) return true;
  return device.configurations
    .flatMap(({ interfaces }) => interfaces)
    .flatMap(({ alternates }) => alternates)
    .some((one) => same(one.interfaceClass, one.interfaceSubclass, one.interfaceProtocol));
}
