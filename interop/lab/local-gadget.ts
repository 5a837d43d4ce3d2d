/**
 * USB devices inside a guest, made by the kernel: a gadget on dummy_hcd, which plays the host's
 * controller and the device's at once. They are the reference to compare a gateway with.
 */

import type { Guest } from './guest.ts';

export interface GadgetOptions {
  /** configfs name of the function, e.g. `SourceSink.0`, `hid.usb0`, `mass_storage.0`. */
  function: string;
  /** Files of the function's folder to write, e.g. `{ pattern: '0' }`. */
  attributes?: Readonly<Record<string, string>>;
  /** 0525 by default: with a4a0, "Gadget Zero", usbtest binds to it. */
  vendorId?: string;
  productId?: string;
  serialNumber?: string;
  /** Called before it is plugged in, when the function is there: for a program that serves it. */
  serve?: () => Promise<void>;
}

/** Where a USB device of a guest is. */
export interface GuestUsbDevice {
  /** Name in sysfs, e.g. 1-1. */
  busid: string;
  /** Folder in sysfs. */
  sysfs: string;
  /** Device file of usbfs. */
  node: string;
}

export interface Gadget extends GuestUsbDevice {
  serialNumber: string;
  /** Unplugs the device and takes the gadget apart. */
  remove(): Promise<void>;
}

/** How many devices there can be at a time in a guest. */
const CONTROLLERS = 8;

const GADGETS = '/sys/kernel/config/usb_gadget';

let count = 0;

/**
 * Makes a gadget and waits until the guest has configured it as a device.
 *
 * @throws Error if no controller is free or takes it, or nothing appears
 */
export async function createGadget(guest: Guest, options: GadgetOptions): Promise<Gadget> {
  const folder = `${GADGETS}/lab${count++}`;
  const serialNumber = options.serialNumber ?? `lab-${count}`;
  const attributes = Object.entries(options.attributes ?? {})
    .map(([name, value]) => `printf '%s' '${value}' > functions/${options.function}/${name}`)
    .join('\n');
  await guest.succeed(`set -e
modprobe dummy_hcd num=${CONTROLLERS}
modprobe libcomposite
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
mkdir ${folder}
cd ${folder}
echo 0x${options.vendorId ?? '0525'} > idVendor
echo 0x${options.productId ?? 'a4a0'} > idProduct
mkdir strings/0x409
echo ${serialNumber} > strings/0x409/serialnumber
mkdir functions/${options.function}
${attributes}
mkdir configs/c.1
ln -s functions/${options.function} configs/c.1`);
  await options.serve?.();
  await guest.succeed(`cd ${folder}
for controller in $(ls /sys/class/udc); do echo $controller > UDC 2> /dev/null && break; done
[ -n "$(cat UDC)" ] || { echo 'Cannot plug in the gadget: no controller takes it' >&2; exit 1; }`);
  const device = await findDevice(guest, serialNumber);
  return { ...device, serialNumber, remove: () => removeGadget(guest, folder, options.function) };
}

async function removeGadget(guest: Guest, folder: string, name: string): Promise<void> {
  await guest.succeed(`set -e
cd ${folder}
echo > UDC
rm configs/c.1/${name}
rmdir configs/c.1 functions/${name} strings/0x409
cd /
rmdir ${folder}`);
}

/** Waits for a configured device with a serial number, and says where it is. */
export function findDevice(
  guest: Guest,
  serialNumber: string,
  timeoutSeconds = 20,
): Promise<GuestUsbDevice> {
  const hasSerial = `[ "$(cat $device/serial 2>/dev/null)" = '${serialNumber}' ]`;
  const what = `the USB device ${serialNumber}`;
  return findConfigured(guest, what, '/sys/bus/usb/devices/*', hasSerial, timeoutSeconds);
}

/**
 * Waits for a configured device.
 *
 * @param what - for the message
 * @param folders - where it may be in sysfs, in the shell's notation
 * @param condition - a command that is true of it, as `$device`
 * @throws Error if there is none in time
 */
export async function findConfigured(
  guest: Guest,
  what: string,
  folders: string,
  condition: string,
  timeoutSeconds: number,
): Promise<GuestUsbDevice> {
  // One loop in the guest, as each command costs a process under emulation.
  const { code, stdout } = await guest.run(
    `end=$(( $(date +%s) + ${timeoutSeconds} ))
while [ $(date +%s) -lt $end ]; do
  for device in ${folders}; do
    if ${condition} &&
       [ -n "$(cat $device/bConfigurationValue 2>/dev/null)" ]; then
      printf '%s /dev/bus/usb/%03d/%03d' $device $(cat $device/busnum) $(cat $device/devnum)
      exit 0
    fi
  done
  sleep 0.05
done
exit 1`,
    { timeoutSeconds: timeoutSeconds + 10 },
  );
  const [sysfs, node] = stdout.split(' ');
  if (code !== 0 || sysfs === undefined || node === undefined) {
    throw new Error(
      `Cannot find ${what}: none is configured within ${timeoutSeconds} s\n${guest.describe()}`,
    );
  }
  return { busid: sysfs.slice(sysfs.lastIndexOf('/') + 1), sysfs, node };
}
