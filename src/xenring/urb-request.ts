/**
 * From a slot of the URB ring to a URB: every check of what a front end sends stands here.
 *
 * Each field of a slot is read once, into a `Request`, so that the front end cannot change what was
 * checked. What no front end in its right mind sends (too many segments, a segment outside its page, a port that
 * the controller has not) ends the connection (`RingError`); what a driver in the guest can bring
 * about ends only its URB (a `UrbStatus`).
 *
 * The length of a transfer is that of its segments: `bufferLength` has 16 bits, and a URB of 64 KiB
 * arrives there as 0. Longer ones do not fit 16 segments; xen-hcd refuses them by itself.
 */
import type { EndpointInfo, UsbDevice } from '../core/device.ts';
import type { SessionLimits } from '../core/limits.ts';
import { type IsoPacket, type SetupPacket, Urb, type UrbStatus } from '../core/urb.ts';
import { type GrantSegment, PAGE_OCTETS } from './platform.ts';
import { RingError } from './ring-error.ts';
import {
  FrameDescriptor,
  IsochronousPart,
  PIPE,
  PIPE_TYPE,
  SEGMENTS_MAX,
  Segment,
  TRANSFER_FLAG,
  UrbRequest,
} from './usbif.ts';

/** What a request says; one object for each that is out, filled again and again. */
export class Request {
  id = 0;
  port = 0;
  /** Take `unlinkId` back; nothing else of the request counts. */
  unlink = false;
  unlinkId = 0;
  in = false;
  /** USB address that the guest has given to the device; 0 after a reset of its port. */
  deviceAddress = 0;
  endpoint = 0;
  type = 0;
  flags = 0;
  /** Of all data segments. */
  octets = 0;
  readonly data: GrantSegment[] = [];
  /** Where the frame descriptors of an isochronous request are. */
  readonly frames: GrantSegment[] = [];
  frameOctets = 0;
  packetCount = 0;
  /** Segments with frame descriptors. */
  frameCount = 0;
  setupType = 0;
  setupRequest = 0;
  setupValue = 0;
  setupIndex = 0;
  setupLength = 0;
  readonly #segments: GrantSegment[] = Array.from({ length: SEGMENTS_MAX }, () => ({
    reference: 0,
    offset: 0,
    octets: 0,
  }));

  get shortNotOk(): boolean {
    return (this.flags & TRANSFER_FLAG.shortNotOk) !== 0;
  }

  get zeroPacket(): boolean {
    return (this.flags & TRANSFER_FLAG.zeroPacket) !== 0;
  }

  get clearStall(): boolean {
    return (this.flags & TRANSFER_FLAG.clearStall) !== 0;
  }

  /** SET_ADDRESS, which no device behind a gateway ever needs to hear of. */
  get setsAddress(): boolean {
    const { type, endpoint, setupType, setupRequest } = this;
    return type === PIPE_TYPE.control && endpoint === 0 && setupType === 0 && setupRequest === 5;
  }

  /**
   * Reads the slot at `at`.
   *
   * @param ports Ports of the controller.
   * @throws {RingError} if no front end may send this.
   */
  read(view: DataView, at: number, ports: number): void {
    const offset = UrbRequest.offsets;
    const pipe = view.getUint32(at + offset.pipe, true);
    this.id = view.getUint16(at + offset.id, true);
    this.port = pipe & PIPE.portMask;
    if (this.port < 1 || this.port > ports) {
      throw new RingError(
        'bad-port',
        `Cannot accept request ${this.id}: port ${this.port}, wanted 1 to ${ports}`,
      );
    }
    this.unlink = (pipe & PIPE.unlink) !== 0;
    if (this.unlink) {
      this.unlinkId = view.getUint16(at + offset.specific, true);
      return;
    }
    this.in = (pipe & PIPE.in) !== 0;
    this.deviceAddress = (pipe >>> PIPE.deviceShift) & PIPE.deviceMask;
    this.endpoint = (pipe >>> PIPE.endpointShift) & PIPE.endpointMask;
    this.type = pipe >>> PIPE.typeShift;
    this.flags = view.getUint16(at + offset.transferFlags, true);
    if (this.type === PIPE_TYPE.isochronous) this.#readIsochronous(view, at + offset.specific);
    else this.#readSetup(view, at + offset.specific);
    this.#readSegments(view, at);
  }

  #readSetup(view: DataView, at: number): void {
    this.packetCount = 0;
    this.frameCount = 0;
    this.setupType = view.getUint8(at);
    this.setupRequest = view.getUint8(at + 1);
    this.setupValue = view.getUint16(at + 2, true);
    this.setupIndex = view.getUint16(at + 4, true);
    this.setupLength = view.getUint16(at + 6, true);
  }

  #readIsochronous(view: DataView, at: number): void {
    this.packetCount = view.getUint16(at + IsochronousPart.offsets.packetCount, true);
    this.frameCount = view.getUint16(at + IsochronousPart.offsets.frameSegments, true);
  }

  #readSegments(view: DataView, at: number): void {
    const { offsets } = UrbRequest;
    const { frameCount } = this;
    const dataCount = view.getUint16(at + offsets.bufferSegments, true);
    if (dataCount + frameCount > SEGMENTS_MAX) {
      throw new RingError(
        'bad-segments',
        `Cannot accept request ${this.id}: ${dataCount + frameCount} segments, at most ${SEGMENTS_MAX}`,
      );
    }
    const segments = at + offsets.segments;
    this.octets = this.#gather(view, segments, this.data, 0, dataCount);
    this.frameOctets = this.#gather(view, segments, this.frames, dataCount, frameCount);
  }

  /** Fills a list of segments; returns the sum of their octets. */
  #gather(view: DataView, at: number, into: GrantSegment[], first: number, count: number): number {
    let sum = 0;
    if (into.length !== count) into.length = count;
    for (let n = 0; n < count; n++) {
      const place = at + (first + n) * Segment.octets;
      const segment = this.#segments[first + n] as GrantSegment;
      segment.reference = view.getUint32(place + Segment.offsets.reference, true);
      segment.offset = view.getUint16(place + Segment.offsets.offset, true);
      segment.octets = view.getUint16(place + Segment.offsets.octets, true);
      if (segment.offset + segment.octets > PAGE_OCTETS) {
        throw new RingError(
          'bad-segments',
          `Cannot accept request ${this.id}: a segment of ${segment.octets} octets at ${segment.offset}, wanted one within ${PAGE_OCTETS}`,
        );
      }
      sum += segment.octets;
      into[n] = segment;
    }
    return sum;
  }
}

/** The endpoint that a request names, if the device has it now. */
export function endpointOf(request: Request, device: UsbDevice): EndpointInfo | undefined {
  if (request.endpoint === 0) return device.endpoint(0);
  return device.endpoint(request.endpoint | (request.in ? 0x80 : 0));
}

/** Why a request is refused before its data is looked at, or 'ok'. */
export function refusal(
  request: Request,
  endpoint: EndpointInfo | undefined,
  limits: SessionLimits,
): UrbStatus {
  if (endpoint === undefined) return 'shutdown';
  if (!typeFits(request.type, endpoint)) return 'invalid';
  if (endpoint.type === 'control' && !controlLengthFits(request)) return 'invalid';
  if (endpoint.type === 'isochronous') {
    if (request.packetCount > limits.isoPacketsMax) return 'invalid';
    if (request.frameOctets !== request.packetCount * FrameDescriptor.octets) return 'invalid';
  }
  return 'ok';
}

/** Drivers use bulk pipes for interrupt endpoints and the reverse; usbcore lets them. */
function typeFits(type: number, endpoint: EndpointInfo): boolean {
  if (endpoint.type === 'bulk' || endpoint.type === 'interrupt') {
    return type === PIPE_TYPE.bulk || type === PIPE_TYPE.interrupt;
  }
  return type === PIPE_TYPE[endpoint.type];
}

/** An OUT request must bring wLength octets; an IN request may leave room for fewer or more. */
function controlLengthFits(request: Request): boolean {
  const setupIn = (request.setupType & 0x80) !== 0;
  return setupIn
    ? request.in || (request.octets === 0 && request.setupLength === 0)
    : request.octets === request.setupLength && (!request.in || request.octets === 0);
}

/**
 * The URB of a request that `refusal` let pass, or why it is refused after all.
 *
 * @param dataOut OUT data, already copied out of the guest's pages; empty for IN.
 * @param frames Frame descriptors, likewise; empty if not isochronous.
 */
export function buildUrb(
  request: Request,
  endpoint: EndpointInfo,
  dataOut: Buffer,
  frames: Buffer,
): Urb | UrbStatus {
  const { id, octets, shortNotOk } = request;
  switch (endpoint.type) {
    case 'control':
      return Urb.control(id, endpoint, setupOf(request), dataOut, shortNotOk);
    case 'isochronous': {
      const packets = packetsOf(frames, octets);
      return packets === null ? 'invalid' : Urb.isochronous(id, endpoint, octets, packets, dataOut);
    }
    case 'bulk':
    case 'interrupt':
      if (request.in) return Urb.read(id, endpoint, octets, shortNotOk);
      return Urb.write(id, endpoint, dataOut, request.zeroPacket && endpoint.type === 'bulk');
  }
}

function setupOf(request: Request): SetupPacket {
  const isIn = (request.setupType & 0x80) !== 0;
  return {
    requestType: request.setupType,
    request: request.setupRequest,
    value: request.setupValue,
    index: request.setupIndex,
    // A guest whose buffer is shorter than wLength gets no more than fits.
    length: isIn ? Math.min(request.setupLength, request.octets) : request.setupLength,
  };
}

/** Null if packets do not lie inside the transfer. */
function packetsOf(frames: Buffer, octets: number): IsoPacket[] | null {
  const packets: IsoPacket[] = [];
  let sum = 0;
  for (let at = 0; at < frames.length; at += FrameDescriptor.octets) {
    const { offset, length } = FrameDescriptor.read(frames, at);
    sum += length;
    if (offset + length > octets || sum > octets) return null;
    packets.push({ offset, octets: length, actualOctets: 0, status: 'ok' });
  }
  return packets;
}
