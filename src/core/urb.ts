/**
 * The USB request block: one transfer that a client asked for, and what became of it.
 *
 * An `Urb` is made by one of the four factories below, and each takes only what is legal for its
 * kind: no zero packet on IN, no short-not-ok on OUT, a setup packet on control only. What a peer
 * sends is narrowed to these arguments in one place per transport (`usbip/submit.ts`).
 *
 * All kinds share one class, so that the hot path stays monomorphic.
 */
import { assert } from './assert.ts';
import type { EndpointInfo } from './device.ts';

/**
 * How a transfer, or one packet of an isochronous transfer, ended. The names are the field's; each
 * transport maps them to numbers in one table. The Linux errno beside each is its meaning in
 * Documentation/driver-api/usb/error-codes.rst.
 */
export type UrbStatus =
  | 'ok' // 0
  | 'short' // -EREMOTEIO: less data than asked for, and the client said short-not-ok
  | 'stall' // -EPIPE: the endpoint is halted, or a control request is refused
  | 'babble' // -EOVERFLOW: the device sent more than was asked for
  | 'protocol-error' // -EPROTO: bit stuffing, no response, or the bus failed otherwise
  | 'crc-error' // -EILSEQ
  | 'timeout' // -ETIME: the device did not answer in time
  | 'missed' // -EXDEV: an isochronous packet whose frame went by
  | 'unlinked' // -ECONNRESET: taken back by the client
  | 'returned' // -ECONNRESET: never started; only for clients that speak the stall protocol
  | 'shutdown' // -ESHUTDOWN: the device, or this endpoint of it, is gone
  | 'invalid' // -EINVAL: a request that no device could carry out
  | 'no-memory'; // -ENOMEM: a limit of the gateway

/** One packet of an isochronous URB. Octets; `offset` is relative to the transfer's buffer. */
export interface IsoPacket {
  readonly offset: number;
  readonly octets: number;
  actualOctets: number;
  status: UrbStatus;
}

/** The eight octets that open a control transfer (USB 2.0, 9.3), decoded. */
export interface SetupPacket {
  /** bmRequestType */
  readonly requestType: number;
  /** bRequest */
  readonly request: number;
  /** wValue */
  readonly value: number;
  /** wIndex */
  readonly index: number;
  /** wLength */
  readonly length: number;
}

/** Encodes a setup packet, little-endian as on USB, at the beginning of `octets`. */
export function writeSetup(octets: Buffer, setup: SetupPacket): void {
  octets.writeUInt8(setup.requestType, 0);
  octets.writeUInt8(setup.request, 1);
  octets.writeUInt16LE(setup.value, 2);
  octets.writeUInt16LE(setup.index, 4);
  octets.writeUInt16LE(setup.length, 6);
}

const NO_OCTETS = Buffer.alloc(0);

/** Memory of a device's that somebody else looks at. */
export interface Loan {
  /** Nobody looks at it any more. To be called once. */
  giveBack(): void;
}

/** Memory of a device's for data that goes to it, lent until it is given back. */
export interface Room extends Loan {
  /** At least as long as was asked for. */
  readonly octets: Buffer;
}

export class Urb {
  /** The client's name for the URB: unique among the outstanding ones of its session. */
  readonly id: number;
  readonly endpoint: EndpointInfo;
  /** True when data moves from the device to the host. */
  readonly in: boolean;
  /** Length of the transfer buffer (transfer_buffer_length). */
  readonly octets: number;
  /** Present on control URBs only. */
  readonly setup: SetupPacket | null;
  /** Present on isochronous URBs only. */
  readonly packets: IsoPacket[] | null;
  /** URB_SHORT_NOT_OK: a short read is an error and stops the queue. IN, not isochronous. */
  readonly shortNotOk: boolean;
  /** URB_ZERO_PACKET: end an OUT transfer of whole packets with an empty one. Bulk OUT. */
  readonly zeroPacket: boolean;
  /**
   * How often the client's driver wants an interrupt or isochronous endpoint served, in frames (low and full
   * speed) or microframes (urb->interval); 0 if it does not say. Only another host controller has a use for it.
   */
  interval = 0;
  /** The client speaks the stall protocol and says: restart the queue with this URB. */
  clearStall = false;

  /** OUT data. The memory is the transport's and valid until the URB is given back. */
  dataOut: Buffer;
  /** Where `dataOut` lies, at the beginning, if the device has lent it (`UsbDevice.room`). */
  room: Room | null = null;

  // The result. Valid once the URB is given back.
  status: UrbStatus = 'ok';
  /** Octets that moved, also when the status is an error. */
  actualOctets = 0;
  /**
   * IN data, `actualOctets` long; for isochronous URBs the packets' data one after the other with
   * no gaps. Whoever supplies it must not change it afterwards: it is sent without a copy.
   */
  dataIn: Uint8Array = NO_OCTETS;
  /**
   * The memory behind `dataIn`, if the device wants it back: whoever is given the URB gives it back,
   * at once or when the data has been sent. Only for clients that say so (`SessionClient.borrows`).
   */
  loan: Loan | null = null;
  /** Frame in which an isochronous transfer began. */
  startFrame = 0;

  /** Belongs to the session: true from `submit` until the URB is given back. */
  outstanding = false;
  /** Belongs to the session: true from the device's `submit` until the device completes it. */
  atDevice = false;
  /** Belongs to the session: how many URBs were submitted before. */
  place = 0;
  /** Belongs to the transport: the request that asked for an unlink, or -1. */
  unlinkTag = -1;
  /** Belongs to the transport: pooled memory behind `dataOut`, to be reused afterwards. */
  pooled: Buffer | null = null;

  private constructor(
    id: number,
    endpoint: EndpointInfo,
    isIn: boolean,
    octets: number,
    setup: SetupPacket | null,
    packets: IsoPacket[] | null,
    dataOut: Buffer,
    shortNotOk: boolean,
    zeroPacket: boolean,
  ) {
    this.id = id;
    this.endpoint = endpoint;
    this.in = isIn;
    this.octets = octets;
    this.setup = setup;
    this.packets = packets;
    this.dataOut = dataOut;
    this.shortNotOk = shortNotOk;
    this.zeroPacket = zeroPacket;
  }

  /**
   * A control transfer. Its direction and length are the setup packet's; for OUT, `dataOut` holds
   * exactly wLength octets.
   */
  static control(
    id: number,
    endpoint: EndpointInfo,
    setup: SetupPacket,
    dataOut: Buffer = NO_OCTETS,
    shortNotOk = false,
  ): Urb {
    const isIn = (setup.requestType & 0x80) !== 0 && setup.length > 0;
    assert(endpoint.type === 'control');
    assert(dataOut.length === (isIn ? 0 : setup.length));
    return new Urb(
      id,
      endpoint,
      isIn,
      setup.length,
      setup,
      null,
      dataOut,
      shortNotOk && isIn,
      false,
    );
  }

  /** A bulk or interrupt read of up to `octets` octets. */
  static read(id: number, endpoint: EndpointInfo, octets: number, shortNotOk = false): Urb {
    assert(endpoint.direction === 'in' && endpoint.type !== 'isochronous');
    return new Urb(id, endpoint, true, octets, null, null, NO_OCTETS, shortNotOk, false);
  }

  /** A bulk or interrupt write. */
  static write(id: number, endpoint: EndpointInfo, dataOut: Buffer, zeroPacket = false): Urb {
    assert(endpoint.direction === 'out' && endpoint.type !== 'isochronous');
    return new Urb(id, endpoint, false, dataOut.length, null, null, dataOut, false, zeroPacket);
  }

  /**
   * An isochronous transfer of `octets` octets in `packets`, which lie inside it. For OUT, `dataOut`
   * holds all of the buffer, gaps included.
   */
  static isochronous(
    id: number,
    endpoint: EndpointInfo,
    octets: number,
    packets: IsoPacket[],
    dataOut: Buffer = NO_OCTETS,
  ): Urb {
    assert(endpoint.type === 'isochronous');
    const isIn = endpoint.direction === 'in';
    assert(dataOut.length === (isIn ? 0 : octets));
    return new Urb(id, endpoint, isIn, octets, null, packets, dataOut, false, false);
  }

  /** Number of isochronous packets that did not end well (error_count). */
  get errorCount(): number {
    let count = 0;
    for (const packet of this.packets ?? []) if (packet.status !== 'ok') count++;
    return count;
  }
}
