/**
 * A process that says much in its log, in turns as a gateway does, then on stdout what that has cost it;
 * then one line more in the log every 20 ms, until its stdin ends.
 */
import { createLog } from '../../src/cli/log.ts';

const LINES = 90_000;
const LINES_A_TURN = 100;

const log = createLog(false);
const before = process.memoryUsage().rss;
let said = 0;

function turn(): void {
  for (let n = 0; n < LINES_A_TURN; n++) {
    log.info(`192.0.2.1:${said} attached 1-1 (a device with a name of some length)`);
    said++;
  }
  if (said < LINES) setImmediate(turn);
  else done();
}

function done(): void {
  const grownBytes = process.memoryUsage().rss - before;
  process.stdout.write(`${JSON.stringify({ said, grownBytes })}\n`);
  setInterval(() => log.info('still here'), 20);
}

process.stdin.on('end', () => process.exit(0)).resume();
turn();
