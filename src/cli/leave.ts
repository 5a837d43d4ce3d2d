/**
 * Ends this process now. `process.exit` does not: it waits for the threads of Node's pool, and one of them may
 * be in a call that takes long or never ends: a name server that says nothing, a file system that has gone.
 */
import koffi from 'koffi';

/** Windows does not wait for them. */
const exitNow: ((code: number) => void) | undefined =
  process.platform === 'win32' ? undefined : koffi.load(null).func('void _exit(int code)');

export function leave(code: number): never {
  exitNow?.(code);
  process.exit(code);
}
