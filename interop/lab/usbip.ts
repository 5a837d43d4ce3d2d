/**
 * Drives the stock `usbip` client in a guest, and waits for what it brings about.
 *
 * `usbip attach` returns when the kernel has taken the connection; the device appears later. So
 * every function here waits, with a deadline, until the kernel shows the result in sysfs.
 */

import { GATEWAY_ADDRESS, type Guest } from './guest.ts';
import type { GuestUsbDevice } from './local-gadget.ts';

/** A server to attach from. */
export interface UsbipServer {
  address: string;
  port: number;
}

/** The gateway that {@link Guest.forward} leads to. */
export const FORWARDED_SERVER: UsbipServer = { address: GATEWAY_ADDRESS, port: 3240 };

/** A line of `usbip list -r`. */
export interface ListedDevice {
  busid: string;
  /** Four hexadecimal digits. */
  vendorId: string;
  productId: string;
}

export interface AttachedDevice extends GuestUsbDevice {
  /** Number of the vhci port, for {@link detach}. */
  port: number;
  /** The bus id on the server. */
  remoteBusid: string;
  /** How long `usbip attach` took, by the guest's clock. */
  attachSeconds: number;
  /** How long until the device was configured, from the call, by the host's clock. */
  configuredSeconds: number;
}

/** A port of vhci that is in use. */
export interface VhciPort {
  port: number;
  /** Bus id in the guest, '0-0' until the device is enumerated. */
  busid: string;
  /** `notassigned` until the device has an address, `used`, or `error`. */
  state: 'notassigned' | 'used' | 'error';
}

/**
 * A shell function that runs the tool, again if need be: it cannot start while another device is
 * being enumerated, when vhci names a device that sysfs does not have yet.
 */
const RETRY = `retry() {
  for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    printed=$("$@" 2>&1) && return 0
    case $printed in *'open vhci_driver'*) sleep 0.1;; *) break;; esac
  done
  echo "$printed" >&2
  return 1
}`;

/** Loads the kernel's virtual host controller. */
export async function loadVhci(guest: Guest): Promise<void> {
  await guest.succeed('modprobe vhci-hcd');
}

/** What a server offers. @throws Error if it does not answer */
export async function list(guest: Guest, server = FORWARDED_SERVER): Promise<ListedDevice[]> {
  const printed = await guest.succeed(`usbip --tcp-port ${server.port} list -r ${server.address}`);
  const lines = printed.matchAll(/^\s+([\d.-]+): .*\(([0-9a-f]{4}):([0-9a-f]{4})\)$/gm);
  return [...lines].map(([, busid = '', vendorId = '', productId = '']) => ({
    busid,
    vendorId,
    productId,
  }));
}

/**
 * Attaches a device and waits until the guest has configured it.
 *
 * @throws Error with the tool's message if it is refused, or if the device does not come up
 */
export async function attach(
  guest: Guest,
  remoteBusid: string,
  server: UsbipServer = FORWARDED_SERVER,
  timeoutSeconds = 20,
): Promise<AttachedDevice> {
  const before = performance.now();
  const tool = `usbip --tcp-port ${server.port} attach -r ${server.address} -b ${remoteBusid}`;
  // The tool leaves "address port busid" in a file named after the vhci port.
  const record = `${server.address} ${server.port} ${remoteBusid}`;
  // Two of them at once may choose the same port, and the loser then tries it for ever.
  const found = await guest.run(
    `${RETRY}
exec 9> /run/usbip-attach.lock
flock 9
read from idle < /proc/uptime
retry ${tool} || exit 1
read to idle < /proc/uptime
port=$(grep -lx '${record}' $(ls -t /var/run/vhci_hcd/port*) | head -1)
echo \${port##*/port} $from $to`,
    { timeoutSeconds },
  );
  const [port = Number.NaN, from = 0, to = 0] = found.stdout.split(/\s+/).map(Number.parseFloat);
  if (found.code !== 0) {
    throw new Error(
      `Cannot attach ${remoteBusid}: ${tool} ended with ${found.code}, 0 is wanted\n` +
        `${found.stdout}${found.stderr}`,
    );
  }
  if (Number.isNaN(port)) {
    throw new Error(
      `Cannot attach ${remoteBusid}: no vhci port holds it after ${tool}\n${guest.describe()}`,
    );
  }
  const attachSeconds = to - from;
  const device = await waitConfigured(guest, remoteBusid, port, timeoutSeconds);
  const configuredSeconds = (performance.now() - before) / 1000;
  return { ...device, port, remoteBusid, attachSeconds, configuredSeconds };
}

/** Where vhci shows the state of its ports: "hub port state speed device socket busid" lines. */
export const VHCI_STATUS = '/sys/devices/platform/vhci_hcd.0/status*';

export async function waitConfigured(
  guest: Guest,
  remoteBusid: string,
  port: number,
  timeoutSeconds: number,
): Promise<GuestUsbDevice> {
  const { code, stdout } = await guest.run(
    `end=$(( $(date +%s) + ${timeoutSeconds} ))
while [ $(date +%s) -lt $end ]; do
  set -- $(grep -h '^[hs]s  *0*${port} ' ${VHCI_STATUS})
  device=/sys/bus/usb/devices/$7
  if [ "$3" = 004 ]; then echo "the port has gone back to unused: $*"; exit 1; fi
  if [ -n "$(cat $device/bConfigurationValue 2>/dev/null)" ]; then
    printf '%s %s /dev/bus/usb/%03d/%03d' $7 $device $(cat $device/busnum) $(cat $device/devnum)
    exit 0
  fi
  sleep 0.02
done
echo "port: $*"
exit 1`,
    { timeoutSeconds: timeoutSeconds + 10 },
  );
  const [busid, sysfs, node] = stdout.split(' ');
  if (code === 0 && busid !== undefined && sysfs !== undefined && node !== undefined) {
    return { busid, sysfs, node };
  }
  throw new Error(
    `Cannot use ${remoteBusid} on vhci port ${port}: ${stdout.trim()}, a configured device is ` +
      `wanted within ${timeoutSeconds} s\n${guest.describe()}`,
  );
}

const STATES: Record<string, VhciPort['state']> = {
  '005': 'notassigned',
  '006': 'used',
  '007': 'error',
};

/** The ports of vhci that are in use. */
export async function ports(guest: Guest): Promise<VhciPort[]> {
  const used: VhciPort[] = [];
  for (const line of (await guest.succeed(`cat ${VHCI_STATUS}`)).split('\n')) {
    const [, port = '', number = '', , , , busid = ''] = line.trim().split(/\s+/);
    const state = STATES[number];
    if (state !== undefined) used.push({ port: Number(port), busid, state });
  }
  return used;
}

/** Detaches a device and waits until its port is free again. */
export async function detach(guest: Guest, port: number, timeoutSeconds = 20): Promise<void> {
  await guest.succeed(
    `${RETRY}
retry usbip detach -p ${port}`,
    { timeoutSeconds },
  );
  await waitFree(guest, [port], timeoutSeconds);
}

/** Detaches everything, also what is only half attached. */
export async function detachAll(guest: Guest, timeoutSeconds = 30): Promise<void> {
  const used = (await ports(guest)).map(({ port }) => port);
  const command = used.map((port) => `retry usbip detach -p ${port}`).join('\n');
  await guest.run(`${RETRY}\n${command}`, { timeoutSeconds });
  await waitFree(guest, used, timeoutSeconds);
}

/**
 * Waits until vhci ports are free and their devices gone: after a detach, or as the guest learns
 * that a server has died.
 */
export async function waitFree(
  guest: Guest,
  portNumbers: readonly number[],
  timeoutSeconds = 20,
): Promise<void> {
  const end = performance.now() + timeoutSeconds * 1000;
  for (;;) {
    const used = (await ports(guest)).filter(({ port }) => portNumbers.includes(port));
    if (used.length === 0) return;
    if (performance.now() > end) {
      const which = used.map(({ port, busid, state }) => `${port} (${busid}, ${state})`).join(', ');
      throw new Error(
        `Cannot free the vhci ports ${which}: they are in use, none is wanted after ` +
          `${timeoutSeconds} s\n${guest.describe()}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
