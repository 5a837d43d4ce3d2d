/** What one client may ask of the gateway. Named here, enforced where a peer's numbers come in. */
export interface SessionLimits {
  /** Longest transfer buffer of one URB; the kernel's usbfs stops at the same size. */
  readonly transferOctetsMax: number;
  /** URBs of one session that are not given back yet. */
  readonly urbsMax: number;
  /** Transfer buffers of one session that are not given back or not sent yet. */
  readonly outstandingOctetsMax: number;
  /** Packets of one isochronous URB (USBIP_MAX_ISO_PACKETS in usbip_common.h). */
  readonly isoPacketsMax: number;
}

export const DEFAULT_LIMITS: SessionLimits = {
  transferOctetsMax: 16 << 20,
  urbsMax: 4096,
  outstandingOctetsMax: 64 << 20,
  isoPacketsMax: 1024,
};
