/**
 * Standard descriptors: from octets to what the gateway needs of them.
 *
 * Source: USB 2.0, 9.5 and 9.6; USB 3.2, 9.6.7 (endpoint companion). Descriptors come from
 * devices and are not trusted: a list ends where its octets end or make no sense, and what is twice
 * there or beyond `DESCRIPTOR_LIMITS` is passed over.
 */
import { Parser } from 'binary-parser';
import type { EndpointInfo, InterfaceInfo, Speed, TransferType } from './device.ts';
import { DESCRIPTOR_LIMITS } from './limits.ts';

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
  /** iInterface: index of the string that names it; 0 for none. */
  readonly nameIndex: number;
  readonly endpoints: EndpointInfo[];
}

export interface ConfigurationDescriptor {
  readonly value: number;
  readonly attributes: number;
  /** iConfiguration, as `AlternateSetting.nameIndex`. */
  readonly nameIndex: number;
  readonly alternates: readonly AlternateSetting[];
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
  const settings = new Settings();
  for (const { at, length, type } of descriptorsIn(octets)) {
    if (type === DESCRIPTOR.interface) {
      settings.begin(length < 9 ? null : settingOf(octets, at));
    } else if (type === DESCRIPTOR.endpoint && length >= 7 && settings.current !== null) {
      const companion = octets[at + length + 1] === DESCRIPTOR.companion ? at + length : undefined;
      settings.add(endpointInfo(octets, at, companion, speed, settings.current.number));
    }
  }
  const [value = 0, nameIndex = 0, attributes = 0] = octets.subarray(5, 8);
  return { value, attributes, nameIndex, alternates: settings.all };
}

function settingOf(octets: Uint8Array, at: number): AlternateSetting {
  const field = (offset: number): number => octets[at + offset] ?? 0;
  return {
    number: field(2),
    alternate: field(3),
    class: field(5),
    subclass: field(6),
    protocol: field(7),
    nameIndex: field(8),
    endpoints: [],
  };
}

/**
 * The settings of a configuration as its descriptors bring them. It passes over what Linux passes over:
 * a setting that is there already, endpoint 0, an endpoint that another interface has, and what is
 * beyond the limits. Endpoints of a setting that is passed over go with it.
 */
class Settings {
  readonly all: AlternateSetting[] = [];
  /** The setting that endpoints belong to; null if that is passed over. */
  current: AlternateSetting | null = null;
  /** bAlternateSetting of each, by bInterfaceNumber. */
  readonly #known = new Map<number, Set<number>>();
  /** bInterfaceNumber by bEndpointAddress. */
  readonly #owners = new Map<number, number>();

  begin(setting: AlternateSetting | null): void {
    this.current = null;
    if (setting === null) return;
    const { number, alternate } = setting;
    const known = this.#known.get(number) ?? new Set();
    if (known.size === 0 && this.#known.size >= DESCRIPTOR_LIMITS.interfacesMax) return;
    if (known.has(alternate) || known.size >= DESCRIPTOR_LIMITS.settingsMax) return;
    this.#known.set(number, known.add(alternate));
    this.all.push(setting);
    this.current = setting;
  }

  add(endpoint: EndpointInfo): void {
    if (this.current === null) return;
    const { number, endpoints } = this.current;
    const { address, type } = endpoint;
    if ((address & 0x0f) === 0 || endpoints.length >= DESCRIPTOR_LIMITS.endpointsMax) return;
    // A control endpoint has both directions of its number.
    const wanted = type === 'control' ? [address, address ^ 0x80] : [address];
    const isTaken =
      wanted.some((one) => (this.#owners.get(one) ?? number) !== number) ||
      endpoints.some((other) => wanted.includes(other.address) || isOtherWay(other, endpoint));
    if (isTaken) return;
    for (const one of wanted) this.#owners.set(one, number);
    endpoints.push(endpoint);
  }
}

/** A control endpoint and the other direction of its number. */
function isOtherWay(control: EndpointInfo, { address }: EndpointInfo): boolean {
  return control.type === 'control' && (control.address ^ 0x80) === address;
}

/** Each interface with the class of its setting 0, or of its first one if it has none of that number. */
export function interfacesOf(configuration: ConfigurationDescriptor | undefined): InterfaceInfo[] {
  const shown = new Map<number, AlternateSetting>();
  for (const setting of configuration?.alternates ?? []) {
    if (setting.alternate === 0 || !shown.has(setting.number)) shown.set(setting.number, setting);
  }
  return [...shown.values()].map(({ class: of, subclass, protocol }) => ({
    class: of,
    subclass,
    protocol,
  }));
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
