/**
 * Imports devices of a server for a moment each, to read what its list does not show.
 *
 * A server, or a device behind it, may be silent, and a list has up to 1024 devices. So each device has a time,
 * several are looked at at a time, and all of them together have one too: what is known by then is used.
 */
import type { Clock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import { within } from '../core/within.ts';
import { importDevice, type RemoteDevice } from './client.ts';
import { formatAddress, type ListenAddress } from './server.ts';

/** For one device: to import it and to read. */
export const LOOK_MILLISECONDS = 5_000;
/** For all devices of a server. */
export const LOOKS_MILLISECONDS = 10_000;
/** Devices of one server at a time; each costs it a connection. */
export const LOOKS_AT_A_TIME = 16;

export interface Looks<T> {
  readonly server: ListenAddress;
  readonly busIds: readonly string[];
  readonly read: (remote: RemoteDevice) => Promise<T>;
  /** Takes what was read, as it comes. */
  readonly onRead: (busId: string, what: T) => void;
  readonly clock: Clock;
}

/** Returns why some devices could not be read, in the order of `busIds`. */
export async function lookAt<T>(looks: Looks<T>): Promise<string[]> {
  const { busIds, onRead, clock } = looks;
  const end = clock.now() + LOOKS_MILLISECONDS;
  const failures: string[] = [];
  let next = 0;
  const lookAtSome = async () => {
    while (next < busIds.length) {
      const place = next++;
      const busId = busIds[place] ?? '';
      const milliseconds = Math.min(LOOK_MILLISECONDS, end - clock.now());
      try {
        onRead(busId, await lookAtOne(looks, busId, milliseconds, clock));
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        failures[place] = error.message;
      }
    }
  };
  await Promise.all(Array.from({ length: LOOKS_AT_A_TIME }, lookAtSome));
  return failures.filter((one) => one !== undefined);
}

async function lookAtOne<T>(
  { server, read }: Looks<T>,
  busId: string,
  milliseconds: number,
  clock: Clock,
): Promise<T> {
  const refusal = (what: string) =>
    new UserError(`Cannot look at ${busId} of ${formatAddress(server)}: ${what}`);
  if (milliseconds <= 0) throw refusal('no time was left for it, wanted quicker answers');
  const end = clock.now() + milliseconds;
  const remote = await importDevice(server, busId, { milliseconds, clock });
  const late = () => {
    throw refusal(`no answer in ${Math.round(milliseconds)} ms, wanted its descriptors`);
  };
  try {
    const what = await within(read(remote), Math.max(0, end - clock.now()), late, clock);
    if (!remote.isOpen) throw refusal('the connection ended early, wanted its descriptors');
    return what;
  } finally {
    await remote.close();
  }
}
