/** `virtual:audio`: a sound card whose speaker and microphone are files. */
import { UserError } from '../../../errors.ts';
import { defineKind } from '../kind.ts';
import { defineAudio } from './audio.ts';
import { RATES_HZ } from './format.ts';
import { FILE_BYTES_DEFAULT, openRecording, type Recording } from './recorder.ts';
import { loadRecording, type Source, ToneSource } from './source.ts';

const RATE_DEFAULT_HZ = 48_000;
const TONE_DEFAULT_HZ = 440;

/** A second of the slowest rate, and what the numbers in a WAV file can say. */
const FILE_BYTES_MIN = 64 * 1024;
const FILE_BYTES_MAX = 2 ** 32;

export const audioKind = defineKind({
  name: 'audio',
  summary: 'USB audio 1.0 sound card, 16-bit stereo; volume and mute leave the samples alone',
  options: {
    out: { type: 'file', help: 'new WAV file for what the speaker is given' },
    overwrite: { type: 'flag', help: 'out may be a file that has something in it, but no link' },
    size: { type: 'size', help: 'largest out file, at most 4GiB (default 1GiB); the rest is lost' },
    in: { type: 'file', help: 'WAV file that the microphone hears, then silence' },
    loop: { type: 'flag', help: 'begin the WAV file again at its end' },
    tone: {
      type: 'count',
      help: `tone that the microphone hears, Hz (default ${TONE_DEFAULT_HZ})`,
    },
    rate: { type: 'count', help: `sampling rate, Hz (default ${RATE_DEFAULT_HZ})` },
  },
  define: (options) => {
    const rateHz = options.rate ?? RATE_DEFAULT_HZ;
    if (!RATES_HZ.includes(rateHz)) {
      throw new UserError(
        `Cannot make a sound card of ${rateHz} Hz: not a usual rate, wanted ${RATES_HZ.join(', ')}`,
      );
    }
    const source = sourceOf(options, rateHz);
    const recording = recordingOf(options, rateHz);
    return defineAudio({ rateHz, source, ...(recording && { recording }) });
  },
});

interface OutOptions {
  readonly out?: string;
  readonly overwrite?: true;
  readonly size?: number;
}

function recordingOf({ out, overwrite, size }: OutOptions, rateHz: number): Recording | undefined {
  if (out === undefined) {
    if (overwrite === undefined && size === undefined) return undefined;
    throw new UserError('Cannot make a sound card: overwrite or size alone, wanted out=FILE too');
  }
  const bytesMax = size ?? FILE_BYTES_DEFAULT;
  if (bytesMax < FILE_BYTES_MIN || bytesMax > FILE_BYTES_MAX) {
    throw new UserError(
      `Cannot make a sound card: size=${bytesMax}, wanted ${FILE_BYTES_MIN} to ${FILE_BYTES_MAX}`,
    );
  }
  return openRecording(out, { rateHz, bytesMax, overwrite: overwrite ?? false });
}

interface SourceOptions {
  readonly in?: string;
  readonly loop?: true;
  readonly tone?: number;
}

function sourceOf(options: SourceOptions, rateHz: number): Source {
  if (options.in !== undefined && options.tone !== undefined) {
    throw new UserError('Cannot make a sound card: both in and tone are given, wanted one');
  }
  if (options.in !== undefined) return loadRecording(options.in, rateHz, options.loop ?? false);
  if (options.loop)
    throw new UserError('Cannot loop a tone: loop is given, wanted in=FILE with it');
  const toneHz = options.tone ?? TONE_DEFAULT_HZ;
  if (toneHz < 1 || toneHz * 2 >= rateHz) {
    throw new UserError(
      `Cannot make a tone of ${toneHz} Hz: out of range, wanted from 1 to ${Math.ceil(rateHz / 2) - 1}`,
    );
  }
  return new ToneSource(toneHz, rateHz);
}
