/** Plugs devices of a gateway in dom0 into a domain, as `urbgate xen attach` does. */

import { findConfigured, type GuestUsbDevice } from './local-gadget.ts';
import type { Domain } from './xen-domain.ts';

/** Where the store has the port of a domain's first controller. */
export function portPath(domain: Domain, port: number): string {
  return `/local/domain/0/backend/vusb/${domain.id}/0/port/${port}`;
}

/** Has a device plugged in, or with an empty bus id whatever is there unplugged. */
export async function plugInto(domain: Domain, port: number, busId: string): Promise<void> {
  await domain.dom0.succeed(`xenstore-write ${portPath(domain, port)} '${busId}'`);
}

/** Plugs a device in and waits until the domain has configured it. */
export async function plugIn(
  domain: Domain,
  port: number,
  busId: string,
  timeoutSeconds = 20,
): Promise<GuestUsbDevice> {
  await plugInto(domain, port, busId);
  return plugged(domain, port, timeoutSeconds);
}

/** Where a domain's kernel has the device at a port of a controller. */
function deviceFolders(port: number): string {
  return `/sys/bus/xen/devices/vusb-*/usb*/*-${port}`;
}

/** The device at a port, when the domain has configured it. */
export function plugged(
  { guest }: Domain,
  port: number,
  timeoutSeconds = 20,
): Promise<GuestUsbDevice> {
  const what = `a device at port ${port}`;
  return findConfigured(guest, what, deviceFolders(port), 'true', timeoutSeconds);
}

/** Unplugs what is at a port and waits until the domain has noticed. */
export async function unplug(domain: Domain, port: number): Promise<void> {
  await plugInto(domain, port, '');
  await unpluggedAt(domain, port);
}

/** Waits until the domain has no device at a port. */
export async function unpluggedAt({ guest }: Domain, port: number): Promise<void> {
  await guest.succeed(
    `for try in $(seq 400); do
  ls -d ${deviceFolders(port)} > /dev/null 2>&1 || exit 0
  sleep 0.05
done
echo 'the device at port ${port} is still there' >&2
exit 1`,
  );
}
