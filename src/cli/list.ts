/**
 * `urbgate list`: what a USB/IP server exports, ours or any other, in the words of `usbip list -r`.
 *
 * Without -r it asks this machine on the usual port, over the same protocol as everybody: what it
 * shows is what clients see.
 */
import { Command } from 'commander';
import { type ListedDevice, listDevices } from '../usbip/list-client.ts';
import { USBIP_PORT } from '../usbip/protocol.ts';
import { parseAddress } from './addresses.ts';
import { say, sayJson } from './output.ts';
import { type ClassTriple, hex, UsbIds } from './usb-ids.ts';

interface ListOptions {
  readonly remote: string;
  readonly json?: true;
}

export function listCommand(): Command {
  return new Command('list')
    .description('list what a USB/IP server exports')
    .option(
      '-r, --remote <address>',
      `HOST[:PORT] or [IPV6][:PORT], port ${USBIP_PORT} if not given`,
      '127.0.0.1',
    )
    .option('--json', 'for programs')
    .addHelpText('after', EXAMPLES)
    .action(list);
}

const EXAMPLES = `
Examples:
  urbgate list
  urbgate list -r 192.168.1.2:3241 --json`;

async function list({ remote, json }: ListOptions): Promise<void> {
  const server = parseAddress('list devices of', remote, 1);
  const devices = await listDevices(server);
  const ids = UsbIds.ofSystem();
  if (json) {
    sayJson(devices.map((device) => jsonOf(device, ids)));
    return;
  }
  for (const line of listLines(server.host, devices, ids)) say(line);
}

/** Line by line what `usbip list -r` prints (tools/usb/usbip/src/usbip_list.c). */
export function listLines(host: string, devices: readonly ListedDevice[], ids: UsbIds): string[] {
  if (devices.length === 0) return [`No exportable devices found on ${host}`];
  const heading = ['Exportable USB devices', '======================', ` - ${host}`];
  return [...heading, ...devices.flatMap((device) => deviceLines(device, ids))];
}

const INDENT = ' '.repeat(11);

function deviceLines(device: ListedDevice, ids: UsbIds): string[] {
  const { busId, vendorId, productId, path, interfaces } = device;
  const name = `${ids.vendor(vendorId)} : ${ids.product(vendorId, productId)}`;
  return [
    `${busId.padStart(11)}: ${name} (${hex(vendorId, 4)}:${hex(productId, 4)})`,
    `${INDENT}: ${path}`,
    `${INDENT}: ${classText(device, ids)}`,
    ...interfaces.map(
      (each, index) => `${INDENT}: ${String(index).padStart(2)} - ${classText(each, ids)}`,
    ),
    '',
  ];
}

function classText(triple: ClassTriple, ids: UsbIds): string {
  const numbers = [triple.class, triple.subclass, triple.protocol].map((each) => hex(each, 2));
  return `${ids.classes(triple)} (${numbers.join('/')})`;
}

/** Numbers as they are on the wire, and names for people. */
function jsonOf(device: ListedDevice, ids: UsbIds) {
  const { vendorId, productId } = device;
  return {
    ...device,
    deviceId: `${hex(vendorId, 4)}:${hex(productId, 4)}`,
    vendor: ids.vendor(vendorId),
    product: ids.product(vendorId, productId),
  };
}
