/**
 * Who has the interfaces of a device, and the standard requests that the host's own state must
 * follow, through the package. No transfer may be outstanding during any of these calls, but for
 * `clearHalt` (of other endpoints) and `abort`.
 */
import type { ControlEffect } from '../../control-effect.ts';
import type { ActiveConfiguration } from '../host/configuration.ts';
import { endingOf, type PackageDevice } from './package.ts';

/** What the package can do on a system. */
export interface Abilities {
  /** The system's drivers can be made to let go, and transfers to end (Linux). */
  readonly detaches: boolean;
  /** A device is the same after a reset: on macOS it comes back as a new one, WinUSB has no reset. */
  readonly resets: boolean;
  /** Devices can be configured: not through WinUSB. */
  readonly configures: boolean;
}

export function abilitiesOf(platform: NodeJS.Platform): Abilities {
  const isLinux = platform === 'linux';
  return { detaches: isLinux, resets: isLinux, configures: platform !== 'win32' };
}

/** The device says no, or the system does. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
}

export class Claims {
  readonly #device: PackageDevice;
  readonly #configuration: ActiveConfiguration;
  readonly #abilities: Abilities;
  readonly #claimed = new Set<number>();

  constructor(
    device: PackageDevice,
    configuration: ActiveConfiguration,
    abilities: Abilities,
    claimed: readonly number[] = [],
  ) {
    this.#device = device;
    this.#configuration = configuration;
    this.#abilities = abilities;
    for (const number of claimed) this.#claimed.add(number);
  }

  /**
   * Takes every interface from the system's driver.
   *
   * @throws the package's error, with none claimed then.
   */
  async claim(): Promise<void> {
    for (const number of this.#configuration.interfaceNumbers) {
      if (this.#claimed.has(number)) continue;
      try {
        if (this.#abilities.detaches) await ignore(this.#device.detachKernelDriver(number));
        await this.#device.claimInterface(number);
      } catch (error) {
        await this.giveBack();
        throw error;
      }
      this.#claimed.add(number);
    }
  }

  /** Lets go of every interface and lets the system's drivers have them. */
  async giveBack(): Promise<void> {
    await this.#release();
    if (!this.#abilities.detaches) return; // elsewhere no driver was detached
    for (const number of this.#configuration.interfaceNumbers) {
      await ignore(this.#device.attachKernelDriver(number)); // one may have it with its neighbour
    }
  }

  /** Whether `abort` can be called. */
  get aborts(): boolean {
    return this.#abilities.detaches;
  }

  /** Ends the transfers of an interface, whose claim is lost until `renew`; Linux. */
  async abort(number: number): Promise<void> {
    await ignore(this.#device.detachKernelDriver(number));
  }

  /** Claims interfaces again whose transfers were aborted, and brings their settings back. */
  async renew(numbers: Iterable<number>): Promise<void> {
    for (const number of numbers) {
      this.#claimed.delete(number);
      // The old claim must be over first: the package would end the new one with it.
      await ignore(this.#device.releaseInterface(number));
      await this.#device.claimInterface(number);
      this.#claimed.add(number);
      const alternate = this.#configuration.alternateOf(number);
      if (alternate !== 0) await this.#device.selectAlternateInterface(number, alternate);
    }
  }

  /**
   * Resets the device and claims again; where that cannot be done, brings it as near to that as can
   * be: first settings, nothing halted. The interfaces are let go before, or else the kernel would
   * offer them to its drivers afterwards.
   */
  async reset(): Promise<void> {
    if (!this.#abilities.resets) {
      await this.#firstSettings();
      for (const address of this.#configuration.addresses) await ignore(this.clearHalt(address));
      return;
    }
    await this.#release();
    await this.#device.reset();
    this.#configuration.resetInterfaces();
    await this.claim();
  }

  /** Carries out a request that the host has to know of. @throws the package's error. */
  async apply(effect: Exclude<ControlEffect, { type: 'none' }>): Promise<void> {
    switch (effect.type) {
      case 'clear-halt':
        return await this.clearHalt(effect.address);
      case 'set-interface':
        return await this.#setInterface(effect.interfaceNumber, effect.alternate);
      case 'set-configuration':
        return await this.#setConfiguration(effect.value);
      case 'reset':
        return await this.reset();
    }
  }

  clearHalt(address: number): Promise<void> {
    return this.#device.clearHalt((address & 0x80) === 0 ? 'out' : 'in', address & 15);
  }

  async #setInterface(number: number, alternate: number): Promise<void> {
    await this.#device.selectAlternateInterface(number, alternate);
    this.#configuration.setInterface(number, alternate);
  }

  async #setConfiguration(value: number): Promise<void> {
    if (!this.#abilities.configures) {
      // What WinUSB has configured stays; a driver that asks for just that need not fail.
      if (value !== this.#configuration.value) throw new RefusedError('WinUSB cannot configure');
      await this.#firstSettings();
      return;
    }
    await this.#release(); // the kernel refuses while any interface is claimed
    try {
      await this.#device.selectConfiguration(value);
      this.#configuration.setConfiguration(value);
    } finally {
      await this.claim();
    }
  }

  async #firstSettings(): Promise<void> {
    for (const number of this.#configuration.interfaceNumbers) {
      if (this.#configuration.alternateOf(number) === 0) continue;
      await this.#device.selectAlternateInterface(number, 0);
      this.#configuration.setInterface(number, 0);
    }
  }

  async #release(): Promise<void> {
    for (const number of this.#claimed) await ignore(this.#device.releaseInterface(number));
    this.#claimed.clear();
  }
}

/** A device that has gone, and an interface that is not ours any more, need nothing done. */
async function ignore(call: Promise<void>): Promise<void> {
  await call.catch(() => {});
}

/** How a request ends that the host carries out: what it does not know, the device would stall. */
export function refusalOf(error: unknown): 'stall' | 'shutdown' {
  return endingOf(error) === 'shutdown' ? 'shutdown' : 'stall';
}
