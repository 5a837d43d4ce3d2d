/** Writes the LED states that a host sets to a file, one line each. */
import { createWriteStream, openSync, type WriteStream } from 'node:fs';
import { UserError } from '../../../errors.ts';

/** LEDs by bit (HID 1.11, appendix B.1; HID Usage Tables, chapter 11). */
export const LED_NAMES = ['num-lock', 'caps-lock', 'scroll-lock', 'compose', 'kana'] as const;

/** A host that sets LEDs faster than the file takes them loses lines, not the gateway's memory. */
const UNWRITTEN_OCTETS_MAX = 64 * 1024;

/** `0x03 num-lock caps-lock`, or `0x00` when all are off. */
export function ledLine(leds: number): string {
  const lit = LED_NAMES.filter((_, bit) => (leds >> bit) & 1);
  return [`0x${leds.toString(16).padStart(2, '0')}`, ...lit].join(' ');
}

export class LedLog {
  readonly #stream: WriteStream;

  /**
   * Appends to `path`.
   *
   * @throws {UserError} if it cannot be written.
   */
  constructor(path: string) {
    this.#stream = createWriteStream('', { fd: openToAppend(path) });
    // The disk may fill up later; typing goes on, and the stream takes no more.
    this.#stream.on('error', ({ message }) => {
      process.emitWarning(`Cannot write LED file ${path}: ${message}`);
    });
  }

  append(leds: number): void {
    if (this.#stream.writableLength > UNWRITTEN_OCTETS_MAX || !this.#stream.writable) return;
    this.#stream.write(`${ledLine(leds)}\n`);
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#stream.closed) resolve();
      else this.#stream.once('close', () => resolve()).end();
    });
  }
}

function openToAppend(path: string): number {
  try {
    return openSync(path, 'a');
  } catch (error) {
    throw new UserError(
      `Cannot open LED file ${path}: ${(error as Error).message}, wanted a file to append to`,
    );
  }
}
