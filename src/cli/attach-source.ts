/** Where the device of an attachment comes from, and how it is given to vhci. */
import { importDevice } from '../usbip/client.ts';
import { controlWithin } from '../usbip/control-within.ts';
import { DirectLink } from '../usbip/direct-link.ts';
import { findBusId } from '../usbip/find-device.ts';
import type { RelayDevice } from '../usbip/relay-device.ts';
import { readDescriptors, readEndpoints } from '../usbip/remote-descriptors.ts';
import { formatAddress } from '../usbip/server.ts';
import type { PortRecord, Vhci } from '../usbip/vhci.ts';
import { type LinkOptions, VhciLink } from '../usbip/vhci-link.ts';
import { type AttachmentStatus, type RemoteRequest, readIdentity } from './attach-protocol.ts';

export type Link = VhciLink | DirectLink;

/** What `urbgate port` shows of a source. */
export type SourceStatus = Pick<
  AttachmentStatus,
  'server' | 'busId' | 'device' | 'direct' | 'stallProtocol'
>;

export interface Source {
  readonly status: SourceStatus;
  /** For `usbip port`, which calls it HOST, PORT and BUSID. */
  readonly record: PortRecord;
  /**
   * Gives the device to vhci.
   *
   * @param options See `LinkOptions`.
   * @throws {UserError} if it is not there now, or vhci does not take it.
   */
  attach(vhci: Vhci, options?: LinkOptions): Promise<Link>;
}

/** Puts a relay between a device and vhci. The device is let go of if that fails. */
export async function relay(
  device: RelayDevice,
  vhci: Vhci,
  options: LinkOptions,
): Promise<VhciLink> {
  try {
    const pipe = controlWithin(device);
    const endpoints = await readEndpoints(pipe, await readDescriptors(pipe));
    return new VhciLink(device, endpoints, vhci, options);
  } catch (error) {
    await device.close();
    throw error;
  }
}

/** A device of a USB/IP server. */
export class RemoteSource implements Source {
  readonly #request: RemoteRequest;
  #busId: string | null = null;
  #stallProtocol: boolean | null = null;

  constructor(request: RemoteRequest) {
    this.#request = request;
  }

  get status(): SourceStatus {
    const { server, busId, device, direct } = this.#request;
    return {
      server: formatAddress(server),
      busId: this.#busId ?? busId ?? null,
      device: device ?? null,
      direct,
      stallProtocol: this.#stallProtocol,
    };
  }

  get record(): PortRecord {
    const { host, port } = this.#request.server;
    return { host, service: String(port), busId: this.#busId ?? '?' };
  }

  async attach(vhci: Vhci, options: LinkOptions = {}): Promise<Link> {
    const { server, device, direct } = this.#request;
    const busId = this.#request.busId ?? (await findBusId(server, readIdentity(device ?? '')));
    this.#busId = busId;
    if (direct) return await DirectLink.attach(server, busId, vhci, options.wantedPort);
    const { onBug } = options;
    const remote = await importDevice(server, busId, { holdBack: 'all', ...(onBug && { onBug }) });
    this.#stallProtocol = remote.stallProtocol;
    return await relay(remote, vhci, options);
  }
}
