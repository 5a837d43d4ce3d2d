/**
 * The kernel's snd-usb-audio driver plays to an urbgate sound card and records from it, and every
 * sample is there.
 *
 * aplay and arecord get a buffer that holds all of it, so that a slow guest loses nothing by its
 * own doing. The kernel ends a stream without its last URB, so what is played ends with silence.
 */
import { strict as assert } from 'node:assert';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseWav, wavHeader } from '../src/core/devices/virtual/audio/wav.ts';
import { startGateway } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { until } from './lab/until.ts';
import { type AttachedDevice, attach, detachAll, loadVhci } from './lab/usbip.ts';

const SECONDS = 3;
const FRAME_OCTETS = 4;
const BUFFER = '--buffer-time=4500000 --period-time=100000';

/** Sample `frame` of a tone a quarter as loud as can be. */
function tone(hertz: number, rateHz: number, frame: number): number {
  return Math.round(8192 * Math.sin((2 * Math.PI * hertz * frame) / rateHz));
}

/** Stereo frames: on the left a tone, on the right the number of the frame, from 1 on. */
function numberedTone(rateHz: number): Buffer {
  const octets = Buffer.alloc(SECONDS * rateHz * FRAME_OCTETS);
  for (let frame = 0; frame * FRAME_OCTETS < octets.length; frame++) {
    octets.writeInt16LE(tone(1000, rateHz, frame), frame * FRAME_OCTETS);
    octets.writeUInt16LE((frame + 1) & 0xffff, frame * FRAME_OCTETS + 2);
  }
  return octets;
}

function wavFile(rateHz: number, samples: Buffer): Buffer {
  return Buffer.concat([wavHeader(rateHz, samples.length), samples]);
}

/** Compares frame by frame, and tells where two recordings part. */
function expectSame(actual: Buffer, expected: Buffer): void {
  if (actual.equals(expected)) return;
  const shown = (octets: Buffer, at: number) =>
    octets.subarray(at - (at % FRAME_OCTETS)).toString('hex', 0, 4 * FRAME_OCTETS);
  const length = Math.min(actual.length, expected.length);
  let at = 0;
  while (at < length && actual[at] === expected[at]) at++;
  assert.fail(
    `frame ${Math.floor(at / FRAME_OCTETS)} of ${expected.length / FRAME_OCTETS}: ` +
      `${shown(actual, at)}, wanted ${shown(expected, at)}; ${actual.length / FRAME_OCTETS} frames`,
  );
}

/** What was played, without the silence in front of it: the kernel may begin with some. */
function withoutLeadingSilence(samples: Buffer): Buffer {
  let at = 0;
  while (at < samples.length && samples.readUInt32LE(at) === 0) at += FRAME_OCTETS;
  return samples.subarray(at);
}

/** Waits for the sound card of an attached device. @returns its name for aplay and arecord */
async function soundCard(guest: Guest, { sysfs }: AttachedDevice): Promise<string> {
  const number = await guest.succeed(
    `for try in $(seq 200); do
       card=$(ls -d ${sysfs}/*/sound/card* 2>/dev/null); number=\${card##*/card}
       [ -n "$number" ] && [ -c /dev/snd/controlC$number ] && echo $number && exit 0
       sleep 0.1
     done
     echo "no sound card under ${sysfs}" >&2; exit 1`,
  );
  return `hw:${number.trim()}`;
}

/** Plays the samples and then a little silence. */
async function play(guest: Guest, card: string, rateHz: number, samples: Buffer): Promise<void> {
  const silence = Buffer.alloc(Math.ceil(rateHz / 10) * FRAME_OCTETS);
  const input = wavFile(rateHz, Buffer.concat([samples, silence]));
  await guest.succeed('cat > /run/play.wav', { input });
  const { stderr, code } = await guest.run(`aplay -D ${card} ${BUFFER} /run/play.wav`, {
    timeoutSeconds: 120,
  });
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stderr, /underrun/i);
}

/** Records the first seconds of a stream. @returns its samples */
async function record(guest: Guest, card: string, rateHz: number): Promise<Buffer> {
  const { stderr, code } = await guest.run(
    `arecord -D ${card} ${BUFFER} -t raw -f S16_LE -c 2 -r ${rateHz} -d ${SECONDS} /run/record`,
    { timeoutSeconds: 120 },
  );
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stderr, /overrun/i);
  return Buffer.from(await guest.succeed('base64 -w0 /run/record'), 'base64');
}

describe('audio, attached with the stock usbip client', function () {
  this.timeout(300_000);
  let guest: Guest;
  let folder: string;

  before(async () => {
    guest = await sharedGuest();
    await loadVhci(guest);
    await guest.succeed('modprobe snd-usb-audio', { timeoutSeconds: 60 });
    folder = mkdtempSync(join(tmpdir(), 'urbgate-audio-'));
  });

  afterEach(async function () {
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  /** Runs a gateway with one sound card that is attached. */
  async function withCard(spec: string, body: (card: string) => Promise<void>): Promise<void> {
    const gateway = await startGateway({ exports: [spec], arguments: ['--control', 'none'] });
    try {
      guest.forward(gateway.port);
      await body(await soundCard(guest, await attach(guest, '1-1')));
      await detachAll(guest);
      await gateway.stop();
    } finally {
      await gateway.kill();
    }
  }

  /** Waits until the gateway has written all that was played, and compares it. */
  async function expectPlayed(file: string, rateHz: number, samples: Buffer): Promise<void> {
    const played = () => withoutLeadingSilence(parseWav(readFileSync(file), file).samples);
    await until(
      30,
      () => played().length >= samples.length || undefined,
      () => {
        const lost = (samples.length - played().length) / FRAME_OCTETS;
        return `Cannot find all that was played in ${file}: ${lost} frames are lost`;
      },
    );
    assert.equal(parseWav(readFileSync(file), file).rateHz, rateHz);
    expectSame(played().subarray(0, samples.length), samples);
    assert(!played().subarray(samples.length).some(Boolean), 'silence follows');
  }

  // Packets of one size, and of two.
  for (const rateHz of [48_000, 44_100]) {
    it(`plays every sample at ${rateHz} Hz`, async () => {
      const out = join(folder, `played-${rateHz}.wav`);
      const samples = numberedTone(rateHz);
      await withCard(`virtual:audio,rate=${rateHz},out=${out}`, async (card) => {
        await play(guest, card, rateHz, samples);
        await expectPlayed(out, rateHz, samples);
      });
    });

    it(`records every sample at ${rateHz} Hz`, async () => {
      const expected = Buffer.alloc(SECONDS * rateHz * FRAME_OCTETS);
      for (let frame = 0; frame < SECONDS * rateHz; frame++) {
        expected.writeInt16LE(tone(440, rateHz, frame), frame * FRAME_OCTETS);
        expected.writeInt16LE(tone(440, rateHz, frame), frame * FRAME_OCTETS + 2);
      }
      await withCard(`virtual:audio,rate=${rateHz}`, async (card) => {
        for (const _ of ['first', 'second']) {
          expectSame(await record(guest, card, rateHz), expected);
        }
      });
    });
  }

  it('plays and records at the same time', async () => {
    const rateHz = 48_000;
    const heard = join(folder, 'heard.wav');
    const out = join(folder, 'both.wav');
    const samples = numberedTone(rateHz);
    const voice = Buffer.from(samples).swap16(); // other samples than those played
    writeFileSync(heard, wavFile(rateHz, voice));
    await withCard(`virtual:audio,in=${heard},out=${out}`, async (card) => {
      const [recorded] = await Promise.all([
        record(guest, card, rateHz),
        play(guest, card, rateHz, samples),
      ]);
      expectSame(recorded, voice);
      await expectPlayed(out, rateHz, samples);
    });
  });
});
