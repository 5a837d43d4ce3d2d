/**
 * The usbredir protocol, as much as it takes to plug a device into QEMU's `usb-redir`.
 *
 * Packets have a header and a body that begins with fields of its type; data may follow. All numbers
 * are little-endian. Ids are 64 bits wide, as both sides say that they can (`CAPABILITIES`): QEMU's xHCI
 * takes the address of a transfer's descriptor, which is above 4 GiB in a large machine.
 *
 * Source: usbredir-protocol.txt, version 0.7, and usbredirproto.h of usbredir 0.13.
 */
import { layout, octets, text, u8, u16le, u32le } from '../../../src/core/layout.ts';

/** Before both hellos are there, `idHigh` is not. */
export const Header = layout('usb_redir_header', 16, {
  type: u32le,
  octets: u32le,
  id: u32le,
  idHigh: u32le,
});
export const HELLO_HEADER_OCTETS = 12;
const ID_HIGH_UNIT = 2 ** 32;

export const TYPE = {
  hello: 0,
  deviceConnect: 1,
  deviceDisconnect: 2,
  reset: 3,
  interfaceInfo: 4,
  endpointInfo: 5,
  setConfiguration: 6,
  getConfiguration: 7,
  configurationStatus: 8,
  setAlternateSetting: 9,
  getAlternateSetting: 10,
  alternateSettingStatus: 11,
  cancelDataPacket: 21,
  filterReject: 22,
  filterFilter: 23,
  deviceDisconnectAcknowledged: 24,
  controlPacket: 100,
  bulkPacket: 101,
} as const;

/** enum usb_redir status */
export const STATUS = {
  success: 0,
  cancelled: 1,
  invalid: 2,
  ioError: 3,
  stall: 4,
  timeout: 5,
  babble: 6,
} as const;

/** usb_redir_cap_*, as bits: ep_info_max_packet_size, 64bits_ids, 32bits_bulk_length. */
export const CAPABILITIES = (1 << 4) | (1 << 5) | (1 << 6);

export const Hello = layout('usb_redir_hello_header', 68, {
  version: text(64),
  capabilities: u32le,
});

/** Without device_version_bcd, for which there is a capability. */
export const DeviceConnect = layout('usb_redir_device_connect_header', 8, {
  speed: u8,
  class: u8,
  subclass: u8,
  protocol: u8,
  vendorId: u16le,
  productId: u16le,
});

/** 32 of everything; only the first `count` count. */
export const InterfaceInfo = layout('usb_redir_interface_info_header', 132, {
  count: u32le,
  number: octets(32),
  class: octets(32),
  subclass: octets(32),
  protocol: octets(32),
});

/** By endpoint: 0..15 are OUT, 16..31 IN. */
export const EndpointInfos = layout('usb_redir_ep_info_header', 160, {
  type: octets(32),
  interval: octets(32),
  interface: octets(32),
  maxPacketOctets: octets(64),
});
export const ENDPOINT_TYPES = ['control', 'isochronous', 'bulk', 'interrupt'] as const;
export const ENDPOINT_ABSENT = 255;

export const ControlPacket = layout('usb_redir_control_packet_header', 10, {
  endpoint: u8,
  request: u8,
  requestType: u8,
  status: u8,
  value: u16le,
  index: u16le,
  length: u16le,
});

export const BulkPacket = layout('usb_redir_bulk_packet_header', 10, {
  endpoint: u8,
  status: u8,
  length: u16le,
  streamId: u32le,
  lengthHigh: u16le,
});

export interface Packet {
  readonly type: number;
  /** An integer that a number holds: addresses of machines have at most 52 bits. */
  readonly id: number;
  readonly body: Buffer;
}

/** QEMU never sends more than a transfer of 1 MiB and its header. */
const BODY_OCTETS_MAX = 2 * 1024 * 1024;

export function encodePacket(type: number, id: number, ...parts: Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const idHigh = Math.floor(id / ID_HIGH_UNIT);
  const header = Header.write({ type, octets: body.length, id: id % ID_HIGH_UNIT, idHigh });
  const narrow = type === TYPE.hello ? HELLO_HEADER_OCTETS : Header.octets;
  return Buffer.concat([header.subarray(0, narrow), body]);
}

/** Cuts what QEMU sends into packets. */
export class PacketReader {
  #octets: Buffer = Buffer.alloc(0);
  #greeted = false;

  /** @throws {RangeError} if a packet is larger than QEMU makes any */
  *push(chunk: Buffer): Generator<Packet> {
    this.#octets = Buffer.concat([this.#octets, chunk]);
    for (;;) {
      const headerOctets = this.#greeted ? Header.octets : HELLO_HEADER_OCTETS;
      if (this.#octets.length < headerOctets) return;
      const type = this.#octets.readUInt32LE(Header.offsets.type);
      const length = this.#octets.readUInt32LE(Header.offsets.octets);
      const idHigh = this.#greeted ? this.#octets.readUInt32LE(Header.offsets.idHigh) : 0;
      const id = this.#octets.readUInt32LE(Header.offsets.id) + idHigh * ID_HIGH_UNIT;
      if (length > BODY_OCTETS_MAX) {
        throw new RangeError(
          `Cannot read a usbredir packet: ${length} octets, at most ${BODY_OCTETS_MAX}`,
        );
      }
      if (this.#octets.length < headerOctets + length) return;
      const body = this.#octets.subarray(headerOctets, headerOctets + length);
      this.#octets = this.#octets.subarray(headerOctets + length);
      this.#greeted = true;
      yield { type, id, body };
    }
  }
}
