/**
 * The USB devices of this machine, as the kernel shows them under /sys/bus/usb/devices. Reading that
 * needs no rights and wakes no device.
 *
 * Some attributes are read under the device's lock, which the kernel holds while it waits for the
 * device: seconds, if it is slow, and for ever if the device is one that this very process serves
 * to a client on this machine. Those are read for devices that are asked for, and never
 * synchronously (`readHostDevice`).
 */
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Speed } from '../../device.ts';
import type { HostDevice, PluggedDevice } from './device.ts';

export const SYSFS_DEVICES = '/sys/bus/usb/devices';

export interface SysfsDevice extends PluggedDevice {
  /** Folder in sysfs. */
  readonly folder: string;
  readonly busNumber: number;
  readonly deviceNumber: number;
}

export interface SysfsHostDevice extends SysfsDevice, HostDevice {
  /** bConfigurationValue, 0 for none. */
  readonly configurationValue: number;
}

/**
 * Mbit/s as sysfs has them. SuperSpeedPlus devices are shown as SuperSpeed, which they can do,
 * because the kernel's USB/IP client refuses anything faster before Linux 6.12.
 */
const SPEED_BY_TEXT: ReadonlyMap<string, Speed> = new Map([
  ['1.5', 'low'],
  ['12', 'full'],
  ['480', 'high'],
  ['5000', 'super'],
  ['10000', 'super'],
  ['20000', 'super'],
]);

const HUB_CLASS = '09';

/** busnum and devnum: what has three digits in the name of a file of usbfs. */
const NUMBER = /^[1-9]\d{0,2}$/;
const CONFIGURATION_VALUE_MAX = 255;

/** Devices that are there now, root hubs left out. */
export function listPluggedDevices(root: string = SYSFS_DEVICES): SysfsDevice[] {
  const names = entriesOf(root).filter((name) => /^\d+-[\d.]+$/.test(name));
  return names.flatMap((name) => readPluggedDevice(root, name) ?? []);
}

/** Null if it goes away just now. */
function readPluggedDevice(root: string, busId: string): SysfsDevice | null {
  const folder = join(root, busId);
  const [bus, device] = [readAttribute(folder, 'busnum'), readAttribute(folder, 'devnum')];
  const speed = SPEED_BY_TEXT.get(readAttribute(folder, 'speed'));
  // It has no number while it is reset.
  if (!NUMBER.test(bus) || !NUMBER.test(device) || speed === undefined) return null;
  return {
    busId,
    appearance: `${busId}/${device}`, // the kernel counts devices up
    folder,
    busNumber: Number(bus),
    deviceNumber: Number(device),
    vendorId: readAttribute(folder, 'idVendor'),
    productId: readAttribute(folder, 'idProduct'),
    isHub: readAttribute(folder, 'bDeviceClass') === HUB_CLASS,
    isRemote: isAtVhci(folder),
    speed,
  };
}

/** Adds what the kernel may take its time to tell. */
export async function readHostDevice(plugged: SysfsDevice): Promise<SysfsHostDevice> {
  const read = (name: string) =>
    readFile(join(plugged.folder, name), 'utf8').then(
      (text) => text.trim(),
      () => '',
    );
  const names = ['serial', 'bConfigurationValue', 'manufacturer', 'product'];
  const [serialNumber = '', value, ...label] = await Promise.all(names.map(read));
  return {
    ...plugged,
    serialNumber,
    configurationValue: Number(value) <= CONFIGURATION_VALUE_MAX ? Number(value) : 0,
    label:
      label.filter((name) => name !== '').join(' ') || `${plugged.vendorId}:${plugged.productId}`,
  };
}

/** Names of the drivers that have its interfaces; `usbfs` where a program has one. */
export function driversOf(folder: string, busId: string): string[] {
  const interfaces = entriesOf(folder).filter((name) => name.startsWith(`${busId}:`));
  const drivers = interfaces.map((name) => basename(resolved(join(folder, name, 'driver'))));
  return drivers.filter((name) => name !== '');
}

/** It is at the kernel's USB/IP client. */
export function isAtVhci(folder: string): boolean {
  return resolved(folder).includes('/vhci_hcd');
}

/** Its file of usbfs. */
export function nodePathOf({ busNumber, deviceNumber }: SysfsDevice): string {
  const digits = (number: number) => String(number).padStart(3, '0');
  return `/dev/bus/usb/${digits(busNumber)}/${digits(deviceNumber)}`;
}

/** What an attribute without a lock says, without white space at its ends; '' if there is none. */
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
