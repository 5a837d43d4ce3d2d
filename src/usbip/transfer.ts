/** What programs ask of a remote device, and what they get. */
import type { TransferType } from '../core/device.ts';
import type { UrbStatus } from '../core/urb.ts';

export const NO_OCTETS = Buffer.alloc(0);

/** What a program asks for. Isochronous transfers are not among it yet. */
export interface Transfer {
  /** bEndpointAddress; 0 for control. */
  readonly endpoint: number;
  readonly type: Exclude<TransferType, 'isochronous'>;
  /** Room for data from the device. */
  readonly octets?: number;
  /** Data to the device; must not change until the transfer is done. */
  readonly data?: Buffer;
  /** Eight octets as on USB; control only. */
  readonly setup?: Buffer;
  /** A short read is an error, behind which nothing may start. IN only. */
  readonly shortNotOk?: boolean;
  /** End whole packets with an empty one. Bulk OUT only. */
  readonly zeroPacket?: boolean;
}

export interface TransferResult {
  readonly status: UrbStatus;
  readonly actualOctets: number;
  /** What came from the device, `actualOctets` long; empty for OUT. */
  readonly data: Buffer;
}

/** True when data moves from the device to the host. */
export function isInput({ endpoint, setup }: Transfer): boolean {
  return setup === undefined ? (endpoint & 0x80) !== 0 : ((setup[0] ?? 0) & 0x80) !== 0;
}

/** A result without data. */
export function resultOf(status: UrbStatus): TransferResult {
  return { status, actualOctets: 0, data: NO_OCTETS };
}
