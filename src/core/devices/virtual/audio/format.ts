/**
 * The one format of both directions: 16-bit PCM, stereo, little endian; only the rate is chosen.
 *
 * A full-speed isochronous endpoint moves one packet in each frame of a millisecond, and a packet
 * holds whole audio frames (one sample of each channel). Rates that are no multiple of 1000 make
 * packets of two sizes: 44.1 kHz is nine of 44 frames and one of 45.
 */
export const CHANNELS = 2;
export const SAMPLE_OCTETS = 2;
export const FRAME_OCTETS = CHANNELS * SAMPLE_OCTETS;

export const RATES_HZ: readonly number[] = [8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000];

/** Audio frames of packet number `packet`, so that the sum is never off by a whole frame. */
export function framesInPacket(rateHz: number, packet: number): number {
  const before = Math.floor((packet * rateHz) / 1000);
  return Math.floor(((packet + 1) * rateHz) / 1000) - before;
}

/**
 * A packet differs from the average by less than a frame (Audio Data Formats 1.0, 2.2.1); one more
 * is for hosts that catch up.
 */
export function packetOctetsMax(rateHz: number): number {
  return (Math.ceil(rateHz / 1000) + 1) * FRAME_OCTETS;
}
