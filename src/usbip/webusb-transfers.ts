/** Parts of WebUSB's transfers that need no device: setup packets, statuses, packets. */

import type { PacketRequest, TransferResult } from '../core/transfer.ts';
import type { RemoteDescriptors } from './remote-descriptors.ts';
import type {
  UsbControlTransferParameters,
  UsbDirection,
  UsbInterface,
  UsbIsochronousInTransferResult,
  UsbIsochronousOutTransferResult,
  UsbTransferStatus,
} from './webusb-types.ts';

export type FaultName =
  | 'AbortError'
  | 'DataError'
  | 'InvalidAccessError'
  | 'InvalidStateError'
  | 'NetworkError'
  | 'NotFoundError';

export function fault(name: FaultName, what: string): DOMException {
  return new DOMException(`Cannot use USB device: ${what}`, name);
}

const TYPE = { standard: 0, class: 1, vendor: 2 } as const;
const RECIPIENT = { device: 0, interface: 1, endpoint: 2, other: 3 } as const;

/**
 * @throws {TypeError} for a number that does not fit its field, as in a browser.
 */
export function controlSetup(
  { requestType, recipient, request, value, index }: UsbControlTransferParameters,
  direction: UsbDirection,
  length: number,
): Buffer {
  const type = TYPE[requestType];
  const to = RECIPIENT[recipient];
  if (type === undefined || to === undefined) {
    throw new TypeError(`Cannot make a setup packet: ${requestType} to ${recipient}`);
  }
  const fits = [value, index, length].every((one) => Number.isInteger(one) && one >>> 16 === 0);
  if (!fits || !Number.isInteger(request) || request >>> 8 !== 0) {
    throw new TypeError('Cannot make a setup packet: a number is too large for its field');
  }
  const setup = Buffer.alloc(8);
  setup.writeUInt8((direction === 'in' ? 0x80 : 0) | (type << 5) | to, 0);
  setup.writeUInt8(request, 1);
  setup.writeUInt16LE(value, 2);
  setup.writeUInt16LE(index, 4);
  setup.writeUInt16LE(length, 6);
  return setup;
}

/**
 * @throws {DOMException} NetworkError if it is none that WebUSB has.
 */
export function statusOf({ status }: Pick<TransferResult, 'status'>): UsbTransferStatus {
  switch (status) {
    case 'ok':
    case 'short':
      return 'ok';
    case 'stall':
    case 'babble':
      return status;
    default:
      throw fault('NetworkError', `the transfer ends with ${status}`);
  }
}

/** A packet whose frame went by has moved nothing; WebUSB has no other word for it. */
function packetStatus(status: TransferResult['status']): UsbTransferStatus {
  if (status === 'ok' || status === 'babble') return status;
  return 'stall';
}

/** The data with each packet at its place, as WebUSB has it; a server sends it without gaps. */
export function packetsIn(
  requests: readonly PacketRequest[],
  octets: number,
  result: TransferResult,
): UsbIsochronousInTransferResult {
  const data = new Uint8Array(octets);
  let from = 0;
  const packets = requests.map(({ offset }, n) => {
    const { actualOctets = 0, status = 'shutdown' } = result.packets?.[n] ?? {};
    data.set(result.data.subarray(from, from + actualOctets), offset);
    from += actualOctets;
    return {
      data: new DataView(data.buffer, offset, actualOctets),
      status: packetStatus(status),
    };
  });
  return { data: new DataView(data.buffer), packets };
}

export function packetsOut(result: TransferResult): UsbIsochronousOutTransferResult {
  const packets = (result.packets ?? []).map(({ actualOctets, status }) => ({
    bytesWritten: actualOctets,
    status: packetStatus(status),
  }));
  return { packets };
}

/** The service interval in frames or microframes, which Linux servers want to be told. */
export function intervalOf(
  { parsed, speed }: RemoteDescriptors,
  configurationValue: number,
  { interfaceNumber, alternate }: UsbInterface,
  address: number,
): number {
  const setting = parsed
    .find(({ value }) => value === configurationValue)
    ?.alternates.find(
      (one) => one.number === interfaceNumber && one.alternate === alternate.alternateSetting,
    );
  const endpoint = setting?.endpoints.find((one) => one.address === address);
  const unitMicroseconds = speed === 'low' || speed === 'full' ? 1000 : 125;
  return Math.max(1, Math.round((endpoint?.intervalMicroseconds ?? 0) / unitMicroseconds));
}

/**
 * `[EnforceRange] unsigned long`.
 *
 * @throws {TypeError} for a number that is none, as in a browser.
 */
export function assertLength(length: number): void {
  if (Number.isInteger(length) && length >= 0 && length < 2 ** 32) return;
  throw new TypeError(`Cannot transfer ${length} octets: wanted a whole number below 2^32`);
}

/** Packets one behind the other. */
export function layOut(lengths: readonly number[]) {
  let octets = 0;
  const packets = lengths.map((length) => {
    assertLength(length);
    const packet = { offset: octets, octets: length };
    octets += length;
    return packet;
  });
  return { packets, octets };
}

/**
 * A view of memory of its own: a program may give the memory away whole, as byte streams do, and
 * Buffers share theirs.
 */
export function viewOf(data: Buffer): DataView {
  return new DataView(new Uint8Array(data).buffer);
}

export const gone = () => fault('NotFoundError', 'the device has gone');

export function assertClaimed({ claimed, interfaceNumber }: UsbInterface): void {
  if (!claimed) throw fault('InvalidStateError', `interface ${interfaceNumber} is not claimed`);
}

export function addressOf(direction: UsbDirection, number: number): number {
  return direction === 'in' ? number | 0x80 : number;
}

export function hasEndpoint({ alternate }: UsbInterface, address: number): boolean {
  return alternate.endpoints.some(
    ({ direction, endpointNumber }) => addressOf(direction, endpointNumber) === address,
  );
}
