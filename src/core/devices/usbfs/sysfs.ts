/**
 * The USB devices of this machine, as the kernel shows them under /sys/bus/usb/devices. Reading that
 * needs no rights and wakes no device.
 */
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import type { Speed } from '../../device.ts';

export const SYSFS_DEVICES = '/sys/bus/usb/devices';

export interface HostDevice {
  /** The kernel's name for the place: 1-1.2. */
  readonly busId: string;
  /** Folder in sysfs. */
  readonly folder: string;
  readonly busNumber: number;
  readonly deviceNumber: number;
  /** Four hexadecimal digits. */
  readonly vendorId: string;
  readonly productId: string;
  readonly serialNumber: string;
  readonly isHub: boolean;
  /** It is at the kernel's USB/IP client: somebody else's device. */
  readonly isRemote: boolean;
  readonly speed: Speed;
  /** bConfigurationValue, 0 for none. */
  readonly configurationValue: number;
  readonly label: string;
}

/**
 * Mbit/s as sysfs has them. SuperSpeedPlus devices are shown as SuperSpeed, which they can do,
 * because the kernel's USB/IP client refuses anything faster before Linux 6.12.
 */
const SPEED_BY_TEXT: Readonly<Record<string, Speed>> = {
  '1.5': 'low',
  '12': 'full',
  '480': 'high',
  '5000': 'super',
  '10000': 'super',
  '20000': 'super',
};

const HUB_CLASS = '09';

/** Devices that are there now, root hubs left out. */
export function listHostDevices(root: string = SYSFS_DEVICES): HostDevice[] {
  const names = entriesOf(root).filter((name) => /^\d+-[\d.]+$/.test(name));
  return names.flatMap((name) => readHostDevice(root, name) ?? []);
}

/** Null if it goes away just now. */
function readHostDevice(root: string, busId: string): HostDevice | null {
  const folder = join(root, busId);
  const [bus, device] = [readAttribute(folder, 'busnum'), readAttribute(folder, 'devnum')];
  const speed = SPEED_BY_TEXT[readAttribute(folder, 'speed')];
  if (bus === '' || device === '' || speed === undefined) return null;
  const names = ['manufacturer', 'product'].map((name) => readAttribute(folder, name));
  const vendorId = readAttribute(folder, 'idVendor');
  const productId = readAttribute(folder, 'idProduct');
  return {
    busId,
    folder,
    busNumber: Number(bus),
    deviceNumber: Number(device),
    vendorId,
    productId,
    serialNumber: readAttribute(folder, 'serial'),
    isHub: readAttribute(folder, 'bDeviceClass') === HUB_CLASS,
    isRemote: resolved(folder).includes('/vhci_hcd'),
    speed,
    configurationValue: Number(readAttribute(folder, 'bConfigurationValue')) || 0,
    label: names.filter((name) => name !== '').join(' ') || `${vendorId}:${productId}`,
  };
}

/** Its file of usbfs. */
export function nodePathOf({ busNumber, deviceNumber }: HostDevice): string {
  const digits = (number: number) => String(number).padStart(3, '0');
  return `/dev/bus/usb/${digits(busNumber)}/${digits(deviceNumber)}`;
}

/** What an attribute says, without white space at its ends; '' if there is none. */
export function readAttribute(folder: string, name: string): string {
  try {
    return readFileSync(join(folder, name), 'utf8').trim();
  } catch {
    return '';
  }
}

export function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function resolved(folder: string): string {
  try {
    return realpathSync(folder);
  } catch {
    return '';
  }
}
