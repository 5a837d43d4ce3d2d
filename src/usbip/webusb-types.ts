/**
 * The vocabulary of WebUSB (https://wicg.github.io/webusb/), for programs without a browser's types.
 * The shapes are the specification's, so that what is written for one is taken by the other.
 */

export type UsbDirection = 'in' | 'out';
export type UsbEndpointType = 'bulk' | 'interrupt' | 'isochronous';
export type UsbTransferStatus = 'ok' | 'stall' | 'babble';

/** USBEndpoint */
export interface UsbEndpoint {
  readonly endpointNumber: number;
  readonly direction: UsbDirection;
  readonly type: UsbEndpointType;
  /** wMaxPacketSize bits 10..0, in octets. */
  readonly packetSize: number;
}

/** USBAlternateInterface */
export interface UsbAlternateInterface {
  readonly alternateSetting: number;
  readonly interfaceClass: number;
  readonly interfaceSubclass: number;
  readonly interfaceProtocol: number;
  readonly interfaceName: string | undefined;
  readonly endpoints: readonly UsbEndpoint[];
}

/** USBInterface */
export interface UsbInterface {
  readonly interfaceNumber: number;
  /** The setting that is in force. */
  readonly alternate: UsbAlternateInterface;
  readonly alternates: readonly UsbAlternateInterface[];
  readonly claimed: boolean;
}

/** USBConfiguration */
export interface UsbConfiguration {
  readonly configurationValue: number;
  readonly configurationName: string | undefined;
  readonly interfaces: readonly UsbInterface[];
}

/** USBControlTransferParameters */
export interface UsbControlTransferParameters {
  readonly requestType: 'standard' | 'class' | 'vendor';
  readonly recipient: 'device' | 'interface' | 'endpoint' | 'other';
  readonly request: number;
  readonly value: number;
  readonly index: number;
}

/** USBInTransferResult */
export interface UsbInTransferResult {
  readonly data: DataView | undefined;
  readonly status: UsbTransferStatus;
}

/** USBOutTransferResult; `bytesWritten` in octets. */
export interface UsbOutTransferResult {
  readonly bytesWritten: number;
  readonly status: UsbTransferStatus;
}

/** USBIsochronousInTransferResult */
export interface UsbIsochronousInTransferResult {
  readonly data: DataView | undefined;
  readonly packets: readonly UsbInTransferResult[];
}

/** USBIsochronousOutTransferResult */
export interface UsbIsochronousOutTransferResult {
  readonly packets: readonly UsbOutTransferResult[];
}

/** USBDeviceFilter */
export interface UsbDeviceFilter {
  readonly vendorId?: number;
  readonly productId?: number;
  readonly classCode?: number;
  readonly subclassCode?: number;
  readonly protocolCode?: number;
  readonly serialNumber?: string;
}

/** BufferSource */
export type Octets = ArrayBufferLike | ArrayBufferView;

export function octetsOf(source: Octets): Buffer {
  if (ArrayBuffer.isView(source)) {
    // A copy: the caller may write to it again before it is sent.
    return Buffer.from(Buffer.from(source.buffer, source.byteOffset, source.byteLength));
  }
  return Buffer.from(Buffer.from(source));
}
