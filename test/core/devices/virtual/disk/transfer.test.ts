/** Reads and writes on a backing that takes its time: order, limits, errors, cut-offs. */
import { strict as assert } from 'node:assert';
import { setImmediate as turn } from 'node:timers/promises';
import { BULK_IN, BULK_OUT } from '../../../../../src/core/devices/virtual/disk/disk.ts';
import {
  PIECE_OCTETS,
  READS_AHEAD_MAX,
  WRITES_IN_FLIGHT_MAX,
} from '../../../../../src/core/devices/virtual/disk/medium.ts';
import { ScriptedBacking, SlowBacking } from './backings.ts';
import { assertOctets, assertZeros, cdb10, type Host, hostOf, pattern } from './host.ts';

const SIZE = 8 << 20;
const PIECE_BLOCKS = PIECE_OCTETS / 512;
const READ = (blocks: number, flags = 0) => cdb10(0x28, 0, blocks, flags);
const WRITE = (blocks: number, flags = 0) => cdb10(0x2a, 0, blocks, flags);
const SYNCHRONIZE = cdb10(0x35, 0, 0);
const FUA = 0x08;
const EIO = () => Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
const ENOSPC = () => Object.assign(new Error('ENOSPC: no space'), { code: 'ENOSPC' });

function scripted(): { backing: ScriptedBacking; host: Host } {
  const backing = new ScriptedBacking(SIZE);
  return { backing, host: hostOf(backing) };
}

function slow(): { backing: SlowBacking; host: Host } {
  const backing = new SlowBacking(SIZE);
  return { backing, host: hostOf(backing) };
}

const kinds = (backing: ScriptedBacking) => backing.pending.map((operation) => operation.kind);

async function writeTo(host: Host, cdb: readonly number[], octets: Buffer): Promise<void> {
  await host.write(host.cbw(cdb, octets.length, false));
  await host.write(octets);
}

describe('disk: transfers', () => {
  describe('READ', () => {
    it('reads ahead, but no further than its limit', async () => {
      const { backing, host } = scripted();
      const octets = 5 * PIECE_OCTETS;
      backing.memory.write(0, pattern(octets), () => {});
      await host.write(host.cbw(READ(5 * PIECE_BLOCKS), octets, true));
      assert.equal(backing.pending.length, READS_AHEAD_MAX);
      assert.equal(host.peekIn(512), 'nak');
      const read = host.read(octets);
      let most = 0;
      while (backing.pending.length > 0) {
        most = Math.max(most, backing.pending.length);
        assert.ok(
          backing.pending.every(({ octets }) => octets <= PIECE_OCTETS),
          'pieces',
        );
        backing.next();
        await turn();
      }
      assert.equal(most, READS_AHEAD_MAX);
      assertOctets((await read).data, pattern(octets));
      assert.equal((await host.readStatus()).status, 0);
    });

    it('keeps the order when the second piece comes first', async () => {
      const { backing, host } = scripted();
      const octets = 2 * PIECE_OCTETS;
      backing.memory.write(0, pattern(octets), () => {});
      await host.write(host.cbw(READ(2 * PIECE_BLOCKS), octets, true));
      backing.pending[1]?.end();
      assert.equal(host.peekIn(512), 'nak');
      backing.pending[0]?.end();
      assertOctets((await host.read(octets)).data, pattern(octets));
      assert.equal((await host.readStatus()).status, 0);
    });

    it('a command that ends in a phase error does not touch the backing', async () => {
      const { backing, host } = scripted();
      assert.equal((await host.command(READ(8), { in: 512 })).status, 2);
      assert.deepEqual(backing.pending, []);
    });

    it('an error is a medium error at the first block of its piece', async () => {
      const { backing, host } = slow();
      backing.fault = ({ offset }) => (offset === 2 * PIECE_OCTETS ? EIO() : undefined);
      const blocks = 4 * PIECE_BLOCKS;
      const result = await host.command(READ(blocks), { in: blocks * 512 });
      assert.equal(result.status, 1);
      assert.equal(result.residue, 2 * PIECE_OCTETS);
      assert.deepEqual(result.stalled, [BULK_IN]);
      const { data } = await host.command([0x03, 0, 0, 0, 18, 0], { in: 18 });
      assert.equal(data.toString('hex'), 'f000030000040' + '00a000000001100' + '00000000');
    });

    it('an error of a short read is padded, like any small mismatch', async () => {
      const { backing, host } = slow();
      backing.fault = () => EIO();
      const result = await host.command(READ(8), { in: 4096 });
      assert.deepEqual([result.status, result.residue, result.data.length], [1, 4096, 4096]);
      assertZeros(result.data);
      assert.equal(await host.sense(), '03/11/00');
    });

    it('reports the block of an error beyond 32 bits in the descriptor format', async () => {
      const backing = new SlowBacking(3 * 2 ** 40);
      backing.fault = () => EIO();
      const host = hostOf(backing);
      const cdb = [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0];
      await host.command(cdb, { in: 512 });
      const { data } = await host.command([0x03, 1, 0, 0, 20, 0], { in: 20 });
      assert.equal(data.toString('hex'), '720311000000000c' + '000a8000' + '0000000100000002');
      await host.command(cdb, { in: 512 });
      assert.equal(await host.sense(), '03/11/00');
    });

    it('what was handed out is never written to again', async () => {
      const host = hostOf();
      await host.pass(WRITE(128), { out: pattern(65536) });
      const first = await host.pass(READ(128), { in: 65536 });
      await host.pass(WRITE(128), { out: pattern(65536, 2) });
      await host.pass(READ(128), { in: 65536 });
      assertOctets(first, pattern(65536));
    });
  });

  describe('WRITE', () => {
    it('takes data while writes run, but no more than its limit', async () => {
      const { backing, host } = scripted();
      const blocks = 6 * PIECE_BLOCKS;
      const octets = pattern(6 * PIECE_OCTETS);
      await host.write(host.cbw(WRITE(blocks), octets.length, false));
      const write = host.write(octets);
      await turn();
      assert.equal(backing.pending.length, WRITES_IN_FLIGHT_MAX);
      assert.equal(host.peekOut(octets), 'nak');
      backing.next();
      await turn();
      assert.equal(backing.pending.length, WRITES_IN_FLIGHT_MAX);
      backing.next();
      assert.equal((await write).octets, octets.length);
      while (backing.pending.length > 0) {
        assert.equal(host.peekIn(13), 'nak', 'no status while a write runs');
        backing.next();
      }
      assert.equal((await host.readStatus()).status, 0);
      const after = Buffer.alloc(octets.length);
      backing.memory.read(0, after, () => {});
      assertOctets(after, octets);
      assert(!backing.ended.includes('sync'), 'the write cache is on');
    });

    it('gathers small transfers into large writes', async () => {
      const { backing, host } = scripted();
      const octets = pattern(PIECE_OCTETS);
      await host.write(host.cbw(WRITE(PIECE_BLOCKS), octets.length, false));
      for (let at = 0; at < octets.length; at += 4096) {
        await host.write(octets.subarray(at, at + 4096));
      }
      assert.deepEqual(kinds(backing), ['write']);
      assert.equal(backing.next().octets, PIECE_OCTETS);
      assert.equal((await host.readStatus()).status, 0);
    });

    it('FUA is synced before the status, after all writes', async () => {
      const { backing, host } = scripted();
      await writeTo(host, WRITE(2 * PIECE_BLOCKS, FUA), pattern(2 * PIECE_OCTETS));
      assert.deepEqual(kinds(backing), ['write', 'write']);
      backing.next();
      backing.next();
      assert.deepEqual(kinds(backing), ['sync']);
      assert.equal(host.peekIn(13), 'nak');
      backing.next();
      assert.equal((await host.readStatus()).status, 0);
    });

    it('every write is synced when the host has turned the write cache off', async () => {
      const { backing, host } = slow();
      const list = Buffer.from(`00000000081200${'00'.repeat(17)}`, 'hex');
      await host.pass([0x15, 0x10, 0, 0, list.length, 0], { out: list });
      await host.pass(WRITE(8), { out: pattern(4096) });
      assert.deepEqual(backing.ended, ['write', 'sync']);
    });

    it('turning the write cache off stores what is in it', async () => {
      const { backing, host } = slow();
      await host.pass(WRITE(8), { out: pattern(4096) });
      assert.deepEqual(backing.ended, ['write']);
      const list = Buffer.from(`00000000081200${'00'.repeat(17)}`, 'hex');
      await host.pass([0x15, 0x10, 0, 0, list.length, 0], { out: list });
      assert.deepEqual(backing.ended, ['write', 'sync']);
    });

    it('an error is reported with the lowest block that failed', async () => {
      const { backing, host } = scripted();
      await writeTo(host, WRITE(3 * PIECE_BLOCKS, FUA), pattern(3 * PIECE_OCTETS));
      backing.pending[2]?.end(EIO());
      backing.pending[1]?.end(EIO());
      backing.pending[0]?.end();
      assert.deepEqual(backing.ended, ['write'], 'no sync after an error');
      assert.equal((await host.readStatus()).status, 1);
      const { data } = await host.command([0x03, 0, 0, 0, 18, 0], { in: 18 });
      assert.equal(data.toString('hex'), 'f000030000020' + '00a000000000c00' + '00000000');
    });

    it('an error in the middle of data stops it', async () => {
      const { backing, host } = slow();
      backing.fault = ({ offset }) => (offset === 0 ? EIO() : undefined);
      const blocks = 12 * PIECE_BLOCKS;
      const result = await host.command(WRITE(blocks), { out: pattern(blocks * 512) });
      assert.equal(result.status, 1);
      assert.deepEqual(result.stalled, [BULK_OUT]);
      assert.ok(result.sent < blocks * 512, 'stopped early');
      assert.equal(result.residue, blocks * 512 - result.sent);
      assert.equal(await host.sense(), '03/0c/00');
      backing.fault = () => undefined;
      await host.pass(WRITE(8), { out: pattern(4096) });
    });

    it('a full file system is "space allocation failed", as thin disks say it', async () => {
      const { backing, host } = slow();
      backing.fault = () => ENOSPC();
      assert.equal(await host.failure(WRITE(8), { out: pattern(4096) }), '07/27/07');
    });

    it('only whole blocks reach the backing', async () => {
      const backing = new ScriptedBacking(SIZE);
      const host = hostOf(backing, { blockOctets: 4096 });
      await host.write(host.cbw(WRITE(2), 8192, false));
      await host.write(pattern(4096 + 512));
      assert.deepEqual(kinds(backing), []);
      host.resetRecovery();
      assert.deepEqual(kinds(backing), []);

      const memory = hostOf(undefined, { blockOctets: 4096 });
      await memory.write(memory.cbw(WRITE(2), 8192, false));
      await memory.write(pattern(4096 + 512));
      memory.resetRecovery();
      const after = await memory.pass(READ(2), { in: 8192 });
      assertOctets(after.subarray(0, 4096), pattern(4096));
      assertZeros(after.subarray(4096));
    });

    it('blocks larger than the transfers that bring them', async () => {
      for (const host of [
        hostOf(undefined, { blockOctets: 4096 }),
        hostOf(new SlowBacking(SIZE), { blockOctets: 4096 }),
      ]) {
        const octets = pattern(16 * 4096);
        await host.write(host.cbw(WRITE(16), octets.length, false));
        for (let at = 0; at < octets.length; at += 1536)
          await host.write(octets.subarray(at, at + 1536));
        assert.equal((await host.readStatus()).status, 0);
        assertOctets(await host.pass(READ(16), { in: octets.length }), octets);
      }
    });
  });

  describe('SYNCHRONIZE CACHE', () => {
    it('ends when the backing has synced', async () => {
      const { backing, host } = scripted();
      await writeTo(host, WRITE(8), pattern(4096));
      backing.next();
      await host.readStatus();
      await host.write(host.cbw(SYNCHRONIZE, 0, false));
      assert.deepEqual(kinds(backing), ['sync']);
      assert.equal(host.peekIn(13), 'nak');
      backing.next();
      assert.equal((await host.readStatus()).status, 0);
    });

    it('has nothing to do when nothing was written', async () => {
      const { backing, host } = scripted();
      await host.pass(SYNCHRONIZE);
      assert.equal(backing.pending.length, 0);
    });

    it('reports an error, and tries again the next time', async () => {
      const { backing, host } = slow();
      await host.pass(WRITE(8), { out: pattern(4096) });
      backing.fault = () => EIO();
      assert.equal(await host.failure(SYNCHRONIZE), '03/0c/00');
      backing.fault = () => undefined;
      await host.pass(SYNCHRONIZE);
      assert.deepEqual(backing.ended, ['write', 'sync']);
    });

    it('START STOP UNIT syncs when it stops, unless told not to', async () => {
      const { backing, host } = slow();
      await host.pass(WRITE(8), { out: pattern(4096) });
      await host.pass([0x1b, 0, 0, 0, 0x04, 0]);
      await host.pass([0x1b, 0, 0, 0, 0x01, 0]);
      assert.deepEqual(backing.ended, ['write']);
      await host.pass([0x1b, 0, 0, 0, 0x02, 0]);
      assert.deepEqual(backing.ended, ['write', 'sync']);
    });
  });

  describe('VERIFY', () => {
    it('reads the blocks', async () => {
      const { backing, host } = slow();
      await host.pass(cdb10(0x2f, 0, 3 * PIECE_BLOCKS));
      assert.deepEqual(backing.ended, ['read', 'read', 'read']);
      backing.fault = ({ offset }) => (offset > 0 ? EIO() : undefined);
      assert.equal(await host.failure(cdb10(0x2f, 0, 3 * PIECE_BLOCKS)), '03/11/00');
    });
  });

  describe('WRITE SAME and UNMAP', () => {
    it('report errors', async () => {
      const { backing, host } = slow();
      backing.fault = ({ offset }) => (offset > 0 ? EIO() : undefined);
      assert.equal(
        await host.failure(cdb10(0x41, 0, 2 * PIECE_BLOCKS), { out: pattern(512) }),
        '03/0c/00',
      );
      const unmapping = scripted();
      const list = Buffer.from(
        '00160010' + '00000000' + '0000000000000000' + '00000008' + '00000000',
        'hex',
      );
      await writeTo(unmapping.host, cdb10(0x42, 0, 24), list);
      unmapping.backing.next(EIO());
      assert.equal((await unmapping.host.readStatus()).status, 1);
    });
  });

  describe('a host that goes away', () => {
    it('a command waits for the writes of the one that was cut off', async () => {
      const { backing, host } = scripted();
      await host.write(host.cbw(WRITE(3 * PIECE_BLOCKS), 3 * PIECE_OCTETS, false));
      await host.write(pattern(PIECE_OCTETS));
      assert.deepEqual(kinds(backing), ['write']);
      host.resetRecovery();
      const second = host.write(host.cbw(WRITE(8), 4096, false));
      await turn();
      assert.equal(host.peekOut(host.cbw(WRITE(8), 4096, false)), 'nak');
      backing.next(); // the old write, and only then the new one
      await second;
    });

    it('an abandoned read reads no further, and its data goes nowhere', async () => {
      const { backing, host } = scripted();
      await host.write(host.cbw(READ(5 * PIECE_BLOCKS), 5 * PIECE_OCTETS, true));
      host.resetRecovery();
      while (backing.pending.length > 0) backing.next();
      assert.equal(backing.ended.length, READS_AHEAD_MAX);
      await host.pass([0, 0, 0, 0, 0, 0]);
    });

    it('a write that is cut off touches its own blocks only', async () => {
      const backing = new SlowBacking(SIZE);
      const before = pattern(SIZE, 3);
      backing.memory.write(0, before, () => {});
      const host = hostOf(backing);
      const first = 100;
      const blocks = 3 * PIECE_BLOCKS;
      const octets = pattern(blocks * 512, 4);
      await host.write(host.cbw(cdb10(0x2a, first, blocks), octets.length, false));
      await host.write(octets.subarray(0, 2 * PIECE_OCTETS + 1024));
      await host.state.release();
      const after = Buffer.alloc(SIZE);
      backing.memory.read(0, after, () => {});
      for (let block = 0; block < SIZE / 512; block++) {
        const now = after.subarray(block * 512, block * 512 + 512);
        const isOld = now.equals(before.subarray(block * 512, block * 512 + 512));
        const at = (block - first) * 512;
        const isNew =
          block >= first && block < first + blocks && now.equals(octets.subarray(at, at + 512));
        assert(isOld || isNew, `block ${block} is neither old nor new`);
      }
      assert.equal(backing.ended.at(-1), 'sync');
    });

    it('release waits for what is in flight, then syncs', async () => {
      const { backing, host } = scripted();
      await writeTo(host, WRITE(2 * PIECE_BLOCKS), pattern(2 * PIECE_OCTETS));
      let isReleased = false;
      const released = host.state.release().then(() => {
        isReleased = true;
      });
      for (const expected of [['write', 'write'], ['write'], ['sync']]) {
        await turn();
        assert.deepEqual(kinds(backing), expected);
        assert.equal(isReleased, false);
        backing.next();
      }
      await released;
    });

    it('a failure to store at release is a deferred error for the next client', async () => {
      const { backing, host } = slow();
      await host.pass(WRITE(8), { out: pattern(4096) });
      backing.fault = () => EIO();
      await host.state.release();
      backing.fault = () => undefined;
      await host.pass([0x12, 0, 0, 0, 36, 0], { in: 36 });
      assert.equal((await host.command([0, 0, 0, 0, 0, 0])).status, 1);
      const { data } = await host.command([0x03, 0, 0, 0, 18, 0], { in: 18 });
      assert.equal(data.subarray(0, 3).toString('hex'), '710003');
      await host.pass([0, 0, 0, 0, 0, 0]);
    });

    it('dispose syncs and closes', async () => {
      const { backing, host } = slow();
      await host.pass(WRITE(8), { out: pattern(4096) });
      await host.state.dispose();
      assert.deepEqual(backing.ended, ['write', 'sync']);
      assert.equal(backing.isClosed, true);
    });
  });
});
