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

/**
 * What is read of a device's descriptors. What is beyond is passed over, as Linux does
 * (drivers/usb/core/config.c, where these numbers are from): a device that Linux takes is taken here.
 */
export const DESCRIPTOR_LIMITS = {
  /** Configurations of a device (USB_MAXCONFIG). */
  configurationsMax: 8,
  /** Interface numbers of a configuration (USB_MAXINTERFACES). */
  interfacesMax: 32,
  /** Alternate settings of an interface (USB_MAXALTSETTING). */
  settingsMax: 128,
  /** Endpoints of an alternate setting (USB_MAXENDPOINTS). */
  endpointsMax: 30,
} as const;

/** Devices that a gateway exports at a time, and that are read of another server's list. */
export const DEVICES_MAX = 1024;
/** What is kept of a device's name for people. Two strings of a USB device have at most 253. */
export const LABEL_CHARACTERS_MAX = 256;

/**
 * What the clients of a gateway may hold together: bodies, transfer buffers, replies that are not sent. A
 * sixteenth of the machine's memory, within bounds: enough for a few clients with much under way, and not
 * what the machine lives by.
 */
export function clientsBytesMax(machineBytes: number): number {
  return Math.min(CLIENTS_BYTES_MAX, Math.max(CLIENTS_BYTES_MIN, machineBytes / 16));
}
const CLIENTS_BYTES_MAX = 512 << 20;
/** Of which one client may have half: more than the longest transfer. */
const CLIENTS_BYTES_MIN = 64 << 20;

/** Of that, what each client can have whatever others do: two of the longest transfers of a disk's driver. */
export const CLIENT_GUARANTEED_BYTES = 2 << 20;

/*
 * How long others are waited for: every wait for a peer or a device has an end (docs/decisions/0083).
 */

/**
 * For a server, or a back end of a ring, to give back a transfer that it was asked to unlink; then the connection
 * is given up. Longer than the longest transfer that a gateway cannot cancel (docs/decisions/0040).
 */
export const UNLINK_MILLISECONDS = 21_000;
/** The same for a transfer whose own time was over: who set one has no more patience. */
export const LATE_UNLINK_MILLISECONDS = 5_000;
/** For a device to give back the URBs of a session and to close; then it counts as stuck. */
export const LET_GO_MILLISECONDS = 30_000;
/** For a device that is unexported to do so in an orderly way, before it gives up what it waits for itself. */
export const ORDERLY_REMOVAL_MILLISECONDS = 5_000;
