/**
 * What programs import from `urbgate`: to define devices and to serve them, and to use those of
 * servers (docs/library.md).
 *
 * ```ts
 * import { connect, defineDevice, serve, VirtualDevice } from 'urbgate';
 *
 * const serving = await serve(new VirtualDevice(defineDevice({ ... })));
 * const device = await connect({ host: '127.0.0.1' }).importDevice('1-1');
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
export { timedRecovery } from './core/recovery.ts';
export { type Export, Registry } from './core/registry.ts';
export type { SessionOptions } from './core/session.ts';
export type {
  Handler,
  PacketRequest,
  PacketResult,
  Transfer,
  TransferResult,
} from './core/transfer.ts';
export { type ImportOptions, importDevice, RemoteDevice } from './usbip/client.ts';
export {
  Connection,
  connect,
  type ServeOptions,
  type ServerAddress,
  type Serving,
  serve,
} from './usbip/library.ts';
export { type ListedDevice, listDevices } from './usbip/list-client.ts';
export type { Pending } from './usbip/pending.ts';
export { openRemote } from './usbip/remote-device.ts';
export { type ListenAddress, type ServerOptions, UsbipServer } from './usbip/server.ts';
export { RemoteUsb, type RemoteUsbOptions, UsbConnectionEvent } from './usbip/webusb.ts';
export { WebUsbDevice } from './usbip/webusb-device.ts';
export type * from './usbip/webusb-types.ts';
