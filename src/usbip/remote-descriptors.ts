/** Reads what must be known of a device of another server before it can be used as one's own. */
import {
  type ConfigurationDescriptor,
  DESCRIPTOR,
  type DeviceDescriptor,
  parseConfiguration,
  parseDeviceDescriptor,
  REQUEST,
} from '../core/descriptors.ts';
import type { Speed } from '../core/device.ts';
import { UserError } from '../core/errors.ts';
import { DESCRIPTOR_LIMITS } from '../core/limits.ts';
import type { ControlPipe } from './relay-device.ts';
import { RemoteEndpoints } from './remote-endpoints.ts';

const DEVICE_OCTETS = 18;
const CONFIGURATION_OCTETS = 9;
const STRING_OCTETS_MAX = 255;
const LANGUAGE_ENGLISH = 0x0409;
/** For one request; a device that does not answer ends the import. */
const REQUEST_MILLISECONDS = 5_000;

const IN = 0x80;
const IN_INTERFACE = 0x81;

export interface RemoteDescriptors {
  readonly speed: Speed;
  readonly device: DeviceDescriptor;
  readonly parsed: readonly ConfigurationDescriptor[];
  /** bConfigurationValue of the active configuration; 0 for none. */
  readonly active: number;
}

/**
 * @throws {UserError} if the device does not answer, or its descriptors make no sense.
 */
export async function readDescriptors(remote: ControlPipe): Promise<RemoteDescriptors> {
  const { speed, name } = remote;
  const ask = (request: number, value: number, index: number, octets: number) =>
    read(remote, IN, request, value, index, octets);
  const get = (type: number, index: number, octets: number) =>
    ask(REQUEST.getDescriptor, (type << 8) | index, 0, octets);
  const refuse = (what: string) =>
    new UserError(`Cannot use ${name}: ${what}, wanted a USB device's descriptors`);
  try {
    const device = parseDeviceDescriptor(await get(DESCRIPTOR.device, 0, DEVICE_OCTETS));
    const parsed: ConfigurationDescriptor[] = [];
    const count = Math.min(device.configurationCount, DESCRIPTOR_LIMITS.configurationsMax);
    for (let index = 0; index < count; index++) {
      const head = await get(DESCRIPTOR.configuration, index, CONFIGURATION_OCTETS);
      if (head.length < CONFIGURATION_OCTETS) throw refuse(`${head.length} octets`);
      const octets = await get(DESCRIPTOR.configuration, index, head.readUInt16LE(2));
      parsed.push(parseConfiguration(octets, speed));
    }
    const [active = 0] = await ask(REQUEST.getConfiguration, 0, 0, 1);
    return { speed, device, parsed, active };
  } catch (error) {
    throw error instanceof UserError ? error : refuse((error as Error).message);
  }
}

/** The endpoints as they are now: the alternate settings are asked for. */
export async function readEndpoints(
  remote: ControlPipe,
  { speed, device, parsed, active }: RemoteDescriptors,
): Promise<RemoteEndpoints> {
  const endpoints = new RemoteEndpoints(speed, device, parsed, active);
  const settings = parsed.find(({ value }) => value === active)?.alternates ?? [];
  for (const number of new Set(
    settings.filter((one) => one.alternate > 0).map((one) => one.number),
  )) {
    const result = await request(remote, IN_INTERFACE, REQUEST.getInterface, 0, number, 1);
    const [alternate = 0] = result.status === 'ok' ? result.data : [];
    const setup = { requestType: 1, request: REQUEST.setInterface, index: number, length: 0 };
    endpoints.applied({ ...setup, value: alternate });
  }
  return endpoints;
}

/** A string descriptor's text; undefined if the device has none or does not tell. */
export async function readString(remote: ControlPipe, index: number): Promise<string | undefined> {
  if (index === 0) return undefined;
  const value = (DESCRIPTOR.string << 8) | index;
  const get = REQUEST.getDescriptor;
  const answer = await request(remote, IN, get, value, LANGUAGE_ENGLISH, STRING_OCTETS_MAX);
  const [length = 0, type] = answer.data;
  if (answer.status !== 'ok' || type !== DESCRIPTOR.string) return undefined;
  return answer.data.subarray(2, length).toString('utf16le');
}

async function read(
  remote: ControlPipe,
  ...what: [type: number, request: number, value: number, index: number, octets: number]
): Promise<Buffer> {
  const { status, data } = await request(remote, ...what);
  if (status !== 'ok') throw new RangeError(`request ${what[1]} ends with ${status}`);
  return data;
}

async function request(
  remote: ControlPipe,
  requestType: number,
  code: number,
  value: number,
  index: number,
  octets: number,
) {
  const setup = Buffer.from([requestType, code, 0, 0, 0, 0, 0, 0]);
  setup.writeUInt16LE(value, 2);
  setup.writeUInt16LE(index, 4);
  setup.writeUInt16LE(octets, 6);
  return await remote.transferWithin(
    { endpoint: 0, type: 'control', octets, setup },
    REQUEST_MILLISECONDS,
  );
}
