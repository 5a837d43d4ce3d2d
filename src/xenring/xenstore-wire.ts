/**
 * The xenstore wire protocol: messages of a 16-octet header and up to 4096 octets, both ways.
 *
 *   request   type, request id, transaction id, length | strings that end with NUL
 *   reply     the same type and ids, or type ERROR and the name of an error
 *   event     type WATCH_EVENT | path NUL token NUL     without a request
 *
 * Source: xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt. Numbers are in the host's
 * order; all hosts that Xen and this file know are little-endian.
 */
import { layout, u32le } from '../core/layout.ts';
import type { StorePermissions } from './platform.ts';

/** struct xsd_sockmsg. */
export const StoreHeader = layout('xsd_sockmsg', 16, {
  type: u32le,
  requestId: u32le,
  transactionId: u32le,
  payloadOctets: u32le,
});

/** enum xsd_sockmsg_type. */
export const STORE_TYPE = {
  directory: 1,
  read: 2,
  getPermissions: 3,
  watch: 4,
  unwatch: 5,
  transactionStart: 6,
  transactionEnd: 7,
  introduce: 8,
  write: 11,
  makeDirectory: 12,
  remove: 13,
  setPermissions: 14,
  watchEvent: 15,
  error: 16,
  directoryPart: 22,
} as const;

/** XENSTORE_PAYLOAD_MAX. */
export const PAYLOAD_OCTETS_MAX = 4096;
/** XENSTORE_ABS_PATH_MAX. */
export const PATH_OCTETS_MAX = 3072;

/** xsd_errors, and three of our own: a wrong message, no connection, too long for one message. */
export type StoreErrorCode =
  | 'EINVAL'
  | 'EACCES'
  | 'EEXIST'
  | 'EISDIR'
  | 'ENOENT'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'EIO'
  | 'ENOTEMPTY'
  | 'ENOSYS'
  | 'EROFS'
  | 'EBUSY'
  | 'EAGAIN'
  | 'EISCONN'
  | 'E2BIG'
  | 'EPERM'
  | 'EPROTO'
  | 'ECONNRESET'
  | 'EMSGSIZE';

/** What the store, or the connection to it, did not do. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  /** An error that a later version of the store has is here under its name, too. */
  readonly code: StoreErrorCode;

  constructor(code: StoreErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

export interface StoreMessage {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: Buffer;
}

/** @throws {StoreError} if the payload is longer than the protocol allows. */
export function encodeMessage(
  type: number,
  requestId: number,
  transactionId: number,
  payload: Buffer,
): Buffer {
  const payloadOctets = payload.length;
  if (payloadOctets > PAYLOAD_OCTETS_MAX)
    throw new StoreError(
      'EMSGSIZE',
      `Cannot send a store message: ${payloadOctets} octets, at most ${PAYLOAD_OCTETS_MAX}`,
    );
  const message = Buffer.allocUnsafe(StoreHeader.octets + payloadOctets);
  StoreHeader.write({ type, requestId, transactionId, payloadOctets }, message);
  payload.copy(message, StoreHeader.octets);
  return message;
}

/**
 * Cuts messages out of a stream.
 *
 * Between two calls it holds less than one message.
 */
export class MessageReader {
  #held: Buffer = Buffer.alloc(0);

  /** @throws {StoreError} if a length is above the protocol's; nothing can be read after that. */
  *receive(chunk: Buffer): Generator<StoreMessage> {
    let rest = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = Buffer.alloc(0);
    while (rest.length >= StoreHeader.octets) {
      const { payloadOctets, ...head } = StoreHeader.read(rest);
      if (payloadOctets > PAYLOAD_OCTETS_MAX)
        throw new StoreError(
          'EPROTO',
          `Cannot take a store message: ${payloadOctets} octets, at most ${PAYLOAD_OCTETS_MAX}`,
        );
      const end = StoreHeader.octets + payloadOctets;
      if (rest.length < end) break;
      yield { ...head, payload: Buffer.from(rest.subarray(StoreHeader.octets, end)) };
      rest = rest.subarray(end);
    }
    this.#held = Buffer.from(rest);
  }
}

/** Strings, each with its NUL. */
export function encodeStrings(...strings: readonly string[]): Buffer {
  return Buffer.from(strings.map((one) => `${one}\0`).join(''));
}

/** The strings of a payload; the last one may lack its NUL. */
export function decodeStrings(payload: Buffer): string[] {
  const parts = payload.toString().split('\0');
  if (parts.at(-1) === '') parts.pop();
  return parts;
}

/**
 * What the store would refuse, too: so that no path carries a NUL or a stray "/".
 *
 * @throws {StoreError} EINVAL
 */
export function checkPath(path: string, kind: 'node' | 'watch' = 'node'): void {
  const special = kind === 'watch' && /^@[A-Za-z]+$/.test(path);
  const plain = path === '/' || /^\/?([A-Za-z0-9\-_@]+)(\/[A-Za-z0-9\-_@]+)*$/.test(path);
  if (path.length > PATH_OCTETS_MAX || !(special || plain))
    throw new StoreError('EINVAL', `Cannot use store path ${JSON.stringify(path)}: not a path`);
}

const LETTERS = { none: 'n', read: 'r', write: 'w', both: 'b' } as const;
const ACCESS = { n: 'none', r: 'read', w: 'write', b: 'both' } as const;

/** "n0", "r5": the first one is the owner, with what all others may do. */
export function encodePermissions(permissions: StorePermissions): string[] {
  const { owner, others, exceptions = [] } = permissions;
  return [
    `${LETTERS[others]}${owner}`,
    ...exceptions.map(({ domain, access }) => `${LETTERS[access]}${domain}`),
  ];
}

/** @throws {StoreError} EINVAL if one of them is none. */
export function decodePermissions(strings: readonly string[]): StorePermissions {
  const [first, ...exceptions] = strings.map((one) => {
    const match = /^([nrwb])(\d{1,5})$/.exec(one);
    if (match === null)
      throw new StoreError('EINVAL', `Cannot read permission ${JSON.stringify(one)}: not as "r0"`);
    return { domain: Number(match[2]), access: ACCESS[match[1] as keyof typeof ACCESS] };
  });
  if (first === undefined)
    throw new StoreError('EINVAL', 'Cannot read permissions: there are none, wanted the owner');
  return { owner: first.domain, others: first.access, exceptions };
}
