/**
 * Real devices of this machine, whichever way they are reached: what is known of one that is plugged
 * in, and what a way to them (usbfs, the `usb` package) supplies.
 */
import type { Speed, UsbDevice } from '../../device.ts';
import { UserError } from '../../errors.ts';

/** What can be told at any time, without asking the device. */
export interface PluggedDevice {
  /** Its place, as Linux writes it: 1-1.2. */
  readonly busId: string;
  /** Another one each time that a device is plugged in. */
  readonly appearance: string;
  /** Four hexadecimal digits. */
  readonly vendorId: string;
  readonly productId: string;
  readonly isHub: boolean;
  /** It is at the kernel's USB/IP client: somebody else's device. */
  readonly isRemote: boolean;
  readonly speed: Speed;
}

export interface HostDevice extends PluggedDevice {
  /** '' if it has none. */
  readonly serialNumber: string;
  readonly label: string;
}

export interface OpenHostOptions {
  /** Also if the machine uses it. */
  readonly force: boolean;
  /** The device has been unplugged; every URB is back. Called once. */
  readonly onGone: () => void;
  /**
   * A bug has come up while no session had the device. Default: its error goes where exceptions go.
   */
  readonly onBug?: (error: unknown) => void;
}

/** One way to the devices of this machine. */
export interface HostBackend<Plugged extends PluggedDevice, Host extends HostDevice> {
  /**
   * Devices that are there now, root hubs left out.
   *
   * @throws {UserError} if the system does not tell.
   */
  list(): Promise<readonly Plugged[]>;
  /** Adds what may take its time to learn. */
  read(plugged: Plugged): Promise<Host>;
  /**
   * Takes a device from the machine's drivers.
   *
   * @throws {UserError} if it cannot be had, or the machine uses it.
   */
  open(device: Host, options: OpenHostOptions): Promise<UsbDevice>;
}

/** The device is there, but may not be opened (yet): udev takes a moment. */
export class NotPermitted extends UserError {}

/** What no back end exports. @throws {UserError} */
export function refuseUnfit(device: PluggedDevice): void {
  const refuse = (what: string) => new UserError(`Cannot export usb:${device.busId}: ${what}`);
  if (device.isHub) throw refuse('it is a hub, wanted a device');
  if (device.isRemote) throw refuse('it is attached over USB/IP, wanted a device of this machine');
}

/** @throws {UserError} if the machine uses the device in one of these ways. */
export function refuseUsed({ busId }: PluggedDevice, uses: readonly string[]): void {
  if (uses.length === 0) return;
  throw new UserError(
    `Cannot export usb:${busId}: ${uses.join(', ')}; end that, or add the option force`,
  );
}
