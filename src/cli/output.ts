/** What commands print on stdout. */
import type { ExportStatus } from './gateway.ts';
import { printable } from './log.ts';

/** One line; names in it may come from devices and peers. */
export function say(line: string): void {
  process.stdout.write(`${printable(line)}\n`);
}

export function exportLine({ busId, spec, label }: ExportStatus): string {
  return `Exporting ${busId} ${spec} (${label})`;
}
