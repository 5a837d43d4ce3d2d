/**
 * What a back end says of its device (`DeviceInfo`), held to the bounds of what clients are told. Lists and
 * import replies have fixed fields and are made of all devices together, so one device whose numbers do
 * not fit must never get so far.
 */
import type { DeviceInfo, InterfaceInfo, Speed, UsbDevice } from './device.ts';
import { DESCRIPTOR_LIMITS, LABEL_CHARACTERS_MAX } from './limits.ts';

const U8_MAX = 0xff;
const U16_MAX = 0xffff;

const SPEEDS: readonly Speed[] = ['low', 'full', 'high', 'super', 'super-plus'];

/** Characters that steer terminals and viewers, and halves of surrogate pairs. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** The information of one device, each time as it is then. */
export class CheckedInfo {
  readonly #device: UsbDevice;
  #last: DeviceInfo;

  /** @throws {RangeError} if it is out of bounds, or the device does not tell. */
  constructor(device: UsbDevice) {
    this.#device = device;
    this.#last = checked(device.info);
  }

  /** Within bounds: what the device says now, or what it said last if it says what cannot be. */
  get current(): DeviceInfo {
    try {
      this.#last = checked(this.#device.info);
    } catch {
      // A bug of the back end must not take the list from all others.
    }
    return this.#last;
  }
}

function checked(info: DeviceInfo): DeviceInfo {
  const { speed, interfaces, label } = info;
  if (!SPEEDS.includes(speed)) {
    throw new RangeError(`speed ${speed}, wanted one of ${SPEEDS.join(', ')}`);
  }
  const { interfacesMax } = DESCRIPTOR_LIMITS;
  if (interfaces.length > interfacesMax) {
    throw new RangeError(`${interfaces.length} interfaces, wanted at most ${interfacesMax}`);
  }
  return {
    speed,
    vendorId: whole('vendorId', info.vendorId, U16_MAX),
    productId: whole('productId', info.productId, U16_MAX),
    deviceVersion: whole('deviceVersion', info.deviceVersion, U16_MAX),
    ...classesOf(info),
    configurationValue: whole('configurationValue', info.configurationValue, U8_MAX),
    configurationCount: whole('configurationCount', info.configurationCount, U8_MAX),
    interfaces: interfaces.map(classesOf),
    label: `${label}`.slice(0, LABEL_CHARACTERS_MAX).replace(UNPRINTABLE, '\ufffd'),
  };
}

function classesOf(info: InterfaceInfo): InterfaceInfo {
  return {
    class: whole('class', info.class, U8_MAX),
    subclass: whole('subclass', info.subclass, U8_MAX),
    protocol: whole('protocol', info.protocol, U8_MAX),
  };
}

function whole(name: string, value: number, max: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw new RangeError(`${name} ${value}, wanted a whole number from 0 to ${max}`);
}
