/** A process that serves, but never closes: what it has does not let go. For stop.test.ts. */
import { createLog } from '../../src/cli/log.ts';
import { stopOnSignal } from '../../src/cli/stop.ts';

const close = process.argv[2] === 'fails' ? () => Promise.reject(new Error('no')) : never;
stopOnSignal({ close, unfinished: () => ['1-1 (Printer)', 'xen:0 (a1)'] }, createLog(false));
setInterval(() => {}, 1000);
process.stdout.write('Ready\n');

function never(): Promise<void> {
  return new Promise(() => {});
}
