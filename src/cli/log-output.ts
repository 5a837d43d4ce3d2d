/**
 * Lines to whoever reads a log, who may be slow or stop altogether.
 *
 * A pipe takes what fits and Node.js keeps the rest, without bound. So lines are dropped while more than
 * `WAITING_BYTES_MAX` wait, and counted; the count is written when the reader has caught up. Nothing waits
 * for the reader. A line that fits still leaves at once: a log must not lose what was said just before a
 * crash. What holds the process up all the same is a terminal that its user has stopped (Ctrl-S), since
 * Node.js writes to terminals synchronously, and a file on a disk that does not answer.
 */
import type { Writable } from 'node:stream';

/** What may wait for the reader: some thousand lines. */
const WAITING_BYTES_MAX = 256 * 1024;

/**
 * A function that writes lines to `stream`. `lostLine` makes the line which says how many were dropped.
 */
export function boundedOutput(
  stream: Writable,
  lostLine: (count: number) => string,
): (line: string) => boolean {
  let lostCount = 0;
  // A reader that has gone away is no reason to end: what the process serves is not its log.
  stream.on('error', () => {});
  stream.on('drain', () => {
    if (lostCount === 0) return;
    const count = lostCount;
    lostCount = 0;
    stream.write(lostLine(count));
  });
  return (line) => {
    if (lostCount > 0 || stream.writableLength > WAITING_BYTES_MAX) {
      lostCount++;
      return false;
    }
    return stream.write(line);
  };
}
