/**
 * The gateway's log: pino decides what is logged, this file how it looks: one line each on stderr,
 * `2026-01-31T12:00:00.000Z INFO  127.0.0.1:40000 attached 1-1`.
 *
 * Not pino-pretty: what a gateway says is a time, a level and a sentence, and its 14 packages would
 * be there to print that. Control characters are escaped, for names in messages come from peers.
 */
import { type Logger, pino } from 'pino';
import { printable } from '../core/printable.ts';

export type Log = Logger;

/** Lines are written at once: a log must not lose what was said just before a crash. */
export function createLog(verbose: boolean, write = (line: string) => process.stderr.write(line)) {
  return pino(
    { base: null, level: verbose ? 'debug' : 'info' },
    { write: (json: string) => write(formatLine(json)) },
  );
}

/** From pino's JSON to a line. A stack, if there is one, follows after the message. */
export function formatLine(json: string): string {
  const record = JSON.parse(json);
  const level = String(pino.levels.labels[record.level] ?? record.level).toUpperCase();
  const stack = record.err === undefined ? '' : `: ${record.err.stack ?? record.err.message}`;
  const message = printable(`${record.msg ?? ''}${stack}`);
  return `${new Date(record.time).toISOString()} ${level.padEnd(5)} ${message}\n`;
}
