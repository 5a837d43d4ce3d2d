/**
 * Writes what the speaker plays to a WAV file, octet for octet.
 *
 * Packets come a thousand times a second and may not wait for a disk. They are copied into blocks;
 * full blocks go to the file one write at a time, in order, and the header follows every write. So
 * the file is a valid WAV file at any moment, and after a crash it lacks only the last block.
 *
 * All streams of the device's life follow each other in one file. A stream cannot be told to wait:
 * when the disk is so slow that `UNWRITTEN_OCTETS_MAX` are pending, packets are dropped and counted.
 */
import { close, openSync, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { UserError } from '../../../errors.ts';
import { WAV_DATA_OCTETS_MAX, WAV_HEADER_OCTETS, wavHeader } from './wav.ts';

/** A write: 85 ms at 48 kHz. */
export const BLOCK_OCTETS = 16 * 1024;
/** Over 20 s at 48 kHz. */
export const UNWRITTEN_OCTETS_MAX = 4 * 1024 * 1024;

/** Writes some of the octets at the position, as fs.write does. */
export type WriteAt = (octets: Buffer, position: number) => Promise<number>;

export class Recorder {
  /** Octets that came too fast for the disk, after its first error, or beyond the format's limit. */
  droppedOctets = 0;
  /** Why the recording has ended early. */
  error: Error | null = null;
  readonly #rateHz: number;
  readonly #writeAt: WriteAt;
  #block = Buffer.allocUnsafe(BLOCK_OCTETS);
  #blockOctets = 0;
  /** Blocks to be written, oldest first. */
  #blocks: Buffer[] = [];
  /** Octets taken so far, and how many of them are in the file. */
  #takenOctets = 0;
  #writtenOctets = 0;
  #writing: Promise<void> | null = null;

  constructor(rateHz: number, writeAt: WriteAt) {
    this.#rateHz = rateHz;
    this.#writeAt = writeAt;
  }

  /** Octets of samples that the file has and its header knows. */
  get writtenOctets(): number {
    return this.#writtenOctets;
  }

  record(octets: Buffer): void {
    const unwritten = this.#takenOctets - this.#writtenOctets + octets.length;
    const total = this.#takenOctets + octets.length;
    if (this.error !== null || unwritten > UNWRITTEN_OCTETS_MAX || total > WAV_DATA_OCTETS_MAX) {
      this.droppedOctets += octets.length;
      return;
    }
    this.#takenOctets = total;
    for (let at = 0; at < octets.length; ) {
      const count = octets.copy(this.#block, this.#blockOctets, at);
      at += count;
      this.#blockOctets += count;
      if (this.#blockOctets === BLOCK_OCTETS) this.#endBlock();
    }
  }

  /** Resolves when all that was recorded is in the file, or the recording has failed. */
  async flush(): Promise<void> {
    if (this.#blockOctets > 0) this.#endBlock();
    await this.#writing;
  }

  #endBlock(): void {
    this.#blocks.push(this.#block.subarray(0, this.#blockOctets));
    this.#block = Buffer.allocUnsafe(BLOCK_OCTETS);
    this.#blockOctets = 0;
    this.#writing ??= this.#writeBlocks();
  }

  async #writeBlocks(): Promise<void> {
    try {
      for (let blocks = this.#blocks; blocks.length > 0; blocks = this.#blocks) {
        this.#blocks = [];
        const octets = Buffer.concat(blocks);
        await this.#writeWhole(octets, WAV_HEADER_OCTETS + this.#writtenOctets);
        const written = this.#writtenOctets + octets.length;
        await this.#writeWhole(wavHeader(this.#rateHz, written), 0);
        this.#writtenOctets = written;
      }
    } catch (error) {
      this.#fail(error as Error);
    }
    this.#writing = null;
  }

  /** What follows a gap is not what was played, so nothing more is written. */
  #fail(error: Error): void {
    this.error = error;
    this.droppedOctets += this.#takenOctets - this.#writtenOctets;
    this.#takenOctets = this.#writtenOctets;
    this.#blocks = [];
    this.#blockOctets = 0;
  }

  async #writeWhole(octets: Buffer, position: number): Promise<void> {
    for (let at = 0; at < octets.length; ) {
      at += await this.#writeAt(octets.subarray(at), position + at);
    }
  }
}

/** An output file: its recorder, and how to end it. */
export interface Recording {
  readonly recorder: Recorder;
  close(): Promise<void>;
}

/**
 * Begins a WAV file, in place of what was there.
 *
 * @throws {UserError} if it cannot be written.
 */
export function openRecording(path: string, rateHz: number): Recording {
  const fd = openEmpty(path, rateHz);
  const recorder = new Recorder(rateHz, async (octets, position) => {
    try {
      const { bytesWritten } = await promisify(write)(fd, octets, 0, octets.length, position);
      return bytesWritten;
    } catch (error) {
      process.emitWarning(`Cannot write WAV file ${path}: ${(error as Error).message}`);
      throw error;
    }
  });
  return {
    recorder,
    close: async () => {
      await recorder.flush();
      await promisify(close)(fd);
    },
  };
}

function openEmpty(path: string, rateHz: number): number {
  try {
    const fd = openSync(path, 'w');
    writeSync(fd, wavHeader(rateHz, 0), 0, WAV_HEADER_OCTETS, 0);
    return fd;
  } catch (error) {
    throw new UserError(
      `Cannot write WAV file ${path}: ${(error as Error).message}, wanted a file to write to`,
    );
  }
}
