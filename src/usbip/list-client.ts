/**
 * Asks a USB/IP server for its list of devices (OP_REQ_DEVLIST), as `usbip list -r` does.
 *
 * The server is not trusted: counts, octets and time are bounded, and what makes no sense is a
 * `UserError`, for whoever asked can only ask somebody else. Layouts: protocol.ts; a list is cold,
 * so binary-parser reads it.
 */
import { connect } from 'node:net';
import { Parser } from 'binary-parser';
import type { Speed } from '../core/device.ts';
import { UserError } from '../core/errors.ts';
import { DESCRIPTOR_LIMITS, DEVICES_MAX } from '../core/limits.ts';
import { hex } from './operations.ts';
import {
  DeviceRecord,
  InterfaceRecord,
  OPERATION,
  OPERATION_STATUS,
  OpCommon,
  SPEED_NAMES,
  VERSION,
} from './protocol.ts';
import { formatAddress, type ListenAddress } from './server.ts';

/** For the whole of it: connecting, asking, listening. */
const TIMEOUT_MILLISECONDS = 5_000;

export interface ListedInterface {
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
}

export interface ListedDevice extends ListedInterface {
  /** Where the server has it; means something on Linux servers only. */
  readonly path: string;
  readonly busId: string;
  readonly bus: number;
  readonly deviceNumber: number;
  /** Undefined for a number that no speed has. */
  readonly speed: Speed | undefined;
  readonly vendorId: number;
  readonly productId: number;
  readonly deviceVersion: number;
  readonly configurationValue: number;
  readonly configurationCount: number;
  /** As many as Linux takes of a device. */
  readonly interfaces: readonly ListedInterface[];
}

/** Up to the first NUL: some servers leave old memory behind it. */
const text = (length: number) => ({
  length,
  formatter: (value: string) => value.split('\0', 1)[0],
});

const commonParser = new Parser()
  .endianness('big')
  .uint16('version')
  .uint16('code')
  .uint32('status');

const deviceParser = new Parser()
  .endianness('big')
  .string('path', text(256))
  .string('busId', text(32))
  .uint32('bus')
  .uint32('deviceNumber')
  .uint32('speed')
  .uint16('vendorId')
  .uint16('productId')
  .uint16('deviceVersion')
  .uint8('class')
  .uint8('subclass')
  .uint8('protocol')
  .uint8('configurationValue')
  .uint8('configurationCount')
  .uint8('interfaceCount');

const interfaceParser = new Parser().uint8('class').uint8('subclass').uint8('protocol').seek(1);

/** What went wrong with a reply, without the words about whose it is. */
export class BadReply extends Error {}

/**
 * Gathers a reply from its chunks. Not every server closes the connection after it, so the list
 * itself says when it is whole.
 */
export class DeviceListReader {
  readonly #devices: ListedDevice[] = [];
  #rest: Buffer = Buffer.alloc(0);
  /** Devices that the reply announces; null until it has. */
  #count: number | null = null;

  /**
   * Takes a chunk; returns the list once it is whole. What follows it is passed over.
   *
   * @throws {BadReply} if the octets are no list.
   */
  receive(chunk: Buffer): readonly ListedDevice[] | null {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    if (this.#count === null) this.#count = this.#readHead();
    if (this.#count === null) return null;
    while (this.#devices.length < this.#count) {
      const device = this.#readDevice();
      if (device === null) return null;
      this.#devices.push(device);
    }
    return this.#devices;
  }

  #readHead(): number | null {
    if (this.#rest.length < OpCommon.octets) return null;
    const { version, code, status } = commonParser.parse(this.#rest);
    if (version !== VERSION) throw new BadReply(`version ${hex(version)}, wanted ${hex(VERSION)}`);
    if (code !== OPERATION.replyDeviceList) {
      throw new BadReply(`reply ${hex(code)}, wanted ${hex(OPERATION.replyDeviceList)}`);
    }
    if (status !== OPERATION_STATUS.ok) {
      throw new BadReply(`status ${status}, wanted ${OPERATION_STATUS.ok}`);
    }
    if (this.#rest.length < OpCommon.octets + 4) return null;
    const count = this.#rest.readUInt32BE(OpCommon.octets);
    if (count > DEVICES_MAX) throw new BadReply(`${count} devices, at most ${DEVICES_MAX}`);
    this.#rest = this.#rest.subarray(OpCommon.octets + 4);
    return count;
  }

  #readDevice(): ListedDevice | null {
    if (this.#rest.length < DeviceRecord.octets) return null;
    const { interfaceCount, speed, ...device } = deviceParser.parse(this.#rest);
    const octets = DeviceRecord.octets + interfaceCount * InterfaceRecord.octets;
    if (this.#rest.length < octets) return null;
    const interfaces: ListedInterface[] = [];
    const shown = Math.min(interfaceCount, DESCRIPTOR_LIMITS.interfacesMax);
    for (let n = 0; n < shown; n++) {
      const at = DeviceRecord.octets + n * InterfaceRecord.octets;
      interfaces.push(interfaceParser.parse(this.#rest.subarray(at)));
    }
    this.#rest = this.#rest.subarray(octets);
    return { ...device, speed: SPEED_NAMES.get(speed), interfaces };
  }
}

/**
 * Lists what a server exports.
 *
 * @throws {UserError} if it cannot be reached in time, or answers with anything but a list.
 */
export function listDevices(
  server: ListenAddress,
  millisecondsMax = TIMEOUT_MILLISECONDS,
): Promise<readonly ListedDevice[]> {
  const reader = new DeviceListReader();
  return new Promise((resolve, reject) => {
    const socket = connect(server);
    const fail = (what: string) =>
      end(() => reject(new UserError(`Cannot list devices of ${formatAddress(server)}: ${what}`)));
    const timer = setTimeout(
      () => fail(`no answer in ${millisecondsMax} ms, wanted a USB/IP server`),
      millisecondsMax,
    );
    const end = (settle: () => void) => {
      clearTimeout(timer);
      socket.destroy();
      settle();
    };
    socket.on('connect', () => socket.write(REQUEST));
    socket.on('error', (error: NodeJS.ErrnoException) => fail(why(error)));
    socket.on('end', () => fail('the connection ended early, wanted a whole list'));
    socket.on('data', (chunk) => {
      try {
        const devices = reader.receive(chunk);
        if (devices !== null) end(() => resolve(devices));
      } catch (error) {
        if (!(error instanceof BadReply)) throw error;
        fail(error.message);
      }
    });
  });
}

const REQUEST = OpCommon.write({ version: VERSION, code: OPERATION.requestDeviceList, status: 0 });

function why(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ECONNREFUSED':
      return 'nothing listens there, wanted a USB/IP server';
    case 'ECONNRESET':
      return 'the connection was reset, wanted a USB/IP server';
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'the host name is unknown, wanted a name or an address';
    default:
      return `${error.message}, wanted a USB/IP server`;
  }
}
