import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { Journal, readDebt } from '../../src/xenring/journal.ts';
import { RingError } from '../../src/xenring/ring-error.ts';
import { BackRing, FrontRing } from '../../src/xenring/shared-ring.ts';
import { Request } from '../../src/xenring/urb-request.ts';
import { plainAnswer, UrbRing } from '../../src/xenring/urb-ring.ts';
import {
  ConnRequest,
  ConnResponse,
  RingHeader,
  Segment,
  UrbRequest,
  UrbResponse,
} from '../../src/xenring/usbif.ts';

const URB = { requestOctets: UrbRequest.octets, responseOctets: UrbResponse.octets };
const CONN = { requestOctets: ConnRequest.octets, responseOctets: ConnResponse.octets };
const page = () => Buffer.from(new ArrayBuffer(4096));
const view = (memory: Buffer) => new DataView(memory.buffer, memory.byteOffset, memory.length);

describe('usbif', () => {
  // As a C compiler has them from Xen 4.17's usbif.h and ring.h.
  it('sizes and offsets', () => {
    assert.equal(new BackRing(page(), URB).slots, 16);
    assert.equal(new BackRing(page(), CONN).slots, 512);
    assert.equal(RingHeader.octets, 64);
    assert.equal(RingHeader.offsets.rest, 20);
    const { pipe, transferFlags, specific, segments } = UrbRequest.offsets;
    assert.deepEqual([pipe, transferFlags, specific, segments], [4, 8, 12, 20]);
    assert.deepEqual([UrbResponse.offsets.status, UrbResponse.offsets.errorCount], [4, 12]);
    assert.equal(Segment.octets, 8);
  });
});

describe('rings', () => {
  /** Both ends, with all indexes moved to `at`. */
  function pair(at = 0) {
    const memory = page();
    const front = new FrontRing(memory, CONN);
    const back = new BackRing(memory, CONN);
    for (let n = 0; n < at; n++) {
      front.make();
      front.push();
      back.take();
      back.make();
      back.publish();
      front.release();
    }
    back.needsEvent();
    front.sleep();
    back.sleep();
    return { memory, front, back };
  }

  it('the first of several requests wakes the back end, the others do not', () => {
    const { front, back } = pair(3);
    front.make();
    assert.equal(front.push(), true);
    front.make();
    assert.equal(front.push(), false);
    assert.equal(back.available(), 2);
    back.take();
    assert.equal(back.sleep(), true, 'there is one more');
    back.take();
    assert.equal(back.sleep(), false);
    front.make();
    assert.equal(front.push(), true, 'it sleeps');
  });

  it('one event for responses that were published one by one', () => {
    const { front, back } = pair(3);
    for (let n = 0; n < 3; n++) front.make();
    front.push();
    for (let n = 0; n < 3; n++) {
      back.take();
      back.make();
      back.publish();
    }
    assert.equal(back.needsEvent(), true);
    assert.equal(back.needsEvent(), false);
    assert.equal(front.available(), 3);
    front.release(3);
    assert.equal(front.sleep(), false);
  });

  it('no event for a front end that was awake and has seen them', () => {
    const { front, back } = pair(3);
    front.make();
    front.push();
    back.take();
    back.make();
    back.publish();
    front.release(front.available());
    front.sleep();
    assert.equal(back.needsEvent(), false);
  });

  it('indexes wrap at 2^32', () => {
    const memory = page();
    const start = 0xffff_fffe;
    for (const at of [0, 8]) memory.writeUInt32LE(start, at);
    const back = new BackRing(memory, URB, start);
    assert.equal(back.available(), 0);
    for (const produced of [1, 3]) {
      memory.writeUInt32LE(produced, 0);
      memory.writeUInt32LE(produced, 12);
      const count = back.available();
      for (let n = 0; n < count; n++) {
        back.take();
        back.make();
        back.publish();
      }
      assert.equal(memory.readUInt32LE(8), produced);
      assert.equal(back.needsEvent(), true);
      assert.equal(back.sleep(), false);
      assert.equal(memory.readUInt32LE(4), produced + 1);
    }
  });

  it('claims that cannot be are errors, at any index', () => {
    fc.assert(
      fc.property(
        fc.nat(40),
        fc.nat(16),
        fc.integer({ min: 0, max: 0xffff_ffff }),
        (at, out, index) => {
          const memory = page();
          const back = new BackRing(memory, URB, at);
          memory.writeUInt32LE(at + out, 0);
          for (let n = back.available(); n > 0; n--) back.take();
          memory.writeUInt32LE(index, 0);
          const more = (index - at - out) >>> 0;
          if (more <= 16 - out) assert.equal(back.available(), more);
          else assert.throws(() => back.available(), RingError);
        },
      ),
    );
  });

  it('a front end does not believe a back end either', () => {
    const { memory, front } = pair(0);
    front.make();
    front.push();
    for (const claim of [2, 0xffff_ffff, 0x8000_0000]) {
      memory.writeUInt32LE(claim, 8);
      assert.throws(() => front.available(), RingError);
    }
  });
});

describe('journal', () => {
  it('is right after death at any store', () => {
    // Every store to the page is followed by a look with the eyes of the next back end.
    const memory = page();
    const published = new Set<number>();
    const noted = new Set<number>();
    let looks = 0;
    let expected: () => Set<number>[] = () => [];
    const look = () => {
      looks++;
      const { owed } = readDebt(view(Buffer.from(memory)));
      const ids = new Set(owed.map(({ id }) => id));
      assert(
        expected().some((one) => one.size === ids.size && [...one].every((id) => ids.has(id))),
        `owed ${[...ids]}`,
      );
    };
    const real = view(memory);
    const spy = new Proxy(real, {
      get: (target, name) => {
        const value = Reflect.get(target, name, target);
        if (typeof value !== 'function') return value;
        return (...args: never[]) => {
          const result = value.apply(target, args);
          if (String(name).startsWith('set')) look();
          return result;
        };
      },
    });
    const owedNow = () => new Set([...noted].filter((id) => !published.has(id)));
    expected = () => [new Set()];
    const journal = new Journal(spy, readDebt(real));
    let taken = 0;
    let answered = 0;
    const out: { entry: number; id: number }[] = [];
    const free = Array.from({ length: 16 }, (_, n) => n);
    for (let step = 0; step < 400; step++) {
      if (out.length < 16 && (step * 7919) % 5 < 3) {
        const entry = free.shift() as number;
        const id = step + 100;
        taken++;
        memory.writeUInt32LE(taken, 0); // the front end has produced it
        const before = owedNow();
        const after = new Set(before).add(id);
        expected = () => [before, after];
        journal.taken(entry, id);
        noted.add(id);
        out.push({ entry, id });
      } else if (out.length > 0) {
        const [one] = out.splice((step * 31) % out.length, 1);
        const { entry, id } = one as { entry: number; id: number };
        expected = () => [owedNow()];
        journal.answering(1 << entry, answered);
        answered++;
        memory.writeUInt32LE(answered, 8);
        published.add(id);
        look();
        journal.answered(1 << entry);
        free.push(entry);
      }
      expected = () => [owedNow()];
      look();
    }
    assert(looks > 1000);
  });

  it('says where the next back end begins, whatever is not published yet', () => {
    const memory = page();
    const front = new FrontRing(memory, URB);
    const back = new UrbRing(memory);
    const request = new Request();
    const take = (id: number) => {
      const at = front.make();
      front.view.setUint16(at + UrbRequest.offsets.id, id, true);
      front.view.setUint32(at + UrbRequest.offsets.pipe, 1, true);
      front.push();
      assert.equal(back.available(), 1);
      back.take(request, 1);
      assert.equal(request.id, id);
    };
    const next = () => new UrbRing(Buffer.from(new Uint8Array(memory).buffer));
    take(100);
    back.note(0, 100);
    back.respond(0, 100, plainAnswer('ok')); // one of several to be published together
    take(101);
    back.note(1, 101);
    assert.deepEqual([next().owed.map(({ id }) => id), next().taken], [[100, 101], 2]);
    back.respond(1, 101, plainAnswer('ok'));
    assert.deepEqual([next().owed.map(({ id }) => id), next().taken], [[100, 101], 2]);
    take(102);
    assert.equal(next().taken, 2);
    back.note(2, 102);
    assert.deepEqual([next().owed.map(({ id }) => id), next().taken], [[100, 101, 102], 3]);
    back.respond(2, 102, plainAnswer('ok'));
    back.publish();
    assert.deepEqual([next().owed, next().taken, front.available()], [[], 3, 3]);
  });

  it('a ring in use that has none cannot be taken over', () => {
    const memory = page();
    memory.writeUInt32LE(5, 0);
    memory.writeUInt32LE(3, 8);
    assert.throws(() => readDebt(view(memory)), RingError);
    memory.writeUInt32LE(5, 8);
    assert.deepEqual(readDebt(view(memory)), { owed: [], answered: 5 });
  });
});
