/**
 * What the gateway knows of a device, and what a back end (virtual, usbfs, ...) implements.
 */
import type { Room, Urb } from './urb.ts';

/** Names in rising order of signalling rate; `super-plus` is SuperSpeedPlus. */
export type Speed = 'low' | 'full' | 'high' | 'super' | 'super-plus';

export type TransferType = 'control' | 'isochronous' | 'bulk' | 'interrupt';

export interface EndpointInfo {
  /** bEndpointAddress: the number, and bit 7 for IN. Endpoint 0 is 0x00 and serves both ways. */
  readonly address: number;
  readonly direction: 'in' | 'out';
  readonly type: TransferType;
  /** bInterfaceNumber of the interface that it belongs to; -1 for endpoint 0. */
  readonly interfaceNumber: number;
  /** Payload of one packet (wMaxPacketSize bits 10..0). */
  readonly maxPacketOctets: number;
  /** What may move in one service interval: packets of a high-bandwidth or SuperSpeed burst. */
  readonly intervalOctets: number;
  /** Service interval; 0 for control and bulk. From bInterval and the device's speed. */
  readonly intervalMicroseconds: number;
}

export interface InterfaceInfo {
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
}

/** What the list of devices shows. The registry refuses a device whose numbers do not fit their fields. */
export interface DeviceInfo {
  readonly speed: Speed;
  readonly vendorId: number;
  readonly productId: number;
  /** bcdDevice */
  readonly deviceVersion: number;
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
  /** bConfigurationValue of the active configuration, or of the first if none is active. */
  readonly configurationValue: number;
  readonly configurationCount: number;
  /** Interfaces of that configuration, each with its first alternate setting's class. */
  readonly interfaces: readonly InterfaceInfo[];
  /** One line for people: manufacturer and product. */
  readonly label: string;
}

/** What a session gives to the device it has opened. */
export interface DeviceHost {
  /** Data may be lent (`Urb.loan`); else it is the host's to keep. Default: it may not. */
  readonly borrows?: boolean;
  /** The URB has ended: its result is filled in. May be called from inside `submit` and `unlink`. */
  completed(urb: Urb): void;
  /** The device has gone. Every URB at the device has been completed before. */
  removed(): void;
  /** The back end has a bug: the session ends, and `close` follows. */
  failed(error: unknown): void;
}

/**
 * How many URBs of one endpoint the device takes at a time.
 *
 * - `serial`: one; the next is submitted when it is back.
 * - `serial-but-isochronous`: one, but several of an isochronous endpoint, which never stops.
 * - `host-controller`: several of bulk and isochronous endpoints. When a bulk URB fails, the device
 *   itself takes back those behind it before they move an octet, and completes them as 'unlinked';
 *   URBs that `mustNotBeOvertaken` have none behind them.
 *
 * How many: `FLIGHT_MAX` in endpoint-slot.ts.
 */
export type QueueModel = 'serial' | 'serial-but-isochronous' | 'host-controller';

/** A back end's device. All calls come from one session at a time, between `open` and `close`. */
export interface UsbDevice {
  readonly info: DeviceInfo;
  readonly queueModel: QueueModel;
  /** The endpoint in the active configuration and alternate settings; 0x00 is always there. */
  endpoint(address: number): EndpointInfo | undefined;
  /**
   * @throws {Error} with a message for the user if the device cannot be claimed now.
   */
  open(host: DeviceHost): void;
  /**
   * Memory where the data of a URB to this endpoint need not be copied again, or null if there is none.
   * Whoever asks gives it back: when the URB is back, if there is one.
   */
  room?(endpoint: EndpointInfo, octets: number): Room | null;
  /** Whether nothing may be submitted behind an URB that is at the device. Default: it may. */
  mustNotBeOvertaken?(urb: Urb): boolean;
  /** Begins a transfer. The device completes it exactly once, here or later. */
  submit(urb: Urb): void;
  /**
   * Asks for a submitted URB back. It still completes once: 'unlinked', or as it had ended before.
   */
  unlink(urb: Urb): void;
  /** Resets the device as a USB bus reset does. No URB is outstanding. */
  reset(): void;
  /**
   * Ends the session: the device returns to its state after a reset. No URB is outstanding.
   * Resolves when another client may open it.
   */
  close(): Promise<void>;
  /**
   * The device is unexported, and its session waits for it already for a while: ends what it waits for itself
   * (a server), if anything. URBs are completed, and `close` resolves. Default: there is nothing to give up.
   */
  giveUp?(): void;
  /** Frees what the device holds, for good. Not called between `open` and `close`. */
  dispose(): Promise<void>;
}
