/**
 * The back end of Xen's own QEMU, as a control for tests of ours: it exports a device of dom0 to a
 * domain, and does not stop an endpoint's queue when a transfer on it fails.
 */

import type { GuestUsbDevice } from './local-gadget.ts';
import { XEN_QEMU } from './xen-files.ts';

/** Lines of a domain's configuration that give it a device of dom0, on a controller with 4 ports. */
export function qusbConfiguration({ node }: GuestUsbDevice): string[] {
  const [device, bus] = node.split('/').reverse().map(Number);
  return [
    `device_model_override="${XEN_QEMU}"`,
    "usbctrl=['type=qusb,version=2,ports=4']",
    `usbdev=['type=hostdev,hostbus=${bus},hostaddr=${device}']`,
  ];
}
