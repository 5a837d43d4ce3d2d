/** What a disk in memory may occupy, and what gives that back. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  MemoryBacking,
  PAGE_OCTETS,
} from '../../../../../src/core/devices/virtual/disk/backing.ts';
import {
  DISKS_MEMORY,
  DiskMemory,
} from '../../../../../src/core/devices/virtual/disk/disk-memory.ts';
import { disk } from '../../../../../src/core/devices/virtual/disk/kind.ts';
import { UserError } from '../../../../../src/core/errors.ts';
import { cdb10, cdb16, type Host, hostOf, pattern } from './host.ts';

const MIB = 1 << 20;
const TIB = 2 ** 40;
/** Space allocation failed write protect. */
const FULL = '07/27/07';

const WRITE_SAME_BLOCKS = (32 * MIB) / 512;

/** WRITE SAME(16) of 32 MiB with a block that is not zeros. */
const writeSame = (host: Host, block: number) =>
  host.failure(cdb16(0x93, block, WRITE_SAME_BLOCKS), { out: pattern(512) });

const write = (host: Host, block: number, data: Buffer) =>
  host.pass(cdb10(0x2a, block, data.length / 512), { out: data });

const unmap = async (host: Host, block: number, blocks: number) => {
  const list = Buffer.alloc(24);
  list.writeUInt16BE(22, 0);
  list.writeUInt16BE(16, 2);
  list.writeBigUInt64BE(BigInt(block), 8);
  list.writeUInt32BE(blocks, 16);
  await host.pass(cdb10(0x42, 0, list.length), { out: list });
};

describe('memory of disks in memory', () => {
  it('many large commands to a disk larger than the machine: full where memory= says, for good', async () => {
    const memory = new DiskMemory(TIB);
    const backing = new MemoryBacking(TIB, { bytesMax: 4 * MIB, memory });
    const host = hostOf(backing);
    for (let n = 0; n < 300; n++) {
      assert.equal(await writeSame(host, n * WRITE_SAME_BLOCKS), FULL);
      assert.equal(backing.allocatedOctets, 4 * MIB);
    }
    assert.equal(memory.usedBytes, 4 * MIB);
    const read = await host.pass(cdb10(0x28, 0, 8), { in: 4096 });
    assert(read.subarray(0, 512).equals(pattern(512)), 'what was written before is there');
  });

  it('all disks together have what the process may have', async () => {
    const memory = new DiskMemory(MIB);
    const hosts = [1, 2].map(() => hostOf(new MemoryBacking(TIB, { memory })));
    const [one, other] = hosts as [Host, Host];
    assert.equal(await writeSame(one, 0), FULL);
    assert.equal(memory.usedBytes, MIB);
    const data = pattern(512);
    assert.equal(await other.failure(cdb10(0x2a, 0, 1), { out: data }), FULL);
    await unmap(one, 0, 2 * (PAGE_OCTETS / 512));
    await write(other, 0, data);
    assert.equal(memory.usedBytes, MIB - PAGE_OCTETS);
  });

  it('a disk that goes gives all of it back', async () => {
    const memory = new DiskMemory(MIB);
    const backing = new MemoryBacking(TIB, { memory });
    await write(hostOf(backing), 1000, pattern(128 * 512));
    assert(memory.usedBytes > 0);
    await backing.close();
    assert.equal(memory.usedBytes, 0);
  });

  it('zeros cost nothing, and give back what they replace', async () => {
    const memory = new DiskMemory(MIB);
    const backing = new MemoryBacking(TIB, { memory });
    const host = hostOf(backing);
    const pageBlocks = PAGE_OCTETS / 512;
    await write(host, 0, Buffer.alloc(PAGE_OCTETS));
    await host.pass(cdb16(0x93, 0, WRITE_SAME_BLOCKS), { out: Buffer.alloc(512) });
    assert.equal(memory.usedBytes, 0);
    await write(host, 0, pattern(PAGE_OCTETS));
    assert.equal(memory.usedBytes, PAGE_OCTETS);
    for (let block = 0; block < pageBlocks; block++) {
      assert.equal(memory.usedBytes, PAGE_OCTETS);
      await write(host, block, Buffer.alloc(512));
    }
    assert.equal(memory.usedBytes, 0);
    await write(host, 5, pattern(512));
    await unmap(host, 5, 1);
    assert.equal(memory.usedBytes, 0, 'a part of a page that was all of it');
  });

  it('always: reads what was written; occupies the pages that are not zeros', () => {
    const PAGES = 4;
    const operations = fc.array(
      fc.record({
        what: fc.constantFrom('zeros', 'data', 'discard'),
        block: fc.nat(PAGES * 128 - 1),
        blocks: fc.integer({ min: 1, max: 200 }),
      }),
      { maxLength: 40 },
    );
    fc.assert(
      fc.property(operations, (script) => {
        const memory = new DiskMemory(MIB);
        const backing = new MemoryBacking(PAGES * PAGE_OCTETS, { memory });
        const model = Buffer.alloc(backing.octets);
        const done = (error: Error | null) => assert.equal(error, null);
        for (const { what, block, blocks } of script) {
          const start = block * 512;
          const end = Math.min(start + blocks * 512, backing.octets);
          const data = what === 'data' ? pattern(end - start) : Buffer.alloc(end - start);
          data.copy(model, start);
          if (what === 'discard') backing.discard(start, end - start, done);
          else backing.write(start, data, done);
          const into = Buffer.alloc(backing.octets, 0xee);
          backing.read(0, into, done);
          assert(into.equals(model));
          const used = Array.from(
            { length: PAGES },
            (_, n) =>
              !model
                .subarray(n * PAGE_OCTETS, (n + 1) * PAGE_OCTETS)
                .equals(Buffer.alloc(PAGE_OCTETS)),
          );
          assert.equal(memory.usedBytes, used.filter(Boolean).length * PAGE_OCTETS);
        }
      }),
      { numRuns: 30 },
    );
  });

  describe('of the kind', () => {
    const define = (options: Record<string, number | string>) =>
      disk.define(options as Parameters<typeof disk.define>[0]);

    it('a disk larger than the machine is made, and is thin', () => {
      define({ size: 100 * TIB });
      define({ size: 100 * TIB, memory: MIB });
    });

    it('no more memory than all disks may have, nor less than a page', () => {
      assert.throws(() => define({ size: MIB, memory: DISKS_MEMORY.bytesMax + 1 }), UserError);
      assert.throws(
        () => define({ size: MIB, memory: 0 }),
        /^UserError: Cannot make a disk that occupies up to 0 bytes of memory: expected 65536 to \d+,/,
      );
    });

    it('not for a disk in a file', () => {
      assert.throws(() => define({ file: '/nowhere', memory: MIB }), /it is in the file/);
    });
  });
});
