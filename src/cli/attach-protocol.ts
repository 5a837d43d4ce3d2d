/**
 * What `urbgate attach`, `port` and `detach` ask of the supervisor, and what it answers; over a
 * control socket like the gateway's, see control-protocol.ts.
 */
import { UserError } from '../core/errors.ts';
import type { AttachmentPhase } from '../usbip/attachment.ts';
import { type DeviceIdentity, formatIdentity, parseIdentity } from '../usbip/find-device.ts';
import { formatAddress, type ListenAddress } from '../usbip/server.ts';

/** A device of a server. */
export interface RemoteRequest {
  readonly command: 'attach';
  readonly server: ListenAddress;
  /** One of the two. */
  readonly busId?: string;
  /** VVVV:PPPP[:SERIAL] */
  readonly device?: string;
  readonly wait: boolean;
  readonly persist: boolean;
  readonly direct: boolean;
}

/** What is plugged into a controller of this Xen guest, and what will be. */
export interface RingRequest {
  readonly command: 'attach';
  /** N of device/vusb/N. */
  readonly controller: number;
  /** Only what is at these ports of the controller; from 1 on. None: all. */
  readonly ports: readonly number[];
  readonly wait: boolean;
  readonly persist: boolean;
}

/** What is to be attached, and how. */
export type AttachRequest = RemoteRequest | RingRequest;

export function isRing(request: AttachRequest): request is RingRequest {
  return 'controller' in request;
}

export type SupervisorRequest =
  | { readonly command: 'status' }
  | AttachRequest
  /** Number of a vhci port, id of an attachment, or "all". */
  | { readonly command: 'detach'; readonly target: string };

export interface AttachmentStatus {
  /** a1, a2, ...: for attachments that have no port now. */
  readonly id: string;
  /** HOST[:PORT]; xen:N for controller N of this guest. */
  readonly server: string;
  /**
   * Bus id at the server, as it was found last, or port of the controller. Null until it is known, and
   * for a controller itself, whose devices are attachments of their own.
   */
  readonly busId: string | null;
  /** What was asked for, when that was no bus id. */
  readonly device: string | null;
  readonly phase: AttachmentPhase;
  /** Number of the vhci port; null while there is none. */
  readonly port: number | null;
  /** Where the kernel has the device. */
  readonly localBusId: string | null;
  readonly direct: boolean;
  readonly wait: boolean;
  readonly persist: boolean;
  /** Whether the server keeps endpoints stopped by itself. */
  readonly stallProtocol: boolean | null;
  /** Why it is not attached now. */
  readonly why: string | null;
  /** How often it was attached, and ISO 8601 times of the last of each. */
  readonly attachedCount: number;
  readonly attachedSince: string | null;
  readonly lostSince: string | null;
  readonly urbs: number;
  readonly errors: number;
  readonly fences: number;
  readonly timedFences: number;
}

export interface SupervisorStatus {
  readonly pid: number;
  readonly attachments: readonly AttachmentStatus[];
}

/** What is attached, in words. */
export function targetText(request: AttachRequest): string {
  if (isRing(request)) return controllerText(request.controller);
  const { server, busId, device } = request;
  return `${formatAddress(server)}/${busId ?? device}`;
}

/** A controller of this guest, as `server` of an attachment has it. */
export function controllerText(controller: number): string {
  return `xen:${controller}`;
}

/** @throws {UserError} if it is none. */
export function readIdentity(text: string): DeviceIdentity {
  const identity = parseIdentity(text);
  if (identity !== undefined) return identity;
  throw new UserError(`Cannot attach ${text}: wanted VVVV:PPPP[:SERIAL] such as 0525:a4a0:12345`);
}

/**
 * @throws {UserError} if it is no request.
 */
export function parseSupervisorRequest(request: unknown): SupervisorRequest {
  const fields = (typeof request === 'object' && request !== null ? request : {}) as Record<
    string,
    unknown
  >;
  const refuse = (what: string) => new UserError(`Cannot answer control request: ${what}`);
  switch (fields.command) {
    case 'status':
      return { command: 'status' };
    case 'detach':
      if (typeof fields.target !== 'string') throw refuse('no target in it, wanted one');
      return { command: 'detach', target: fields.target };
    case 'attach':
      return parseAttach(fields, refuse);
    default:
      throw refuse('unknown command, wanted status, attach or detach');
  }
}

function parseAttach(
  fields: Record<string, unknown>,
  refuse: (what: string) => UserError,
): AttachRequest {
  const { server, busId, device, wait, persist, direct, controller, ports } = fields;
  if (typeof controller === 'number' && Array.isArray(ports)) {
    const wishes = { wait: wait === true, persist: persist === true };
    return { command: 'attach', controller, ports: ports.map(Number), ...wishes };
  }
  const { host, port } = (server ?? {}) as Record<string, unknown>;
  if (typeof host !== 'string' || typeof port !== 'number') throw refuse('no server in it');
  const one = typeof busId === 'string' ? { busId } : undefined;
  const other = typeof device === 'string' ? { device: formatIdentity(readIdentity(device)) } : {};
  if (one === undefined && other.device === undefined) throw refuse('no device in it');
  return {
    command: 'attach',
    server: { host, port },
    ...(one ?? other),
    wait: wait === true,
    persist: persist === true,
    direct: direct === true,
  };
}
