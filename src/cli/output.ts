/** What commands print on stdout. */
import { printable, printableJson } from '../core/printable.ts';
import type { ExportStatus } from './gateway.ts';

/** One line; names in it may come from devices and peers. */
export function say(line: string): void {
  process.stdout.write(`${printable(line)}\n`);
}

/** What `--json` asks for. */
export function sayJson(value: unknown): void {
  process.stdout.write(`${printableJson(value)}\n`);
}

/** What a spec led to. */
export function exportLines(text: string, exported: readonly ExportStatus[]): string[] {
  if (exported.length === 0) return [`Waiting for ${text}`];
  return exported.map(({ busId, spec, label }) => `Exporting ${busId} ${spec} (${label})`);
}
