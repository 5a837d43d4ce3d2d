/**
 * The npm package `usb` as far as this back end uses it, tests supply their own, and what its errors
 * mean.
 *
 * The package (3.1.0, on nusb 0.2.7) has ways that its types do not tell, and that this back end is
 * built around:
 * - Every transfer has a deadline; at its end it is cancelled. Nothing else cancels one.
 * - A transfer that fails says why, but neither what it had moved nor what it had read.
 * - While any transfer of a device is outstanding, `claimInterface`, `releaseInterface`,
 *   `selectAlternateInterface` and `close` throw, and a second transfer on the same endpoint does too.
 * - `claimInterface` on an interface that is claimed ends with no claim: release it before.
 * - On Linux, `detachKernelDriver` on an interface that is claimed here takes the claim away, and ends
 *   its transfers as 'Disconnected'.
 */
import type { UrbStatus } from '../../urb.ts';

export interface ControlSetup {
  readonly requestType: 'standard' | 'class' | 'vendor';
  readonly recipient: 'device' | 'interface' | 'endpoint' | 'other';
  readonly request: number;
  readonly value: number;
  readonly index: number;
}

/** A device as the package has it; methods reject with an Error whose message says what happened. */
export interface PackageDevice {
  /** Another one each time that a device is plugged in. */
  readonly handle: string;
  readonly vendorId: number;
  readonly productId: number;
  readonly deviceClass: number;
  readonly usbVersionMajor: number;
  readonly bus: string;
  /** Device number; on Linux 0 while the device is reset. */
  readonly address: number;
  readonly ports: readonly number[];
  readonly speed?: string | undefined;
  /** These three may open the device, ask it, and throw. */
  readonly manufacturerName?: string | null;
  readonly productName?: string | null;
  readonly serialNumber?: string | null;
  open(): Promise<void>;
  close(): Promise<void>;
  reset(): Promise<void>;
  selectConfiguration(value: number): Promise<void>;
  claimInterface(interfaceNumber: number): Promise<void>;
  releaseInterface(interfaceNumber: number): Promise<void>;
  selectAlternateInterface(interfaceNumber: number, alternate: number): Promise<void>;
  clearHalt(direction: 'in' | 'out', endpointNumber: number): Promise<void>;
  detachKernelDriver(interfaceNumber: number): Promise<void>;
  attachKernelDriver(interfaceNumber: number): Promise<void>;
  /** The last argument, which the package's types do not have, is the deadline in milliseconds. */
  controlTransferIn(
    setup: ControlSetup,
    octets: number,
    milliseconds: number,
  ): Promise<{ data?: DataView }>;
  controlTransferOut(
    setup: ControlSetup,
    data: Uint8Array,
    milliseconds: number,
  ): Promise<{ bytesWritten: number }>;
  transferIn(number: number, octets: number, milliseconds: number): Promise<{ data?: DataView }>;
  transferOut(
    number: number,
    data: Uint8Array,
    milliseconds: number,
  ): Promise<{ bytesWritten: number }>;
}

export interface UsbPackage {
  getDevices(): Promise<readonly PackageDevice[]>;
}

/**
 * Loads the package, which is native code, when it is first needed.
 *
 * @throws {Error} if there is none for this machine.
 */
export async function loadPackage(): Promise<UsbPackage> {
  const { usb } = await import('usb');
  // Its types are those of browsers, which know no deadlines.
  return usb as unknown as UsbPackage;
}

/** How a transfer ended: 'cancelled' at its deadline. */
export type Ending = UrbStatus | 'cancelled';

/** What nusb calls its errors, in messages of bulk transfers and of all others. */
const ENDINGS: readonly (readonly [RegExp, Ending])[] = [
  [/\bCancelled$|transfer was cancelled$/, 'cancelled'],
  [/\bStall$|endpoint stalled$/, 'stall'],
  [/\bDisconnected$|device disconnected/, 'shutdown'],
  // Bit stuffing, CRC, no answer, babble: nusb makes one of all.
  [/\bFault$|hardware fault or protocol violation$/, 'protocol-error'],
  [/\bInvalidArgument$|invalid or unsupported argument$/, 'invalid'],
  // The interface is not claimed, or has no such endpoint in its setting.
  [/endpoint not found$|invalid state$/, 'shutdown'],
];
/** ENOMEM, the one system's error number that says something; Linux. */
const NO_MEMORY = /\bUnknown\(12\)$|unknown \(errno 12\)$/;

export function endingOf(error: unknown): Ending {
  const text = textOf(error);
  if (process.platform === 'linux' && NO_MEMORY.test(text)) return 'no-memory';
  return ENDINGS.find(([pattern]) => pattern.test(text))?.[1] ?? 'protocol-error';
}

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What was read, without a copy. */
export function octetsOf(data: DataView | undefined): Buffer {
  return data === undefined
    ? Buffer.alloc(0)
    : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
