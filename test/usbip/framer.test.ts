import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { BufferPool } from '../../src/usbip/buffer-pool.ts';
import { type FrameHandler, Framer } from '../../src/usbip/framer.ts';

/**
 * A protocol of its own: the header is one octet that says how long the next header's filler is and
 * whether the body is kept, and one that gives the body's length times `SCALE`.
 */
const SCALE = 3;

class Recorder implements FrameHandler {
  readonly frames: string[] = [];
  readonly pool: BufferPool;
  headerOctets = 2;
  keepBody = true;
  readonly bodies: boolean[] = [];

  constructor(pool: BufferPool) {
    this.pool = pool;
  }

  header(view: DataView, at: number): number {
    const header = Buffer.from(view.buffer, at, this.headerOctets).toString('hex');
    const [next, length] = [view.getUint8(at), view.getUint8(at + 1)];
    this.frames.push(header);
    this.headerOctets = 2 + (next & 0x3f) * 2;
    if (this.headerOctets > 64) this.headerOctets = 64;
    this.keepBody = (next & 0x80) === 0;
    return length * SCALE;
  }

  body(octets: Buffer, pooled: boolean): void {
    this.frames.push(`body ${octets.toString('hex')}`);
    this.bodies.push(pooled);
    if (pooled) this.pool.give(octets);
  }
}

function receive(chunks: readonly Uint8Array[]): string[] {
  const pool = new BufferPool();
  const recorder = new Recorder(pool);
  const framer = new Framer(recorder, pool);
  for (const chunk of chunks) {
    const memory = Buffer.from(chunk);
    framer.receive(memory);
    memory.fill(0xee);
  }
  return recorder.frames;
}

/** Cuts octets at the given places, which may be in any order and beyond the end. */
function cut(octets: Uint8Array, places: readonly number[]): Uint8Array[] {
  const sorted = [...places].map((at) => at % (octets.length + 1)).sort((a, b) => a - b);
  const ends = [...sorted, octets.length];
  return ends.map((end, n) => octets.subarray(n === 0 ? 0 : ends[n - 1], end));
}

describe('Framer', () => {
  it('reads the same frames from one chunk and from any others', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 400 }),
        fc.array(fc.nat(400), { maxLength: 12 }),
        (octets, places) => assert.deepEqual(receive(cut(octets, places)), receive([octets])),
      ),
    );
  });

  it('reads the same frames from one chunk and octet by octet', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (octets) => {
        const single = [...octets].map((octet) => Uint8Array.of(octet));
        assert.deepEqual(receive(single), receive([octets]));
      }),
    );
  });

  it('hands on a body that lies in one chunk without a copy, and only that', () => {
    const pool = new BufferPool();
    const recorder = new Recorder(pool);
    const framer = new Framer(recorder, pool);
    framer.receive(Buffer.from([0, 1, 0xa1, 0xa2, 0xa3, 0, 1, 0xb1]));
    assert.deepEqual(recorder.bodies, [false]);
    framer.receive(Buffer.from([0xb2, 0xb3]));
    assert.deepEqual(recorder.bodies, [false, true]);
    assert.deepEqual(recorder.frames, ['0001', 'body a1a2a3', '0001', 'body b1b2b3']);
  });

  it('passes over a body that is not wanted, without a call and without memory for it', () => {
    const pool = new BufferPool();
    pool.take = () => assert.fail('memory was taken');
    const recorder = new Recorder(pool);
    const framer = new Framer(recorder, pool);
    framer.receive(Buffer.from([0x80, 200, 1, 2, 3]));
    for (let n = 0; n < 5; n++) framer.receive(Buffer.alloc(119));
    framer.receive(Buffer.from([9, 9, 0, 0]));
    assert.deepEqual(recorder.frames, ['80c8', '0000']);
  });

  it('finds a header in a chunk that lies inside larger memory', () => {
    const memory = Buffer.from([0xee, 0xee, 0xee, 0, 1, 7, 8, 9, 0xee]);
    const pool = new BufferPool();
    const recorder = new Recorder(pool);
    new Framer(recorder, pool).receive(memory.subarray(3, 8));
    assert.deepEqual(recorder.frames, ['0001', 'body 070809']);
  });

  it('an empty chunk changes nothing', () => {
    assert.deepEqual(
      receive([new Uint8Array(0), Uint8Array.of(0), new Uint8Array(0), Uint8Array.of(0)]),
      ['0000'],
    );
  });

  it('does not call for an empty body', () => {
    const [header, ...rest] = receive([Uint8Array.of(0, 0)]);
    assert.equal(header, '0000');
    assert.deepEqual(rest, []);
  });
});
