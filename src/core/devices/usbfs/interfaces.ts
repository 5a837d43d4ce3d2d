/**
 * Calls about a device as a whole and its interfaces: who has them, and the standard requests that
 * the host's own state must follow (toggles, bandwidth, the drivers' view).
 *
 * Each runs on a thread of its own, for the kernel may wait seconds for a device; one at a time.
 */
import type { ControlEffect } from '../../control-effect.ts';
import type { ActiveConfiguration } from '../host/configuration.ts';
import { CLAIM_EXCEPT_DRIVER, ERRNO, IOCTL } from './abi.ts';
import type { Memory, UsbfsFile } from './kernel.ts';

/** struct usbdevfs_disconnect_claim: interface, flags, name of a driver. */
const CLAIM_NAME_OFFSET = 8;
/** struct usbdevfs_getdriver: interface, name of its driver. */
const DRIVER_NAME_OFFSET = 4;
const USBFS = 'usbfs';
export const ARGUMENT_OCTETS = 264;

export class Interfaces {
  readonly #file: UsbfsFile;
  readonly #configuration: ActiveConfiguration;
  /** Where the arguments of these calls lie. */
  readonly #argument: Memory;

  constructor(file: UsbfsFile, configuration: ActiveConfiguration, argument: Memory) {
    this.#file = file;
    this.#configuration = configuration;
    this.#argument = argument;
  }

  /**
   * Takes every interface from the kernel's driver. Another program's claim is respected.
   *
   * @returns 0, or -errno, with none claimed then.
   */
  async claim(): Promise<number> {
    for (const number of this.#configuration.interfaceNumbers) {
      const { octets } = this.#argument;
      octets.fill(0, 0, ARGUMENT_OCTETS);
      octets.writeUInt32LE(number, 0);
      octets.writeUInt32LE(CLAIM_EXCEPT_DRIVER, 4);
      octets.write(USBFS, CLAIM_NAME_OFFSET);
      const answer = await this.#call(IOCTL.disconnectClaim);
      if (answer < 0) {
        await this.giveBack();
        return answer;
      }
    }
    return 0;
  }

  /** Whether the interface is still claimed through usbfs. Not while another call is under way. */
  isOurs(number: number): boolean {
    const { octets, address } = this.#argument;
    octets.writeUInt32LE(number, 0);
    const answer = this.#file.ioctl(IOCTL.getDriver, address);
    if (answer < 0) return answer !== -ERRNO.ENODATA && answer !== -ERRNO.ENODEV;
    const end = octets.indexOf(0, DRIVER_NAME_OFFSET);
    return octets.toString('latin1', DRIVER_NAME_OFFSET, end) === USBFS;
  }

  /** Lets go of every interface and lets the kernel's drivers have them. */
  async giveBack(): Promise<void> {
    await this.#release();
    for (const number of this.#configuration.interfaceNumbers) {
      this.#argument.octets.fill(0, 0, 16);
      this.#argument.octets.writeUInt32LE(number, 0);
      this.#argument.octets.writeUInt32LE(IOCTL.connect, 4);
      await this.#call(IOCTL.ioctl); // a driver may have taken it with its neighbour
    }
  }

  /**
   * Resets the port and claims again. The interfaces are let go before, or else the kernel would
   * offer them to its drivers afterwards.
   */
  async reset(): Promise<number> {
    await this.#release();
    const answer = await this.#call(IOCTL.reset);
    if (answer < 0) return answer;
    this.#configuration.resetInterfaces();
    return await this.claim();
  }

  /** Carries out a request that the host has to know of. @returns 0 or -errno. */
  async apply(effect: Exclude<ControlEffect, { type: 'none' }>): Promise<number> {
    switch (effect.type) {
      case 'clear-halt':
        return await this.#callWith(IOCTL.clearHalt, effect.address);
      case 'set-interface':
        return await this.#setInterface(effect.interfaceNumber, effect.alternate);
      case 'set-configuration':
        return await this.#setConfiguration(effect.value);
      case 'reset':
        return await this.reset();
    }
  }

  async #setInterface(number: number, alternate: number): Promise<number> {
    const answer = await this.#callWith(IOCTL.setInterface, number, alternate);
    if (answer >= 0) this.#configuration.setInterface(number, alternate);
    return answer;
  }

  async #setConfiguration(value: number): Promise<number> {
    await this.#release(); // the kernel refuses while any interface is claimed
    const answer = await this.#callWith(IOCTL.setConfiguration, value);
    if (answer >= 0) this.#configuration.setConfiguration(value);
    const claimed = await this.claim();
    return answer < 0 ? answer : claimed;
  }

  async #release(): Promise<void> {
    for (const number of this.#configuration.interfaceNumbers) {
      await this.#callWith(IOCTL.releaseInterface, number);
    }
  }

  #callWith(request: number, first: number, second = 0): Promise<number> {
    this.#argument.octets.writeUInt32LE(first, 0);
    this.#argument.octets.writeUInt32LE(second, 4);
    return this.#call(request);
  }

  async #call(request: number): Promise<number> {
    for (;;) {
      const answer = await this.#file.ioctlSlow(request, this.#argument.address);
      if (answer !== -ERRNO.EINTR) return answer;
    }
  }
}
