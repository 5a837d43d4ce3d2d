/** From what the package lists to a device that can be exported, with every reason why not. */
import { type Clock, systemClock } from '../../clock.ts';
import { UserError } from '../../errors.ts';
import {
  type HostBackend,
  NotPermitted,
  type OpenHostOptions,
  refuseUnfit,
  refuseUsed,
} from '../host/device.ts';
import { usesOf } from '../host/in-use.ts';
import { driversOf } from '../host/sysfs.ts';
import { abilitiesOf } from './claims.ts';
import { listingsOf, type PackageHostDevice, type PackageListing, readListing } from './listing.ts';
import { NusbDevice } from './nusb-device.ts';
import { loadPackage, textOf, type UsbPackage } from './package.ts';
import { Presence } from './presence.ts';

let shared: Promise<WebUsbBackend> | undefined;

/**
 * The back end of this process; loads the package when it is first asked for.
 *
 * @throws {UserError} if there is no package for this machine.
 */
export function webUsbBackend(): Promise<WebUsbBackend> {
  shared ??= loadPackage().then(
    (usb) => new WebUsbBackend(usb, process.platform, systemClock),
    (error: unknown) => {
      throw new UserError(`Cannot reach USB devices: ${textOf(error)}, wanted the package usb`);
    },
  );
  return shared;
}

export class WebUsbBackend implements HostBackend<PackageListing, PackageHostDevice> {
  readonly #usb: UsbPackage;
  readonly #platform: NodeJS.Platform;
  readonly #presence: Presence;

  constructor(usb: UsbPackage, platform: NodeJS.Platform, clock: Clock) {
    this.#usb = usb;
    this.#platform = platform;
    this.#presence = new Presence(usb, clock);
  }

  async list(): Promise<PackageListing[]> {
    try {
      return listingsOf(await this.#usb.getDevices(), this.#platform);
    } catch (error) {
      if (NO_USB.test(textOf(error))) return [];
      throw new UserError(`Cannot list USB devices: ${textOf(error)}`);
    }
  }

  read(plugged: PackageListing): Promise<PackageHostDevice> {
    return readListing(plugged);
  }

  async open(host: PackageHostDevice, options: OpenHostOptions): Promise<NusbDevice> {
    const { device, busId, folder, speed, label, appearance } = host;
    refuseUnfit(host);
    if (folder !== null && !options.force) refuseUsed(host, usesOf(folder));
    const drivers = folder === null ? null : driversOf(folder, busId);
    if (drivers?.includes('usbfs')) {
      throw refusal(busId, 'another program has an interface of it, wanted none');
    }
    let unwatch = () => {};
    try {
      await device.open();
      const taken = await NusbDevice.take(device, {
        speed,
        label,
        abilities: abilitiesOf(this.#platform),
        // Without a driver it may have been left in the middle of something, by a gateway that was killed.
        isStray: drivers?.length === 0,
        ...options,
        onDisposed: () => unwatch(),
      });
      unwatch = this.#presence.watch(appearance, taken);
      return taken;
    } catch (error) {
      throw this.#explained(host, error);
    }
  }

  #explained({ busId, vendorId, productId }: PackageHostDevice, error: unknown): Error {
    const text = textOf(error);
    if (/permission denied/i.test(text) && this.#platform === 'linux') {
      return new NotPermitted(
        `Cannot export usb:${busId}: its file may not be written, wanted the rights; ` +
          `see urbgate udev-rule usb:${vendorId}:${productId}`,
      );
    }
    return refusal(busId, `${text}${ADVICE[this.#platform] ?? ''}`);
  }
}

/** Linux, of a machine without any USB. */
const NO_USB = /\/sys\/bus\/usb\/devices\/ not found/;

/** The package cannot take a device from a driver there. */
const ADVICE: Partial<Record<NodeJS.Platform, string>> = {
  darwin:
    '; wanted a device that no driver of macOS has (a vendor-specific one), see docs/usb-devices.md',
  win32: '; wanted a device with the driver WinUSB, see docs/usb-devices.md',
};

function refusal(busId: string, what: string): UserError {
  return new UserError(`Cannot export usb:${busId}: ${what}`);
}
