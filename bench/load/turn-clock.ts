/**
 * Loaded into a gateway before its own code (`--import`): notes the processor time of its longest turn of
 * the event loop since the last SIGUSR2, and writes it to the file TURN_CLOCK_FILE at SIGTERM. A turn's
 * processor time is what others wait for it on a machine that does nothing else, whatever else this one does.
 */
import { openSync, readSync, writeFileSync } from 'node:fs';

const { TURN_CLOCK_FILE = '' } = process.env;
/** Nanoseconds on a processor, of the main thread. */
const statistics = openSync('/proc/self/schedstat', 'r');
const text = Buffer.alloc(64);
let longest = 0;
let last = 0;

function processorMilliseconds(): number {
  readSync(statistics, text, 0, text.length, 0);
  return Number.parseFloat(text.toString('latin1')) / 1e6;
}

function turn(): void {
  const now = processorMilliseconds();
  longest = Math.max(longest, now - last);
  last = now;
  setImmediate(turn).unref();
}

if (TURN_CLOCK_FILE !== '') {
  process.on('SIGUSR2', () => {
    if (last === 0) setImmediate(turn).unref();
    last = processorMilliseconds();
    longest = 0;
  });
  process.on('SIGTERM', () => writeFileSync(TURN_CLOCK_FILE, `${longest}`));
}
