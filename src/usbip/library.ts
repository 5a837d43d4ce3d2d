/**
 * The two ways into the library for programs: `connect` to use devices of a server, `serve` to be
 * one. Everything that they put together is exported as well, for programs that want it otherwise.
 */
import type { UsbDevice } from '../core/device.ts';
import { Registry } from '../core/registry.ts';
import { type ImportOptions, importDevice, type RemoteDevice } from './client.ts';
import { busIdOf } from './find-device.ts';
import { type ListedDevice, listDevices } from './list-client.ts';
import { USBIP_PORT } from './protocol.ts';
import { type ListenAddress, type ServerLog, UsbipServer } from './server.ts';
import { RemoteUsb, type RemoteUsbOptions } from './webusb.ts';

export interface ServerAddress {
  readonly host: string;
  /** Default: 3240. */
  readonly port?: number;
}

/** A USB/IP server, as programs see it. No connection stays open but those of imported devices. */
export class Connection {
  readonly address: ListenAddress;

  constructor({ host, port = USBIP_PORT }: ServerAddress) {
    this.address = { host, port };
  }

  /** @throws {UserError} if the server cannot be reached in time, or is none. */
  listDevices(): Promise<readonly ListedDevice[]> {
    return listDevices(this.address);
  }

  /**
   * Imports a device, by bus id or by VVVV:PPPP[:SERIAL].
   *
   * @throws {UserError} if the server has no such device, or somebody else has it.
   */
  async importDevice(which: string, options?: ImportOptions): Promise<RemoteDevice> {
    return await importDevice(this.address, await busIdOf(this.address, which), options);
  }

  /** WebUSB for this server's devices. */
  usb(options?: RemoteUsbOptions): RemoteUsb {
    return new RemoteUsb(this.address, options);
  }
}

export function connect(address: ServerAddress): Connection {
  return new Connection(address);
}

export interface ServeOptions {
  /** Default: 127.0.0.1, for USB/IP has no authentication. */
  readonly host?: string;
  /** 0 for a free one; default: 3240. */
  readonly port?: number;
  readonly log?: ServerLog;
}

export interface Serving {
  readonly address: ListenAddress;
  /** More devices can be added, and devices removed. */
  readonly registry: Registry;
  /** Lets clients go, then lets go of the devices. */
  close(): Promise<void>;
}

const SILENT: ServerLog = { info: () => {}, warn: () => {} };

/**
 * Serves devices to USB/IP clients, as 1-1, 1-2, ...
 *
 * @throws {UserError} if the address cannot be had.
 */
export async function serve(
  devices: UsbDevice | readonly UsbDevice[],
  { host = '127.0.0.1', port = USBIP_PORT, log = SILENT }: ServeOptions = {},
): Promise<Serving> {
  const registry = new Registry();
  for (const device of [devices].flat()) registry.add(device, device.info.label);
  const server = new UsbipServer({ registry, log });
  const address = await server.listen({ host, port });
  const close = async () => {
    await server.close();
    // One that does not let go is no reason to keep the others.
    const removals = registry.list().map(({ busId }) => registry.remove(busId));
    await Promise.allSettled(removals);
    await Promise.all(removals);
  };
  return { address, registry, close };
}
