/**
 * WAV files, as far as 16-bit PCM needs them.
 *
 * Source: "Multimedia Programming Interface and Data Specifications 1.0" (RIFF) and "Multiple
 * Channel Audio Data and WAVE Files" (the extensible format). All numbers are little endian:
 *
 *   'RIFF' octets-that-follow 'WAVE'  { tag octets-of-body body, padded to even } ...
 *
 * where the chunk 'fmt ' comes before the chunk 'data'.
 */
import { UserError } from '../../../errors.ts';
import { CHANNELS, FRAME_OCTETS, SAMPLE_OCTETS } from './format.ts';

export const WAV_HEADER_OCTETS = 44;

/** What a header can say, less the rest of the file, in whole frames: about 6 h at 48 kHz. */
export const WAV_DATA_OCTETS_MAX = 0xffff_ffff - (WAV_HEADER_OCTETS - 8) - 3;

const FORMAT_PCM = 1;
const FORMAT_EXTENSIBLE = 0xfffe;
/** Chunks before the samples: a file with more is not one that a recorder wrote. */
const CHUNKS_MAX = 64;

/** The header of a file whose only chunks are 'fmt ' and 'data'. */
export function wavHeader(rateHz: number, dataOctets: number): Buffer {
  const octets = Buffer.alloc(WAV_HEADER_OCTETS);
  octets.write('RIFF', 0, 'latin1');
  octets.writeUInt32LE(WAV_HEADER_OCTETS - 8 + dataOctets, 4);
  octets.write('WAVEfmt ', 8, 'latin1');
  octets.writeUInt32LE(16, 16); // octets of the format chunk
  octets.writeUInt16LE(FORMAT_PCM, 20);
  octets.writeUInt16LE(CHANNELS, 22);
  octets.writeUInt32LE(rateHz, 24);
  octets.writeUInt32LE(rateHz * FRAME_OCTETS, 28);
  octets.writeUInt16LE(FRAME_OCTETS, 32);
  octets.writeUInt16LE(SAMPLE_OCTETS * 8, 34);
  octets.write('data', 36, 'latin1');
  octets.writeUInt32LE(dataOctets, 40);
  return octets;
}

export interface WavSamples {
  readonly rateHz: number;
  readonly channels: number;
  /** Whole frames, as they stand in the file. */
  readonly samples: Buffer;
}

/**
 * Parses a file of 16-bit PCM with one or two channels. A data chunk that claims more than there
 * is, as in a file still being written, ends with the file.
 *
 * @throws {UserError} that names `path` if it is another kind of file.
 */
export function parseWav(file: Buffer, path: string): WavSamples {
  const fault = (found: string): UserError =>
    new UserError(`Cannot read WAV file ${path}: ${found}, wanted 16-bit PCM, mono or stereo`);
  if (file.length < 12 || tagAt(file, 0) !== 'RIFF' || tagAt(file, 8) !== 'WAVE') {
    throw fault('it does not begin as a RIFF WAVE file');
  }
  let format: Format | undefined;
  let at = 12;
  for (let chunk = 0; chunk < CHUNKS_MAX && at + 8 <= file.length; chunk++) {
    const tag = tagAt(file, at);
    const octets = file.readUInt32LE(at + 4);
    const body = file.subarray(at + 8, at + 8 + octets);
    if (tag === 'fmt ') {
      format = parseFormat(body);
      if (format === undefined) throw fault('its format chunk is too short');
    } else if (tag === 'data') {
      if (format === undefined) throw fault('its samples come before their format');
      const { code, channels, bits, rateHz } = format;
      if (code !== FORMAT_PCM || bits !== SAMPLE_OCTETS * 8 || channels < 1 || channels > 2) {
        throw fault(`format ${code}, ${bits} bits, ${channels} channels`);
      }
      const frameOctets = channels * SAMPLE_OCTETS;
      const whole = body.length - (body.length % frameOctets);
      return { rateHz, channels, samples: body.subarray(0, whole) };
    }
    at += 8 + octets + (octets & 1);
  }
  throw fault('it has no samples');
}

interface Format {
  readonly code: number;
  readonly channels: number;
  readonly rateHz: number;
  readonly bits: number;
}

function parseFormat(body: Buffer): Format | undefined {
  if (body.length < 16) return undefined;
  const tag = body.readUInt16LE(0);
  const extensible = tag === FORMAT_EXTENSIBLE;
  if (extensible && body.length < 40) return undefined;
  return {
    code: extensible ? body.readUInt16LE(24) : tag, // the first field of the subformat's GUID
    channels: body.readUInt16LE(2),
    rateHz: body.readUInt32LE(4),
    bits: body.readUInt16LE(14),
  };
}

function tagAt(file: Buffer, at: number): string {
  return file.toString('latin1', at, at + 4);
}
