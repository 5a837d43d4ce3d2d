import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  BLOCK_OCTETS,
  Recorder,
  UNWRITTEN_OCTETS_MAX,
} from '../../../../../src/core/devices/virtual/audio/recorder.ts';
import {
  parseWav,
  WAV_HEADER_OCTETS,
  wavHeader,
} from '../../../../../src/core/devices/virtual/audio/wav.ts';

/** A disk that writes when it is told to, and as much as it is told to. */
class FakeDisk {
  file = Buffer.from(wavHeader(48_000, 0));
  #waiting: (() => void)[] = [];
  /** The next write takes at most so many octets. */
  octetsMax = Number.POSITIVE_INFINITY;
  error: Error | null = null;
  running = 0;

  write = async (octets: Buffer, position: number): Promise<number> => {
    this.running++;
    assert.equal(this.running, 1, 'writes do not overlap');
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.running--;
    if (this.error !== null) throw this.error;
    const count = Math.min(octets.length, this.octetsMax);
    if (this.file.length < position + count) {
      assert(position <= this.file.length, 'no gap');
      this.file = Buffer.concat([this.file, Buffer.alloc(position + count - this.file.length)]);
    }
    octets.copy(this.file, position, 0, count);
    return count;
  };

  /** Lets one write end; false if there is none. */
  async step(): Promise<boolean> {
    const resolve = this.#waiting.shift();
    resolve?.();
    for (let n = 0; n < 8; n++) await Promise.resolve();
    return resolve !== undefined;
  }

  async run(): Promise<void> {
    while (await this.step());
  }
}

/** Octets of which no two neighbours look alike. */
function pattern(octets: number, from = 0): Buffer {
  return Buffer.from(Array.from({ length: octets }, (_, n) => ((n + from) * 31) % 251));
}

describe('audio recorder', () => {
  it('writes every octet in order, and the file is valid after each write', async () => {
    const packets = fc.array(
      fc.integer({ min: 0, max: 200 }).map((frames) => frames * 4),
      {
        maxLength: 300,
      },
    );
    await fc.assert(
      fc.asyncProperty(packets, fc.integer({ min: 1, max: 20_000 }), async (lengths, octetsMax) => {
        const disk = new FakeDisk();
        const recorder = new Recorder(48_000, disk.write);
        disk.octetsMax = octetsMax;
        let octets = 0;
        for (const [n, length] of lengths.entries()) {
          recorder.record(pattern(length, octets));
          octets += length;
          if (n % 7 === 0) {
            await disk.step();
            const { samples } = parseWav(Buffer.from(disk.file), 'disk');
            assert.deepEqual(samples, pattern(samples.length));
          }
        }
        const flushed = recorder.flush();
        await disk.run();
        await flushed;
        assert.equal(recorder.writtenOctets, octets);
        assert.deepEqual(disk.file, Buffer.concat([wavHeader(48_000, octets), pattern(octets)]));
      }),
      { numRuns: 40 },
    );
  });

  it('ends at its limit, says so once, and takes no shorter packet behind the one left out', async () => {
    const disk = new FakeDisk();
    let told = 0;
    const recorder = new Recorder(48_000, disk.write, 1000, () => told++);
    for (const bytes of [600, 396, 200, 4, 200]) recorder.record(pattern(bytes));
    const flushed = recorder.flush();
    await disk.run();
    await flushed;
    assert.equal(recorder.writtenOctets, 996);
    assert.equal(recorder.droppedOctets, 404);
    assert.equal(told, 1);
    assert.equal(disk.file.length, WAV_HEADER_OCTETS + 996);
  });

  it('copies what it is given', async () => {
    const disk = new FakeDisk();
    const recorder = new Recorder(48_000, disk.write);
    const octets = pattern(400);
    recorder.record(octets);
    octets.fill(0);
    const flushed = recorder.flush();
    await disk.run();
    await flushed;
    assert.deepEqual(disk.file.subarray(WAV_HEADER_OCTETS), pattern(400));
  });

  it('drops and counts what a stuck disk does not take, and goes on after it', async () => {
    const disk = new FakeDisk();
    const recorder = new Recorder(48_000, disk.write);
    const block = pattern(BLOCK_OCTETS);
    const blocks = UNWRITTEN_OCTETS_MAX / BLOCK_OCTETS;
    for (let n = 0; n < blocks + 3; n++) recorder.record(block);
    assert.equal(recorder.droppedOctets, 3 * BLOCK_OCTETS);
    await disk.run();
    recorder.record(block);
    const flushed = recorder.flush();
    await disk.run();
    await flushed;
    assert.equal(recorder.droppedOctets, 3 * BLOCK_OCTETS);
    assert.equal(recorder.writtenOctets, UNWRITTEN_OCTETS_MAX + BLOCK_OCTETS);
  });

  it('ends with the first error, and the file stays valid', async () => {
    const disk = new FakeDisk();
    const recorder = new Recorder(48_000, disk.write);
    recorder.record(pattern(BLOCK_OCTETS));
    await disk.run();
    recorder.record(pattern(BLOCK_OCTETS, BLOCK_OCTETS));
    disk.error = new Error('ENOSPC');
    recorder.record(pattern(100));
    await disk.run();
    assert.equal(recorder.error?.message, 'ENOSPC');
    disk.error = null;
    recorder.record(pattern(40));
    const flushed = recorder.flush();
    await disk.run();
    await flushed;
    assert.equal(recorder.writtenOctets, BLOCK_OCTETS);
    assert.equal(recorder.droppedOctets, BLOCK_OCTETS + 140);
    assert.deepEqual(parseWav(disk.file, 'disk').samples, pattern(BLOCK_OCTETS));
  });
});
