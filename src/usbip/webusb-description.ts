/** The part of WebUSB's USBDevice that never changes. */
import type { DeviceFacts } from './webusb-descriptors.ts';

export class DeviceDescription {
  readonly usbVersionMajor: number;
  readonly usbVersionMinor: number;
  readonly usbVersionSubminor: number;
  readonly deviceClass: number;
  readonly deviceSubclass: number;
  readonly deviceProtocol: number;
  readonly vendorId: number;
  readonly productId: number;
  readonly deviceVersionMajor: number;
  readonly deviceVersionMinor: number;
  readonly deviceVersionSubminor: number;
  readonly manufacturerName: string | undefined;
  readonly productName: string | undefined;
  readonly serialNumber: string | undefined;

  constructor(facts: DeviceFacts) {
    const { device } = facts.descriptors;
    [this.usbVersionMajor, this.usbVersionMinor, this.usbVersionSubminor] = bcd(device.usbVersion);
    [this.deviceVersionMajor, this.deviceVersionMinor, this.deviceVersionSubminor] = bcd(
      device.deviceVersion,
    );
    this.deviceClass = device.class;
    this.deviceSubclass = device.subclass;
    this.deviceProtocol = device.protocol;
    this.vendorId = device.vendorId;
    this.productId = device.productId;
    this.manufacturerName = facts.manufacturerName;
    this.productName = facts.productName;
    this.serialNumber = facts.serialNumber;
  }
}

/** 0xJJMN: major, minor, subminor. */
function bcd(version: number): [number, number, number] {
  return [(version >> 8) & 0xff, (version >> 4) & 15, version & 15];
}
