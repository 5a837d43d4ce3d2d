/**
 * Lines of a domain's configuration that give it USB, by a back end of ours or by the control.
 *
 * `xl` calls a back end that is no device model "pv", and its nodes in xenstore "vusb". It makes
 * the nodes and then waits, for 10 s at most, until the back end has written state 2; in the same
 * way it writes state 5 when the domain ends, and waits for 6. So the back end runs first.
 */

import type { GuestUsbDevice } from './local-gadget.ts';
import { XEN_QEMU } from './xen-files.ts';

/** A controller without devices, for a back end that watches backend/vusb in xenstore. */
export function vusbConfiguration({ version = 2, ports = 4 } = {}): string[] {
  return [`usbctrl=['type=pv,version=${version},ports=${ports}']`];
}

/**
 * A device of dom0, by the back end of Xen's own QEMU, on a controller with 4 ports. It is a
 * control for tests of ours: it does not stop an endpoint's queue when a transfer on it fails.
 */
export function qusbConfiguration({ node }: GuestUsbDevice): string[] {
  const [device, bus] = node.split('/').reverse().map(Number);
  return [
    `device_model_override="${XEN_QEMU}"`,
    "usbctrl=['type=qusb,version=2,ports=4']",
    `usbdev=['type=hostdev,hostbus=${bus},hostaddr=${device}']`,
  ];
}
