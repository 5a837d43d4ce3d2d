/** From a device of this machine to one that can be exported, with every reason why not. */
import { UserError } from '../../errors.ts';
import {
  type HostBackend,
  NotPermitted,
  type OpenHostOptions,
  refuseUnfit,
  refuseUsed,
} from '../host/device.ts';
import { usesOf } from '../host/in-use.ts';
import {
  driversOf,
  listPluggedDevices,
  nodePathOf,
  readHostDevice,
  type SysfsDevice,
  type SysfsHostDevice,
} from '../host/sysfs.ts';
import { ARCHITECTURES, ERRNO } from './abi.ts';
import { isUsbfsSupported, openUsbfsFile, type UsbfsFile } from './kernel.ts';
import { ClaimError, UsbfsDevice } from './usbfs-device.ts';

export const usbfsBackend: HostBackend<SysfsDevice, SysfsHostDevice> = {
  list: async () => listPluggedDevices(),
  read: readHostDevice,
  open: openHostDevice,
};

/**
 * Takes a device from the kernel's drivers.
 *
 * @throws {UserError} if it cannot be had, or the machine uses it.
 */
async function openHostDevice(
  device: SysfsHostDevice,
  options: OpenHostOptions,
): Promise<UsbfsDevice> {
  const refuse = (what: string) => new UserError(`Cannot export usb:${device.busId}: ${what}`);
  if (!isUsbfsSupported()) {
    throw refuse(
      `this is ${process.platform} on ${process.arch}, wanted Linux on ${ARCHITECTURES.join(', ')}`,
    );
  }
  refuseUnfit(device);
  if (!options.force) refuseUsed(device, usesOf(device.folder));
  try {
    // Without a driver it may have been left in the middle of something, by a gateway that was killed.
    const isStray = driversOf(device.folder, device.busId).length === 0;
    return await UsbfsDevice.take(openFile(device), { ...device, ...options, isStray });
  } catch (error) {
    if (error instanceof RangeError) throw refuse(error.message);
    if (!(error instanceof ClaimError)) throw error;
    if (error.errno === ERRNO.EBUSY) {
      throw refuse('another program has an interface of it, wanted none');
    }
    throw refuse(`the kernel does not give its interfaces (errno ${error.errno})`);
  }
}

function openFile(device: SysfsHostDevice): UsbfsFile {
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
