/** `urbgate attach --xen` in a domain whose kernel has no front end for USB. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
import { findConfigured, type GuestUsbDevice } from './local-gadget.ts';
import { checkoutFolder } from './paths.ts';
import { urbgateCommand } from './urbgate-attach.ts';
import { createDomain, type Domain, type DomainOptions } from './xen-domain.ts';

/** What the kernel's part of it is: pages, events, and vhci. */
const MODULES = ['xen-gntalloc', 'xen-gntdev', 'xen-evtchn', 'vhci-hcd'];
/** Node.js and the initramfs that holds it. */
const MEMORY_MEBIBYTES = 768;
/** Node takes its time under emulation. */
const START_SECONDS = 180;

/** A domain that has Node.js and the build, and no xen-hcd. Its modules are loaded. */
export async function createDomainWithUrbgate(
  dom0: Guest,
  options: DomainOptions,
): Promise<Domain> {
  const domain = await createDomain(dom0, {
    memoryMebibytes: MEMORY_MEBIBYTES,
    ...options,
    xenHcd: false,
    modules: [...MODULES, ...(options.modules ?? [])],
    programs: [process.execPath, '/usr/sbin/usbip', ...(options.programs ?? [])],
    files: urbgateFiles(),
  });
  await domain.guest.succeed(`modprobe -a ${MODULES.join(' ')}`, { timeoutSeconds: 120 });
  return domain;
}

/** The build, and the packages that it needs when it runs. */
function urbgateFiles(): string[] {
  const folder = checkoutFolder();
  const lock = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8'));
  const packages = Object.entries<{ dev?: boolean }>(lock.packages)
    .filter(([name, { dev }]) => name !== '' && !dev)
    .map(([name]) => join(folder, name))
    .filter((path) => existsSync(path)); // those of other machines are not installed
  return [join(folder, 'package.json'), join(folder, 'dist', 'src'), ...packages];
}

/** Starts the supervisor with a controller attached, and waits until it is. */
export async function attachXen(guest: Guest, options = ''): Promise<GuestProcess> {
  const supervisor = guest.start(
    `exec ${urbgateCommand(`attach --xen ${options} --foreground --verbose`)} 2>&1`,
  );
  supervisor.end();
  await supervisor.printed(/Attached xen:\d+ /, START_SECONDS);
  return supervisor;
}

/** Where the kernel has the device of a port of the controller; vhci shows them by that number. */
function ringDevices(port: number): string {
  const number = port.toString(16).padStart(8, '0');
  const show = `$3 == "006" && $5 == "${number}" { print "/sys/bus/usb/devices/" $7 }`;
  return `$(awk '${show}' /sys/devices/platform/vhci_hcd.0/status*)`;
}

/** The device in a port of controller 0, when the domain has configured it. */
export function ringDevice(
  guest: Guest,
  port: number,
  timeoutSeconds = 60,
): Promise<GuestUsbDevice> {
  const what = `a device of port ${port}`;
  return findConfigured(guest, what, ringDevices(port), 'true', timeoutSeconds);
}

/** Waits until vhci has no device of that port any more. */
export async function ringDeviceGone(guest: Guest, port: number): Promise<void> {
  await guest.succeed(
    `for try in $(seq 1200); do
  [ -z "${ringDevices(port)}" ] && exit 0
  sleep 0.05
done
echo 'the device of port ${port} is still there' >&2
exit 1`,
    { timeoutSeconds: 120 },
  );
}
