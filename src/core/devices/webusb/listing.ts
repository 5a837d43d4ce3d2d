/** The devices that the package shows, in the terms that SPECs use. */
import type { Speed } from '../../device.ts';
import type { HostDevice, PluggedDevice } from '../host/device.ts';
import { isAtVhci, SYSFS_DEVICES } from '../host/sysfs.ts';
import type { PackageDevice } from './package.ts';

export interface PackageListing extends PluggedDevice {
  readonly device: PackageDevice;
  /** Folder in sysfs; Linux. */
  readonly folder: string | null;
}

export interface PackageHostDevice extends PackageListing, HostDevice {}

const HUB_CLASS = 9;

/** SuperSpeedPlus is shown as SuperSpeed, as by `SPEED_BY_TEXT` in host/sysfs.ts. */
const SPEEDS: ReadonlyMap<string, Speed> = new Map([
  ['low', 'low'],
  ['full', 'full'],
  ['high', 'high'],
  ['super', 'super'],
  ['superPlus', 'super'],
]);

export function listingsOf(
  devices: readonly PackageDevice[],
  platform: NodeJS.Platform,
): PackageListing[] {
  const buses = [...new Set(devices.map(({ bus }) => bus))].sort();
  const inReset = (device: PackageDevice) => platform === 'linux' && device.address === 0;
  return devices.flatMap((device) => {
    try {
      return inReset(device) ? [] : listingOf(device, buses, platform);
    } catch {
      return []; // the package throws where a device does not tell, which takes none from the others
    }
  });
}

function listingOf(
  device: PackageDevice,
  buses: readonly string[],
  platform: NodeJS.Platform,
): PackageListing {
  const { handle, vendorId, productId, deviceClass } = device;
  const bus = busNumber(device.bus, buses, platform);
  const busId = `${bus}-${device.ports.length > 0 ? device.ports.join('.') : 0}`;
  const folder = platform === 'linux' ? `${SYSFS_DEVICES}/${busId}` : null;
  return {
    device,
    folder,
    busId,
    appearance: handle,
    vendorId: hexadecimal(vendorId),
    productId: hexadecimal(productId),
    isHub: deviceClass === HUB_CLASS,
    isRemote: folder !== null && isAtVhci(folder),
    speed: SPEEDS.get(device.speed ?? '') ?? (device.usbVersionMajor >= 3 ? 'super' : 'high'),
  };
}

/** Asks the device for its names where the system does not know them. */
export async function readListing(listing: PackageListing): Promise<PackageHostDevice> {
  const { device, vendorId, productId } = listing;
  const names = [() => device.manufacturerName, () => device.productName].map(textOr);
  return {
    ...listing,
    serialNumber: textOr(() => device.serialNumber),
    label: names.filter((name) => name !== '').join(' ') || `${vendorId}:${productId}`,
  };
}

/** Linux: 001; macOS: the top octet of the location, as 14; Windows: a name, numbered in their order. */
function busNumber(bus: string, buses: readonly string[], platform: NodeJS.Platform): number {
  const radix = platform === 'darwin' ? 16 : 10;
  const number = /^[0-9a-f]+$/i.test(bus) ? Number.parseInt(bus, radix) : Number.NaN;
  return Number.isNaN(number) ? 1 + buses.indexOf(bus) : number;
}

function hexadecimal(id: number): string {
  return id.toString(16).padStart(4, '0');
}

/** What a getter of the package says; '' if it throws, for want of rights or of an answer. */
function textOr(get: () => string | null | undefined): string {
  try {
    return get() ?? '';
  } catch {
    return '';
  }
}
