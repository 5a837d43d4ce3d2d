/**
 * Standard descriptors: from octets to what the gateway needs of them.
 *
 * Source: USB 2.0, 9.5 and 9.6; USB 3.2, 9.6.7 (endpoint companion). Descriptors come from
 * devices and are not trusted: a list ends where its octets end or make no sense.
 */
import { Parser } from 'binary-parser';
import type { EndpointInfo, Speed, TransferType } from './device.ts';

/** bDescriptorType (USB 2.0, table 9-5, and USB 3.2, table 9-6). */
export const DESCRIPTOR = {
  device: 1,
  configuration: 2,
  string: 3,
  interface: 4,
  endpoint: 5,
  deviceQualifier: 6,
  otherSpeedConfiguration: 7,
  interfaceAssociation: 11,
  bos: 15,
  deviceCapability: 16,
  companion: 48,
} as const;

/** bRequest (USB 2.0, table 9-4, and USB 3.2, table 9-5). */
export const REQUEST = {
  getStatus: 0,
  clearFeature: 1,
  setFeature: 3,
  setAddress: 5,
  getDescriptor: 6,
  setDescriptor: 7,
  getConfiguration: 8,
  setConfiguration: 9,
  getInterface: 10,
  setInterface: 11,
  synchFrame: 12,
  setSel: 48,
  setIsochronousDelay: 49,
} as const;

/** Feature selector ENDPOINT_HALT (USB 2.0, table 9-6). */
export const ENDPOINT_HALT = 0;

/** The bits of bmAttributes (bits 1..0) in their order. */
export const TRANSFER_TYPES: readonly TransferType[] = [
  'control',
  'isochronous',
  'bulk',
  'interrupt',
];

export interface DeviceDescriptor {
  /** bcdUSB */
  readonly usbVersion: number;
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
  /** bMaxPacketSize0 as it stands: octets, or a power of two for SuperSpeed. */
  readonly maxPacketSize0: number;
  readonly vendorId: number;
  readonly productId: number;
  /** bcdDevice */
  readonly deviceVersion: number;
  readonly manufacturer: number;
  readonly product: number;
  readonly serialNumber: number;
  readonly configurationCount: number;
}

const deviceParser = new Parser()
  .endianness('little')
  .uint8('length')
  .uint8('descriptorType')
  .uint16('usbVersion')
  .uint8('class')
  .uint8('subclass')
  .uint8('protocol')
  .uint8('maxPacketSize0')
  .uint16('vendorId')
  .uint16('productId')
  .uint16('deviceVersion')
  .uint8('manufacturer')
  .uint8('product')
  .uint8('serialNumber')
  .uint8('configurationCount');

/**
 * @throws {RangeError} if the octets are no device descriptor.
 */
export function parseDeviceDescriptor(octets: Uint8Array): DeviceDescriptor {
  if (octets.length < 18 || octets[0] !== 18 || octets[1] !== DESCRIPTOR.device) {
    throw new RangeError(
      `Cannot parse device descriptor: ${octets.length} octets of type ${octets[1]}, wanted 18 of type 1`,
    );
  }
  return deviceParser.parse(octets);
}

/** One alternate setting of one interface, with its endpoints. */
export interface AlternateSetting {
  readonly number: number;
  readonly alternate: number;
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
  readonly endpoints: EndpointInfo[];
}

export interface ConfigurationDescriptor {
  readonly value: number;
  readonly attributes: number;
  readonly alternates: AlternateSetting[];
}

/**
 * Parses a whole configuration (wTotalLength octets or fewer); unknown descriptors are passed over.
 *
 * @throws {RangeError} if it does not begin with a configuration descriptor.
 */
export function parseConfiguration(octets: Uint8Array, speed: Speed): ConfigurationDescriptor {
  if (octets.length < 9 || (octets[0] ?? 0) < 9 || octets[1] !== DESCRIPTOR.configuration) {
    throw new RangeError(
      `Cannot parse configuration: ${octets.length} octets of type ${octets[1]}, wanted type 2`,
    );
  }
  const alternates: AlternateSetting[] = [];
  for (const { at, length, type } of descriptorsIn(octets)) {
    const field = (offset: number): number => octets[at + offset] ?? 0;
    if (type === DESCRIPTOR.interface && length >= 9) {
      alternates.push({
        number: field(2),
        alternate: field(3),
        class: field(5),
        subclass: field(6),
        protocol: field(7),
        endpoints: [],
      });
    } else if (type === DESCRIPTOR.endpoint && length >= 7) {
      const companion = octets[at + length + 1] === DESCRIPTOR.companion ? at + length : undefined;
      const setting = alternates.at(-1);
      setting?.endpoints.push(endpointInfo(octets, at, companion, speed, setting.number));
    }
  }
  return { value: octets[5] ?? 0, attributes: octets[7] ?? 0, alternates };
}

function* descriptorsIn(octets: Uint8Array) {
  let at = 0;
  while (at + 2 <= octets.length) {
    const length = octets[at] ?? 0;
    if (length < 2 || at + length > octets.length) return;
    yield { at, length, type: octets[at + 1] ?? 0 };
    at += length;
  }
}

function endpointInfo(
  octets: Uint8Array,
  at: number,
  companion: number | undefined,
  speed: Speed,
  interfaceNumber: number,
): EndpointInfo {
  const field = (offset: number): number => octets[offset] ?? 0;
  const address = field(at + 2) & 0x8f;
  const type = TRANSFER_TYPES[field(at + 3) & 3] ?? 'control';
  const maxPacketSize = field(at + 4) | (field(at + 5) << 8);
  const maxPacketOctets = maxPacketSize & 0x7ff;
  const periodic = type === 'interrupt' || type === 'isochronous';
  let intervalOctets = maxPacketOctets;
  if (periodic && companion !== undefined) {
    intervalOctets = field(companion + 4) | (field(companion + 5) << 8); // wBytesPerInterval
  } else if (periodic && speed === 'high') {
    intervalOctets *= 1 + ((maxPacketSize >> 11) & 3);
  }
  return {
    address,
    direction: (address & 0x80) !== 0 ? 'in' : 'out',
    type,
    interfaceNumber,
    maxPacketOctets,
    intervalOctets,
    intervalMicroseconds: periodic ? intervalMicroseconds(field(at + 6), type, speed) : 0,
  };
}

/** bInterval in microseconds (USB 2.0, table 9-13). A value out of its range is taken as its end. */
export function intervalMicroseconds(interval: number, type: TransferType, speed: Speed): number {
  const frames = speed === 'low' || speed === 'full';
  if (frames && type === 'interrupt') return 1000 * Math.max(1, interval);
  const exponent = Math.min(16, Math.max(1, interval)) - 1;
  return (frames ? 1000 : 125) * 2 ** exponent;
}

/** Endpoint 0, which no descriptor lists. */
export function controlEndpoint(maxPacketOctets: number): EndpointInfo {
  return {
    address: 0,
    direction: 'out',
    type: 'control',
    interfaceNumber: -1,
    maxPacketOctets,
    intervalOctets: maxPacketOctets,
    intervalMicroseconds: 0,
  };
}
