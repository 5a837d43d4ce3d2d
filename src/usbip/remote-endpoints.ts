/**
 * The endpoints that a device of another server has now: read from its descriptors once, then kept
 * up to date by the requests that pass to it and succeed.
 */
import { controlEffect } from '../core/control-effect.ts';
import {
  type ConfigurationDescriptor,
  controlEndpoint,
  type DeviceDescriptor,
  interfacesOf,
} from '../core/descriptors.ts';
import type { EndpointInfo, InterfaceInfo, Speed } from '../core/device.ts';
import type { SetupPacket } from '../core/urb.ts';

export class RemoteEndpoints {
  readonly speed: Speed;
  readonly #configurations: readonly ConfigurationDescriptor[];
  readonly #control: EndpointInfo;
  /** Undefined if the device is not configured, or in a way that its descriptors do not have. */
  #active: ConfigurationDescriptor | undefined;
  /** Alternate setting by number of an interface that there is; those that are not in it are at 0. */
  readonly #alternates = new Map<number, number>();
  /** By address, made anew after each change. */
  #endpoints = new Map<number, EndpointInfo>();

  constructor(
    speed: Speed,
    device: DeviceDescriptor,
    configurations: readonly ConfigurationDescriptor[],
    active: number,
  ) {
    this.speed = speed;
    this.#configurations = configurations;
    const isSuper = speed === 'super' || speed === 'super-plus';
    this.#control = controlEndpoint(isSuper ? 512 : device.maxPacketSize0);
    this.#configure(active);
  }

  endpoint(address: number): EndpointInfo | undefined {
    return address === 0 ? this.#control : this.#endpoints.get(address);
  }

  /** A request has been carried out: follows what it changes. */
  applied(setup: SetupPacket): void {
    const effect = controlEffect(setup);
    if (effect.type === 'set-configuration') {
      this.#configure(effect.value);
      return;
    }
    if (effect.type === 'set-interface') {
      const { interfaceNumber, alternate } = effect;
      if (!this.#active?.alternates.some(({ number }) => number === interfaceNumber)) return;
      this.#alternates.set(interfaceNumber, alternate);
    } else if (effect.type === 'reset') {
      this.#alternates.clear();
    } else {
      return;
    }
    this.#collect();
  }

  /** bConfigurationValue of the active configuration, or of the first if none is active. */
  get configurationValue(): number {
    return this.#shown?.value ?? 0;
  }

  /** Interfaces of that configuration. */
  get interfaces(): InterfaceInfo[] {
    return interfacesOf(this.#shown);
  }

  get #shown(): ConfigurationDescriptor | undefined {
    return this.#active ?? this.#configurations[0];
  }

  #configure(value: number): void {
    this.#active = this.#configurations.find((one) => one.value === value);
    this.#alternates.clear();
    this.#collect();
  }

  #collect(): void {
    this.#endpoints = new Map();
    for (const setting of this.#active?.alternates ?? []) {
      if (setting.alternate !== (this.#alternates.get(setting.number) ?? 0)) continue;
      for (const endpoint of setting.endpoints) this.#endpoints.set(endpoint.address, endpoint);
    }
  }
}
