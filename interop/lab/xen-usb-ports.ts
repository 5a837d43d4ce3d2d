/** Plugs devices of a gateway in dom0 into a domain, as `urbgate xen attach` does. */

import type { GuestUsbDevice } from './local-gadget.ts';
import type { Domain } from './xen-domain.ts';

/** Where the store has the port of a domain's first controller. */
function portPath(domain: Domain, port: number): string {
  return `/local/domain/0/backend/vusb/${domain.id}/0/port/${port}`;
}

/** Plugs a device in and waits until the domain has configured it. */
export async function plugIn(
  domain: Domain,
  port: number,
  busId: string,
  timeoutSeconds = 20,
): Promise<GuestUsbDevice> {
  await domain.dom0.succeed(`xenstore-write ${portPath(domain, port)} '${busId}'`);
  return plugged(domain, port, timeoutSeconds);
}

/** The device at a port, when the domain has configured it. */
export async function plugged(
  { guest }: Domain,
  port: number,
  timeoutSeconds = 20,
): Promise<GuestUsbDevice> {
  const { code, stdout } = await guest.run(
    `end=$(( $(date +%s) + ${timeoutSeconds} ))
while [ $(date +%s) -lt $end ]; do
  for hub in /sys/bus/xen/devices/vusb-*/usb*; do
    device=$(echo $hub/*-${port})
    if [ -n "$(cat $device/bConfigurationValue 2>/dev/null)" ]; then
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
      `Cannot find a device at port ${port}: none is configured within ${timeoutSeconds} s\n` +
        guest.describe(),
    );
  }
  return { busid: sysfs.slice(sysfs.lastIndexOf('/') + 1), sysfs, node };
}

/** Unplugs what is at a port and waits until the domain has noticed. */
export async function unplug(domain: Domain, port: number): Promise<void> {
  await domain.dom0.succeed(`xenstore-write ${portPath(domain, port)} ''`);
  await domain.guest.succeed(
    `for try in $(seq 400); do
  ls -d /sys/bus/xen/devices/vusb-*/usb*/*-${port} > /dev/null 2>&1 || exit 0
  sleep 0.05
done
echo 'the device at port ${port} is still there' >&2
exit 1`,
  );
}
