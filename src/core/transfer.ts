/** What programs ask of a device elsewhere, across TCP or behind a ring, and what they get. */
import type { Reply } from '../stall/retry-queue.ts';
import { assert } from './assert.ts';
import type { TransferType } from './device.ts';
import type { UrbStatus } from './urb.ts';

export const NO_OCTETS = Buffer.alloc(0);

/** One packet of an isochronous transfer: where it lies in the transfer's buffer, in octets. */
export interface PacketRequest {
  readonly offset: number;
  readonly octets: number;
}

export interface PacketResult {
  readonly actualOctets: number;
  readonly status: UrbStatus;
}

/** What a program asks for. */
export interface Transfer {
  /** bEndpointAddress; 0 for control. */
  readonly endpoint: number;
  readonly type: TransferType;
  /** Room for data from the device. */
  readonly octets?: number | undefined;
  /**
   * Where data from the device is put, at least `octets` long and the transfer's until that is done;
   * without it each result has new memory.
   */
  readonly into?: Buffer | undefined;
  /** Data to the device; must not change until the transfer is done. */
  readonly data?: Buffer | undefined;
  /** Eight octets as on USB; control only. */
  readonly setup?: Buffer | undefined;
  /** A short read is an error, behind which nothing may start. IN only. */
  readonly shortNotOk?: boolean | undefined;
  /** End whole packets with an empty one. Bulk OUT only. */
  readonly zeroPacket?: boolean | undefined;
  /** Isochronous only. */
  readonly packets?: readonly PacketRequest[] | undefined;
  /**
   * Service interval of an interrupt or isochronous endpoint, in frames (low and full speed) or
   * microframes. Linux servers refuse 0; default 1. A ring has no place for it.
   */
  readonly interval?: number | undefined;
}

export interface TransferResult {
  readonly status: UrbStatus;
  readonly actualOctets: number;
  /**
   * What came from the device, `actualOctets` long; empty for OUT. Isochronous: the packets' data
   * one after the other with no gaps.
   */
  readonly data: Buffer;
  /** Isochronous only: as many as were asked for. */
  readonly packets?: readonly PacketResult[];
  /** Isochronous only: the frame in which it began, where it is told. */
  readonly startFrame?: number;
}

/**
 * Takes a transfer's result. If it returns 'later', what was begun by it goes on elsewhere, and the device's
 * `handled` is to be called when that has come to its end; the endpoint's queue does not go on after an
 * error before. Any other value means that it is done.
 */
export type Handler = (result: TransferResult) => unknown;

/**
 * A copy with every field, in one order. Programs pass objects of many shapes; what looks at a transfer often
 * looks at this, whose fields V8 finds at once.
 */
export function wholeTransfer(transfer: Transfer): Transfer {
  const { endpoint, type, octets, into, data, setup } = transfer;
  const { shortNotOk, zeroPacket, packets, interval } = transfer;
  // biome-ignore format: one line for each kind
  return { endpoint, type, octets, into, data, setup, shortNotOk, zeroPacket, packets, interval };
}

/** True when data moves from the device to the host. */
export function isInput({ endpoint, setup }: Transfer): boolean {
  if (setup === undefined) return (endpoint & 0x80) !== 0;
  // A request without data goes out, whatever its bit says (usb_submit_urb).
  return ((setup[0] ?? 0) & 0x80) !== 0 && setup.readUInt16LE(6) > 0;
}

/** Octets that a transfer may move. */
export function roomOf(transfer: Transfer, isIn = isInput(transfer)): number {
  return isIn ? (transfer.octets ?? 0) : (transfer.data?.length ?? 0);
}

/** A transfer that contradicts itself is its caller's mistake. */
export function assertValid(transfer: Transfer, isIn: boolean): void {
  const { type, setup, packets, shortNotOk, into } = transfer;
  assert((type === 'control') === (setup !== undefined), 'Cannot submit: setup is for control');
  assert((type === 'isochronous') === (packets !== undefined), 'Cannot submit: packets missing');
  assert(!(shortNotOk && !isIn), 'Cannot submit: short-not-ok is for IN');
  const isTooSmall = into !== undefined && into.length < roomOf(transfer, isIn);
  assert(!isTooSmall, 'Cannot submit: `into` has fewer octets than are asked for');
}

/** A result without data. */
export function resultOf(status: UrbStatus): TransferResult {
  return { status, actualOctets: 0, data: NO_OCTETS };
}

/** What a result means to the queue of its endpoint. USB/IP and the ring have one number for 'unlinked' and 'returned'. */
export function replyOf({ status, actualOctets }: TransferResult, stallProtocol: boolean): Reply {
  if (status === 'ok' || status === 'short') return status;
  const isUntouched = (status === 'unlinked' || status === 'returned') && actualOctets === 0;
  if (!isUntouched) return 'error';
  return stallProtocol ? 'returned' : 'unlinked';
}
