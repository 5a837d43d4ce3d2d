/** What the microphone hears: a tone, or a recording. */
import { UserError } from '../../../errors.ts';
import { readRegularFile } from '../../../files.ts';
import { CHANNELS, FRAME_OCTETS, SAMPLE_OCTETS } from './format.ts';
import { parseWav } from './wav.ts';

/** Supplies audio frames one after the other. */
export interface Source {
  /** The next `frames` frames; valid until the next call. */
  read(frames: number): Buffer;
  /** Back to frame 0. */
  rewind(): void;
}

/** A quarter of full scale, -12 dB: audible and never clipped. */
export const TONE_AMPLITUDE = 8192;

/** A recording is held in memory, 64 MiB: nearly 6 minutes at 48 kHz stereo. */
export const RECORDING_OCTETS_MAX = 64 * 1024 * 1024;

/** Sample n of a tone, on every channel; anybody can compute what should have arrived. */
export function toneSample(toneHz: number, rateHz: number, n: number): number {
  return Math.round(TONE_AMPLITUDE * Math.sin((2 * Math.PI * toneHz * n) / rateHz));
}

export class ToneSource implements Source {
  readonly #toneHz: number;
  readonly #rateHz: number;
  #frame = 0;

  constructor(toneHz: number, rateHz: number) {
    this.#toneHz = toneHz;
    this.#rateHz = rateHz;
  }

  read(frames: number): Buffer {
    const octets = Buffer.allocUnsafe(frames * FRAME_OCTETS);
    for (let at = 0; at < octets.length; this.#frame++) {
      const sample = toneSample(this.#toneHz, this.#rateHz, this.#frame);
      for (let channel = 0; channel < CHANNELS; channel++) at = octets.writeInt16LE(sample, at);
    }
    return octets;
  }

  rewind(): void {
    this.#frame = 0;
  }
}

/** A recording, once and then silence, or over and over. */
export class RecordingSource implements Source {
  readonly #samples: Buffer;
  readonly #loop: boolean;
  #at = 0;

  /** `samples` are whole stereo frames, at least one. */
  constructor(samples: Buffer, loop: boolean) {
    this.#samples = samples;
    this.#loop = loop;
  }

  read(frames: number): Buffer {
    const octets = Buffer.alloc(frames * FRAME_OCTETS);
    let filled = 0;
    while (filled < octets.length && this.#at < this.#samples.length) {
      const count = this.#samples.copy(octets, filled, this.#at);
      filled += count;
      this.#at += count;
      if (this.#loop && this.#at === this.#samples.length) this.#at = 0;
    }
    return octets; // what is not filled is silence
  }

  rewind(): void {
    this.#at = 0;
  }
}

/**
 * Loads a recording; a mono one is heard on both channels.
 *
 * @throws {UserError} if the file is not a WAV file of that rate.
 */
export function loadRecording(path: string, rateHz: number, loop: boolean): RecordingSource {
  const file = readRegularFile(path, RECORDING_OCTETS_MAX, {
    action: 'read WAV file',
    wanted: `a file of at most ${RECORDING_OCTETS_MAX} octets`,
  });
  const recording = parseWav(file, path);
  const { channels, samples } = recording;
  if (recording.rateHz !== rateHz) {
    throw new UserError(
      `Cannot play WAV file ${path}: its rate is ${recording.rateHz} Hz, wanted ${rateHz} Hz`,
    );
  }
  if (samples.length === 0) {
    throw new UserError(`Cannot play WAV file ${path}: it has no samples, wanted at least one`);
  }
  return new RecordingSource(channels === CHANNELS ? samples : onBothChannels(samples), loop);
}

function onBothChannels(mono: Buffer): Buffer {
  const stereo = Buffer.allocUnsafe(mono.length * CHANNELS);
  for (let at = 0; at < mono.length; at += SAMPLE_OCTETS) {
    const sample = mono.readInt16LE(at);
    stereo.writeInt16LE(sample, at * CHANNELS);
    stereo.writeInt16LE(sample, at * CHANNELS + SAMPLE_OCTETS);
  }
  return stereo;
}
