/**
 * Which devices of this machine a SPEC means: `usb:BUSID`, `usb:VVVV:PPPP` or `usb:VVVV:PPPP:SERIAL`,
 * each part with `*` for anything.
 */
import { UserError } from '../../errors.ts';
import type { HostDevice, PluggedDevice } from './device.ts';

export type Selector =
  | { readonly type: 'bus-id'; readonly busId: string }
  | {
      readonly type: 'ids';
      readonly vendorId: string;
      readonly productId: string;
      /** Undefined if the spec says nothing of it. */
      readonly serialNumber: string | undefined;
    };

const BUS_ID = /^[\d*]{1,8}-[\d.*]{1,23}$/;
const HEXADECIMAL = /^(?:[0-9a-f]{4}|[0-9a-f]{0,3}\*[0-9a-f*]{0,3})$/;

/**
 * @throws {UserError} if it is neither a bus id nor identifiers.
 */
export function parseSelector(target: string): Selector {
  if (target === '*' || BUS_ID.test(target)) return { type: 'bus-id', busId: target };
  const [vendor = '', product = '', ...serial] = target.split(':');
  const [vendorId, productId] = [vendor.toLowerCase(), product.toLowerCase()];
  if (!HEXADECIMAL.test(vendorId) || !HEXADECIMAL.test(productId)) {
    throw new UserError(
      `Cannot find usb:${target}: not a device, wanted usb:BUSID such as usb:1-1.2, ` +
        'usb:VVVV:PPPP or usb:VVVV:PPPP:SERIAL with hexadecimal digits, or * in their places',
    );
  }
  const serialNumber = serial.length === 0 ? undefined : serial.join(':');
  return { type: 'ids', vendorId, productId, serialNumber };
}

/** By all but the serial number. */
export function mayMatch(selector: Selector, device: PluggedDevice): boolean {
  if (selector.type === 'bus-id') return fits(selector.busId, device.busId);
  return fits(selector.vendorId, device.vendorId) && fits(selector.productId, device.productId);
}

export function matches(selector: Selector, device: HostDevice): boolean {
  if (!mayMatch(selector, device)) return false;
  if (selector.type === 'bus-id' || selector.serialNumber === undefined) return true;
  return fits(selector.serialNumber, device.serialNumber);
}

/**
 * Each part of the pattern where it fits first: a regular expression would try all places of all parts,
 * and the text may be the device's.
 */
function fits(pattern: string, text: string): boolean {
  const [first = '', ...others] = pattern.split('*');
  const last = others.pop();
  if (last === undefined) return text === first;
  const end = text.length - last.length;
  if (!text.startsWith(first) || !text.endsWith(last)) return false;
  let at = first.length;
  for (const part of others) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= end;
}

/** Bus numbers of ids made from identifiers: far above those that machines have. */
const DERIVED_BUS_FIRST = 100;
const DERIVED_BUSES = 100;
const DERIVED_PORTS = 250;

/**
 * The bus id under which a device is exported. Where the selector names a place, it is that place;
 * else it follows from the identifiers alone, so that it is the same wherever the device is plugged.
 */
export function exportBusId(selector: Selector, device: HostDevice): string {
  if (selector.type === 'bus-id') return device.busId;
  const serial = selector.serialNumber === undefined ? [] : [device.serialNumber];
  const hash = fnv1a([device.vendorId, device.productId, ...serial].join(':'));
  const port = Math.floor(hash / DERIVED_BUSES) % DERIVED_PORTS;
  return `${DERIVED_BUS_FIRST + (hash % DERIVED_BUSES)}-${1 + port}`;
}

/** Fowler-Noll-Vo, 32 bits. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const octet of Buffer.from(text)) hash = Math.imul(hash ^ octet, 0x01000193) >>> 0;
  return hash;
}

/** The rule that lets a group, and whoever sits at the machine, open the devices. */
export function udevRule(selector: Selector, group: string): string {
  const conditions = ['SUBSYSTEM=="usb"', 'ENV{DEVTYPE}=="usb_device"'];
  const condition = (key: string, value: string) => conditions.push(`${key}=="${value}"`);
  if (selector.type === 'bus-id') {
    condition('KERNEL', udevPattern(selector.busId));
  } else {
    condition('ATTR{idVendor}', selector.vendorId);
    condition('ATTR{idProduct}', selector.productId);
    if (selector.serialNumber !== undefined) {
      condition('ATTR{serial}', udevPattern(selector.serialNumber));
    }
  }
  return [...conditions, `MODE="0660"`, `GROUP="${group}"`, `TAG+="uaccess"`].join(', ');
}

/** udev knows more patterns than `*`, and has no escape for a quote in plain strings. */
function udevPattern(text: string): string {
  return text.replace(/[?[\]|"\\]/g, '?');
}
