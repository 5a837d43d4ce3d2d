/**
 * A device of another USB/IP server as one of this gateway's: `remote:HOST[:PORT]/BUSID`.
 *
 * The connection is made when the device is exported and stays until it is not exported any more;
 * the other server sees one client all that time. When that server goes, the device has gone for good:
 * `remote-source.ts` gets another.
 *
 * Queues: this gateway's session decides when a URB starts, as for any device, and gives one at a
 * time of each endpoint (isochronous ones: as many as there are). So nothing is at the other server
 * behind a URB that fails, whether or not it speaks the stall protocol; if it does, the session's
 * next URB carries clear-stall. The price is a round trip to that server for each URB.
 */
import type { DeviceHost, DeviceInfo, EndpointInfo, UsbDevice } from '../core/device.ts';
import { UserError } from '../core/errors.ts';
import type { Transfer } from '../core/transfer.ts';
import type { Urb } from '../core/urb.ts';
import { type ImportOptions, importDevice, type RemoteDevice } from './client.ts';
import { controlWithin } from './control-within.ts';
import type { Pending } from './pending.ts';
import { readDescriptors, readEndpoints, readString } from './remote-descriptors.ts';
import type { RemoteEndpoints } from './remote-endpoints.ts';
import { fillIn, transferOf } from './remote-urbs.ts';
import type { ListenAddress } from './server.ts';

/** SET_FEATURE(PORT_RESET), which servers take for a reset of the device. */
const RESET: Transfer = {
  endpoint: 0,
  type: 'control',
  setup: Buffer.from([0x23, 3, 4, 0, 0, 0, 0, 0]),
};
/** A server that does not reset within that time is not waited for. */
const RESET_MILLISECONDS = 2_000;

export class RemoteUsbDevice implements UsbDevice {
  readonly info: DeviceInfo;
  readonly queueModel = 'serial-but-isochronous';
  readonly #remote: RemoteDevice;
  readonly #endpoints: RemoteEndpoints;
  readonly #pendings = new Map<Urb, Pending>();
  /** URBs of those that the session wants back. */
  readonly #unwanted = new Set<Urb>();
  /** Resolves when the connection is gone: because `dispose` was called, or by itself. */
  readonly gone: Promise<'disposed' | 'lost'>;
  #host: DeviceHost | null = null;
  #isDisposed = false;

  /** Use `openRemote`. */
  constructor(remote: RemoteDevice, endpoints: RemoteEndpoints, label: string) {
    this.#remote = remote;
    this.#endpoints = endpoints;
    const { vendorId, productId, deviceVersion, subclass, protocol } = remote.record;
    this.info = {
      speed: endpoints.speed,
      vendorId,
      productId,
      deviceVersion,
      class: remote.record.class,
      subclass,
      protocol,
      configurationValue: endpoints.configurationValue,
      configurationCount: remote.record.configurationCount,
      interfaces: endpoints.interfaces,
      label,
    };
    this.gone = remote.closed.then(() => {
      this.#host?.removed();
      return this.#isDisposed ? 'disposed' : 'lost';
    });
  }

  endpoint(address: number): EndpointInfo | undefined {
    return this.#endpoints.endpoint(address);
  }

  open(host: DeviceHost): void {
    if (!this.#remote.isOpen) throw new UserError('Cannot open device: its server has gone');
    this.#host = host;
  }

  submit(urb: Urb): void {
    // The memory may be used again before a slow server has taken all.
    const dataOut = urb.pooled === null ? Buffer.from(urb.dataOut) : urb.dataOut;
    const transfer = transferOf(urb, this.#endpoints.speed, dataOut);
    const pending = this.#remote.submit(transfer, (result) => {
      this.#pendings.delete(urb);
      fillIn(urb, result);
      const isUnwanted = this.#unwanted.size > 0 && this.#unwanted.delete(urb);
      // The session would take it for untouched, and submit it again for as long as the server does so.
      if (urb.status === 'unlinked' && !isUnwanted) urb.status = 'protocol-error';
      if (urb.setup !== null && urb.status === 'ok') this.#endpoints.applied(urb.setup);
      this.#host?.completed(urb);
    });
    this.#pendings.set(urb, pending);
  }

  unlink(urb: Urb): void {
    const pending = this.#pendings.get(urb);
    if (pending === undefined) return;
    this.#unwanted.add(urb);
    this.#remote.unlink(pending);
  }

  reset(): void {
    void this.#remote.transferWithin(RESET, RESET_MILLISECONDS);
  }

  async close(): Promise<void> {
    this.#host = null;
    if (!this.#remote.isOpen) return;
    const { status } = await this.#remote.transferWithin(RESET, RESET_MILLISECONDS);
    if (status !== 'ok') return; // it stays as it was
    this.#endpoints.applied({ requestType: 0x23, request: 3, value: 4, index: 0, length: 0 });
  }

  giveUp(): void {
    this.#remote.giveUp();
  }

  async dispose(): Promise<void> {
    this.#isDisposed = true;
    await this.#remote.close();
  }
}

/**
 * Imports a device of another server.
 *
 * @throws {UserError} if that server cannot be reached or refuses, or the device does not answer.
 */
export async function openRemote(
  address: ListenAddress,
  busId: string,
  options: ImportOptions = {},
): Promise<RemoteUsbDevice> {
  const remote = await importDevice(address, busId, options);
  try {
    const pipe = controlWithin(remote);
    const descriptors = await readDescriptors(pipe);
    const endpoints = await readEndpoints(pipe, descriptors);
    const { manufacturer, product } = descriptors.device;
    const names = [await readString(pipe, manufacturer), await readString(pipe, product)];
    const label = names.filter(Boolean).join(' ') || 'remote device';
    // Nobody would hear of that any more.
    if (!remote.isOpen) throw new UserError(`Cannot import ${busId}: its server has gone`);
    return new RemoteUsbDevice(remote, endpoints, label);
  } catch (error) {
    await remote.close();
    throw error;
  }
}
