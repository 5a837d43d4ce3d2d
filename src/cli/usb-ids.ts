/**
 * Names for USB numbers, from the list at http://www.linux-usb.org/usb.ids if the system has it.
 *
 * The file is a tree by tabs: vendors (`vvvv  name`) with products below, and classes (`C cc  name`)
 * with subclasses and protocols below. Other sections (`AT`, `HID`, ...) do not interest us.
 * Unknown numbers are worded as the stock `usbip` words them.
 */
import { readRegular } from '../core/files.ts';

/** The list has 0.7 MB. */
const LIST_BYTES_MAX = 16 * 1024 * 1024;

const PLACES = [
  '/usr/share/hwdata/usb.ids',
  '/usr/share/misc/usb.ids',
  '/var/lib/usbutils/usb.ids',
];

export interface ClassTriple {
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
}

export class UsbIds {
  /** By the numbers on the way down: `v0525`, `v0525/a4a0`, `c03`, `c03/01`, `c03/01/02`. */
  readonly #names: ReadonlyMap<string, string>;

  constructor(list: string) {
    this.#names = parse(list);
  }

  /** The system's list; with none, everything is unknown. */
  static ofSystem(): UsbIds {
    for (const place of PLACES) {
      try {
        return new UsbIds(readRegular(place, LIST_BYTES_MAX).toString('latin1'));
      } catch {
        // Not here: names are a nicety.
      }
    }
    return new UsbIds('');
  }

  vendor(vendorId: number): string {
    return this.#names.get(`v${hex(vendorId, 4)}`) ?? 'unknown vendor';
  }

  product(vendorId: number, productId: number): string {
    return this.#names.get(`v${hex(vendorId, 4)}/${hex(productId, 4)}`) ?? 'unknown product';
  }

  /** Class, subclass and protocol as `name / name / name`. */
  classes(triple: ClassTriple): string {
    if (triple.class === 0 && triple.subclass === 0 && triple.protocol === 0) {
      return '(Defined at Interface level)';
    }
    const [path = '', subPath = '', protocolPath = ''] = [
      `c${hex(triple.class, 2)}`,
      `c${hex(triple.class, 2)}/${hex(triple.subclass, 2)}`,
      `c${hex(triple.class, 2)}/${hex(triple.subclass, 2)}/${hex(triple.protocol, 2)}`,
    ];
    return [
      this.#names.get(path) ?? 'unknown class',
      this.#names.get(subPath) ?? 'unknown subclass',
      this.#names.get(protocolPath) ?? 'unknown protocol',
    ].join(' / ');
  }
}

function parse(list: string): Map<string, string> {
  const names = new Map<string, string>();
  /** Keys of the line's ancestors, by depth. Empty in a section that is passed over. */
  let path: string[] = [];
  for (const line of list.split('\n')) {
    const [, tabs = '', section, number, name] =
      /^(\t*)(?:([A-Z]+) )?([0-9a-f]+) {2}(.*)$/.exec(line) ?? [];
    if (number === undefined || name === undefined) {
      if (line !== '' && !line.startsWith('#') && !line.startsWith('\t')) path = [];
      continue;
    }
    if (tabs === '') {
      path = section === undefined ? [`v${number}`] : section === 'C' ? [`c${number}`] : [];
    } else if (path.length >= tabs.length) {
      path.length = tabs.length;
      path.push(number);
    }
    if (path.length === tabs.length + 1) names.set(path.join('/'), name);
  }
  return names;
}

export function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}
