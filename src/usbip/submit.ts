/**
 * From a USBIP_CMD_SUBMIT to a URB: every check of what a client sends stands here.
 *
 * A header tells first how long its body is; that must be right even for a URB that is refused, or
 * the stream is lost. So numbers that leave the body's length open end the connection
 * (`RemoteProtocolError`), everything else ends only the URB (a `UrbStatus`).
 */
import type { EndpointInfo, UsbDevice } from '../core/device.ts';
import { RemoteProtocolError } from '../core/errors.ts';
import type { SessionLimits } from '../core/limits.ts';
import { type IsoPacket, type SetupPacket, Urb, type UrbStatus } from '../core/urb.ts';
import { CmdSubmit, DIRECTION, IsoDescriptor, TRANSFER_FLAG } from './protocol.ts';

/** The fields of a header that matter here; one object, filled again for each header. */
export interface SubmitHeader {
  seqnum: number;
  deviceId: number;
  direction: number;
  endpoint: number;
  transferFlags: number;
  octets: number;
  packetCount: number;
  interval: number;
  setupType: number;
  setupRequest: number;
  setupValue: number;
  setupIndex: number;
  setupLength: number;
}

export function emptySubmitHeader(): SubmitHeader {
  return {
    seqnum: 0,
    deviceId: 0,
    direction: 0,
    endpoint: 0,
    transferFlags: 0,
    octets: 0,
    packetCount: 0,
    interval: 0,
    setupType: 0,
    setupRequest: 0,
    setupValue: 0,
    setupIndex: 0,
    setupLength: 0,
  };
}

/**
 * As `CmdSubmit.read`, but twenty times as fast: this runs once for each URB, and DataView is what V8
 * compiles to plain loads.
 */
export function readSubmit(view: DataView, at: number, into: SubmitHeader): void {
  const offset = CmdSubmit.offsets;
  into.seqnum = view.getUint32(at + offset.seqnum);
  into.deviceId = view.getUint32(at + offset.deviceId);
  into.direction = view.getUint32(at + offset.direction);
  into.endpoint = view.getUint32(at + offset.endpoint);
  into.transferFlags = view.getUint32(at + offset.transferFlags);
  into.octets = view.getInt32(at + offset.transferBufferLength);
  into.packetCount = view.getInt32(at + offset.numberOfPackets);
  into.interval = view.getInt32(at + offset.interval);
  const setup = at + offset.setup;
  into.setupType = view.getUint8(setup);
  into.setupRequest = view.getUint8(setup + 1);
  into.setupValue = view.getUint16(setup + 2, true);
  into.setupIndex = view.getUint16(setup + 4, true);
  into.setupLength = view.getUint16(setup + 6, true);
}

/** The endpoint that a header names, if the device has it now. */
export function endpointOf(
  header: SubmitHeader,
  device: Pick<UsbDevice, 'endpoint'>,
): EndpointInfo | undefined {
  if (header.endpoint > 15) return undefined;
  if (header.endpoint === 0) return device.endpoint(0);
  return device.endpoint(header.endpoint | (header.direction === DIRECTION.in ? 0x80 : 0));
}

/**
 * Octets of the body: OUT data, then packet descriptors if the endpoint is isochronous. The packet
 * count of any other endpoint means nothing; clients send stale memory there.
 *
 * @throws {RemoteProtocolError} if the header leaves that open.
 */
export function bodyOctets(
  header: SubmitHeader,
  endpoint: EndpointInfo | undefined,
  limits: SessionLimits,
): number {
  if (header.direction !== DIRECTION.in && header.direction !== DIRECTION.out) {
    throw new RemoteProtocolError(
      'bad-direction',
      `Cannot accept URB ${header.seqnum}: direction ${header.direction}, wanted 0 or 1`,
    );
  }
  if (header.octets < 0) {
    throw new RemoteProtocolError(
      'bad-length',
      `Cannot accept URB ${header.seqnum}: ${header.octets} octets, wanted 0 or more`,
    );
  }
  let octets = header.direction === DIRECTION.out ? header.octets : 0;
  if (endpoint?.type === 'isochronous') {
    if (header.packetCount < 0 || header.packetCount > limits.isoPacketsMax) {
      throw new RemoteProtocolError(
        'bad-packet-count',
        `Cannot accept URB ${header.seqnum}: ${header.packetCount} packets, at most ${limits.isoPacketsMax}`,
      );
    }
    // The packet descriptors stand behind the data, and the reply needs them.
    if (header.octets > limits.transferOctetsMax) {
      throw new RemoteProtocolError(
        'bad-length',
        `Cannot accept URB ${header.seqnum}: ${header.octets} octets, at most ${limits.transferOctetsMax}`,
      );
    }
    octets += header.packetCount * IsoDescriptor.octets;
  }
  return octets;
}

/** Why a URB is refused before its body is read, or 'ok'. */
export function refusal(
  header: SubmitHeader,
  endpoint: EndpointInfo | undefined,
  limits: SessionLimits,
): UrbStatus {
  if (endpoint === undefined) return 'shutdown';
  if (header.octets > limits.transferOctetsMax) return 'no-memory';
  if (endpoint.type === 'control' && !controlLengthFits(header)) return 'invalid';
  return 'ok';
}

/** An OUT request must bring wLength octets; an IN request may leave room for fewer or more. */
function controlLengthFits(header: SubmitHeader): boolean {
  const setupIn = (header.setupType & 0x80) !== 0;
  if (header.direction === DIRECTION.out) {
    return setupIn
      ? header.octets === 0 && header.setupLength === 0
      : header.octets === header.setupLength;
  }
  return setupIn || (header.octets === 0 && header.setupLength === 0);
}

/** The URB of a header that `refusal` let pass, or why its packets are refused. */
export function buildUrb(
  header: SubmitHeader,
  endpoint: EndpointInfo,
  body: Buffer,
): Urb | UrbStatus {
  const { type } = endpoint;
  const built = build(header, endpoint, body);
  if ((type === 'interrupt' || type === 'isochronous') && built instanceof Urb) {
    built.interval = Math.max(0, header.interval);
  }
  return built;
}

function build(header: SubmitHeader, endpoint: EndpointInfo, body: Buffer): Urb | UrbStatus {
  const shortNotOk = (header.transferFlags & TRANSFER_FLAG.shortNotOk) !== 0;
  switch (endpoint.type) {
    case 'control':
      return Urb.control(header.seqnum, endpoint, setupOf(header), body, shortNotOk);
    case 'isochronous':
      return buildIsochronous(header, endpoint, body);
    case 'bulk':
    case 'interrupt': {
      if (header.direction === DIRECTION.in) {
        return Urb.read(header.seqnum, endpoint, header.octets, shortNotOk);
      }
      const zeroPacket =
        endpoint.type === 'bulk' && (header.transferFlags & TRANSFER_FLAG.zeroPacket) !== 0;
      return Urb.write(header.seqnum, endpoint, body, zeroPacket);
    }
  }
}

function setupOf(header: SubmitHeader): SetupPacket {
  const isIn = (header.setupType & 0x80) !== 0;
  return {
    requestType: header.setupType,
    request: header.setupRequest,
    value: header.setupValue,
    index: header.setupIndex,
    // A client whose buffer is shorter than wLength gets no more than fits.
    length: isIn ? Math.min(header.setupLength, header.octets) : header.setupLength,
  };
}

function buildIsochronous(
  header: SubmitHeader,
  endpoint: EndpointInfo,
  body: Buffer,
): Urb | UrbStatus {
  const dataOctets = endpoint.direction === 'out' ? header.octets : 0;
  const packets: IsoPacket[] = [];
  let sum = 0;
  for (let at = dataOctets; at < body.length; at += IsoDescriptor.octets) {
    const { offset, length } = IsoDescriptor.read(body, at);
    sum += length;
    if (offset + length > header.octets || sum > header.octets) return 'invalid';
    packets.push({ offset, octets: length, actualOctets: 0, status: 'ok' });
  }
  const dataOut = body.subarray(0, dataOctets);
  return Urb.isochronous(header.seqnum, endpoint, header.octets, packets, dataOut);
}
