/**
 * Writes the LED states that a host sets to a file, one line for each change.
 *
 * A host may set LEDs as often as it likes. So the file has an end: at `LED_FILE_BYTES_MAX` a last line
 * says that no more follow. What is in a file is never taken away, as it may be the user's own.
 */
import { createWriteStream, fstatSync, type WriteStream } from 'node:fs';
import { APPEND_NO_LINK, openRegularFile } from '../../../files.ts';
import { printable } from '../../../printable.ts';

/** LEDs by bit (HID 1.11, appendix B.1; HID Usage Tables, chapter 11). */
export const LED_NAMES = ['num-lock', 'caps-lock', 'scroll-lock', 'compose', 'kana'] as const;

/** The largest LED file, whatever was in it before: about 50,000 changes. */
export const LED_FILE_BYTES_MAX = 1024 * 1024;

/** Lines that may wait for the disk; of what comes then, the last state is written later. */
const UNWRITTEN_BYTES_MAX = 64 * 1024;

/** `0x03 num-lock caps-lock`, or `0x00` when all are off. */
export function ledLine(leds: number): string {
  const lit = LED_NAMES.filter((_, bit) => (leds >> bit) & 1);
  return [`0x${leds.toString(16).padStart(2, '0')}`, ...lit].join(' ');
}

const lastLine = (bytesMax: number) => `# full: no more lines in a file of ${bytesMax} bytes\n`;

export class LedLog {
  readonly #path: string;
  readonly #stream: WriteStream;
  readonly #lastLine: string;
  /** Bytes that may still be written, less the last line. */
  #room: number;
  /** What was written last; null before. */
  #written: number | null = null;
  /** What is still to be written, or is written already; null if nothing is. */
  #missed: number | null = null;

  /**
   * Appends to `path`. Another limit is for tests.
   *
   * @throws {UserError} if it is no regular file, or cannot be written.
   */
  constructor(path: string, bytesMax = LED_FILE_BYTES_MAX) {
    this.#path = path;
    const use = { action: 'open LED file', wanted: 'a file to append to' };
    const fd = openRegularFile(path, APPEND_NO_LINK, use);
    this.#lastLine = lastLine(bytesMax);
    this.#room = bytesMax - fstatSync(fd).size - this.#lastLine.length;
    this.#stream = createWriteStream('', { fd });
    // The disk may fill up later; typing goes on, and the stream takes no more.
    this.#stream.on('error', ({ message }) => this.#warn(message));
    this.#stream.on('drain', () => this.#catchUp());
    if (this.isFull) this.#warn(`it has ${bytesMax} bytes or nearly so, the most`);
  }

  /** Whether no more is written. */
  get isFull(): boolean {
    return this.#room < 0;
  }

  append(leds: number): void {
    this.#missed = leds;
    if (this.#stream.writableLength <= UNWRITTEN_BYTES_MAX) this.#catchUp();
  }

  close(): Promise<void> {
    this.#catchUp();
    return new Promise((resolve) => {
      if (this.#stream.closed) resolve();
      else this.#stream.once('close', () => resolve()).end();
    });
  }

  #catchUp(): void {
    const missed = this.#missed;
    this.#missed = null;
    if (missed !== null) this.#write(missed);
  }

  #write(leds: number): void {
    if (leds === this.#written || this.isFull || !this.#stream.writable) return;
    this.#written = leds;
    const line = `${ledLine(leds)}\n`;
    this.#room -= line.length;
    this.#stream.write(this.isFull ? this.#lastLine : line);
    if (this.isFull) this.#warn('it is full');
  }

  #warn(what: string): void {
    process.emitWarning(`Cannot write LED file ${printable(this.#path)}: ${printable(what)}`);
  }
}
