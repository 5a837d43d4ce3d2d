/**
 * Lets this process be killed (SIGKILL) in place of its n-th store into memory or ring of a doorbell: what a
 * gateway shares with others through `shm.ts`, but for the store of names.
 */
import { type Libc, libc } from '../../src/xenring/platform/libc.ts';

type Call = (this: unknown, ...values: never[]) => unknown;

const STORES: readonly [object, readonly string[]][] = [
  [DataView.prototype, ['setUint8', 'setUint16', 'setUint32', 'setInt32']],
  [Atomics, ['store', 'exchange', 'compareExchange', 'add', 'sub']],
];

export function dieAtStep(step: number): void {
  let left = step;
  const count = () => {
    if (--left === 0) process.kill(process.pid, 'SIGKILL');
  };
  const watch = (holder: Record<string, Call>, name: string) => {
    const real = holder[name] as Call;
    holder[name] = function (...values) {
      count();
      return real.apply(this, values);
    };
  };
  for (const [holder, names] of STORES) {
    for (const name of names) watch(holder as Record<string, Call>, name);
  }
  const calls = libc() as { -readonly [name in keyof Libc]: Libc[name] };
  const { write } = calls;
  calls.write = (fd, from, octets) => {
    count();
    return write(fd, from, octets);
  };
}
