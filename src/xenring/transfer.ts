/** What programs ask of a device behind a ring, and what they get. As in `src/usbip/transfer.ts`. */
import type { TransferType } from '../core/device.ts';
import type { UrbStatus } from '../core/urb.ts';

export const NO_OCTETS = Buffer.alloc(0);

/** What a program asks for. */
export interface Transfer {
  /** bEndpointAddress; 0 for control. */
  readonly endpoint: number;
  readonly type: TransferType;
  /** Room for data from the device. */
  readonly octets?: number;
  /**
   * Where data from the device is put, at least `octets` long and the transfer's until that is done;
   * without it each result has new memory.
   */
  readonly into?: Buffer;
  /** Data to the device; copied when the transfer is sent. */
  readonly data?: Buffer;
  /** Eight octets as on USB; control only. */
  readonly setup?: Buffer;
  /** A short read is an error, behind which nothing may start. IN only. */
  readonly shortNotOk?: boolean;
  /** End whole packets with an empty one. Bulk OUT only. */
  readonly zeroPacket?: boolean;
  /** Isochronous only: where in `octets` or `data` each packet lies. */
  readonly packets?: readonly PacketRequest[];
}

export interface PacketRequest {
  readonly offset: number;
  readonly octets: number;
}

export interface PacketResult {
  readonly status: UrbStatus;
  readonly actualOctets: number;
}

export interface TransferResult {
  readonly status: UrbStatus;
  readonly actualOctets: number;
  /**
   * What came from the device, `actualOctets` long; empty for OUT. Of isochronous transfers the
   * whole buffer, each packet at its offset.
   */
  readonly data: Buffer;
  /** Isochronous only. */
  readonly packets?: readonly PacketResult[];
}

/**
 * Takes a transfer's result. If it returns 'later', what was begun by it goes on elsewhere, and
 * `RingDevice.handled` is to be called when that has come to its end; the endpoint's queue does not go
 * on after an error before. Any other value means that it is done.
 */
export type Handler = (result: TransferResult) => unknown;

/** A transfer under way; `RingDevice.unlink` takes it. */
export interface Pending {
  readonly transfer: Transfer;
  readonly in: boolean;
}

/** True when data moves from the device to the host. */
export function isInput({ endpoint, setup }: Transfer): boolean {
  return setup === undefined ? (endpoint & 0x80) !== 0 : ((setup[0] ?? 0) & 0x80) !== 0;
}

/** Octets of the transfer buffer. */
export function lengthOf(transfer: Transfer): number {
  return isInput(transfer) ? (transfer.octets ?? 0) : (transfer.data?.length ?? 0);
}

/** A result without data. */
export function resultOf(status: UrbStatus): TransferResult {
  return { status, actualOctets: 0, data: NO_OCTETS };
}
