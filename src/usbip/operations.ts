/**
 * The operations phase of a connection: a client asks for the list of devices or for one of them.
 *
 * One operation a connection: after a list the server closes; after a good import the same
 * connection carries URBs. Source: usbip_protocol.rst; tools/usb/usbip/src/usbipd.c.
 */
import type { DeviceInfo } from '../core/device.ts';
import { RemoteProtocolError } from '../core/errors.ts';
import type { Export } from '../core/registry.ts';
import {
  DeviceRecord,
  ImportRequest,
  InterfaceRecord,
  OPERATION,
  OPERATION_STATUS,
  OpCommon,
  PATH_OCTETS,
  SPEED,
  VERSION,
} from './protocol.ts';

/** A request whose body, if any, is still to come. */
export interface OperationRequest {
  readonly code: number;
  readonly bodyOctets: number;
}

/**
 * Narrows an op_common to a request that this server knows.
 *
 * @throws {RemoteProtocolError} for another version or an unknown code.
 */
export function parseOperation(head: Buffer): OperationRequest {
  const { version, code } = OpCommon.read(head);
  if (version !== VERSION) {
    throw new RemoteProtocolError(
      'bad-version',
      `Cannot answer operation: version ${hex(version)}, wanted ${hex(VERSION)}`,
    );
  }
  switch (code) {
    case OPERATION.requestDeviceList:
      return { code, bodyOctets: 0 };
    case OPERATION.requestImport:
      return { code, bodyOctets: ImportRequest.octets };
    default:
      throw new RemoteProtocolError(
        'bad-operation',
        `Cannot answer operation: code ${hex(code)}, wanted a device list or an import`,
      );
  }
}

/** OP_REP_DEVLIST: every device with its interfaces. */
export function deviceListReply(exports: readonly Export[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(exports.length);
  const records = exports.map((one) => {
    const { info } = one;
    const interfaces = info.interfaces.map((each) =>
      InterfaceRecord.write({ ...each, padding: 0 }),
    );
    return Buffer.concat([deviceRecord(one, info), ...interfaces]);
  });
  return Buffer.concat([opReply(OPERATION.replyDeviceList, 'ok'), count, ...records]);
}

/** OP_REP_IMPORT that grants a device. */
export function importReply(granted: Export): Buffer {
  return Buffer.concat([opReply(OPERATION.replyImport, 'ok'), deviceRecord(granted, granted.info)]);
}

/** The path field of an OP_REP_IMPORT that grants. */
export function pathOf(reply: Buffer): Buffer {
  const at = OpCommon.octets + DeviceRecord.offsets.path;
  return reply.subarray(at, at + PATH_OCTETS);
}

/** OP_REP_IMPORT that refuses; it has no body. */
export function importRefusal(status: 'busy' | 'noDevice' | 'deviceError'): Buffer {
  return opReply(OPERATION.replyImport, status);
}

/** devid of every URB header of this import. */
export function deviceIdOf({ bus, deviceNumber }: Pick<Export, 'bus' | 'deviceNumber'>): number {
  return ((bus << 16) | deviceNumber) >>> 0;
}

function opReply(code: number, status: keyof typeof OPERATION_STATUS): Buffer {
  return OpCommon.write({ version: VERSION, code, status: OPERATION_STATUS[status] });
}

/** `info` is the export's, asked for once: a record and its interfaces must not tell of two moments. */
function deviceRecord(one: Export, info: DeviceInfo): Buffer {
  return DeviceRecord.write({
    path: `/sys/devices/urbgate/usb${one.bus}/${one.busId}`,
    busId: one.busId,
    bus: one.bus,
    deviceNumber: one.deviceNumber,
    speed: SPEED[info.speed],
    vendorId: info.vendorId,
    productId: info.productId,
    deviceVersion: info.deviceVersion,
    class: info.class,
    subclass: info.subclass,
    protocol: info.protocol,
    configurationValue: info.configurationValue,
    configurationCount: info.configurationCount,
    interfaceCount: info.interfaces.length,
  });
}

export function hex(value: number): string {
  return `0x${value.toString(16).padStart(4, '0')}`;
}
