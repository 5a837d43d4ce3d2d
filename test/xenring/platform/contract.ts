/**
 * What every platform does, between this process and another one (`peer-process.ts`).
 *
 * On a hypervisor both may be in one domain: domains may grant to and bind with themselves.
 */
import { strict as assert } from 'node:assert';
import {
  type GrantSegment,
  PAGE_OCTETS,
  type Platform,
  PlatformError,
} from '../../../src/xenring/platform.ts';
import type { Remote } from './remote.ts';
import { pause, until } from './until.ts';

export interface Pair {
  readonly here: Platform;
  readonly there: Remote;
}

/** A reference and a port that nobody has. */
const NO_REFERENCE = 0xffff_fff0;
const NO_PORT = 0xfff0;

const NOTHING = { grantedPages: 0, mappedPages: 0, channels: 0, watches: 0 };

/** Octets that tell where they are from. */
function pattern(octets: number, seed = 1): Buffer {
  return Buffer.from(Array.from({ length: octets }, (_, at) => (at * 7 + (at >> 8) + seed) & 0xff));
}

export function platformContract(pair: () => Pair): void {
  const refused = (work: () => unknown) => assert.throws(work, PlatformError);
  const refusedThere = (work: Promise<unknown>) =>
    assert.rejects(work, (error: Error) => error.name === 'PlatformError');

  it('begins with nothing in use', async () => {
    const { here, there } = pair();
    assert.deepEqual({ ...here.inUse }, NOTHING);
    assert.deepEqual(await there.ask('inUse'), NOTHING);
  });

  describe('pages', () => {
    it('are zeroed, mapped, and the same for both', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 3);
      const key = references[0] as number;
      assert.equal(new Set(references).size, 3);
      const mapped = here.map(there.domain, references);
      assert.equal(mapped.memory.length, 3 * PAGE_OCTETS);
      assert(mapped.memory.every((octet) => octet === 0));
      mapped.memory.writeUInt32LE(0x12345678, PAGE_OCTETS + 4);
      const there4 = Buffer.from(await there.ask('readGrant', key, PAGE_OCTETS + 4, 4));
      assert.equal(there4.readUInt32LE(), 0x12345678);
      await there.ask('writeGrant', key, 2 * PAGE_OCTETS, pattern(100));
      assert.deepEqual(
        mapped.memory.subarray(2 * PAGE_OCTETS, 2 * PAGE_OCTETS + 100),
        pattern(100),
      );
      const words = new Int32Array(mapped.memory.buffer, mapped.memory.byteOffset, 4);
      assert.equal(Atomics.add(words, 0, 5), 0);
      assert.deepEqual({ ...here.inUse }, { ...NOTHING, mappedPages: 3 });
      assert.deepEqual(await there.ask('inUse'), { ...NOTHING, grantedPages: 3 });
      mapped.unmap();
      await there.ask('endGrant', key);
      assert.deepEqual({ ...here.inUse }, NOTHING);
    });

    it('are mapped in the order of the references', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 4);
      const key = references[0] as number;
      for (let page = 0; page < 4; page++)
        await there.ask('writeGrant', key, page * PAGE_OCTETS, Buffer.from([page + 1]));
      const [a, b, c, d] = references as [number, number, number, number];
      const mapped = here.map(there.domain, [d, b, c, a]);
      assert.deepEqual(
        [0, 1, 2, 3].map((page) => mapped.memory[page * PAGE_OCTETS]),
        [4, 2, 3, 1],
      );
      mapped.unmap();
      await there.ask('endGrant', key);
    });

    it('memory that was let go of is dead, not deadly', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 1);
      const key = references[0] as number;
      const mapped = here.map(there.domain, references);
      mapped.unmap();
      mapped.memory[0] = 77;
      assert.deepEqual(await there.ask('readGrant', key, 0, 1), Uint8Array.of(0));
      await there.ask('endGrant', key);
    });

    it('of another domain, or of nobody, are refused', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain + 77, 1);
      const [ofAnother] = references as [number];
      for (const reference of [ofAnother, NO_REFERENCE, 0]) {
        refused(() => here.map(there.domain, [reference]));
        const segments = [{ reference, offset: 0, octets: 16 }];
        refused(() => here.copyFrom(there.domain, segments, Buffer.alloc(16)));
        refused(() => here.copyTo(there.domain, segments, Buffer.alloc(16)));
      }
      await there.ask('endGrant', ofAnother);
      assert.deepEqual({ ...here.inUse }, NOTHING);
    });

    it('one wrong reference among good ones refuses all, and leaves nothing', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 2);
      const [first, second] = references as [number, number];
      refused(() => here.map(there.domain, [first, NO_REFERENCE, second]));
      assert.deepEqual({ ...here.inUse }, NOTHING);
      await there.ask('endGrant', first);
    });

    it('whose grant has ended are refused', async () => {
      const { here, there } = pair();
      const [reference] = (await there.ask('grant', here.domain, 1)) as [number];
      here.map(there.domain, [reference]).unmap();
      await there.ask('endGrant', reference);
      refused(() => here.map(there.domain, [reference]));
      const segments = [{ reference, offset: 0, octets: 16 }];
      refused(() => here.copyFrom(there.domain, segments, Buffer.alloc(16)));
    });

    it('of a domain that is not there are refused', () => {
      const { here } = pair();
      refused(() => here.map(4242, [8]));
      refused(() => here.copyFrom(4242, [{ reference: 8, offset: 0, octets: 1 }], Buffer.alloc(1)));
      refused(() => here.bindChannel(4242, 1));
    });

    it('come and go without end', async () => {
      const { here, there } = pair();
      for (let round = 0; round < 50; round++) {
        const references = await there.ask('grant', here.domain, 5);
        const mapped = here.map(there.domain, references);
        assert(mapped.memory.every((octet) => octet === 0));
        mapped.memory.fill(round + 1);
        mapped.unmap();
        await there.ask('endGrant', references[0] as number);
      }
      assert.deepEqual(await there.ask('inUse'), NOTHING);
    });
  });

  describe('copies', () => {
    /** Parts of `pages` granted pages: odd lengths at odd places, more than fit one call. */
    function parts(references: readonly number[]): GrantSegment[] {
      return references.flatMap((reference, page) => [
        { reference, offset: 3 + page, octets: 1000 + page },
        { reference, offset: PAGE_OCTETS - 17, octets: 17 },
        { reference, offset: 2000, octets: 1 },
      ]);
    }

    it('from many segments, at any offsets', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 16);
      const key = references[0] as number;
      const all = pattern(16 * PAGE_OCTETS);
      await there.ask('writeGrant', key, 0, all);
      const segments = parts(references);
      const expected = Buffer.concat(
        segments.map(({ reference, offset, octets }) => {
          const at = references.indexOf(reference) * PAGE_OCTETS + offset;
          return all.subarray(at, at + octets);
        }),
      );
      const target = Buffer.alloc(expected.length + 9, 0xee);
      here.copyFrom(there.domain, segments, target);
      assert.deepEqual(target.subarray(0, expected.length), expected);
      assert(target.subarray(expected.length).every((octet) => octet === 0xee));
      await there.ask('endGrant', key);
    });

    it('to many segments, and nothing beside them', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 16);
      const key = references[0] as number;
      const segments = parts(references);
      const octets = segments.reduce((sum, segment) => sum + segment.octets, 0);
      const source = pattern(octets, 99);
      here.copyTo(there.domain, segments, source);
      const expected = Buffer.alloc(16 * PAGE_OCTETS);
      let done = 0;
      for (const segment of segments) {
        const at = references.indexOf(segment.reference) * PAGE_OCTETS + segment.offset;
        source.copy(expected, at, done, done + segment.octets);
        done += segment.octets;
      }
      const got = Buffer.from(await there.ask('readGrant', key, 0, expected.length));
      assert.equal(Buffer.compare(got, expected), 0);
      await there.ask('endGrant', key);
    });

    it('to segments from a source that ends before they do', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 3);
      const key = references[0] as number;
      const segments = references.map((reference) => ({ reference, offset: 0, octets: 100 }));
      here.copyTo(there.domain, segments, Buffer.alloc(150, 5));
      for (const [page, count] of [100, 50, 0].entries()) {
        const got = await there.ask('readGrant', key, page * PAGE_OCTETS, 200);
        assert.equal(got.filter((octet) => octet === 5).length, count);
      }
      await there.ask('endGrant', key);
    });

    it('of whole pages, and of none', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 16);
      const key = references[0] as number;
      const segments = references.map((reference) => ({
        reference,
        offset: 0,
        octets: PAGE_OCTETS,
      }));
      const source = pattern(16 * PAGE_OCTETS, 3);
      here.copyTo(there.domain, segments, source);
      const target = Buffer.alloc(source.length);
      here.copyFrom(there.domain, segments, target);
      assert.equal(Buffer.compare(source, target), 0);
      here.copyFrom(there.domain, [], Buffer.alloc(0));
      here.copyTo(there.domain, [], Buffer.alloc(0));
      await there.ask('endGrant', key);
    });

    it('beyond a page are refused', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 2);
      const [reference] = references as [number];
      for (const [offset, octets] of [
        [0, PAGE_OCTETS + 1],
        [PAGE_OCTETS, 1],
        [4000, 97],
        [65_535, 65_535],
      ] as const) {
        const segments = [{ reference, offset, octets }];
        refused(() => here.copyFrom(there.domain, segments, Buffer.alloc(octets)));
        refused(() => here.copyTo(there.domain, segments, Buffer.alloc(octets)));
      }
      await there.ask('endGrant', reference);
    });

    it('with one wrong segment are refused', async () => {
      const { here, there } = pair();
      const references = await there.ask('grant', here.domain, 1);
      const [reference] = references as [number];
      const segments = [reference, NO_REFERENCE].map((one) => ({
        reference: one,
        offset: 0,
        octets: 8,
      }));
      refused(() => here.copyFrom(there.domain, segments, Buffer.alloc(16)));
      await there.ask('endGrant', reference);
    });

    it('go the other way, too', async () => {
      const { here, there } = pair();
      const granted = here.grant(there.domain, 2);
      pattern(2 * PAGE_OCTETS).copy(granted.memory);
      assert.deepEqual({ ...here.inUse }, { ...NOTHING, grantedPages: 2 });
      const segments = granted.references.map((reference) => ({
        reference,
        offset: 1,
        octets: 4000,
      }));
      const got = await there.ask('copyFrom', here.domain, segments, 8000);
      const expected = Buffer.concat([
        granted.memory.subarray(1, 4001),
        granted.memory.subarray(PAGE_OCTETS + 1, PAGE_OCTETS + 4001),
      ]);
      assert.equal(Buffer.compare(Buffer.from(got), expected), 0);
      granted.end();
      assert.deepEqual({ ...here.inUse }, NOTHING);
      await refusedThere(there.ask('copyFrom', here.domain, segments, 8000));
    });
  });

  describe('event channels', () => {
    it('carry events both ways', async () => {
      const { here, there } = pair();
      const port = await there.ask('offer', here.domain);
      const channel = here.bindChannel(there.domain, port);
      let events = 0;
      channel.onEvent = () => {
        events++;
      };
      await pause(20); // one may come for nothing
      events = 0;
      const before = await there.ask('events', port);
      channel.notify();
      await until('the peer has it', async () => (await there.ask('events', port)) > before);
      await there.ask('notify', port);
      await until('it is here', () => events > 0);
      assert.equal(here.inUse.channels, 1);
      channel.close();
      await there.ask('closeChannel', port);
      assert.deepEqual({ ...here.inUse }, NOTHING);
    });

    it('several events may come as one, and the last is never lost', async () => {
      const { here, there } = pair();
      const port = await there.ask('offer', here.domain);
      const channel = here.bindChannel(there.domain, port);
      await until('both are quiet', async () => {
        const first = await there.ask('events', port);
        await pause(20);
        return first === (await there.ask('events', port));
      });
      const before = await there.ask('events', port);
      await there.stop();
      for (let time = 0; time < 1000; time++) channel.notify();
      there.goOn();
      await until('an event is there', async () => (await there.ask('events', port)) > before);
      assert((await there.ask('events', port)) - before < 100, 'they are not counted');
      const after = await there.ask('events', port);
      channel.notify();
      await until('another is there', async () => (await there.ask('events', port)) > after);
      channel.close();
      await there.ask('closeChannel', port);
    });

    it('do not mix', async () => {
      const { here, there } = pair();
      const ports = [await there.ask('offer', here.domain), await there.ask('offer', here.domain)];
      const [first, second] = ports.map((port) => here.bindChannel(there.domain, port));
      const events = [0, 0];
      for (const [index, channel] of [first, second].entries()) {
        assert(channel !== undefined);
        channel.onEvent = () => {
          events[index] = (events[index] ?? 0) + 1;
        };
      }
      await pause(20);
      events.fill(0);
      await there.ask('notify', ports[1] as number);
      await until('it is here', () => (events[1] ?? 0) > 0);
      assert.equal(events[0], 0);
      first?.close();
      second?.close();
      for (const port of ports) await there.ask('closeChannel', port);
    });

    it('ports that are not offered are refused', async () => {
      const { here, there } = pair();
      const toAnother = await there.ask('offer', here.domain + 77);
      const port = await there.ask('offer', here.domain);
      for (const bad of [toAnother, NO_PORT]) refused(() => here.bindChannel(there.domain, bad));
      const channel = here.bindChannel(there.domain, port);
      refused(() => here.bindChannel(there.domain, port));
      await there.ask('closeChannel', port);
      channel.notify(); // says nothing to nobody
      channel.close();
      refused(() => here.bindChannel(there.domain, port));
      await there.ask('closeChannel', toAnother);
      assert.deepEqual({ ...here.inUse }, NOTHING);
    });

    it('an offer that nobody has bound may be rung', async () => {
      const { here, there } = pair();
      const port = await there.ask('offer', here.domain);
      await there.ask('notify', port);
      await there.ask('closeChannel', port);
    });

    it('can be bound again after the one who bound it has closed', async () => {
      const { here, there } = pair();
      const port = await there.ask('offer', here.domain);
      for (let round = 0; round < 3; round++) {
        const channel = here.bindChannel(there.domain, port);
        let events = 0;
        channel.onEvent = () => {
          events++;
        };
        await pause(10);
        events = 0;
        await there.ask('notify', port);
        await until('it is here', () => events > 0);
        channel.close();
      }
      await there.ask('closeChannel', port);
    });
  });

  describe('store', () => {
    it('is one for both, and tells of changes', async () => {
      const { here, there } = pair();
      const path = `/local/domain/${there.domain}/contract`;
      const seen: string[] = [];
      const watch = await here.store.watch(path, (changed) => seen.push(changed));
      await until('the first call is there', () => seen.length > 0);
      assert.equal(here.inUse.watches, 1);
      seen.length = 0;
      await there.ask('write', `${path}/below`, 'value');
      await until('the change is told', () => seen.includes(`${path}/below`));
      assert.equal(await here.store.read(`${path}/below`), 'value');
      seen.length = 0;
      await there.ask('remove', path);
      await until('the removal is told', () => seen.includes(path));
      assert.equal(await here.store.read(`${path}/below`), undefined);
      await watch.end();
      await there.ask('write', path, 'again');
      await there.ask('remove', path);
      assert.deepEqual(seen, [path]);
      assert.deepEqual({ ...here.inUse }, NOTHING);
    });
  });

  describe('afterwards', () => {
    it('nothing is in use', async () => {
      const { here, there } = pair();
      assert.deepEqual({ ...here.inUse }, NOTHING);
      assert.deepEqual(await there.ask('inUse'), NOTHING);
    });
  });
}
