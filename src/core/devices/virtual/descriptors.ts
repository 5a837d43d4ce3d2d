/**
 * Writes the standard descriptors of a virtual device from its definition.
 *
 * Source: USB 2.0, 9.6; USB 3.2, 9.6. The engine reads them back with the same parser that serves
 * real devices, so what the host sees and what the engine does cannot differ.
 */
import { DESCRIPTOR, TRANSFER_TYPES } from '../../descriptors.ts';
import type { Speed } from '../../device.ts';
import type {
  ConfigurationDefinition,
  DeviceDefinition,
  EndpointDefinition,
  InterfaceDefinition,
} from './definition.ts';

const SYNCHRONISATIONS = ['none', 'asynchronous', 'adaptive', 'synchronous'] as const;

/** bcdUSB that fits the signalling rate. */
const USB_VERSION: Readonly<Record<Speed, number>> = {
  low: 0x0200,
  full: 0x0200,
  high: 0x0200,
  super: 0x0300,
  'super-plus': 0x0310,
};

/** Octets of one packet on endpoint 0. */
export function controlPacketOctets(speed: Speed): number {
  if (isSuper(speed)) return 512;
  return speed === 'low' ? 8 : 64;
}

export function isSuper(speed: Speed): boolean {
  return speed === 'super' || speed === 'super-plus';
}

/** String descriptors by index; index 0 lists the languages. */
export class StringTable {
  readonly #strings: string[] = [];

  /** The index for a string, 0 for none. */
  index(value: string | undefined): number {
    if (value === undefined || value === '') return 0;
    const at = this.#strings.indexOf(value);
    return at >= 0 ? at + 1 : this.#strings.push(value);
  }

  descriptor(index: number): Buffer | undefined {
    if (index === 0) return Buffer.from([4, DESCRIPTOR.string, 0x09, 0x04]); // English (US)
    const value = this.#strings[index - 1];
    if (value === undefined) return undefined;
    const encoded = Buffer.from(value.slice(0, 126), 'utf16le');
    return Buffer.concat([Buffer.from([2 + encoded.length, DESCRIPTOR.string]), encoded]);
  }
}

export function deviceDescriptor<S>(device: DeviceDefinition<S>, strings: StringTable): Buffer {
  const octets = Buffer.alloc(18);
  octets.set([18, DESCRIPTOR.device]);
  octets.writeUInt16LE(USB_VERSION[device.speed], 2);
  octets.set([device.class ?? 0, device.subclass ?? 0, device.protocol ?? 0], 4);
  octets[7] = isSuper(device.speed) ? 9 : controlPacketOctets(device.speed); // 2^9 for SuperSpeed
  octets.writeUInt16LE(device.vendorId, 8);
  octets.writeUInt16LE(device.productId, 10);
  octets.writeUInt16LE(device.deviceVersion ?? 0x0100, 12);
  octets[14] = strings.index(device.strings?.manufacturer);
  octets[15] = strings.index(device.strings?.product);
  octets[16] = strings.index(device.strings?.serialNumber);
  octets[17] = device.configurations.length;
  return octets;
}

/** What the device would be at its other signalling rate; high-speed devices must have one. */
export function qualifierDescriptor(device: Buffer): Buffer {
  const octets = Buffer.alloc(10);
  device.copy(octets, 0, 0, 8);
  octets.set([10, DESCRIPTOR.deviceQualifier]);
  octets[7] = 64;
  octets[8] = device[17] ?? 0;
  return octets;
}

/** The configuration with everything that belongs to it. */
export function configurationDescriptor<S>(
  configuration: ConfigurationDefinition<S>,
  value: number,
  speed: Speed,
  strings: StringTable,
): Buffer {
  const head = Buffer.from([9, DESCRIPTOR.configuration, 0, 0, 0, value, 0, 0x80, 0]);
  if (configuration.selfPowered) head[7] = (head[7] ?? 0) | 0x40;
  if (configuration.remoteWakeup) head[7] = (head[7] ?? 0) | 0x20;
  const unitMilliamps = isSuper(speed) ? 8 : 2;
  head[8] = Math.ceil((configuration.maxPowerMilliamps ?? 100) / unitMilliamps);
  const parts: Uint8Array[] = [head];
  const numbers = interfaceNumbers(configuration.interfaces);
  configuration.interfaces.forEach((one, place) => {
    parts.push(...interfaceDescriptors(one, numbers[place] ?? 0, speed, strings));
  });
  head[4] = new Set(numbers).size;
  const whole = Buffer.concat(parts);
  whole.writeUInt16LE(whole.length, 2);
  return whole;
}

/** bInterfaceNumber of each setting: as given, or counted up with each alternate setting 0. */
function interfaceNumbers<S>(interfaces: readonly InterfaceDefinition<S>[]): number[] {
  let last = -1;
  return interfaces.map((one) => {
    if (one.number !== undefined) last = one.number;
    else if ((one.alternate ?? 0) === 0) last++;
    return last;
  });
}

function interfaceDescriptors<S>(
  one: InterfaceDefinition<S>,
  number: number,
  speed: Speed,
  strings: StringTable,
): Uint8Array[] {
  const head = Buffer.from([
    9,
    DESCRIPTOR.interface,
    number,
    one.alternate ?? 0,
    one.endpoints.length,
    one.class,
    one.subclass ?? 0,
    one.protocol ?? 0,
    strings.index(one.label),
  ]);
  const parts: Uint8Array[] = [...(one.preamble ?? []), head, ...(one.descriptors ?? [])];
  for (const endpoint of one.endpoints) parts.push(...endpointDescriptors(endpoint, speed));
  return parts;
}

function endpointDescriptors<S>(endpoint: EndpointDefinition<S>, speed: Speed): Uint8Array[] {
  const octets = Buffer.alloc(endpoint.audio ? 9 : 7);
  let attributes = TRANSFER_TYPES.indexOf(endpoint.type);
  if (endpoint.type === 'isochronous') {
    attributes |= SYNCHRONISATIONS.indexOf(endpoint.synchronisation ?? 'none') << 2;
  }
  octets.set([octets.length, DESCRIPTOR.endpoint, endpoint.address, attributes]);
  octets.writeUInt16LE(endpoint.maxPacketOctets, 4);
  octets[6] = 'interval' in endpoint ? endpoint.interval : 0;
  const parts: Uint8Array[] = [octets];
  if (isSuper(speed)) parts.push(companionDescriptor(endpoint));
  return [...parts, ...(endpoint.descriptors ?? [])];
}

function companionDescriptor<S>(endpoint: EndpointDefinition<S>): Buffer {
  const octets = Buffer.from([6, DESCRIPTOR.companion, 0, 0, 0, 0]);
  if (endpoint.type !== 'bulk') octets.writeUInt16LE(endpoint.maxPacketOctets, 4);
  return octets;
}

/** Binary device object store of a SuperSpeed device (USB 3.2, 9.6.2): what it must say, no more. */
export function bosDescriptor(speed: Speed): Buffer {
  const capability = DESCRIPTOR.deviceCapability;
  const capabilities = [
    [7, capability, 2, 0, 0, 0, 0], // USB 2.0 extension: no link power management
    [10, capability, 3, 0, 0x0e, 0, 1, 0, 0, 0], // SuperSpeed: full, high and 5 Gbit/s
  ];
  // SuperSpeedPlus: one lane, one symmetric sublink of 10 Gbit/s (receive, then transmit).
  const sublinks = [0x30, 0x40, 0x0a, 0x00, 0xb0, 0x40, 0x0a, 0x00];
  if (speed === 'super-plus') {
    capabilities.push([20, capability, 10, 0, 1, 0, 0, 0, 0x00, 0x11, 0, 0, ...sublinks]);
  }
  const octets = Buffer.from([
    5,
    DESCRIPTOR.bos,
    0,
    0,
    capabilities.length,
    ...capabilities.flat(),
  ]);
  octets.writeUInt16LE(octets.length, 2);
  return octets;
}
