/**
 * The requests of /dev/xen/gntdev, gntalloc and evtchn that this project uses.
 *
 * Source: Linux include/uapi/xen/{gntdev,gntalloc,evtchn}.h; sizes are those of 64-bit kernels, and
 * part of each request's number.
 */
import { type Layout, layout, octets, u16le, u32le } from '../../core/layout.ts';

/** _IOC(_IOC_NONE, type, number, size) of asm-generic/ioctl.h. */
function requestNumber(type: string, number: number, size: number): number {
  return (size << 16) | (type.charCodeAt(0) << 8) | number;
}

function request<F>(type: string, number: number, struct: Layout<F>) {
  return { number: requestNumber(type, number, struct.octets), struct };
}

/** A 64-bit number in two halves: an offset or address, below 2^53. */
export const HALF = 0x1_0000_0000;

/** struct ioctl_gntdev_map_grant_ref, with one reference; more follow it. */
export const GNTDEV_MAP = request(
  'G',
  0,
  layout('ioctl_gntdev_map_grant_ref', 24, {
    count: u32le,
    pad: u32le,
    /** Out: for mmap. */
    indexLow: u32le,
    indexHigh: u32le,
    domain: u32le,
    reference: u32le,
  }),
);
/** struct ioctl_gntdev_grant_ref: a reference in that list. */
export const GNTDEV_REFERENCE_OCTETS = 8;

export const GNTDEV_UNMAP = request(
  'G',
  1,
  layout('ioctl_gntdev_unmap_grant_ref', 16, {
    indexLow: u32le,
    indexHigh: u32le,
    count: u32le,
    pad: u32le,
  }),
);

export const GNTDEV_COPY = request(
  'G',
  8,
  layout('ioctl_gntdev_grant_copy', 16, {
    count: u32le,
    pad: u32le,
    segmentsLow: u32le,
    segmentsHigh: u32le,
  }),
);

/**
 * struct gntdev_grant_copy_segment: source and destination are each an address here, or a
 * reference, an offset and a domain.
 */
export const CopySegment = layout('gntdev_grant_copy_segment', 24, {
  source: octets(8),
  destination: octets(8),
  octets: u16le,
  flags: u16le,
  /** Out: GNTST_okay is 0, errors are negative. */
  status: u16le,
  pad: u16le,
});

/** GNTCOPY_*: which of the two is a reference (xen/include/public/grant_table.h). */
export const COPY_FROM_GRANT = 1;
export const COPY_TO_GRANT = 2;

/** struct ioctl_gntalloc_alloc_gref, with one reference; more follow its first 16 octets. */
export const GNTALLOC_ALLOC = request(
  'G',
  5,
  layout('ioctl_gntalloc_alloc_gref', 24, {
    domain: u16le,
    flags: u16le,
    count: u32le,
    /** Out: for mmap. */
    indexLow: u32le,
    indexHigh: u32le,
    /** Out. */
    reference: u32le,
    pad: u32le,
  }),
);
export const GNTALLOC_WRITABLE = 1;

export const GNTALLOC_DEALLOC = request(
  'G',
  6,
  layout('ioctl_gntalloc_dealloc_gref', 16, {
    indexLow: u32le,
    indexHigh: u32le,
    count: u32le,
    pad: u32le,
  }),
);

export const EVTCHN_BIND_INTERDOMAIN = request(
  'E',
  1,
  layout('ioctl_evtchn_bind_interdomain', 8, { domain: u32le, port: u32le }),
);
export const EVTCHN_BIND_UNBOUND = request(
  'E',
  2,
  layout('ioctl_evtchn_bind_unbound_port', 4, { domain: u32le }),
);
export const EVTCHN_UNBIND = request('E', 3, layout('ioctl_evtchn_unbind', 4, { port: u32le }));
export const EVTCHN_NOTIFY = request('E', 4, layout('ioctl_evtchn_notify', 4, { port: u32le }));
