/** Control transfers through the package, and the descriptors read with them. */
import { DESCRIPTOR, REQUEST } from '../../descriptors.ts';
import { DESCRIPTOR_LIMITS } from '../../limits.ts';
import type { SetupPacket } from '../../urb.ts';
import {
  type ControlSetup,
  type Ending,
  endingOf,
  octetsOf,
  type PackageDevice,
} from './package.ts';

/** Longer than what drivers give a request, as a rule 5 s: they end it, not we. */
export const CONTROL_MILLISECONDS = 10_000;

/** By bits 6..5 of bmRequestType; what the package cannot send is undefined. */
const TYPES: readonly ControlSetup['requestType'][] = ['standard', 'class', 'vendor'];
/** By bits 4..0. */
const RECIPIENTS: readonly ControlSetup['recipient'][] = [
  'device',
  'interface',
  'endpoint',
  'other',
];

export interface ControlOutcome {
  readonly ending: Ending;
  readonly actualOctets: number;
  readonly dataIn: Buffer;
}

const NO_OCTETS = Buffer.alloc(0);

export async function transferControl(
  device: PackageDevice,
  setup: SetupPacket,
  dataOut: Buffer,
): Promise<ControlOutcome> {
  const fail = (ending: Ending) => ({ ending, actualOctets: 0, dataIn: NO_OCTETS });
  const requestType = TYPES[(setup.requestType >> 5) & 3];
  const recipient = RECIPIENTS[setup.requestType & 31];
  if (requestType === undefined || recipient === undefined) return fail('invalid');
  const { request, value, index } = setup;
  const what = { requestType, recipient, request, value, index };
  try {
    if ((setup.requestType & 0x80) === 0) {
      await device.controlTransferOut(what, dataOut, CONTROL_MILLISECONDS);
      return { ending: 'ok', actualOctets: setup.length, dataIn: NO_OCTETS };
    }
    const { data } = await device.controlTransferIn(what, setup.length, CONTROL_MILLISECONDS);
    const dataIn = octetsOf(data).subarray(0, setup.length);
    return { ending: 'ok', actualOctets: dataIn.length, dataIn };
  } catch (error) {
    return fail(endingOf(error));
  }
}

const DEVICE_OCTETS = 18;
const CONFIGURATION_OCTETS = 9;

/**
 * The device descriptor, then each configuration with all that belongs to it.
 *
 * @throws {Error} if the device does not tell.
 */
export async function readDescriptors(device: PackageDevice): Promise<Buffer> {
  const parts = [await readDescriptor(device, DESCRIPTOR.device, 0, DEVICE_OCTETS)];
  const told = parts[0]?.readUInt8(DEVICE_OCTETS - 1) ?? 0;
  const count = Math.min(told, DESCRIPTOR_LIMITS.configurationsMax);
  for (let at = 0; at < count; at++) {
    const head = await readDescriptor(device, DESCRIPTOR.configuration, at, CONFIGURATION_OCTETS);
    const total = Math.max(CONFIGURATION_OCTETS, head.readUInt16LE(2));
    parts.push(await readDescriptor(device, DESCRIPTOR.configuration, at, total));
  }
  return Buffer.concat(parts);
}

/** bConfigurationValue of the active configuration, 0 for none. */
export async function readConfigurationValue(device: PackageDevice): Promise<number> {
  const setup = { requestType: 0x80, request: REQUEST.getConfiguration, value: 0, index: 0 };
  const { ending, dataIn } = await transferControl(device, { ...setup, length: 1 }, NO_OCTETS);
  if (ending !== 'ok' || dataIn.length === 0) throw new Error(`no configuration (${ending})`);
  return dataIn.readUInt8(0);
}

async function readDescriptor(
  device: PackageDevice,
  type: number,
  at: number,
  octets: number,
): Promise<Buffer> {
  const request = { requestType: 0x80, request: REQUEST.getDescriptor, value: (type << 8) | at };
  const setup = { ...request, index: 0, length: octets };
  const { ending, dataIn } = await transferControl(device, setup, NO_OCTETS);
  if (ending !== 'ok' || dataIn.length < octets) {
    const got = ending === 'ok' ? `${dataIn.length} octets` : ending;
    throw new Error(`descriptor ${type}.${at}: ${got}, wanted ${octets} octets`);
  }
  return dataIn;
}
