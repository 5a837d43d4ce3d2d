/**
 * USBDevice of WebUSB over a device of a USB/IP server: no root, no driver, no kernel module.
 *
 * Each method follows its steps in the specification (https://wicg.github.io/webusb/) in their order,
 * which decides what error a program sees. Errors are `DOMException`s:
 *
 * | name | when |
 * | --- | --- |
 * | NotFoundError | the device has gone, or has no such configuration, interface or endpoint |
 * | InvalidStateError | the device is not open, or the interface not claimed |
 * | InvalidAccessError | the endpoint is of another type |
 * | AbortError | what was under way was taken back by close, release or a new setting |
 * | NetworkError | the transfer failed, or the server refused |
 *
 * A stall or a babble is a result, not an error. The device is imported by `open` and given back by
 * `close`: between the two nobody else can have it.
 */
import type { ListenAddress } from './server.ts';
import { DeviceDescription } from './webusb-description.ts';
import {
  assertControl,
  type ConfigurationState,
  type DeviceParts,
  findEndpoint,
  findInterface,
  type InterfaceState,
} from './webusb-descriptors.ts';
import { type OpenDevice, openDevice } from './webusb-open.ts';
import {
  addressOf,
  assertClaimed,
  assertLength,
  controlSetup,
  fault,
  gone,
  hasEndpoint,
  intervalOf,
  layOut,
  packetsIn,
  packetsOut,
  statusOf,
  viewOf,
} from './webusb-transfers.ts';
import {
  type Octets,
  octetsOf,
  type UsbConfiguration,
  type UsbControlTransferParameters,
  type UsbDirection,
  type UsbEndpointType,
  type UsbInTransferResult,
  type UsbIsochronousInTransferResult,
  type UsbIsochronousOutTransferResult,
  type UsbOutTransferResult,
} from './webusb-types.ts';

export class WebUsbDevice extends DeviceDescription {
  /** Where it is: no part of WebUSB. */
  readonly server: ListenAddress;
  readonly busId: string;
  readonly #parts: DeviceParts;
  #configurationValue: number;
  #open: OpenDevice | null = null;
  /** An import that is under way serves all calls of `open` meanwhile. */
  #opening: Promise<void> | null = null;
  #isConnected = true;

  /** Use `RemoteUsb`. */
  constructor(parts: DeviceParts) {
    super(parts.facts);
    this.server = parts.server;
    this.busId = parts.busId;
    this.#parts = parts;
    this.#configurationValue = parts.facts.descriptors.active;
  }

  get opened(): boolean {
    return this.#open !== null;
  }

  get configuration(): UsbConfiguration | null {
    return this.#configuration ?? null;
  }

  get configurations(): readonly UsbConfiguration[] {
    return this.#parts.facts.configurations;
  }

  get #configuration(): ConfigurationState | undefined {
    return this.#parts.facts.configurations.find(
      ({ configurationValue }) => configurationValue === this.#configurationValue,
    );
  }

  async open(): Promise<void> {
    this.#assertConnected();
    if (this.opened) return;
    this.#opening ??= this.#import().finally(() => {
      this.#opening = null;
    });
    await this.#opening;
  }

  async #import(): Promise<void> {
    const { clock } = this.#parts;
    const open = await openDevice(this.server, this.busId, this.#configurationValue, clock);
    if (!this.#isConnected) {
      await open.close();
      throw gone();
    }
    this.#open = open;
    open.closed.then(() => this.#lost(open));
  }

  async close(): Promise<void> {
    this.#assertConnected();
    await this.#opening?.catch(() => {}); // whoever called `open` is told
    const open = this.#open;
    if (open === null) return;
    this.#open = null;
    for (const { interfaces } of this.#parts.facts.configurations) {
      for (const one of interfaces) one.reset();
    }
    await open.close();
  }

  /** Nothing keeps permissions here. */
  async forget(): Promise<void> {
    if (this.opened) await this.close();
  }

  async selectConfiguration(configurationValue: number): Promise<void> {
    this.#assertConnected();
    const wanted = this.#parts.facts.configurations.find(
      (one) => one.configurationValue === configurationValue,
    );
    if (wanted === undefined)
      throw fault('NotFoundError', `no configuration ${configurationValue}`);
    const open = this.#assertOpen();
    await open.abort(() => true);
    await open.setConfiguration(configurationValue);
    this.#configurationValue = configurationValue;
    for (const one of wanted.interfaces) one.reset();
  }

  async claimInterface(interfaceNumber: number): Promise<void> {
    this.#assertConnected();
    const wanted = this.#interface(interfaceNumber);
    this.#assertOpen();
    wanted.claimed = true; // the import has the whole device
  }

  async releaseInterface(interfaceNumber: number): Promise<void> {
    this.#assertConnected();
    const wanted = this.#interface(interfaceNumber);
    const open = this.#assertOpen();
    if (!wanted.claimed) return;
    await open.abort((address) => hasEndpoint(wanted, address));
    wanted.claimed = false;
  }

  async selectAlternateInterface(interfaceNumber: number, alternateSetting: number): Promise<void> {
    this.#assertConnected();
    const wanted = this.#interface(interfaceNumber);
    const open = this.#assertOpen();
    assertClaimed(wanted);
    const setting = wanted.alternates.find((one) => one.alternateSetting === alternateSetting);
    if (setting === undefined) throw fault('NotFoundError', `no setting ${alternateSetting}`);
    await open.abort((address) => hasEndpoint(wanted, address));
    await open.setInterface(interfaceNumber, alternateSetting);
    wanted.alternate = setting;
  }

  /** `length` in octets, at most 65535. */
  async controlTransferIn(
    setup: UsbControlTransferParameters,
    length: number,
  ): Promise<UsbInTransferResult> {
    this.#assertConnected();
    const open = this.#assertOpen();
    assertControl(this.#configuration, setup);
    const octets = controlSetup(setup, 'in', length);
    const result = await open.control(octets, { octets: length });
    return { data: viewOf(result.data), status: statusOf(result) };
  }

  async controlTransferOut(
    setup: UsbControlTransferParameters,
    data: Octets = new Uint8Array(),
  ): Promise<UsbOutTransferResult> {
    this.#assertConnected();
    const open = this.#assertOpen();
    assertControl(this.#configuration, setup);
    const octets = octetsOf(data);
    const packet = controlSetup(setup, 'out', octets.length);
    const result = await open.control(packet, { data: octets });
    return { bytesWritten: result.actualOctets, status: statusOf(result) };
  }

  async clearHalt(direction: UsbDirection, endpointNumber: number): Promise<void> {
    this.#assertConnected();
    const { of } = findEndpoint(this.#configuration, direction, endpointNumber);
    const open = this.#assertOpen();
    assertClaimed(of);
    await open.clearHalt(addressOf(direction, endpointNumber));
  }

  /** `length` in octets. */
  async transferIn(endpointNumber: number, length: number): Promise<UsbInTransferResult> {
    assertLength(length);
    const { open, transfer } = this.#prepare('in', endpointNumber, ['bulk', 'interrupt']);
    const result = await open.transfer({ ...transfer, octets: length });
    return { data: viewOf(result.data), status: statusOf(result) };
  }

  async transferOut(endpointNumber: number, data: Octets): Promise<UsbOutTransferResult> {
    const { open, transfer } = this.#prepare('out', endpointNumber, ['bulk', 'interrupt']);
    const result = await open.transfer({ ...transfer, data: octetsOf(data) });
    return { bytesWritten: result.actualOctets, status: statusOf(result) };
  }

  /** Lengths in octets. */
  async isochronousTransferIn(
    endpointNumber: number,
    packetLengths: readonly number[],
  ): Promise<UsbIsochronousInTransferResult> {
    const { packets, octets } = layOut(packetLengths);
    const { open, transfer } = this.#prepare('in', endpointNumber, ['isochronous']);
    const result = await open.transfer({ ...transfer, octets, packets });
    return packetsIn(packets, octets, result);
  }

  async isochronousTransferOut(
    endpointNumber: number,
    data: Octets,
    packetLengths: readonly number[],
  ): Promise<UsbIsochronousOutTransferResult> {
    const { packets, octets } = layOut(packetLengths);
    const { open, transfer } = this.#prepare('out', endpointNumber, ['isochronous']);
    const all = octetsOf(data);
    if (all.length !== octets) {
      throw fault('DataError', `${all.length} octets in packets of ${octets} in all`);
    }
    return packetsOut(await open.transfer({ ...transfer, data: all, packets }));
  }

  async reset(): Promise<void> {
    this.#assertConnected();
    const open = this.#assertOpen();
    await open.abort(() => true);
    await open.reset();
  }

  /** The server does not list it any more. For `RemoteUsb`. */
  disconnected(): void {
    this.#isConnected = false;
    const open = this.#open;
    this.#open = null;
    open?.close();
  }

  #lost(open: OpenDevice): void {
    if (this.#open !== open) return; // we have closed it
    this.#open = null;
    this.#isConnected = false;
    this.#parts.onGone();
  }

  #prepare(direction: UsbDirection, number: number, types: readonly UsbEndpointType[]) {
    this.#assertConnected();
    const { endpoint, of } = findEndpoint(this.#configuration, direction, number);
    if (!types.includes(endpoint.type)) {
      throw fault('InvalidAccessError', `endpoint ${number} is ${endpoint.type}, wanted ${types}`);
    }
    const open = this.#assertOpen();
    assertClaimed(of);
    const address = addressOf(direction, number);
    const interval = intervalOf(
      this.#parts.facts.descriptors,
      this.#configurationValue,
      of,
      address,
    );
    return { open, transfer: { endpoint: address, type: endpoint.type, interval } };
  }

  #assertConnected(): void {
    if (!this.#isConnected) throw gone();
  }

  #assertOpen(): OpenDevice {
    if (this.#open !== null) return this.#open;
    throw fault('InvalidStateError', 'the device is not open');
  }

  #interface(number: number): InterfaceState {
    return findInterface(this.#configuration, number);
  }
}
