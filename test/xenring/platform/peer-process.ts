/**
 * The other domain of the platform contract: a process of its own that does as it is told.
 */

import { type Libc, libc } from '../../../src/xenring/platform/libc.ts';
import { openShmPlatform } from '../../../src/xenring/platform/shm.ts';
import { openXenPlatform } from '../../../src/xenring/platform/xen.ts';
import type {
  EventChannel,
  GrantedPages,
  GrantSegment,
  MappedPages,
  Platform,
} from '../../../src/xenring/platform.ts';

let platform: Platform;
const grants = new Map<number, GrantedPages>();
const maps = new Map<number, MappedPages>();
const channels = new Map<number, { channel: EventChannel; events: number }>();

function known<T>(map: Map<number, T>, key: number): T {
  const value = map.get(key);
  if (value === undefined) throw new Error(`nothing has number ${key}`);
  return value;
}

function keep(channel: EventChannel): number {
  const kept = { channel, events: 0 };
  channel.onEvent = () => {
    kept.events++;
  };
  channels.set(channel.port, kept);
  return channel.port;
}

let diesAtBell = false;

/** Lets the process be killed in the middle of `notify`: the word is set, the doorbell not rung. */
function mayDieAtBell(): void {
  const calls = libc() as { write: Libc['write'] };
  const { write } = calls;
  calls.write = (fd, from, octets) => {
    if (diesAtBell) process.kill(process.pid, 'SIGKILL');
    return write(fd, from, octets);
  };
}

/** What it can be told. Grants go by their first reference, channels by their port. */
export const commands = {
  async open(kind: 'shm' | 'xen', folder: string, domain: number): Promise<number> {
    if (kind === 'shm') mayDieAtBell();
    platform =
      kind === 'xen'
        ? await openXenPlatform()
        : await openShmPlatform({ folder, domain, pages: 64 });
    return platform.domain;
  },
  grant(peer: number, pages: number): readonly number[] {
    const granted = platform.grant(peer, pages);
    grants.set(granted.references[0] as number, granted);
    return granted.references;
  },
  writeGrant(key: number, at: number, octets: Uint8Array): void {
    known(grants, key).memory.set(octets, at);
  },
  readGrant(key: number, at: number, octets: number): Uint8Array {
    return Uint8Array.from(known(grants, key).memory.subarray(at, at + octets));
  },
  endGrant(key: number): void {
    known(grants, key).end();
    grants.delete(key);
  },
  map(peer: number, references: number[]): number {
    const mapped = platform.map(peer, references);
    maps.set(references[0] as number, mapped);
    return mapped.memory.length;
  },
  unmap(key: number): void {
    known(maps, key).unmap();
    maps.delete(key);
  },
  copyFrom(peer: number, segments: GrantSegment[], octets: number): Uint8Array {
    const target = Buffer.alloc(octets);
    platform.copyFrom(peer, segments, target);
    return Uint8Array.from(target);
  },
  offer: (peer: number) => keep(platform.offerChannel(peer)),
  bind: (peer: number, port: number) => keep(platform.bindChannel(peer, port)),
  notify(port: number, times = 1): void {
    for (let time = 0; time < times; time++) known(channels, port).channel.notify();
  },
  notifyAndDie(port: number): void {
    diesAtBell = true;
    known(channels, port).channel.notify();
  },
  events: (port: number) => known(channels, port).events,
  echo(port: number): void {
    const { channel } = known(channels, port);
    channel.onEvent = () => channel.notify();
  },
  closeChannel(port: number): void {
    known(channels, port).channel.close();
    channels.delete(port);
  },
  read: (path: string) => platform.store.read(path),
  write: (path: string, value: string) => platform.store.write(path, value),
  remove: (path: string) => platform.store.remove(path),
  inUse: () => ({ ...platform.inUse }),
  close: () => platform.close(),
};

export type Commands = typeof commands;

interface Request {
  readonly id: number;
  readonly name: keyof Commands;
  readonly values: unknown[];
}

process.on('message', async (message) => {
  const { id, name, values } = message as Request;
  try {
    const command = commands[name] as (...values: unknown[]) => unknown;
    process.send?.({ id, result: await command(...values) });
  } catch (error) {
    const { name: kind, message } = error as Error;
    process.send?.({ id, error: { kind, message } });
  }
});
process.on('disconnect', () => process.exit());
