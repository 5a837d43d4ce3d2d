/**
 * The endpoints that a device of another server has now: read from its descriptors once, then kept
 * up to date by the requests that pass to it and succeed.
 */
import { controlEffect } from '../core/control-effect.ts';
import {
  type ConfigurationDescriptor,
  controlEndpoint,
  type DeviceDescriptor,
} from '../core/descriptors.ts';
import type { EndpointInfo, InterfaceInfo, Speed } from '../core/device.ts';
import type { SetupPacket } from '../core/urb.ts';

export class RemoteEndpoints {
  readonly speed: Speed;
  readonly #configurations: readonly ConfigurationDescriptor[];
  readonly #control: EndpointInfo;
  /** bConfigurationValue; 0 if the device is not configured. */
  #active: number;
  /** Alternate setting by interface number; those that are not in it are at 0. */
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
    this.#active = active;
    this.#collect();
  }

  endpoint(address: number): EndpointInfo | undefined {
    return address === 0 ? this.#control : this.#endpoints.get(address);
  }

  /** A request has been carried out: follows what it changes. */
  applied(setup: SetupPacket): void {
    const effect = controlEffect(setup);
    if (effect.type === 'set-configuration') {
      this.#active = effect.value;
      this.#alternates.clear();
    } else if (effect.type === 'set-interface') {
      this.#alternates.set(effect.interfaceNumber, effect.alternate);
    } else if (effect.type === 'reset') {
      this.#alternates.clear();
    } else {
      return;
    }
    this.#collect();
  }

  /** bConfigurationValue of the active configuration, or of the first if none is active. */
  get configurationValue(): number {
    return this.#active || (this.#configurations[0]?.value ?? 0);
  }

  /** Interfaces of that configuration, each with its first alternate setting's class. */
  get interfaces(): InterfaceInfo[] {
    const shown = this.#configurations.find(({ value }) => value === this.configurationValue);
    const alternates = (shown?.alternates ?? []).filter(({ alternate }) => alternate === 0);
    return alternates.map(({ class: of, subclass, protocol }) => ({
      class: of,
      subclass,
      protocol,
    }));
  }

  #collect(): void {
    this.#endpoints = new Map();
    const active = this.#configurations.find(({ value }) => value === this.#active);
    for (const setting of active?.alternates ?? []) {
      if (setting.alternate !== (this.#alternates.get(setting.number) ?? 0)) continue;
      for (const endpoint of setting.endpoints) this.#endpoints.set(endpoint.address, endpoint);
    }
  }
}
