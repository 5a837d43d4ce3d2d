/**
 * The kernel's own USB/IP server, in a guest: usbipd and usbip-host export a local device.
 *
 * It is the control to compare a gateway with. It may oops (case 12 of usbtest), so it belongs in a
 * guest of its own, and everything run over it needs a time limit.
 */

import type { Guest } from './guest.ts';
import type { GuestUsbDevice } from './local-gadget.ts';
import type { UsbipServer } from './usbip.ts';

/** Exports a device of the guest to the guest itself. */
export async function exportByKernel(guest: Guest, device: GuestUsbDevice): Promise<UsbipServer> {
  await guest.succeed(`set -e
modprobe usbip-host
[ -n "$(pidof usbipd)" ] || usbipd -D
usbip bind -b ${device.busid}
end=$(( $(date +%s) + 10 ))
until usbip list -r 127.0.0.1 2>/dev/null | grep -q ' ${device.busid}:'; do
  [ $(date +%s) -lt $end ]
  sleep 0.1
done`);
  return { address: '127.0.0.1', port: 3240 };
}
