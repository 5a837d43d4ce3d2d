/**
 * URB status as USB/IP carries it: negative Linux errno values, on every operating system (never
 * `os.constants.errno`, whose values differ elsewhere).
 *
 * Source: Linux include/uapi/asm-generic/errno*.h; meanings in
 * Documentation/driver-api/usb/error-codes.rst.
 */
import type { UrbStatus } from '../core/urb.ts';

export const ERRNO_BY_STATUS: Readonly<Record<UrbStatus, number>> = {
  ok: 0,
  short: -121, // EREMOTEIO
  stall: -32, // EPIPE
  babble: -75, // EOVERFLOW
  'protocol-error': -71, // EPROTO
  'crc-error': -84, // EILSEQ
  timeout: -62, // ETIME
  missed: -18, // EXDEV
  unlinked: -104, // ECONNRESET
  returned: -104, // ECONNRESET; see docs/wire-extension.md
  shutdown: -108, // ESHUTDOWN
  invalid: -22, // EINVAL
  'no-memory': -12, // ENOMEM
};

const STATUS_BY_ERRNO = new Map<number, UrbStatus>(
  Object.entries(ERRNO_BY_STATUS).map(([status, errno]) => [errno, status as UrbStatus]),
).set(ERRNO_BY_STATUS.unlinked, 'unlinked'); // which 'returned' shares

/** A status as a server sent it; a number that no status has is a protocol error. */
export function statusOf(errno: number): UrbStatus {
  if (errno === 0) return 'ok';
  return STATUS_BY_ERRNO.get(errno) ?? 'protocol-error';
}
