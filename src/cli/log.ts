/**
 * The gateway's log: pino decides what is logged, this file how it looks: one line each on stderr,
 * `2026-01-31T12:00:00.000Z INFO  127.0.0.1:40000 attached 1-1`.
 *
 * Not pino-pretty: what a gateway says is a time, a level and a sentence, and its 14 packages would
 * be there to print that. Control characters are escaped, for names in messages come from peers.
 */
import { type Logger, pino } from 'pino';
import { PeerLines } from '../core/peer-log.ts';
import { printable } from '../core/printable.ts';
import { boundedOutput } from './log-output.ts';

export type Log = Logger;

let stderrOutput: ((line: string) => boolean) | undefined;

/** To whoever reads stderr, who may stall: see log-output.ts. One for the process, since it listens to the stream. */
function toStderr(line: string): boolean {
  stderrOutput ??= boundedOutput(process.stderr, lostLine);
  return stderrOutput(line);
}

export function createLog(verbose: boolean, write = toStderr) {
  return pino(
    { base: null, level: verbose ? 'debug' : 'info' },
    { write: (json: string) => write(formatLine(json)) },
  );
}

/** For what peers cause: written to the log a limited number of times, then counted. */
export function peerLines(log: Log, infoLevel: 'info' | 'debug' = 'info'): PeerLines {
  return new PeerLines({
    info: (message) => log[infoLevel](message),
    warn: (message) => log.warn(message),
    error: (message) => log.error(message),
    bug: (error, what) => log.error({ err: error }, what),
  });
}

function lostLine(count: number): string {
  const many = count.toLocaleString('en-US');
  const msg = `${many} lines are lost here: whoever reads this log was too slow`;
  return formatLine(JSON.stringify({ level: pino.levels.values.warn, time: Date.now(), msg }));
}

/** From pino's JSON to a line. A stack, if there is one, follows after the message. */
export function formatLine(json: string): string {
  const record = JSON.parse(json);
  const level = String(pino.levels.labels[record.level] ?? record.level).toUpperCase();
  const stack = record.err === undefined ? '' : `: ${record.err.stack ?? record.err.message}`;
  const message = printable(`${record.msg ?? ''}${stack}`);
  return `${new Date(record.time).toISOString()} ${level.padEnd(5)} ${message}\n`;
}
