/**
 * What programs import from `urbgate`: to define devices and to serve them.
 *
 * ```ts
 * import { defineDevice, Registry, UsbipServer, VirtualDevice } from 'urbgate';
 *
 * const registry = new Registry();
 * registry.add(new VirtualDevice(defineDevice({ ... })), 'my device');
 * const server = new UsbipServer({ registry, log: console });
 * await server.listen({ host: '127.0.0.1', port: 3240 });
 * ```
 */

export type * from './core/devices/virtual/definition.ts';
export {
  ack,
  data,
  defineDevice,
  fail,
  nak,
  stall,
  took,
} from './core/devices/virtual/definition.ts';
export { VirtualDevice, type VirtualDeviceOptions } from './core/devices/virtual/virtual-device.ts';
export { RemoteProtocolError, UserError } from './core/errors.ts';
export { DEFAULT_LIMITS, type SessionLimits } from './core/limits.ts';
export { type Export, Registry } from './core/registry.ts';
export { type SessionOptions, timedRecovery } from './core/session.ts';
export { type ImportOptions, importDevice, RemoteDevice } from './usbip/client.ts';
export { type ListedDevice, listDevices } from './usbip/list-client.ts';
export type { Pending } from './usbip/pending.ts';
export { openRemote } from './usbip/remote-device.ts';
export { type ListenAddress, type ServerOptions, UsbipServer } from './usbip/server.ts';
export type { PacketRequest, PacketResult, Transfer, TransferResult } from './usbip/transfer.ts';
export { RemoteUsb, type RemoteUsbOptions, UsbConnectionEvent } from './usbip/webusb.ts';
export { WebUsbDevice } from './usbip/webusb-device.ts';
export type * from './usbip/webusb-types.ts';
