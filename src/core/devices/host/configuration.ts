/**
 * What a real device's descriptors say, and which of its settings is the active one.
 */

import {
  type ConfigurationDescriptor,
  controlEndpoint,
  DESCRIPTOR,
  type DeviceDescriptor,
  interfacesOf,
  parseConfiguration,
  parseDeviceDescriptor,
} from '../../descriptors.ts';
import type { DeviceInfo, EndpointInfo, Speed } from '../../device.ts';
import { ENDPOINT_PLACES, placeOf } from '../../endpoint-place.ts';
import { DESCRIPTOR_LIMITS } from '../../limits.ts';

const DEVICE_OCTETS = 18;
/** USB 3.2, 9.6.1: a power of two for SuperSpeed. */
const isPowerOfTwo = (speed: Speed) => speed === 'super' || speed === 'super-plus';

export class ActiveConfiguration {
  readonly device: DeviceDescriptor;
  readonly configurations: readonly ConfigurationDescriptor[];
  readonly #speed: Speed;
  readonly #label: string;
  readonly #control: EndpointInfo;
  #active: ConfigurationDescriptor | undefined;
  /** bAlternateSetting by bInterfaceNumber, where it is not 0. */
  readonly #alternates = new Map<number, number>();
  #endpoints: (EndpointInfo | undefined)[] = [];

  /**
   * @param octets device descriptor, then each configuration.
   * @param value bConfigurationValue of the active configuration, 0 for none.
   * @throws {RangeError} if there is no device descriptor.
   */
  constructor(octets: Buffer, speed: Speed, value: number, label: string) {
    this.device = parseDeviceDescriptor(octets.subarray(0, DEVICE_OCTETS));
    this.configurations = readConfigurations(octets.subarray(DEVICE_OCTETS), speed);
    this.#speed = speed;
    this.#label = label;
    const size = this.device.maxPacketSize0;
    this.#control = controlEndpoint(isPowerOfTwo(speed) ? 2 ** Math.min(size, 15) : size);
    this.setConfiguration(value);
  }

  get info(): DeviceInfo {
    const { device } = this;
    const shown = this.#active ?? this.configurations[0];
    return {
      speed: this.#speed,
      vendorId: device.vendorId,
      productId: device.productId,
      deviceVersion: device.deviceVersion,
      class: device.class,
      subclass: device.subclass,
      protocol: device.protocol,
      configurationValue: shown?.value ?? 0,
      configurationCount: device.configurationCount,
      interfaces: interfacesOf(shown),
      label: this.#label,
    };
  }

  /** bInterfaceNumber of each interface of the active configuration. */
  get interfaceNumbers(): number[] {
    return [...new Set(this.#active?.alternates.map(({ number }) => number))];
  }

  /** bConfigurationValue of the active configuration, 0 for none. */
  get value(): number {
    return this.#active?.value ?? 0;
  }

  /** bEndpointAddress of each endpoint of the active settings, endpoint 0 left out. */
  get addresses(): number[] {
    return this.#endpoints.flatMap((endpoint) => endpoint?.address ?? []);
  }

  /** bAlternateSetting of an interface. */
  alternateOf(number: number): number {
    return this.#alternates.get(number) ?? 0;
  }

  endpoint(address: number): EndpointInfo | undefined {
    if ((address & 15) === 0) return this.#control;
    return this.#endpoints[placeOf(address)];
  }

  /** Whether some alternate setting of the active configuration has the endpoint. */
  knows(address: number): boolean {
    const alternates = this.#active?.alternates ?? [];
    return alternates.some((one) => one.endpoints.some((endpoint) => endpoint.address === address));
  }

  setConfiguration(value: number): void {
    this.#active = this.configurations.find((one) => one.value === value);
    this.resetInterfaces();
  }

  setInterface(number: number, alternate: number): void {
    this.#alternates.set(number, alternate);
    this.#list();
  }

  /** Every interface is at its first setting, as after a reset. */
  resetInterfaces(): void {
    this.#alternates.clear();
    this.#list();
  }

  #list(): void {
    this.#endpoints = new Array(ENDPOINT_PLACES).fill(undefined);
    for (const one of this.#active?.alternates ?? []) {
      if (one.alternate !== (this.#alternates.get(one.number) ?? 0)) continue;
      for (const endpoint of one.endpoints) {
        if ((endpoint.address & 15) !== 0) this.#endpoints[placeOf(endpoint.address)] = endpoint;
      }
    }
  }
}

/**
 * Configurations one after the other, each wTotalLength long; ends where that makes no sense, or when
 * there are as many as a device may have.
 */
function readConfigurations(octets: Buffer, speed: Speed): ConfigurationDescriptor[] {
  const found: ConfigurationDescriptor[] = [];
  let at = 0;
  while (at + 9 <= octets.length && octets[at + 1] === DESCRIPTOR.configuration) {
    if (found.length === DESCRIPTOR_LIMITS.configurationsMax) break;
    const total = octets.readUInt16LE(at + 2);
    if (total < 9) break;
    found.push(parseConfiguration(octets.subarray(at, at + total), speed));
    at += total;
  }
  return found;
}
