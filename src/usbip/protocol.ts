/**
 * The octets of USB/IP, each structure declared once.
 *
 * Sources: Linux Documentation/usb/usbip_protocol.rst; drivers/usb/usbip/usbip_common.h for URB
 * headers; tools/usb/usbip/src/usbip_network.h for operations. Where the document and the kernel
 * differ, the kernel is followed: it is the peer.
 */
import type { Speed } from '../core/device.ts';
import { i32be, layout, type Of, octets, text, u8, u16be, u32be } from '../core/layout.ts';

/** Port that IANA has assigned to USB/IP. */
export const USBIP_PORT = 3240;
/** USBIP_VERSION; the stock tool compares it exactly. */
export const VERSION = 0x0111;

export const OPERATION = {
  requestDeviceList: 0x8005,
  replyDeviceList: 0x0005,
  requestImport: 0x8003,
  replyImport: 0x0003,
} as const;

/** Status of an operation's reply. A reply that is not `ok` has no body. */
export const OPERATION_STATUS = {
  ok: 0,
  notAvailable: 1,
  busy: 2,
  deviceError: 3,
  noDevice: 4,
  error: 5,
} as const;

export const COMMAND = { submit: 1, unlink: 2, submitReply: 3, unlinkReply: 4 } as const;

export const DIRECTION = { out: 0, in: 1 } as const;

/** enum usb_device_speed of the kernel; 4 is wireless USB. */
export const SPEED = { low: 1, full: 2, high: 3, super: 5, 'super-plus': 6 } as const;
export const SPEED_NAMES: ReadonlyMap<number, Speed> = new Map(
  Object.entries(SPEED).map(([name, number]) => [number, name as Speed]),
);

/** USBIP_URB_*: transfer_flags on the wire, the same for every kernel. */
export const TRANSFER_FLAG = {
  shortNotOk: 0x0001,
  isoAsap: 0x0002,
  zeroPacket: 0x0040,
  directionIn: 0x0200,
} as const;

/** struct op_common: opens every operation, both ways. */
export const OpCommon = layout('op_common', 8, { version: u16be, code: u16be, status: u32be });

/** Body of OP_REQ_IMPORT. */
export const ImportRequest = layout('OP_REQ_IMPORT', 32, { busId: text(32) });

/** SYSFS_PATH_MAX of the tools. */
export const PATH_OCTETS = 256;

/** struct usbip_usb_device, one exported device. The document prints wrong late offsets. */
export const DeviceRecord = layout('usbip_usb_device', 312, {
  path: text(PATH_OCTETS),
  busId: text(32),
  bus: u32be,
  deviceNumber: u32be,
  speed: u32be,
  vendorId: u16be,
  productId: u16be,
  deviceVersion: u16be,
  class: u8,
  subclass: u8,
  protocol: u8,
  configurationValue: u8,
  configurationCount: u8,
  interfaceCount: u8,
});
export type DeviceRecord = Of<typeof DeviceRecord>;

/** struct usbip_usb_interface: follows a device record in OP_REP_DEVLIST, one an interface. */
export const InterfaceRecord = layout('usbip_usb_interface', 4, {
  class: u8,
  subclass: u8,
  protocol: u8,
  padding: u8,
});

/** Every URB header is this long, padding included, whichever command it is. */
export const HEADER_OCTETS = 48;

/**
 * USBIP_CMD_SUBMIT: usbip_header_basic, then usbip_header_cmd_submit. Network byte order, but the
 * setup packet is as on USB. If OUT, `transferBufferLength` octets follow; if the endpoint is
 * isochronous, `numberOfPackets` packet descriptors after those.
 */
export const CmdSubmit = layout('USBIP_CMD_SUBMIT', HEADER_OCTETS, {
  command: u32be,
  seqnum: u32be,
  deviceId: u32be,
  direction: u32be,
  endpoint: u32be,
  transferFlags: u32be,
  transferBufferLength: i32be,
  startFrame: i32be,
  // Means nothing unless the endpoint is isochronous: the kernel sends 0 or stale memory there,
  // the document says -1.
  numberOfPackets: i32be,
  interval: i32be,
  setup: octets(8),
});
export type CmdSubmit = Of<typeof CmdSubmit>;

/** USBIP_CMD_UNLINK. */
export const CmdUnlink = layout('USBIP_CMD_UNLINK', HEADER_OCTETS, {
  command: u32be,
  seqnum: u32be,
  deviceId: u32be,
  direction: u32be,
  endpoint: u32be,
  /** seqnum of the CMD_SUBMIT that is to come back. */
  victim: u32be,
  padding: octets(24),
});
export type CmdUnlink = Of<typeof CmdUnlink>;

/**
 * USBIP_RET_SUBMIT. `actualLength` octets follow if IN; then the packet descriptors if isochronous.
 * The kernel's server leaves deviceId, direction and endpoint 0, and so do we.
 */
export const RetSubmit = layout('USBIP_RET_SUBMIT', HEADER_OCTETS, {
  command: u32be,
  seqnum: u32be,
  deviceId: u32be,
  direction: u32be,
  endpoint: u32be,
  status: i32be,
  actualLength: i32be,
  startFrame: i32be,
  numberOfPackets: i32be,
  errorCount: i32be,
  padding: octets(8),
});
export type RetSubmit = Of<typeof RetSubmit>;

/** USBIP_RET_UNLINK. */
export const RetUnlink = layout('USBIP_RET_UNLINK', HEADER_OCTETS, {
  command: u32be,
  seqnum: u32be,
  deviceId: u32be,
  direction: u32be,
  endpoint: u32be,
  status: i32be,
  padding: octets(24),
});
export type RetUnlink = Of<typeof RetUnlink>;

/** struct usbip_iso_packet_descriptor. */
export const IsoDescriptor = layout('usbip_iso_packet_descriptor', 16, {
  offset: u32be,
  length: u32be,
  actualLength: u32be,
  status: i32be,
});
export type IsoDescriptor = Of<typeof IsoDescriptor>;
