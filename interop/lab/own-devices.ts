/** Devices of a guest, exported by a gateway in it and attached there again by the stock client. */
import { strict as assert } from 'node:assert';
import { endGateways, type GuestGateway, startGatewayInGuest } from './gateway.ts';
import type { Guest } from './guest.ts';
import type { GuestUsbDevice } from './local-gadget.ts';
import { type AttachedDevice, attach, detachAll, ports } from './usbip.ts';

/** How a gateway takes a device of the guest. */
export interface OwnGateway {
  /** Default: `usbfs`. */
  backend?: 'usbfs' | 'webusb';
  /** More arguments to `serve`. */
  arguments?: readonly string[];
}

/** Starts a gateway that exports one SPEC, with something to export. @throws Error with its log */
export async function serveOwn(
  guest: Guest,
  spec: string,
  gatewayArguments: readonly string[] = [],
): Promise<GuestGateway> {
  const options = { exports: [spec], arguments: ['--control', 'none', ...gatewayArguments] };
  const gateway = await startGatewayInGuest(guest, options);
  await gateway.process.printed(/Exporting .*\n/); // which it says after where it listens
  return gateway;
}

/** The bus id that a gateway has said last. */
export function exportedBusId(gateway: GuestGateway): string {
  const lines = [...gateway.process.stdout.matchAll(/xporting (\d[\d.-]*) /g)];
  const busId = lines.at(-1)?.[1];
  assert(busId !== undefined, gateway.process.stdout);
  return busId;
}

export function attachFrom(guest: Guest, gateway: GuestGateway): Promise<AttachedDevice> {
  const server = { address: '127.0.0.1', port: gateway.port };
  return attach(guest, exportedBusId(gateway), server, 60);
}

/** Serves a device of the guest, attaches it in the same guest, and tidies up. */
export async function throughGateway<T>(
  guest: Guest,
  { busid }: GuestUsbDevice,
  work: (device: AttachedDevice) => Promise<T>,
  gateway: OwnGateway = {},
): Promise<T> {
  const spec = `usb:${busid},backend=${gateway.backend ?? 'usbfs'}`;
  const serving = await serveOwn(guest, spec, gateway.arguments);
  const result = await work(await attachFrom(guest, serving));
  await detachAll(guest);
  await serving.stop();
  return result;
}

/**
 * For `afterEach`: leaves nothing of a test in the guest, whether it has passed or not. @throws
 * AssertionError if it has passed and the kernel complains
 */
export async function tidyUp(guest: Guest, passed: boolean | undefined): Promise<void> {
  if (guest.alive) {
    await guest.run('umount /mnt 2>/dev/null');
    await detachAll(guest).finally(() => endGateways(guest));
  }
  if (passed) assert.deepEqual(guest.kernelComplaints(), []);
}

/** A gateway that has let go of its devices, or is about to, comes to have no file of usbfs open. */
export async function holdsNoDevice(guest: Guest, { pid }: GuestGateway): Promise<void> {
  await guest.succeed(
    `for try in $(seq 100); do
       readlink /proc/${pid}/fd/* | grep -q bus/usb || exit 0
       sleep 0.1
     done
     ls -l /proc/${pid}/fd >&2
     exit 1`,
  );
}

/** Drivers of a device's interfaces, by interface. */
export function driversOf(guest: Guest, sysfs: string): Promise<string> {
  return guest.succeed(
    `sleep 1; for i in ${sysfs}/*:*; do echo \${i##*:} $(basename $(readlink $i/driver)); done`,
  );
}

/** Reads a disk, and goes on until `unplug` has unplugged it and the client has let go of it. */
export async function unplugWhileRead(
  guest: Guest,
  disk: string,
  unplug: () => Promise<void>,
): Promise<void> {
  const load = guest.start(
    `while dd if=/dev/${disk} of=/dev/null bs=1M iflag=direct 2>/dev/null; do :; done; echo over`,
  );
  load.end();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await unplug();
  await load.printed(/over/, 60);
  await load.result(30);
  for (let tries = 0; (await ports(guest)).length > 0; tries++) {
    assert(tries < 100, 'the client still has the device');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
