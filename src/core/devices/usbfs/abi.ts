/**
 * The kernel's interface to USB devices (usbfs): numbers and structures, each declared once.
 *
 * Source: Linux include/uapi/linux/usbdevice_fs.h, as 64-bit little-endian machines with the common
 * ioctl encoding have it (`ARCHITECTURES`); include/uapi/asm-generic/errno*.h.
 */

import type { TransferType } from '../../device.ts';
import { layout, octets, u8, u16le, u32le } from '../../layout.ts';
import type { UrbStatus } from '../../urb.ts';

/** `process.arch` of machines whose structures and ioctl numbers are the ones below. */
export const ARCHITECTURES: readonly string[] = ['x64', 'arm64', 'riscv64', 'loong64'];

const pointer = octets(8);

/** struct usbdevfs_urb, without the packets of an isochronous one, which follow. */
export const UsbfsUrb = layout('usbdevfs_urb', 56, {
  type: u8,
  endpoint: u8,
  pad2: u16le,
  status: u32le,
  flags: u32le,
  pad12: u32le,
  buffer: pointer,
  bufferOctets: u32le,
  actualOctets: u32le,
  startFrame: u32le,
  packetCount: u32le,
  errorCount: u32le,
  signal: u32le,
  userContext: pointer,
});

/** struct usbdevfs_iso_packet_desc */
export const UsbfsPacket = layout('usbdevfs_iso_packet_desc', 12, {
  octets: u32le,
  actualOctets: u32le,
  status: u32le,
});

/** proc_do_submiturb refuses more ("arbitrary limit"). */
export const PACKETS_MAX = 128;

/** USBDEVFS_URB_* */
export const FLAG = {
  shortNotOk: 0x01,
  isoAsap: 0x02,
  /** Refused after an error of an URB before it, until one without the flag comes. */
  bulkContinuation: 0x04,
  zeroPacket: 0x40,
} as const;

/** USBDEVFS_URB_TYPE_* */
export const TYPE_NUMBER: Readonly<Record<TransferType, number>> = {
  isochronous: 0,
  interrupt: 1,
  control: 2,
  bulk: 3,
};

const READ = 2;
const WRITE = 1;
/** _IOC of asm-generic/ioctl.h, for type 'U'. */
const code = (direction: number, number: number, size: number): number =>
  ((direction << 30) | (size << 16) | (0x55 << 8) | number) >>> 0;

/** USBDEVFS_*, under the names of the header. */
export const IOCTL = {
  setInterface: code(READ, 4, 8),
  setConfiguration: code(READ, 5, 4),
  /** struct usbdevfs_getdriver: which driver an interface has. */
  getDriver: code(WRITE, 8, 260),
  submitUrb: code(READ, 10, UsbfsUrb.octets),
  discardUrb: code(0, 11, 0),
  reapUrbNoDelay: code(WRITE, 13, 8),
  releaseInterface: code(READ, 16, 4),
  /** struct usbdevfs_ioctl: a call about one interface. */
  ioctl: code(READ | WRITE, 18, 16),
  reset: code(0, 20, 0),
  clearHalt: code(READ, 21, 4),
  /** Inside `ioctl`: lets the kernel's drivers try an interface. */
  connect: code(0, 23, 0),
  disconnectClaim: code(READ, 27, 264),
} as const;

/** USBDEVFS_DISCONNECT_CLAIM_EXCEPT_DRIVER: not if that driver has the interface. */
export const CLAIM_EXCEPT_DRIVER = 2;

/** Linux errno values, also where another system builds this. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EXDEV: 18,
  ENODEV: 19,
  EINVAL: 22,
  EPIPE: 32,
  ENODATA: 61,
  ETIME: 62,
  ECOMM: 70,
  EPROTO: 71,
  EOVERFLOW: 75,
  EILSEQ: 84,
  ECONNRESET: 104,
  ESHUTDOWN: 108,
  ETIMEDOUT: 110,
  EHOSTUNREACH: 113,
  EREMOTEIO: 121,
} as const;

const STATUS_BY_ERRNO = new Map<number, UrbStatus>([
  [0, 'ok'],
  [ERRNO.EREMOTEIO, 'short'],
  [ERRNO.EPIPE, 'stall'],
  [ERRNO.EOVERFLOW, 'babble'],
  [ERRNO.EPROTO, 'protocol-error'],
  [ERRNO.EILSEQ, 'crc-error'],
  [ERRNO.ETIME, 'timeout'],
  [ERRNO.ETIMEDOUT, 'timeout'],
  [ERRNO.EXDEV, 'missed'],
  [ERRNO.ECONNRESET, 'unlinked'],
  [ERRNO.ENOENT, 'unlinked'],
  [ERRNO.ESHUTDOWN, 'shutdown'],
  [ERRNO.ENODEV, 'shutdown'],
  [ERRNO.EHOSTUNREACH, 'shutdown'],
  [ERRNO.EBUSY, 'shutdown'], // another driver has the interface
  [ERRNO.ENOMEM, 'no-memory'],
  [ERRNO.EINVAL, 'invalid'],
]);

/** What an errno of an URB, or of the attempt to submit one, means; positive or negative. */
export function statusOf(errno: number): UrbStatus {
  return STATUS_BY_ERRNO.get(Math.abs(errno)) ?? 'protocol-error';
}

/** Why the kernel would not take an URB. */
export function submitStatus(errno: number): UrbStatus {
  return errno === ERRNO.ENOENT ? 'shutdown' : statusOf(errno);
}

/** Why the kernel would not take a control request: what it does not know, the device would stall. */
export function refusalOf(errno: number): UrbStatus {
  return errno === ERRNO.ENOENT || errno === ERRNO.EINVAL ? 'stall' : statusOf(errno);
}
