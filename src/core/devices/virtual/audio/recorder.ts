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
import { close, closeSync, fstatSync, ftruncateSync, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { UserError } from '../../../errors.ts';
import { openRegularFile, WRITE_NO_LINK } from '../../../files.ts';
import { printable } from '../../../printable.ts';
import { FRAME_OCTETS } from './format.ts';
import { WAV_DATA_OCTETS_MAX, WAV_HEADER_OCTETS, wavHeader } from './wav.ts';

/** A write: 85 ms at 48 kHz. */
export const BLOCK_OCTETS = 16 * 1024;
/** Over 20 s at 48 kHz. */
export const UNWRITTEN_OCTETS_MAX = 4 * 1024 * 1024;

/** The largest file unless the user says otherwise, 1 GiB: about 93 minutes at 48 kHz. */
export const FILE_BYTES_DEFAULT = 1024 * 1024 * 1024;

/** Writes some of the octets at the position, as fs.write does. */
export type WriteAt = (octets: Buffer, position: number) => Promise<number>;

export class Recorder {
  /** Octets that came too fast for the disk, after its first error, or beyond the format's limit. */
  droppedOctets = 0;
  /** Why the recording has ended early. */
  error: Error | null = null;
  readonly #rateHz: number;
  readonly #writeAt: WriteAt;
  readonly #dataBytesMax: number;
  readonly #onFull: () => void;
  #isFull = false;
  #block = Buffer.allocUnsafe(BLOCK_OCTETS);
  #blockOctets = 0;
  /** Blocks to be written, oldest first. */
  #blocks: Buffer[] = [];
  /** Octets taken so far, and how many of them are in the file. */
  #takenOctets = 0;
  #writtenOctets = 0;
  #writing: Promise<void> | null = null;

  /** `dataBytesMax` bounds the samples: a client plays for as long as it likes. */
  constructor(
    rateHz: number,
    writeAt: WriteAt,
    dataBytesMax = WAV_DATA_OCTETS_MAX,
    onFull: () => void = () => {},
  ) {
    this.#rateHz = rateHz;
    this.#writeAt = writeAt;
    this.#dataBytesMax = dataBytesMax;
    this.#onFull = onFull;
  }

  /** Octets of samples that the file has and its header knows. */
  get writtenOctets(): number {
    return this.#writtenOctets;
  }

  record(octets: Buffer): void {
    const unwritten = this.#takenOctets - this.#writtenOctets + octets.length;
    const total = this.#takenOctets + octets.length;
    if (!this.#isFull && total > this.#dataBytesMax) {
      this.#isFull = true; // a shorter packet that would fit is not what follows
      this.#onFull();
    }
    if (this.error !== null || this.#isFull || unwritten > UNWRITTEN_OCTETS_MAX) {
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

export interface RecordingOptions {
  readonly rateHz: number;
  /** What is in the file may go. */
  readonly overwrite?: boolean;
  /** The largest file. */
  readonly bytesMax?: number;
}

/**
 * Begins a WAV file.
 *
 * @throws {UserError} if there is something in the file that may not go, or it cannot be written.
 */
export function openRecording(path: string, options: RecordingOptions): Recording {
  const { rateHz, bytesMax = FILE_BYTES_DEFAULT } = options;
  const fd = openEmpty(path, options);
  const warn = (what: string) =>
    process.emitWarning(`Cannot write WAV file ${printable(path)}: ${printable(what)}`);
  const writeAt: WriteAt = async (octets, position) => {
    try {
      const { bytesWritten } = await promisify(write)(fd, octets, 0, octets.length, position);
      return bytesWritten;
    } catch (error) {
      warn((error as Error).message);
      throw error;
    }
  };
  const recorder = new Recorder(rateHz, writeAt, dataBytesOf(bytesMax), () =>
    warn(`it has ${bytesMax} bytes or nearly so, the most`),
  );
  return {
    recorder,
    close: async () => {
      await recorder.flush();
      await promisify(close)(fd);
    },
  };
}

/** Samples that a file of so many bytes can have, in whole frames. */
function dataBytesOf(fileBytes: number): number {
  const bytes = Math.min(fileBytes - WAV_HEADER_OCTETS, WAV_DATA_OCTETS_MAX);
  return bytes - (bytes % FRAME_OCTETS);
}

function openEmpty(path: string, { rateHz, overwrite = false }: RecordingOptions): number {
  const use = { action: 'write WAV file', wanted: 'a file to write to' };
  const fd = openRegularFile(path, WRITE_NO_LINK, use);
  try {
    const { size } = fstatSync(fd);
    if (size > 0 && !overwrite) {
      throw new UserError(
        `Cannot write WAV file ${path}: there is one of ${size} bytes, wanted a new file or the option overwrite`,
      );
    }
    ftruncateSync(fd, 0);
    writeSync(fd, wavHeader(rateHz, 0), 0, WAV_HEADER_OCTETS, 0);
    return fd;
  } catch (error) {
    closeSync(fd);
    if (error instanceof UserError) throw error;
    throw new UserError(
      `Cannot write WAV file ${path}: ${(error as Error).message}, wanted a file to write to`,
    );
  }
}
