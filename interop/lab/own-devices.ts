/** Devices of a guest, exported by a gateway in it and attached there again by the stock client. */
import { strict as assert } from 'node:assert';
import { type GuestGateway, startGatewayInGuest } from './gateway.ts';
import type { Guest } from './guest.ts';
import { type AttachedDevice, attach, ports } from './usbip.ts';

/** Starts a gateway that exports one SPEC, with something to export. @throws Error with its log */
export async function serveOwn(guest: Guest, spec: string): Promise<GuestGateway> {
  const options = { exports: [spec], arguments: ['--control', 'none'] };
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
