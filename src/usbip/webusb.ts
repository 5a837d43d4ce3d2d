/**
 * `navigator.usb` of WebUSB for the devices of USB/IP servers.
 *
 * A server's list says little of a device, so each new one is imported for a moment to read its
 * descriptors. One that another client has at that time is left out, and looked at again next time; so is one
 * that does not answer in time (look-at.ts), and whatever a server has that cannot be reached.
 * Nobody grants permissions here: what a server exports may be used.
 */
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import { type ListedDevice, listDevices } from './list-client.ts';
import { lookAt } from './look-at.ts';
import { formatAddress, type ListenAddress } from './server.ts';
import { type DeviceFacts, readFacts } from './webusb-descriptors.ts';
import { WebUsbDevice } from './webusb-device.ts';
import { fault } from './webusb-transfers.ts';
import type { UsbDeviceFilter } from './webusb-types.ts';

export interface RemoteUsbOptions {
  /** Looks for devices that come and go so often; default: only when `getDevices` is called. */
  readonly watchMilliseconds?: number;
  /** Another clock is for tests. */
  readonly clock?: Clock;
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
  readonly #clock: Clock;
  #missing: readonly string[] = [];
  #looking: Promise<void> | null = null;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(servers: ListenAddress | readonly ListenAddress[], options: RemoteUsbOptions = {}) {
    super();
    this.#servers = 'host' in servers ? [servers] : servers;
    this.#clock = options.clock ?? systemClock;
    if (options.watchMilliseconds !== undefined) {
      const look = () => this.#look().catch(() => {}); // a server that is away is no news
      this.#timer = setInterval(look, options.watchMilliseconds).unref();
    }
  }

  /** Why something may be missing from what `getDevices` found last: a sentence for each server or device. */
  get missing(): readonly string[] {
    return this.#missing;
  }

  /**
   * All devices of the servers that can be had, within 15 s; see `missing` for the others.
   *
   * @throws {UserError} if no server can be reached.
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
    const looks = await Promise.allSettled(this.#servers.map((one) => this.#lookAtServer(one)));
    const keys: string[] = [];
    const missing: string[] = [];
    for (const look of looks) {
      if (look.status === 'fulfilled') {
        keys.push(...look.value.keys);
        missing.push(...look.value.missing);
      } else if (look.reason instanceof UserError) missing.push(look.reason.message);
      else throw look.reason;
    }
    this.#missing = missing;
    this.#sort(keys);
    const isReached = looks.length === 0 || looks.some(({ status }) => status === 'fulfilled');
    if (!isReached) throw new UserError(missing.join('; '));
  }

  /** Returns what it lists, and why devices of it are missing. */
  async #lookAtServer(server: ListenAddress) {
    const byKey = new Map<string, string>();
    for (const listed of await listDevices(server)) byKey.set(keyOf(server, listed), listed.busId);
    for (const [key, device] of this.#devices) {
      if (device.server === server && !byKey.has(key)) this.#remove(key, device);
    }
    const fresh = new Map<string, string>();
    for (const [key, busId] of byKey) if (!this.#devices.has(key)) fresh.set(busId, key);
    const missing = await lookAt({
      server,
      busIds: [...fresh.keys()],
      read: readFacts,
      onRead: (busId, facts) => this.#add(fresh.get(busId) ?? '', server, busId, facts),
      clock: this.#clock,
    });
    return { keys: [...byKey.keys()], missing };
  }

  /** In the order of the servers and of their lists, whichever answered first. */
  #sort(listed: readonly string[]): void {
    const sorted = new Map<string, WebUsbDevice>();
    for (const key of [...listed, ...this.#devices.keys()]) {
      const device = this.#devices.get(key);
      if (device !== undefined) sorted.set(key, device);
    }
    this.#devices = sorted;
  }

  #add(key: string, server: ListenAddress, busId: string, facts: DeviceFacts): void {
    const onGone = () => this.#remove(key, device);
    const device = new WebUsbDevice({ server, busId, facts, clock: this.#clock, onGone });
    this.#devices.set(key, device);
    this.#tell('connect', device);
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
