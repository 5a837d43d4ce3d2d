/**
 * Which device of a server is meant: by bus id, or by what the device is, which does not change when
 * it is plugged in elsewhere.
 */
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import type { RemoteDevice } from './client.ts';
import { listDevices } from './list-client.ts';
import { lookAt } from './look-at.ts';
import { readDescriptors, readString } from './remote-descriptors.ts';
import { formatAddress, type ListenAddress } from './server.ts';

/** Devices, or reasons, that a message names. */
const NAMED_MAX = 4;
/** A bus id as servers have them; it is to stand in messages, and in the state file of stock `usbip`. */
const BUS_ID = /^[!-~]{1,31}$/;

/** VVVV:PPPP[:SERIAL] */
export interface DeviceIdentity {
  readonly vendorId: number;
  readonly productId: number;
  readonly serial?: string;
}

/** Undefined if the text is none. */
export function parseIdentity(text: string): DeviceIdentity | undefined {
  const [, vendor, product, serial] =
    /^([0-9a-fA-F]{4}):([0-9a-fA-F]{4})(?::(.+))?$/s.exec(text) ?? [];
  if (vendor === undefined || product === undefined) return undefined;
  const ids = { vendorId: Number.parseInt(vendor, 16), productId: Number.parseInt(product, 16) };
  return serial === undefined ? ids : { ...ids, serial };
}

export function formatIdentity({ vendorId, productId, serial }: DeviceIdentity): string {
  const hex = (value: number) => value.toString(16).padStart(4, '0');
  return [hex(vendorId), hex(productId), ...(serial === undefined ? [] : [serial])].join(':');
}

/**
 * The bus id that is meant by a bus id, or by VVVV:PPPP[:SERIAL].
 *
 * @throws {UserError} as `findBusId` does.
 */
export async function busIdOf(server: ListenAddress, which: string): Promise<string> {
  const identity = parseIdentity(which);
  return identity === undefined ? which : await findBusId(server, identity);
}

/**
 * The bus id of the device; for one with a serial number each that could be it is imported for a
 * moment, since lists do not show serial numbers. Those that are not read in time are left out.
 *
 * @throws {UserError} if the server has no such device, or more than one.
 */
export async function findBusId(
  server: ListenAddress,
  wanted: DeviceIdentity,
  clock: Clock = systemClock,
): Promise<string> {
  const { vendorId, productId, serial } = wanted;
  const listed = (await listDevices(server)).filter(
    (one) => one.vendorId === vendorId && one.productId === productId && BUS_ID.test(one.busId),
  );
  const candidates = listed.map(({ busId }) => busId);
  const found: string[] = serial === undefined ? candidates : [];
  let reasons: string[] = [];
  if (serial !== undefined) {
    const onRead = (busId: string, its: string | undefined) => {
      if (its === serial) found.push(busId);
    };
    reasons = await lookAt({ server, busIds: candidates, read: serialOf, onRead, clock });
  }
  const [busId] = found;
  if (busId !== undefined && found.length === 1) return busId;
  const what = `Cannot find ${formatIdentity(wanted)} at ${formatAddress(server)}`;
  if (found.length > 1) {
    const all = joined(found, ', ');
    throw new UserError(`${what}: ${all} are all such devices, wanted one; use -b`);
  }
  throw new UserError(
    `${what}: ${joined(reasons, '; ') || 'it exports no such device'}, see urbgate list`,
  );
}

/** The first of several texts; how many there are is the server's to say. */
function joined(texts: readonly string[], separator: string): string {
  const rest = texts.length - NAMED_MAX;
  const named = texts.slice(0, NAMED_MAX);
  return (rest > 0 ? [...named, `${rest} more`] : named).join(separator);
}

async function serialOf(remote: RemoteDevice): Promise<string | undefined> {
  const { device } = await readDescriptors(remote);
  return await readString(remote, device.serialNumber);
}
