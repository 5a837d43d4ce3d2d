/** From a device of this machine to one that can be exported, with every reason why not. */
import { UserError } from '../../errors.ts';
import { ARCHITECTURES, ERRNO } from './abi.ts';
import { usesOf } from './in-use.ts';
import { isUsbfsSupported, openUsbfsFile, type UsbfsFile } from './kernel.ts';
import { type HostDevice, hasDriver, nodePathOf } from './sysfs.ts';
import { ClaimError, UsbfsDevice } from './usbfs-device.ts';

export interface OpenHostOptions {
  /** Also if the machine uses it. */
  readonly force: boolean;
  readonly onGone: () => void;
}

/** The device is there, but may not be opened (yet): udev takes a moment. */
export class NotPermitted extends UserError {}

/**
 * Takes a device from the kernel's drivers.
 *
 * @throws {UserError} if it cannot be had, or the machine uses it.
 */
export async function openHostDevice(
  device: HostDevice,
  options: OpenHostOptions,
): Promise<UsbfsDevice> {
  const refuse = (what: string) => new UserError(`Cannot export usb:${device.busId}: ${what}`);
  if (!isUsbfsSupported()) {
    throw refuse(
      `this is ${process.platform} on ${process.arch}, wanted Linux on ${ARCHITECTURES.join(', ')}`,
    );
  }
  if (device.isHub) throw refuse('it is a hub, wanted a device');
  if (device.isRemote) throw refuse('it is attached over USB/IP, wanted a device of this machine');
  const uses = options.force ? [] : usesOf(device.folder);
  if (uses.length > 0) throw refuse(`${uses.join(', ')}; end that, or add the option force`);
  try {
    // Without a driver it may have been left in the middle of something, by a gateway that was killed.
    const isStray = !hasDriver(device);
    return await UsbfsDevice.take(openFile(device), { ...device, isStray, onGone: options.onGone });
  } catch (error) {
    if (!(error instanceof ClaimError)) throw error;
    if (error.errno === ERRNO.EBUSY) {
      throw refuse('another program has an interface of it, wanted none');
    }
    throw refuse(`the kernel does not give its interfaces (errno ${error.errno})`);
  }
}

function openFile(device: HostDevice): UsbfsFile {
  const path = nodePathOf(device);
  try {
    return openUsbfsFile(path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM') {
      throw new NotPermitted(
        `Cannot export usb:${device.busId}: ${path} may not be written, wanted the rights; ` +
          `see urbgate udev-rule usb:${device.vendorId}:${device.productId}`,
      );
    }
    throw new UserError(`Cannot export usb:${device.busId}: ${message}`);
  }
}
