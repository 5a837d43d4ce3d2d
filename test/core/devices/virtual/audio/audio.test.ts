import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type AudioState,
  defineAudio,
  ENDPOINT,
} from '../../../../../src/core/devices/virtual/audio/audio.ts';
import { INTERFACE } from '../../../../../src/core/devices/virtual/audio/descriptors.ts';
import {
  FRAME_OCTETS,
  framesInPacket,
  packetOctetsMax,
  RATES_HZ,
} from '../../../../../src/core/devices/virtual/audio/format.ts';
import { audioKind } from '../../../../../src/core/devices/virtual/audio/kind.ts';
import {
  RecordingSource,
  TONE_AMPLITUDE,
  ToneSource,
  toneSample,
} from '../../../../../src/core/devices/virtual/audio/source.ts';
import { parseWav, wavHeader } from '../../../../../src/core/devices/virtual/audio/wav.ts';
import type { UrbStatus } from '../../../../../src/core/urb.ts';
import { FakeClock, Rig, setup, split } from '../../../../examples/rig.ts';

const tone = (rateHz = 48_000) => defineAudio({ rateHz, source: new ToneSource(440, rateHz) });
type Options = Readonly<Record<string, string | number | true>>;
type Definition = ReturnType<typeof defineAudio>;
const make = (options: Options): Definition =>
  audioKind.define(options as Parameters<typeof audioKind.define>[0]) as Definition;
const hex = (octets: Uint8Array) => Buffer.from(octets).toString('hex');

/** What the microphone should supply: the tone's frames from `first` on. */
function expectedTone(first: number, frames: number, toneHz = 440, rateHz = 48_000): Buffer {
  const octets = Buffer.alloc(frames * FRAME_OCTETS);
  for (let n = 0; n < frames; n++) {
    const sample = Math.round(8192 * Math.sin((2 * Math.PI * toneHz * (first + n)) / rateHz));
    octets.writeInt16LE(sample, 4 * n);
    octets.writeInt16LE(sample, 4 * n + 2);
  }
  return octets;
}

/** Moves packets, in transfers of at most 10, over as much time as that takes. */
async function flow(
  rig: Rig<AudioState>,
  clock: FakeClock,
  address: number,
  sizes: number[],
  octets?: Buffer,
) {
  const received: Uint8Array[] = [];
  const lengths: number[] = [];
  for (let at = 0, offset = 0; at < sizes.length; at += 10) {
    const some = sizes.slice(at, at + 10);
    const total = some.reduce((sum, size) => sum + size, 0);
    const moving = rig.stream(address, some, octets?.subarray(offset, offset + total));
    assert.equal(rig.pending, 1, 'it takes as long as on a bus');
    clock.advance(some.length);
    const urb = await moving;
    assert.equal(urb.errorCount, 0);
    received.push(urb.dataIn);
    lengths.push(...(urb.packets ?? []).map((packet) => packet.actualOctets));
    offset += total;
  }
  return { octets: Buffer.concat(received), lengths };
}

describe('audio', () => {
  it('has the descriptors of a USB Audio 1.0 speaker and microphone', async () => {
    const rig = new Rig(tone());
    const parts = split(await rig.descriptor(2));
    assert.equal(parts[0]?.[4], 3, 'bNumInterfaces');
    assert.deepEqual(parts.slice(1).map(hex), [
      '090400000001010000', // AudioControl
      '0a24010001480002' + '0102', // header: 72 octets in all, interfaces 1 and 2
      '0c2402010101000203000000', // input terminal 1: USB stream, left and right
      '0a24060201010300' + '0000', // feature unit 2 of 1: mute and volume
      '092403030103000200', // output terminal 3 of 2: speaker
      '0c2402040102000203000000', // input terminal 4: microphone
      '0a24060504010300' + '0000', // feature unit 5 of 4
      '092403060101000500', // output terminal 6 of 5: USB stream
      '090401000001020000',
      '090401010101020000',
      '07240101010100', // stream of terminal 1: PCM
      '0b2402010202100180bb00', // two channels, two octets, 16 bits, 48000 Hz
      '09050109c400010000', // isochronous, adaptive, 196 octets, every frame
      '07250101010100',
      '090402000001020000',
      '090402010101020000',
      '07240106010100',
      '0b2402010202100180bb00',
      '0905810dc400010000', // isochronous, synchronous
      '07250101010100',
    ]);
    const unit = parts.slice(2, 9).reduce((sum, part) => sum + part.length, 0);
    assert.equal(parts[2]?.readUInt16LE(5), unit, 'wTotalLength of the AudioControl interface');
    await rig.end();
  });

  describe('packets', () => {
    it('of 44.1 kHz are nine of 44 frames and one of 45', () => {
      const sizes = Array.from({ length: 20 }, (_, n) => framesInPacket(44_100, n));
      const ten = [44, 44, 44, 44, 44, 44, 44, 44, 44, 45];
      assert.deepEqual(sizes, [...ten, ...ten]);
    });

    for (const rateHz of RATES_HZ) {
      it(`of ${rateHz} Hz make ${rateHz} frames a second and fit a full-speed frame`, () => {
        let frames = 0;
        for (let n = 0; n < 1000; n++) {
          const size = framesInPacket(rateHz, n);
          assert(size * FRAME_OCTETS <= packetOctetsMax(rateHz));
          frames += size;
        }
        assert.equal(frames, rateHz);
        assert(packetOctetsMax(rateHz) <= 1023);
      });
    }
  });

  describe('tone', () => {
    it('has the samples of its formula', () => {
      // 1 kHz at 8 kHz: eighths of a circle.
      const diagonal = Math.round(TONE_AMPLITUDE * Math.SQRT1_2);
      const a = TONE_AMPLITUDE;
      const samples = Array.from({ length: 9 }, (_, n) => toneSample(1000, 8000, n));
      assert.deepEqual(
        samples.map((sample) => sample + 0), // no negative zero
        [0, diagonal, a, diagonal, 0, -diagonal, -a, -diagonal, 0],
      );
    });

    it('does not depend on how it is cut', () => {
      const source = new ToneSource(440, 48_000);
      const cut = Buffer.concat([1, 47, 0, 100].map((frames) => source.read(frames)));
      assert.deepEqual(cut, expectedTone(0, 148));
    });
  });

  describe('recording', () => {
    const samples = Buffer.from('0102030405060708', 'hex');
    it('is heard once, then silence', () => {
      const source = new RecordingSource(samples, false);
      assert.equal(hex(source.read(1)), '01020304');
      assert.equal(hex(source.read(3)), '050607080000000000000000');
      assert.equal(hex(source.read(1)), '00000000');
      source.rewind();
      assert.equal(hex(source.read(1)), '01020304');
    });

    it('is heard over and over with loop', () => {
      const source = new RecordingSource(samples, true);
      const twice = hex(samples) + hex(samples);
      assert.equal(hex(source.read(5)), `${twice}01020304`);
      assert.equal(hex(source.read(1)), '05060708');
    });
  });

  describe('microphone', () => {
    it('supplies the tone from its start at each SET_INTERFACE', async () => {
      const clock = new FakeClock();
      const rig = new Rig(tone(), clock);
      await rig.configure();
      for (const packets of [101, 35]) {
        await rig.select(INTERFACE.microphone, 1);
        const sizes = new Array<number>(packets).fill(196);
        const { octets, lengths } = await flow(rig, clock, ENDPOINT.microphone, sizes);
        assert.deepEqual(new Set(lengths), new Set([192]));
        assert(octets.equals(expectedTone(0, packets * 48)));
        await rig.select(INTERFACE.microphone, 0);
        assert.equal(rig.device.endpoint(ENDPOINT.microphone), undefined);
      }
      await rig.end();
    });

    it('keeps 44.1 kHz with packets of two sizes', async () => {
      const clock = new FakeClock();
      const rig = new Rig(tone(44_100), clock);
      await rig.configure([INTERFACE.microphone, 1]);
      const sizes = new Array<number>(1000).fill(packetOctetsMax(44_100));
      const { octets, lengths } = await flow(rig, clock, ENDPOINT.microphone, sizes);
      assert.deepEqual(lengths.slice(0, 10), [...new Array<number>(9).fill(176), 180]);
      assert(octets.equals(expectedTone(0, 44_100, 440, 44_100)));
      await flow(rig, clock, ENDPOINT.microphone, sizes.slice(0, 5));
      await rig.select(INTERFACE.microphone, 1);
      const again = await flow(rig, clock, ENDPOINT.microphone, sizes.slice(0, 10));
      assert.deepEqual(again.lengths, lengths.slice(0, 10));
      await rig.end();
    });

    it('gives whole frames to a host with little room, and loses none', async () => {
      const clock = new FakeClock();
      const rig = new Rig(tone(), clock);
      await rig.configure([INTERFACE.microphone, 1]);
      const sizes = [10, 3, 0, 192, 7, 196];
      const { octets, lengths } = await flow(rig, clock, ENDPOINT.microphone, sizes);
      assert.deepEqual(lengths, [8, 0, 0, 192, 4, 192]);
      assert(octets.equals(expectedTone(0, 99)));
      await rig.end();
    });
  });

  describe('files', () => {
    let folder: string;
    before(() => {
      folder = mkdtempSync(join(tmpdir(), 'urbgate-audio-'));
    });
    after(() => rmSync(folder, { recursive: true }));
    const path = (name: string) => join(folder, name);

    it('get what the speaker is given, octet for octet, muted or not', async () => {
      const clock = new FakeClock();
      const out = path('out.wav');
      const rig = new Rig(make({ out, rate: 44_100 }), clock);
      assert.equal(
        hex(readFileSync(out)),
        hex(wavHeader(44_100, 0)),
        'a valid file from the start',
      );
      await rig.configure();
      const mute = setup(0x21, 0x01, 0x0100, 0x0200, 1);
      assert.equal((await rig.control(mute, Buffer.from([1]))).status, 'ok');
      const sizes = Array.from({ length: 500 }, (_, n) => 4 * framesInPacket(44_100, n));
      const sent = expectedTone(0, 22_050, 1000, 44_100);
      await rig.select(INTERFACE.speaker, 1);
      await flow(rig, clock, ENDPOINT.speaker, sizes, sent);
      await rig.select(INTERFACE.speaker, 0);
      await rig.select(INTERFACE.speaker, 1);
      await flow(rig, clock, ENDPOINT.speaker, sizes.slice(0, 10), sent);
      assert.equal(rig.state.playedOctets, sent.length + 441 * 4);
      await rig.close(); // without alternate setting 0: the client is gone
      const recorded = parseWav(readFileSync(out), out);
      const all = Buffer.concat([sent, sent.subarray(0, 441 * 4)]);
      assert.equal(recorded.rateHz, 44_100);
      assert(recorded.samples.equals(all));
      assert.equal(readFileSync(out).length, 44 + all.length);
      rig.open();
      await rig.end();
    });

    it('are as large as size= says, and a client that plays on makes them no larger', async () => {
      const clock = new FakeClock();
      const out = path('small.wav');
      const warned = once(process, 'warning');
      const rig = new Rig(make({ out, size: 64 * 1024 }), clock);
      await rig.configure([INTERFACE.speaker, 1]);
      for (let n = 0; n < 4; n++) {
        const sent = Buffer.alloc(200 * 192, n);
        await flow(rig, clock, ENDPOINT.speaker, new Array<number>(200).fill(192), sent);
      }
      await rig.end();
      const { length } = readFileSync(out);
      assert(length <= 64 * 1024 && length > 64 * 1024 - 192, `${length} bytes`);
      assert.equal(parseWav(readFileSync(out), out).samples.length, length - 44);
      assert.match(
        (await warned)[0].message,
        /small\.wav: it has 65536 bytes or nearly so, the most$/,
      );
    });

    it('are begun anew if that is asked for', async () => {
      const out = path('again.wav');
      writeFileSync(out, 'not sound\n'.repeat(100));
      assert.throws(() => make({ out }), /: there is one of 1000 bytes, wanted a new file or the /);
      assert.equal(readFileSync(out, 'utf8'), 'not sound\n'.repeat(100));
      const rig = new Rig(make({ out, overwrite: true }), new FakeClock());
      assert.equal(hex(readFileSync(out)), hex(wavHeader(48_000, 0)));
      await rig.end();
    });

    it('are complete soon after alternate setting 0', async () => {
      const clock = new FakeClock();
      const out = path('alternate.wav');
      const rig = new Rig(make({ out }), clock);
      await rig.configure([INTERFACE.speaker, 1]);
      const sent = expectedTone(0, 480);
      await flow(rig, clock, ENDPOINT.speaker, new Array<number>(10).fill(192), sent);
      await rig.select(INTERFACE.speaker, 0);
      await rig.state.flush();
      assert(parseWav(readFileSync(out), out).samples.equals(sent));
      await rig.end();
    });

    it('are what the microphone hears; a mono one on both sides', async () => {
      const clock = new FakeClock();
      const mono = wavHeader(48_000, 8);
      mono.writeUInt16LE(1, 22);
      writeFileSync(
        path('mono.wav'),
        Buffer.concat([mono, Buffer.from('0102030405060708', 'hex')]),
      );
      const definition = make({ in: path('mono.wav') });
      const rig = new Rig(definition, clock);
      await rig.configure([INTERFACE.microphone, 1]);
      const { octets } = await flow(rig, clock, ENDPOINT.microphone, [196]);
      assert.equal(
        hex(octets.subarray(0, 20)),
        `01020102030403040506050607080708${'00'.repeat(4)}`,
      );
      await rig.end();
    });

    it('that do not fit are refused when the device is made', () => {
      writeFileSync(path('other.wav'), Buffer.concat([wavHeader(44_100, 4), Buffer.alloc(4)]));
      writeFileSync(path('empty.wav'), wavHeader(48_000, 0));
      const refused: [Options, RegExp][] = [
        [
          { in: path('none.wav') },
          /^UserError: Cannot read WAV file .*none\.wav: ENOENT.*, wanted /,
        ],
        [{ in: path('other.wav') }, /: its rate is 44100 Hz, wanted 48000 Hz$/],
        [{ in: path('empty.wav') }, /: it has no samples, wanted at least one$/],
        [
          { out: folder },
          /^UserError: Cannot write WAV file .*it is a directory, wanted a file to write to$/,
        ],
        [{ size: 65_536 }, /overwrite or size alone, wanted out=FILE too$/],
        [{ overwrite: true }, /overwrite or size alone, wanted out=FILE too$/],
        [{ out: path('x.wav'), size: 1000 }, /: size=1000, wanted 65536 to 4294967296$/],
        [{ out: path('x.wav'), size: 2 ** 33 }, /: size=8589934592, wanted 65536 to 4294967296$/],
        [{ rate: 96_000 }, /^UserError: Cannot make a sound card of 96000 Hz: .*, wanted 8000, /],
        [
          { tone: 0 },
          /^UserError: Cannot make a tone of 0 Hz: out of range, wanted from 1 to 23999$/,
        ],
        [{ tone: 24_000 }, /out of range/],
        [{ tone: 440, in: 'a.wav' }, /both in and tone are given, wanted one$/],
        [{ loop: true }, /Cannot loop a tone/],
      ];
      for (const [options, message] of refused) {
        assert.throws(() => make(options), message);
      }
    });
  });

  describe('answers requests', () => {
    // In order; each row is a request, what it carries, and how it ends.
    type Row = [string, Parameters<typeof setup>, data: string, UrbStatus, answer?: string];
    const rows: Row[] = [
      ['GET_CUR mute', [0xa1, 0x81, 0x0100, 0x0200, 1], '', 'ok', '00'],
      ['SET_CUR mute', [0x21, 0x01, 0x0100, 0x0200, 1], '01', 'ok'],
      ['GET_CUR mute again', [0xa1, 0x81, 0x0100, 0x0200, 1], '', 'ok', '01'],
      ['the microphone has its own', [0xa1, 0x81, 0x0100, 0x0500, 1], '', 'ok', '00'],
      ['GET_MIN mute', [0xa1, 0x82, 0x0100, 0x0200, 1], '', 'stall'],
      ['GET_CUR volume is 0 dB', [0xa1, 0x81, 0x0200, 0x0200, 2], '', 'ok', '0000'],
      ['GET_MIN volume is -60 dB', [0xa1, 0x82, 0x0200, 0x0200, 2], '', 'ok', '00c4'],
      ['GET_MAX volume is 0 dB', [0xa1, 0x83, 0x0200, 0x0200, 2], '', 'ok', '0000'],
      ['GET_RES volume is 1 dB', [0xa1, 0x84, 0x0200, 0x0200, 2], '', 'ok', '0001'],
      ['SET_CUR volume -20 dB', [0x21, 0x01, 0x0200, 0x0200, 2], '00ec', 'ok'],
      ['GET_CUR volume', [0xa1, 0x81, 0x0200, 0x0200, 2], '', 'ok', '00ec'],
      ['SET_CUR volume below the minimum', [0x21, 0x01, 0x0200, 0x0200, 2], '0090', 'ok'],
      ['is the minimum', [0xa1, 0x81, 0x0200, 0x0200, 2], '', 'ok', '00c4'],
      ['SET_CUR volume to silence', [0x21, 0x01, 0x0200, 0x0200, 2], '0080', 'ok'],
      ['is silence', [0xa1, 0x81, 0x0200, 0x0200, 2], '', 'ok', '0080'],
      ['SET_CUR volume above the maximum', [0x21, 0x01, 0x0200, 0x0200, 2], 'ff7f', 'ok'],
      ['is the maximum', [0xa1, 0x81, 0x0200, 0x0200, 2], '', 'ok', '0000'],
      ['volume of one octet', [0x21, 0x01, 0x0200, 0x0200, 1], '00', 'stall'],
      ['volume of the left channel', [0xa1, 0x81, 0x0201, 0x0200, 2], '', 'stall'],
      ['bass', [0xa1, 0x81, 0x0300, 0x0200, 1], '', 'stall'],
      ['a terminal', [0xa1, 0x81, 0x0100, 0x0100, 1], '', 'stall'],
      ['a unit of another interface', [0xa1, 0x81, 0x0100, 0x0201, 1], '', 'stall'],
      ['GET_CUR rate', [0xa2, 0x81, 0x0100, 0x0001, 3], '', 'ok', '80bb00'],
      ['GET_CUR rate of the microphone', [0xa2, 0x81, 0x0100, 0x0081, 3], '', 'ok', '80bb00'],
      ['SET_CUR rate', [0x22, 0x01, 0x0100, 0x0001, 3], '80bb00', 'ok'],
      ['SET_CUR another rate', [0x22, 0x01, 0x0100, 0x0001, 3], '44ac00', 'stall'],
      ['SET_CUR pitch', [0x22, 0x01, 0x0200, 0x0001, 1], '01', 'stall'],
      ['the rate of no endpoint', [0xa2, 0x81, 0x0100, 0x0002, 3], '', 'stall'],
    ];
    const rig = new Rig(tone());
    before(() => rig.configure());
    after(() => rig.end());
    for (const [name, packet, sent, status, answer] of rows) {
      it(name, async () => {
        const urb = await rig.control(setup(...packet), Buffer.from(sent, 'hex'));
        assert.equal(urb.status, status);
        assert.equal(hex(urb.dataIn), answer ?? '');
      });
    }
  });
});
