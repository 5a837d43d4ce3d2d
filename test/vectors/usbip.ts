/**
 * Octets of USB/IP messages and what they mean: one list, for the readers and for the writers.
 *
 * `captured` octets stand in the examples of Linux Documentation/usb/usbip_protocol.rst. The others
 * are put together by hand from that document's tables of offsets; where its late offsets of
 * OP_REP_IMPORT contradict the lengths beside them, from usbip_network.h.
 */
import type { Layout } from '../../src/core/layout.ts';
import {
  CmdSubmit,
  CmdUnlink,
  DeviceRecord,
  ImportRequest,
  InterfaceRecord,
  IsoDescriptor,
  OpCommon,
  RetSubmit,
  RetUnlink,
} from '../../src/usbip/protocol.ts';

/** One structure of a message and its fields, or octets as they are. */
export interface Part {
  readonly layout: Layout<never> | null;
  readonly value: object;
}

export interface Vector {
  readonly name: string;
  readonly captured: boolean;
  readonly octets: Buffer;
  /** Octets of the header, with which a reader must begin. */
  readonly headerOctets: number;
  readonly parts: readonly Part[];
}

export const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');

/** Text and zeros, as a C string in an array. */
export function padded(text: string, octets: number): Buffer {
  const field = Buffer.alloc(octets);
  field.write(text, 'latin1');
  return field;
}

const part = <F>(
  layout: Layout<F>,
  value: { [K in keyof Layout<F>['offsets']]: unknown },
): Part => ({
  layout: layout as unknown as Layout<never>,
  value,
});
const raw = (octets: Buffer): Part => ({ layout: null, value: octets });

const vector = (name: string, parts: Part[], octets: Buffer, captured = false): Vector => {
  const headerOctets = parts[0]?.layout?.octets ?? 0;
  return { name, captured, octets, headerOctets, parts };
};

const NO_SETUP = Buffer.alloc(8);

/** The 64-octet HID payloads of the document's captures. */
export const HID_OUT = hex(`ffffffff860008a784ce5ae21237630000000000000000000000000000000000
  0000000000000000000000000000000000000000000000000000000000000000`);
export const HID_IN = hex(`ffffffff860011a784ce5ae2123763612891b102010000040000000000000000
  0000000000000000000000000000000000000000000000000000000000000000`);

/** devid of the captures: bus 1, device 15. */
export const CAPTURED_DEVICE_ID = 0x0001000f;

const captures: Vector[] = [
  vector(
    'CmdIntrIN',
    [
      part(CmdSubmit, {
        command: 1,
        seqnum: 0xd05,
        deviceId: CAPTURED_DEVICE_ID,
        direction: 1,
        endpoint: 1,
        transferFlags: 0x200,
        transferBufferLength: 64,
        startFrame: -1,
        numberOfPackets: 0,
        interval: 4,
        setup: NO_SETUP,
      }),
    ],
    hex(`00000001 00000d05 0001000f 00000001 00000001 00000200 00000040 ffffffff
         00000000 00000004 00000000 00000000`),
    true,
  ),
  vector(
    'CmdIntrOUT',
    [
      part(CmdSubmit, {
        command: 1,
        seqnum: 0xd06,
        deviceId: CAPTURED_DEVICE_ID,
        direction: 0,
        endpoint: 1,
        transferFlags: 0,
        transferBufferLength: 64,
        startFrame: -1,
        numberOfPackets: 0,
        interval: 4,
        setup: NO_SETUP,
      }),
      raw(HID_OUT),
    ],
    Buffer.concat([
      hex(`00000001 00000d06 0001000f 00000000 00000001 00000000 00000040 ffffffff
           00000000 00000004 00000000 00000000`),
      HID_OUT,
    ]),
    true,
  ),
  vector(
    'RetIntrOut',
    [
      part(RetSubmit, {
        command: 3,
        seqnum: 0xd06,
        deviceId: 0,
        direction: 0,
        endpoint: 0,
        status: 0,
        actualLength: 64,
        startFrame: -1,
        numberOfPackets: 0,
        errorCount: 0,
        padding: NO_SETUP,
      }),
    ],
    hex(`00000003 00000d06 00000000 00000000 00000000 00000000 00000040 ffffffff
         00000000 00000000 00000000 00000000`),
    true,
  ),
  vector(
    'RetIntrIn',
    [
      part(RetSubmit, {
        command: 3,
        seqnum: 0xd05,
        deviceId: 0,
        direction: 0,
        endpoint: 0,
        status: 0,
        actualLength: 64,
        startFrame: -1,
        numberOfPackets: 0,
        errorCount: 0,
        padding: NO_SETUP,
      }),
      raw(HID_IN),
    ],
    Buffer.concat([
      hex(`00000003 00000d05 00000000 00000000 00000000 00000000 00000040 ffffffff
           00000000 00000000 00000000 00000000`),
      HID_IN,
    ]),
    true,
  ),
];

const unlinks: Vector[] = [
  vector(
    'CmdUnlink',
    [
      part(CmdUnlink, {
        command: 2,
        seqnum: 0xd07,
        deviceId: CAPTURED_DEVICE_ID,
        direction: 0,
        endpoint: 0,
        victim: 0xd05,
        padding: Buffer.alloc(24),
      }),
    ],
    hex(`00000002 00000d07 0001000f 00000000 00000000 00000d05
         00000000 00000000 00000000 00000000 00000000 00000000`),
  ),
  vector(
    'RetUnlink that came in time',
    [
      part(RetUnlink, {
        command: 4,
        seqnum: 0xd07,
        deviceId: 0,
        direction: 0,
        endpoint: 0,
        status: -104,
        padding: Buffer.alloc(24),
      }),
    ],
    hex(`00000004 00000d07 00000000 00000000 00000000 ffffff98
         00000000 00000000 00000000 00000000 00000000 00000000`),
  ),
];

/** Setup packets are the only little-endian octets of the protocol. */
export const getDeviceDescriptor: Vector = vector(
  'GET_DESCRIPTOR',
  [
    part(CmdSubmit, {
      command: 1,
      seqnum: 1,
      deviceId: CAPTURED_DEVICE_ID,
      direction: 1,
      endpoint: 0,
      transferFlags: 0x200,
      transferBufferLength: 18,
      startFrame: 0,
      numberOfPackets: -1,
      interval: 0,
      setup: hex('8006 0001 0000 1200'),
    }),
  ],
  hex(`00000001 00000001 0001000f 00000001 00000000 00000200 00000012 00000000
       ffffffff 00000000 80060001 00001200`),
);

const isochronous: Vector[] = [
  vector(
    'isochronous OUT of two packets',
    [
      part(CmdSubmit, {
        command: 1,
        seqnum: 9,
        deviceId: CAPTURED_DEVICE_ID,
        direction: 0,
        endpoint: 2,
        transferFlags: 2,
        transferBufferLength: 6,
        startFrame: 7,
        numberOfPackets: 2,
        interval: 8,
        setup: NO_SETUP,
      }),
      raw(hex('010203 040506')),
      part(IsoDescriptor, { offset: 0, length: 3, actualLength: 0, status: 0 }),
      part(IsoDescriptor, { offset: 3, length: 3, actualLength: 0, status: -18 }),
    ],
    hex(`00000001 00000009 0001000f 00000000 00000002 00000002 00000006 00000007
         00000002 00000008 00000000 00000000 010203 040506
         00000000 00000003 00000000 00000000
         00000003 00000003 00000000 ffffffee`),
  ),
];

const recordFields = {
  path: '/sys/devices/pci0000:00/0000:00:1d.1/usb3/3-2',
  busId: '3-2',
  bus: 3,
  deviceNumber: 2,
  speed: 3,
  vendorId: 0x0525,
  productId: 0xa4a0,
  deviceVersion: 0x0419,
  class: 0xef,
  subclass: 2,
  protocol: 1,
  configurationValue: 3,
  configurationCount: 1,
  interfaceCount: 2,
};

const recordOctets = Buffer.concat([
  padded('/sys/devices/pci0000:00/0000:00:1d.1/usb3/3-2', 256),
  padded('3-2', 32),
  hex('00000003 00000002 00000003 0525 a4a0 0419 ef 02 01 03 01 02'),
]);

const operations: Vector[] = [
  vector(
    'OP_REQ_DEVLIST',
    [part(OpCommon, { version: 0x0111, code: 0x8005, status: 0 })],
    hex('0111 8005 00000000'),
  ),
  vector(
    'OP_REP_DEVLIST of one device with two interfaces',
    [
      part(OpCommon, { version: 0x0111, code: 0x0005, status: 0 }),
      raw(hex('00000001')),
      part(DeviceRecord, recordFields),
      part(InterfaceRecord, { class: 2, subclass: 2, protocol: 1, padding: 0 }),
      part(InterfaceRecord, { class: 10, subclass: 0, protocol: 0, padding: 0 }),
    ],
    Buffer.concat([
      hex('0111 0005 00000000 00000001'),
      recordOctets,
      hex('02 02 01 00  0a 00 00 00'),
    ]),
  ),
  vector(
    'OP_REQ_IMPORT',
    [
      part(OpCommon, { version: 0x0111, code: 0x8003, status: 0 }),
      part(ImportRequest, { busId: '3-2' }),
    ],
    Buffer.concat([hex('0111 8003 00000000'), padded('3-2', 32)]),
  ),
  vector(
    'OP_REP_IMPORT',
    [
      part(OpCommon, { version: 0x0111, code: 0x0003, status: 0 }),
      part(DeviceRecord, recordFields),
    ],
    Buffer.concat([hex('0111 0003 00000000'), recordOctets]),
  ),
  vector(
    'OP_REP_IMPORT that refuses: no body',
    [part(OpCommon, { version: 0x0111, code: 0x0003, status: 1 })],
    hex('0111 0003 00000001'),
  ),
];

export const VECTORS: readonly Vector[] = [
  ...captures,
  ...unlinks,
  getDeviceDescriptor,
  ...isochronous,
  ...operations,
];

export function vectorNamed(name: string): Vector {
  const found = VECTORS.find((one) => one.name === name);
  if (found === undefined) throw new RangeError(`Cannot find vector: "${name}"`);
  return found;
}
