/**
 * What a server that means harm may say of a device, one lie at a time. A lie that Linux would overlook
 * leaves a device within bounds; any other is refused.
 */
import {
  configurationBytes,
  deviceBytes,
  endpointBytes,
  type HostileDevice,
  interfaceBytes,
  many,
  stringBytes,
} from './hostile-server.ts';

export interface HostileRow {
  readonly name: string;
  readonly hostile: HostileDevice;
  /** There is no device then, and a UserError says why. */
  readonly refused?: boolean;
  /** What the device has if it is taken. */
  readonly interfaces?: number;
}

const configured = (...parts: Buffer[]) => ({ configurations: [configurationBytes(parts)] });
const named = (product: Buffer) => ({ strings: { 1: stringBytes('Maker'), 2: product } });
const strange = 'a\r\n\u001b[2J\u202e\u0000\u0085b';

export const HOSTILE_DEVICES: readonly HostileRow[] = [
  { name: 'an honest device', hostile: {}, interfaces: 1 },
  {
    name: '300 interface descriptors',
    hostile: configured(...many(300, (at) => interfaceBytes(at))),
    interfaces: 32,
  },
  {
    name: '256 interface numbers, each with endpoints',
    hostile: configured(
      ...many(256, (at) => Buffer.concat([interfaceBytes(at), endpointBytes(0x81 + (at % 15))])),
    ),
    interfaces: 32,
  },
  {
    name: '300 times the same interface',
    hostile: configured(...many(300, () => interfaceBytes(0))),
    interfaces: 1,
  },
  {
    name: '256 interfaces of two settings each',
    hostile: configured(
      ...many(256, (at) => Buffer.concat([interfaceBytes(at, 0), interfaceBytes(at, 1)])),
    ),
    interfaces: 32,
  },
  {
    name: '7000 settings',
    hostile: configured(...many(7000, (at) => interfaceBytes(at >> 8, at))),
    interfaces: 28,
  },
  {
    name: '65535 bytes of endpoints',
    hostile: configured(interfaceBytes(0), ...many(9359, (at) => endpointBytes(at & 0xff))),
    interfaces: 1,
  },
  {
    name: 'a length of 65535 and 9 bytes',
    hostile: { configurations: [configurationBytes([], { total: 65535 })] },
    interfaces: 0,
  },
  {
    name: 'a length of 0',
    hostile: { configurations: [configurationBytes(undefined, { total: 0 })] },
    refused: true,
  },
  {
    name: 'no interface has a setting 0',
    hostile: configured(interfaceBytes(3, 1), endpointBytes(0x81)),
    interfaces: 1,
  },
  {
    name: 'descriptors of length 0',
    hostile: configured(interfaceBytes(0), Buffer.from([0, 5]), interfaceBytes(1)),
    interfaces: 1,
  },
  {
    name: 'descriptors of length 1',
    hostile: configured(interfaceBytes(0), Buffer.from([1, 5]), interfaceBytes(1)),
    interfaces: 1,
  },
  {
    name: 'a descriptor longer than what is left',
    hostile: configured(interfaceBytes(0), Buffer.from([255, 5, 0x81])),
    interfaces: 1,
  },
  {
    name: 'configurations inside each other',
    hostile: configured(interfaceBytes(0), configurationBytes([configurationBytes()])),
    interfaces: 1,
  },
  {
    name: '1000 interface associations',
    hostile: configured(
      ...many(1000, () => Buffer.from([8, 11, 255, 255, 0, 0, 0, 0])),
      interfaceBytes(0),
    ),
    interfaces: 1,
  },
  {
    name: 'an endpoint in two interfaces, endpoint 0, reserved bits, no packet size, odd intervals',
    hostile: configured(
      ...[interfaceBytes(0), endpointBytes(0x81), endpointBytes(0x00), endpointBytes(0x80)],
      ...[endpointBytes(0xf2), endpointBytes(0x03, { maxPacket: 0 })],
      ...[interfaceBytes(1), endpointBytes(0x81), endpointBytes(0x84, { attributes: 0xff })],
      endpointBytes(0x85, { attributes: 3, maxPacket: 0xffff, interval: 255 }),
      endpointBytes(0x86, { attributes: 1, maxPacket: 0, interval: 0 }),
    ),
    interfaces: 2,
  },
  { name: '255 configurations', hostile: { device: deviceBytes(255) }, interfaces: 1 },
  { name: 'no configuration', hostile: { device: deviceBytes(0) }, interfaces: 0 },
  { name: 'an empty device descriptor', hostile: { device: Buffer.alloc(0) }, refused: true },
  {
    name: 'a device descriptor of 17 bytes',
    hostile: { device: deviceBytes().subarray(0, 17) },
    refused: true,
  },
  { name: 'a device descriptor of zeros', hostile: { device: Buffer.alloc(18) }, refused: true },
  {
    name: 'a configuration of zeros',
    hostile: { configurations: [Buffer.alloc(64)] },
    refused: true,
  },
  { name: 'an empty active configuration', hostile: { active: Buffer.alloc(0) }, interfaces: 1 },
  {
    name: 'an active configuration that is none',
    hostile: { active: Buffer.from([200]) },
    interfaces: 1,
  },
  {
    name: 'more bytes than were asked for',
    hostile: { control: () => Buffer.alloc(70_000, 1) },
    refused: true,
  },
  { name: 'stalls', hostile: { control: () => -32 }, refused: true },
  { name: 'a status that is none', hostile: { control: () => 0x7fffffff }, refused: true },
  { name: 'a string of length 0', hostile: named(stringBytes('Thing', 0)), interfaces: 1 },
  { name: 'a string of length 1', hostile: named(stringBytes('Thing', 1)), interfaces: 1 },
  { name: 'a string of an odd length', hostile: named(stringBytes('Thing', 5)), interfaces: 1 },
  { name: 'a string longer than it is', hostile: named(stringBytes('Thing', 255)), interfaces: 1 },
  { name: 'half a character', hostile: named(stringBytes('\ud800')), interfaces: 1 },
  { name: 'a string that steers terminals', hostile: named(stringBytes(strange)), interfaces: 1 },
  {
    name: 'a speed that is none',
    hostile: { record: (record) => record.writeUInt32BE(0xffffffff, 296) },
    interfaces: 1,
  },
  {
    name: 'a record without a zero',
    hostile: { record: (record) => record.fill(0xff) },
    interfaces: 1,
  },
];
