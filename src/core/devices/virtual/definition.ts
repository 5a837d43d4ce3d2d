/**
 * How a virtual device is declared: a plain object whose handlers return answers.
 *
 * The engine (`virtual-device.ts`) does what every device must: descriptors, standard requests,
 * configurations and alternate settings, halted endpoints, packets, short packets, unlinks. A
 * definition says only what is particular to the device. See examples/ for a whole one.
 *
 * Handlers are called with the device's state and must not block: what takes time answers `nak`
 * and calls `bus.wake(address)` when it is ready; the engine then asks again.
 */
import type { Speed } from '../../device.ts';
import type { SetupPacket, UrbStatus } from '../../urb.ts';

/** "Not now": the transfer stays pending until `bus.wake(address)`. */
export const nak = { answer: 'nak' } as const;
/** Halts the endpoint until the host clears it (bulk, interrupt), or refuses a control request. */
export const stall = { answer: 'stall' } as const;
/** Took all octets that were offered; or ends a control request without data. */
export const ack = { answer: 'ack' } as const;
/** Took the first `octets` octets only; the engine offers the rest again. */
export const took = (octets: number): Took => ({ answer: 'took', octets });
/** Fails the transfer as a bus error does; a device under test uses it to misbehave. */
export const fail = (status: FailStatus): Fail => ({ answer: 'fail', status });
/** Data to the host; see `InHandler` for where a transfer ends. */
export const data = (octets: Uint8Array): Uint8Array => octets;

export type FailStatus = Extract<UrbStatus, 'babble' | 'protocol-error' | 'crc-error' | 'timeout'>;
export type Nak = typeof nak;
export type Stall = typeof stall;
export type Ack = typeof ack;
export interface Took {
  readonly answer: 'took';
  readonly octets: number;
}
export interface Fail {
  readonly answer: 'fail';
  readonly status: FailStatus;
}

/** What a device's state may ask of the bus it is on. */
export interface Bus {
  /** Asks the endpoint's handler again if a transfer waits there. 0 is the control endpoint. */
  wake(address: number): void;
  /** Halts a bulk or interrupt endpoint now, as `stall` from its handler would. */
  halt(address: number): void;
}

/**
 * Supplies an IN transfer. `octetsMax` is what the transfer still has room for.
 *
 * Data follows the rules of packets: octets that are a whole number of packets leave the transfer
 * open until it is full, and the handler is asked again; anything else (also an empty answer) is a
 * short packet, which ends it. More than `octetsMax` octets is a babble. The octets must not be
 * changed afterwards.
 */
export type InHandler<S> = (state: S, octetsMax: number) => Uint8Array | Nak | Stall | Fail;

/**
 * Takes an OUT transfer, or what is left of it. The octets are valid during the call only.
 * An empty transfer, or the zero packet that ends one, is offered as no octets.
 */
export type OutHandler<S> = (state: S, octets: Buffer) => Ack | Took | Nak | Stall | Fail;

/**
 * Supplies one isochronous packet of at most `octetsMax` octets, valid until the next call. That is what
 * the host has room for, or what the endpoint can move in one interval if that is less.
 */
export type PacketInHandler<S> = (state: S, octetsMax: number) => Uint8Array | Fail;
/** Takes one isochronous packet, valid during the call only. */
export type PacketOutHandler<S> = (state: S, octets: Buffer) => Ack | Fail;

interface EndpointCommon {
  /** bEndpointAddress: 1..15, with 0x80 for IN. */
  readonly address: number;
  /** wMaxPacketSize, payload only. */
  readonly maxPacketOctets: number;
  /** Class-specific descriptors that follow the endpoint descriptor. */
  readonly descriptors?: readonly Uint8Array[];
  /** Octets 7 and 8 of an audio class endpoint descriptor (bRefresh, bSynchAddress). */
  readonly audio?: boolean;
}

/** Exactly one handler, matching type and direction. */
export type EndpointDefinition<S> = EndpointCommon &
  (
    | { readonly type: 'bulk'; readonly onIn: InHandler<S> }
    | { readonly type: 'bulk'; readonly onOut: OutHandler<S> }
    | {
        readonly type: 'interrupt';
        /** bInterval as it stands in the descriptor: frames, or 2^(n-1) microframes. */
        readonly interval: number;
        readonly onIn: InHandler<S>;
      }
    | { readonly type: 'interrupt'; readonly interval: number; readonly onOut: OutHandler<S> }
    | ({
        readonly type: 'isochronous';
        readonly interval: number;
        /** Synchronisation type, bits 3..2 of bmAttributes. Default 'none'. */
        readonly synchronisation?: 'none' | 'asynchronous' | 'adaptive' | 'synchronous';
        /** Transfers take as long as they would on a bus. Default: they end at once. */
        readonly paced?: boolean;
      } & (
        | { readonly onPacketIn: PacketInHandler<S> }
        | { readonly onPacketOut: PacketOutHandler<S> }
      ))
  );

/** One alternate setting of an interface. */
export interface InterfaceDefinition<S> {
  /** bInterfaceNumber. Default: its place among the configuration's distinct interfaces. */
  readonly number?: number;
  /** bAlternateSetting. Default 0. */
  readonly alternate?: number;
  readonly class: number;
  readonly subclass?: number;
  readonly protocol?: number;
  /** iInterface */
  readonly label?: string;
  /** Class-specific descriptors that follow the interface descriptor. */
  readonly descriptors?: readonly Uint8Array[];
  /** Put before this interface: an interface association descriptor, say. */
  readonly preamble?: readonly Uint8Array[];
  readonly endpoints: readonly EndpointDefinition<S>[];
}

export interface ConfigurationDefinition<S> {
  /** bConfigurationValue. Default: its place, from 1. */
  readonly value?: number;
  readonly maxPowerMilliamps?: number;
  readonly selfPowered?: boolean;
  readonly remoteWakeup?: boolean;
  /** Alternate settings of one interface stand beside each other. */
  readonly interfaces: readonly InterfaceDefinition<S>[];
}

/**
 * A class or vendor request, or a standard one that the engine leaves to the class (a HID report
 * descriptor). First match answers; a request that no row matches is stalled.
 */
export type ControlRow<S> = {
  readonly type: 'standard' | 'class' | 'vendor';
  readonly recipient?: 'device' | 'interface' | 'endpoint' | 'other';
  /** bRequest */
  readonly request: number;
  /** wIndex must match when given. */
  readonly index?: number;
} & (
  | {
      readonly direction: 'in';
      /** Octets beyond wLength are cut off by the engine. */
      readonly answer: (state: S, setup: SetupPacket) => Uint8Array | Nak | Stall | Fail;
    }
  | {
      readonly direction: 'out';
      /** `octets` is wLength octets, valid during the call only. */
      readonly answer: (state: S, setup: SetupPacket, octets: Buffer) => Ack | Nak | Stall | Fail;
    }
);

export interface DeviceDefinition<S> {
  readonly vendorId: number;
  readonly productId: number;
  /** bcdDevice. Default 0x0100. */
  readonly deviceVersion?: number;
  readonly speed: Speed;
  /** bDeviceClass and so on. Default 0: the interfaces say. */
  readonly class?: number;
  readonly subclass?: number;
  readonly protocol?: number;
  readonly strings?: {
    readonly manufacturer?: string;
    readonly product?: string;
    readonly serialNumber?: string;
  };
  /** Makes the state that every handler gets; called once, when the device is made. */
  readonly state: (bus: Bus) => S;
  readonly configurations: readonly ConfigurationDefinition<S>[];
  readonly onControl?: readonly ControlRow<S>[];
  /** Bus reset, a new configuration, or a new client: forget what was under way. */
  readonly onReset?: (state: S) => void;
  /** An alternate setting was chosen: forget what was under way on that interface. */
  readonly onInterface?: (state: S, interfaceNumber: number, alternate: number) => void;
  /** The host cleared the halt of an endpoint. */
  readonly onClearHalt?: (state: S, address: number) => void;
  /** A transfer at this endpoint was unlinked after handlers had moved part of it. */
  readonly onUnlink?: (state: S, address: number) => void;
  /** The client has gone. Resolves when the device is ready for another one. */
  readonly onRelease?: (state: S) => Promise<void> | void;
  /** The device is taken out of the gateway: close files and sockets. */
  readonly onDispose?: (state: S) => Promise<void> | void;
}

/** Says what `S` is and checks the definition's types. */
export function defineDevice<S>(definition: DeviceDefinition<S>): DeviceDefinition<S> {
  return definition;
}
