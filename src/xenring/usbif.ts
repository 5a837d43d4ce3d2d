/**
 * The USB interface between domains: what stands in the two shared pages.
 *
 * Source: Xen `public/io/usbif.h` and `public/io/ring.h` (Linux `include/xen/interface/io/`). All
 * numbers are little-endian, as on every machine that Xen runs on. Where the prose of usbif.h and
 * its C declarations differ, the declarations are right: transfer flag 0 is short-not-ok.
 */

import type { Speed } from '../core/device.ts';
import { type Field, layout, type Of, octets, u8, u16le, u32le } from '../core/layout.ts';
import type { UrbStatus } from '../core/urb.ts';

const i32le: Field<number> = {
  octets: 4,
  get: (buffer, at) => buffer.readInt32LE(at),
  set: (buffer, at, value) => buffer.writeInt32LE(value, at),
};

/** Segments of one request, data and frame descriptors together (USBIF_MAX_SEGMENTS_PER_REQUEST). */
export const SEGMENTS_MAX = 16;
/** Highest port number (USBIF_MAX_PORTNR). */
export const PORTS_MAX = 31;
/** A ring is one page (USBIF_RING_SIZE). */
export const RING_OCTETS = 4096;

/**
 * What opens a ring page: `struct ..._sring` up to `ring[]`. The octets of `rest` belong to nobody;
 * journal.ts says what a back end keeps there.
 */
export const RingHeader = layout('sring', 64, {
  requestProduced: u32le,
  requestEvent: u32le,
  responseProduced: u32le,
  responseEvent: u32le,
  private: u32le,
  rest: octets(44),
});

/** `struct usbif_urb_request`, 148 octets; `specific` is the union u. */
export const UrbRequest = layout('usbif_urb_request', 148, {
  id: u16le,
  bufferSegments: u16le,
  pipe: u32le,
  transferFlags: u16le,
  bufferLength: u16le,
  specific: octets(8),
  segments: octets(128),
});
export type UrbRequest = Of<typeof UrbRequest>;

/** `u.isoc`: of isochronous requests. */
export const IsochronousPart = layout('usbif_urb_request.u.isoc', 8, {
  interval: u16le,
  startFrame: u16le,
  packetCount: u16le,
  frameSegments: u16le,
});

/** `u.unlink`: the id of the request to take back. */
export const UnlinkPart = layout('usbif_urb_request.u.unlink', 8, {
  id: u16le,
  padding: octets(6),
});

/** `struct usbif_request_segment`, 8 octets. */
export const Segment = layout('usbif_request_segment', 8, {
  reference: u32le,
  offset: u16le,
  octets: u16le,
});

/** `struct usbif_urb_response`, 16 octets. */
export const UrbResponse = layout('usbif_urb_response', 16, {
  id: u16le,
  startFrame: u16le,
  status: i32le,
  actualLength: i32le,
  errorCount: i32le,
});
export type UrbResponse = Of<typeof UrbResponse>;

/** `struct usbif_conn_request`, 2 octets: room for one event. */
export const ConnRequest = layout('usbif_conn_request', 2, { id: u16le });

/** `struct usbif_conn_response`, 4 octets: a port has got another device. */
export const ConnResponse = layout('usbif_conn_response', 4, { id: u16le, port: u8, speed: u8 });

/** Linux `struct usb_iso_packet_descriptor`, 16 octets: a frame descriptor in a granted page. */
export const FrameDescriptor = layout('usb_iso_packet_descriptor', 16, {
  offset: u32le,
  length: u32le,
  actualLength: u32le,
  status: i32le,
});

/** Fields of `pipe`. */
export const PIPE = {
  portMask: 0x1f,
  unlink: 0x20,
  in: 0x80,
  deviceShift: 8,
  deviceMask: 0x7f,
  endpointShift: 15,
  endpointMask: 0xf,
  typeShift: 30,
} as const;

/** Bits 31..30 of `pipe`. */
export const PIPE_TYPE = { isochronous: 0, interrupt: 1, control: 2, bulk: 3 } as const;

export const TRANSFER_FLAG = {
  /** XENUSB_SHORT_NOT_OK */
  shortNotOk: 0x0001,
  /** End whole packets with an empty one (OUT); only where both ends speak the stall protocol. */
  zeroPacket: 0x4000,
  /** Restart the queue with this URB; only where both ends speak the stall protocol. */
  clearStall: 0x8000,
} as const;

/** `speed` of a conn response; a ring has no SuperSpeed. */
export const PORT_SPEED = { none: 0, low: 1, full: 2, high: 3 } as const;
export type PortSpeed = keyof typeof PORT_SPEED;

const NAMES = Object.keys(PORT_SPEED) as PortSpeed[];

/** Undefined for a number that means nothing. */
export function portSpeedOf(number: number): PortSpeed | undefined {
  return NAMES[number];
}

/** The speed at which a device can be plugged in, or 'none' if a ring cannot carry it. */
export function ringSpeed(speed: Speed): PortSpeed {
  return speed === 'super' || speed === 'super-plus' ? 'none' : speed;
}

/**
 * `status` of a response. xen-hcd knows 0, -19, -22, -32, -71 and -75 and makes -ESHUTDOWN of all
 * others (xenhcd_translate_status). A short read is 0 with a short length: its usbcore knows itself
 * whether that is an error.
 */
export const STATUS_NUMBER: Readonly<Record<UrbStatus, number>> = {
  ok: 0,
  short: 0,
  stall: -32, // USBIF_STATUS_STALL
  babble: -75, // USBIF_STATUS_BABBLE
  'protocol-error': -71, // USBIF_STATUS_IOERROR
  'crc-error': -71,
  timeout: -71,
  missed: -71,
  'no-memory': -71,
  unlinked: -104, // ECONNRESET; xen-hcd does not look at it, for it has unlinked the URB
  returned: -104, // see docs/wire-extension.md
  shutdown: -19, // USBIF_STATUS_NODEV
  invalid: -22, // USBIF_STATUS_INVAL
};

const STATUS_NAMES = new Map<number, UrbStatus>([
  [0, 'ok'],
  [-32, 'stall'],
  [-75, 'babble'],
  [-71, 'protocol-error'],
  [-104, 'unlinked'],
  [-19, 'shutdown'],
  [-108, 'shutdown'], // USBIF_STATUS_SHUTDOWN
  [-22, 'invalid'],
]);

/** A status as a back end sent it; a number that no status has is a protocol error. */
export function statusOf(number: number): UrbStatus {
  return STATUS_NAMES.get(number) ?? 'protocol-error';
}

/** `status` in a frame descriptor: Linux errno, for xen-hcd hands the descriptors on as they are. */
export const FRAME_STATUS: Readonly<Record<UrbStatus, number>> = {
  ...STATUS_NUMBER,
  short: -121, // EREMOTEIO
  'crc-error': -84, // EILSEQ
  timeout: -62, // ETIME
  missed: -18, // EXDEV
  'no-memory': -12, // ENOMEM
  shutdown: -108, // ESHUTDOWN
};

const FRAME_NAMES = new Map<number, UrbStatus>(
  Object.entries(FRAME_STATUS).map(([status, number]) => [number, status as UrbStatus]),
);

export function frameStatusOf(number: number): UrbStatus {
  return FRAME_NAMES.get(number) ?? 'protocol-error';
}
