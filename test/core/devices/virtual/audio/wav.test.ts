import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  parseWav,
  WAV_DATA_OCTETS_MAX,
  WAV_HEADER_OCTETS,
  wavHeader,
} from '../../../../../src/core/devices/virtual/audio/wav.ts';
import { UserError } from '../../../../../src/core/errors.ts';

/** A chunk with its padding. */
function chunk(tag: string, body: Uint8Array, octets = body.length): Buffer {
  const head = Buffer.alloc(8);
  head.write(tag, 'latin1');
  head.writeUInt32LE(octets, 4);
  return Buffer.concat([head, body, Buffer.alloc(body.length & 1)]);
}

function riff(...chunks: Buffer[]): Buffer {
  return chunk('RIFF', Buffer.concat([Buffer.from('WAVE'), ...chunks]));
}

/** A format chunk: code, channels, rate, bits. */
function format(code: number, channels: number, rate: number, bits: number): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt16LE(code, 0);
  body.writeUInt16LE(channels, 2);
  body.writeUInt32LE(rate, 4);
  body.writeUInt32LE((rate * channels * bits) / 8, 8);
  body.writeUInt16LE((channels * bits) / 8, 12);
  body.writeUInt16LE(bits, 14);
  return chunk('fmt ', body);
}

const SAMPLES = Buffer.from('0102030405060708', 'hex');
const STEREO = format(1, 2, 48_000, 16);

describe('audio WAV files', () => {
  it('have the header that other programs write', () => {
    // Python 3.11, module wave: two channels, two octets, 48000 Hz, 192000 octets of samples.
    const python =
      '5249464624ee020057415645666d742010000000' +
      '0100020080bb000000ee0200040010006461746100ee0200';
    assert.equal(wavHeader(48_000, 192_000).toString('hex'), python);
  });

  it('are read as they are written', () => {
    const octets = fc.uint8Array({ maxLength: 64 }).filter((array) => array.length % 4 === 0);
    fc.assert(
      fc.property(fc.constantFrom(44_100, 48_000), octets, (rateHz, samples) => {
        const file = Buffer.concat([wavHeader(rateHz, samples.length), samples]);
        const parsed = parseWav(file, 'a.wav');
        assert.deepEqual(parsed, { rateHz, channels: 2, samples: Buffer.from(samples) });
      }),
    );
  });

  it('fit their header up to the limit', () => {
    const header = wavHeader(48_000, WAV_DATA_OCTETS_MAX);
    assert.equal(header.readUInt32LE(4), WAV_DATA_OCTETS_MAX + WAV_HEADER_OCTETS - 8);
    assert.equal(WAV_DATA_OCTETS_MAX % 4, 0);
  });

  const extensible = Buffer.alloc(40);
  STEREO.copy(extensible, 0, 8);
  extensible.writeUInt16LE(0xfffe, 0);
  extensible.writeUInt16LE(22, 16);
  extensible.writeUInt16LE(1, 24);

  const read: [name: string, file: Buffer, channels: number, samples: string][] = [
    ['mono', riff(format(1, 1, 48_000, 16), chunk('data', SAMPLES)), 1, '0102030405060708'],
    [
      'the extensible format',
      riff(chunk('fmt ', extensible), chunk('data', SAMPLES)),
      2,
      '0102030405060708',
    ],
    [
      'other chunks, of odd lengths, on the way',
      riff(
        chunk('LIST', Buffer.from('abc')),
        STEREO,
        chunk('fact', Buffer.alloc(5)),
        chunk('data', SAMPLES),
      ),
      2,
      '0102030405060708',
    ],
    [
      'a data chunk that claims more',
      riff(STEREO, chunk('data', SAMPLES, 0xffff_ffff)),
      2,
      '0102030405060708',
    ],
    ['half a frame at the end', riff(STEREO, chunk('data', SAMPLES.subarray(0, 6))), 2, '01020304'],
    ['no sample', riff(STEREO, chunk('data', Buffer.alloc(0))), 2, ''],
  ];
  for (const [name, file, channels, samples] of read) {
    it(`are read with ${name}`, () => {
      const parsed = parseWav(file, 'a.wav');
      assert.deepEqual([parsed.channels, parsed.samples.toString('hex')], [channels, samples]);
      assert.equal(parsed.rateHz, 48_000);
    });
  }

  const refused: [name: string, file: Buffer, message: RegExp][] = [
    ['empty', Buffer.alloc(0), /does not begin as a RIFF/],
    ['RIFX', Buffer.from('RIFX....WAVE'), /does not begin as a RIFF/],
    ['AVI', Buffer.from('RIFF....AVI '), /does not begin as a RIFF/],
    ['without chunks', riff(), /has no samples/],
    ['without data', riff(STEREO), /has no samples/],
    [
      'data before format',
      riff(chunk('data', SAMPLES), STEREO),
      /samples come before their format/,
    ],
    [
      'a short format',
      riff(chunk('fmt ', Buffer.alloc(14)), chunk('data', SAMPLES)),
      /chunk is too short/,
    ],
    [
      '8 bits',
      riff(format(1, 2, 48_000, 8), chunk('data', SAMPLES)),
      /format 1, 8 bits, 2 channels/,
    ],
    ['float', riff(format(3, 2, 48_000, 32), chunk('data', SAMPLES)), /format 3, 32 bits/],
    ['6 channels', riff(format(1, 6, 48_000, 16), chunk('data', SAMPLES)), /6 channels/],
    ['0 channels', riff(format(1, 0, 48_000, 16), chunk('data', SAMPLES)), /0 channels/],
    [
      'chunks without end',
      riff(...new Array<Buffer>(100).fill(chunk('junk', SAMPLES)), STEREO, chunk('data', SAMPLES)),
      /has no samples/,
    ],
  ];
  for (const [name, file, message] of refused) {
    it(`are refused when ${name}`, () => {
      assert.throws(
        () => parseWav(file, 'a.wav'),
        (error) =>
          error instanceof UserError &&
          /^Cannot read WAV file a\.wav: .*, wanted 16-bit PCM, mono or stereo$/.test(
            error.message,
          ) &&
          message.test(error.message),
      );
    });
  }

  it('make a reader throw a UserError or nothing, whatever is in them', () => {
    const good = riff(STEREO, chunk('LIST', Buffer.from('abc')), chunk('data', SAMPLES));
    const spoiled = fc.tuple(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length));
    fc.assert(
      fc.property(spoiled, ([at, octet, length]) => {
        const file = Buffer.from(good);
        file[at] = octet;
        try {
          parseWav(file.subarray(0, length), 'a.wav');
        } catch (error) {
          assert(error instanceof UserError, String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });
});
