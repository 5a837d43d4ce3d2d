import { strict as assert } from 'node:assert';
import {
  MemoryBacking,
  PAGE_OCTETS,
} from '../../../../../src/core/devices/virtual/disk/backing.ts';
import { SLICE_BYTES } from '../../../../../src/core/devices/virtual/disk/medium.ts';
import { MODE_LIST_OCTETS_MAX } from '../../../../../src/core/devices/virtual/disk/scsi-mode.ts';
import {
  UNMAP_BLOCKS_MAX,
  UNMAP_DESCRIPTORS_MAX,
  WRITE_SAME_OCTETS_MAX,
} from '../../../../../src/core/devices/virtual/disk/scsi-provisioning.ts';
import { ScriptedBacking } from './backings.ts';
import { assertOctets, assertZeros, cdb10, cdb16, type Host, hostOf, pattern } from './host.ts';

const TIB = 2 ** 40;
const INVALID_OPCODE = '05/20/00';
const OUT_OF_RANGE = '05/21/00';
const INVALID_FIELD = '05/24/00';
const INVALID_PARAMETER = '05/26/00';
const LIST_LENGTH = '05/1a/00';
const WRITE_PROTECTED = '07/27/00';
const NO_SENSE = '00/00/00';

const inquiry = (page: number | null, allocation: number) =>
  page === null ? [0x12, 0, 0, 0, allocation, 0] : [0x12, 1, page, 0, allocation, 0];
const modeSense6 = (page: number, allocation = 192, flags = 0) => [
  0x1a,
  flags,
  page,
  0,
  allocation,
  0,
];
const modeSelect6 = (octets: number, flags = 0x10) => [0x15, flags, 0, 0, octets, 0];
const hex = (octets: Buffer) => octets.toString('hex');

/** An answer that is shorter than what was asked for, without its fill. */
async function answer(host: Host, cdb: readonly number[], allocation: number): Promise<Buffer> {
  const { status, data, residue } = await host.command(cdb, { in: allocation });
  assert.equal(status, 0);
  return data.subarray(0, allocation - residue);
}

describe('disk: SCSI', () => {
  describe('INQUIRY (SPC-4, 6.4)', () => {
    it('standard data', async () => {
      const data = await answer(hostOf(), inquiry(null, 255), 255);
      assert.equal(hex(data.subarray(0, 8)), '000006021f000000');
      assert.equal(data.toString('latin1', 8), 'urbgate Disk            1.0 ');
    });

    it('is cut off at the allocation length', async () => {
      assert.equal((await answer(hostOf(), inquiry(null, 5), 5)).length, 5);
      assert.equal((await hostOf().command(inquiry(null, 0))).status, 0);
    });

    it('lists the pages it has', async () => {
      const memory = await answer(hostOf(), inquiry(0x00, 255), 255);
      assert.equal(hex(memory), '000000060080' + '83b0b1b2');
      const plain = await answer(hostOf(withoutDiscard()), inquiry(0x00, 255), 255);
      assert.equal(hex(plain), '000000050080' + '83b0b1');
      for (const page of memory.subarray(4)) {
        const data = await answer(hostOf(), inquiry(page, 255), 255);
        assert.equal(data[1], page);
        assert.equal(data.readUInt16BE(2), data.length - 4);
      }
    });

    it('80h: serial number', async () => {
      const data = await answer(hostOf(), inquiry(0x80, 255), 255);
      assert.equal(data.toString('latin1', 4), '0123456789AB');
    });

    it('83h: T10 vendor ID designator', async () => {
      const data = await answer(hostOf(), inquiry(0x83, 255), 255);
      assert.equal(hex(data.subarray(4, 8)), '02010024');
      assert.equal(data.toString('latin1', 8), 'urbgate Disk            0123456789AB');
    });

    it('B0h: block limits', async () => {
      const data = await answer(hostOf(), inquiry(0xb0, 255), 255);
      assert.equal(data.length, 64);
      assert.equal(data[4], 1); // WSNZ
      assert.equal(data.readUInt32BE(8), 0xffff);
      assert.equal(data.readUInt32BE(20), UNMAP_BLOCKS_MAX);
      assert.equal(data.readUInt32BE(24), UNMAP_DESCRIPTORS_MAX);
      assert.equal(data.readBigUInt64BE(36), 65536n);
    });

    it('B1h: does not rotate', async () => {
      const data = await answer(hostOf(), inquiry(0xb1, 255), 255);
      assert.equal(data.length, 64);
      assert.equal(data.readUInt16BE(4), 1);
    });

    it('B2h: thin, unmapped blocks read zeros; only where blocks can be unmapped', async () => {
      assert.equal(hex(await answer(hostOf(), inquiry(0xb2, 255), 255)), '00b2000400e40200');
      const host = hostOf(withoutDiscard());
      assert.equal(await host.failure(inquiry(0xb2, 255), { in: 255 }), INVALID_FIELD);
    });

    it('refuses other pages, and a page without EVPD', async () => {
      assert.equal(await hostOf().failure(inquiry(0xc0, 255), { in: 255 }), INVALID_FIELD);
      assert.equal(await hostOf().failure([0x12, 0, 0x80, 0, 36, 0], { in: 36 }), INVALID_FIELD);
      assert.equal(await hostOf().failure([0x12, 2, 0, 0, 36, 0], { in: 36 }), INVALID_FIELD);
    });
  });

  describe('REPORT LUNS (SPC-4, 6.33)', () => {
    const reportLuns = (select: number, allocation: number) => {
      const cdb = Buffer.alloc(12);
      cdb[0] = 0xa0;
      cdb[2] = select;
      cdb.writeUInt32BE(allocation, 6);
      return [...cdb];
    };
    it('one unit', async () => {
      assert.equal(
        hex(await answer(hostOf(), reportLuns(0, 64), 64)),
        `00000008${'00'.repeat(12)}`,
      );
    });
    it('refuses a short allocation and unknown selections', async () => {
      assert.equal(await hostOf().failure(reportLuns(0, 15), { in: 15 }), INVALID_FIELD);
      assert.equal(await hostOf().failure(reportLuns(3, 64), { in: 64 }), INVALID_FIELD);
    });
  });

  describe('capacity', () => {
    const readCapacity16 = cdb16(0x9e, 0, 32, 0x10);
    const SIZES = [
      { octets: 1 << 20, blockOctets: 512, last10: 2047, last16: 2047n },
      { octets: 1 << 20, blockOctets: 4096, last10: 255, last16: 255n },
      { octets: 2 * TIB - 512, blockOctets: 512, last10: 0xfffffffe, last16: 0xfffffffen },
      { octets: 2 * TIB, blockOctets: 512, last10: 0xffffffff, last16: 0xffffffffn },
      { octets: 3 * TIB, blockOctets: 512, last10: 0xffffffff, last16: 0x17fffffffn },
    ];
    for (const { octets, blockOctets, last10, last16 } of SIZES) {
      it(`${octets} octets in blocks of ${blockOctets}`, async () => {
        const host = hostOf(new MemoryBacking(octets), { blockOctets });
        const ten = await host.pass(cdb10(0x25, 0, 0), { in: 8 });
        assert.equal(ten.readUInt32BE(0), last10);
        assert.equal(ten.readUInt32BE(4), blockOctets);
        const sixteen = await host.pass(readCapacity16, { in: 32 });
        assert.equal(sixteen.readBigUInt64BE(0), last16);
        assert.equal(sixteen.readUInt32BE(8), blockOctets);
        assert.equal(sixteen[13], blockOctets === 512 ? 3 : 0);
        assert.equal(sixteen[14], 0xc0);
        const format = await host.pass([0x23, 0, 0, 0, 0, 0, 0, 0, 12, 0], { in: 12 });
        assert.equal(format[3], 8);
        assert.equal(format.readUInt32BE(4), Math.min(octets / blockOctets, 0xffffffff));
        assert.equal(format.readUInt32BE(8), 0x02000000 + blockOctets);
      });
    }

    it('(16) of a disk that cannot unmap, and with a short allocation', async () => {
      const host = hostOf(withoutDiscard());
      assert.equal((await host.pass(readCapacity16, { in: 32 }))[14], 0);
      assert.equal((await answer(host, cdb16(0x9e, 0, 12, 0x10), 32)).length, 12);
    });

    it('refuses other service actions', async () => {
      assert.equal(await hostOf().failure(cdb16(0x9e, 0, 32, 0x12), { in: 32 }), INVALID_FIELD);
    });
  });

  describe('MODE SENSE (SPC-4, 6.11)', () => {
    const CACHING = `081204${'00'.repeat(17)}`;
    const CONTROL = `0a0a${'00'.repeat(10)}`;
    const DESCRIPTOR = '00000800' + '00000200';

    it('(6), all pages, as Linux asks: WCE is set', async () => {
      const data = await answer(hostOf(), modeSense6(0x3f), 192);
      assert.equal(hex(data), `2b001008${DESCRIPTOR}${CACHING}${CONTROL}`);
    });

    it('(10), all pages', async () => {
      const data = await answer(hostOf(), cdb10(0x5a, 0x3f << 24, 192), 192);
      assert.equal(hex(data), `002e001000000008${DESCRIPTOR}${CACHING}${CONTROL}`);
    });

    it('without block descriptor', async () => {
      assert.equal(
        hex(await answer(hostOf(), modeSense6(0x08, 192, 0x08), 192)),
        `17001000${CACHING}`,
      );
    });

    it('each page alone; changeable and default values', async () => {
      const host = hostOf();
      assert.equal(hex((await answer(host, modeSense6(0x0a), 192)).subarray(12)), CONTROL);
      assert.equal(hex((await answer(host, modeSense6(0x48), 192)).subarray(12)), CACHING);
      assert.equal(hex((await answer(host, modeSense6(0x88), 192)).subarray(12)), CACHING);
    });

    it('shows write protection', async () => {
      const host = hostOf(new MemoryBacking(1 << 20, { readonly: true }));
      assert.equal((await answer(host, modeSense6(0x3f), 192))[2], 0x90);
    });

    it('a disk of more than 2^32 blocks', async () => {
      const data = await answer(hostOf(new MemoryBacking(3 * TIB)), modeSense6(0x3f), 192);
      assert.equal(hex(data.subarray(4, 12)), 'ffffffff00000200');
    });

    it('refuses saved values, unknown pages and subpages', async () => {
      assert.equal(await hostOf().failure(modeSense6(0xc8), { in: 192 }), '05/39/00');
      assert.equal(await hostOf().failure(modeSense6(0x1c), { in: 192 }), INVALID_FIELD);
      assert.equal(await hostOf().failure([0x1a, 0, 0x08, 1, 192, 0], { in: 192 }), INVALID_FIELD);
    });
  });

  describe('MODE SELECT (SPC-4, 6.9)', () => {
    const page = (wce: number) =>
      Buffer.from(`0812${wce.toString(16).padStart(2, '0')}${'00'.repeat(17)}`, 'hex');
    const list = (...parts: Buffer[]) => Buffer.concat([Buffer.alloc(4), ...parts]);
    const wce = async (host: Host) => (await answer(host, modeSense6(0x08), 192))[14];

    it('turns the write cache off and on', async () => {
      const host = hostOf();
      await host.pass(modeSelect6(24), { out: list(page(0)) });
      assert.equal(await wce(host), 0);
      await host.pass(cdb10(0x55, 0, 28, 0x10), { out: Buffer.concat([Buffer.alloc(8), page(4)]) });
      assert.equal(await wce(host), 4);
    });

    it('takes back what MODE SENSE gave', async () => {
      const host = hostOf();
      const given = await answer(host, modeSense6(0x3f), 192);
      given[0] = 0;
      await host.pass(modeSelect6(given.length), { out: given });
      assert.equal(await wce(host), 4);
    });

    it('takes an empty list', async () => {
      await hostOf().pass(modeSelect6(0));
    });

    it('the setting survives a reset, and is the default again for a new client', async () => {
      const host = hostOf();
      await host.pass(modeSelect6(24), { out: list(page(0)) });
      host.resetRecovery();
      assert.equal(await wce(host), 0);
      await host.state.release();
      assert.equal(await wce(host), 4);
    });

    const other = Buffer.from(page(4));
    other[3] = 1;
    const FAULTS: readonly [string, readonly number[], Buffer, string][] = [
      ['a page format of the vendor', modeSelect6(24, 0x00), list(page(4)), INVALID_FIELD],
      ['saving', modeSelect6(24, 0x11), list(page(4)), INVALID_FIELD],
      [
        'a list that is too long',
        cdb10(0x55, 0, MODE_LIST_OCTETS_MAX + 1, 0x10),
        Buffer.alloc(256),
        INVALID_FIELD,
      ],
      ['a list without a whole header', modeSelect6(3), Buffer.alloc(3), LIST_LENGTH],
      [
        'half a block descriptor',
        modeSelect6(8),
        Buffer.from('0000000800000000', 'hex'),
        LIST_LENGTH,
      ],
      ['a page that is cut off', modeSelect6(14), list(page(4).subarray(0, 10)), LIST_LENGTH],
      ['half a page header', modeSelect6(5), list(page(4).subarray(0, 1)), LIST_LENGTH],
      ['another value', modeSelect6(24), list(other), INVALID_PARAMETER],
      ['an unknown page', modeSelect6(8), list(Buffer.from('1c020000', 'hex')), INVALID_PARAMETER],
      [
        'a page of the wrong length',
        modeSelect6(8),
        list(Buffer.from('08020400', 'hex')),
        INVALID_PARAMETER,
      ],
      [
        'another block size',
        modeSelect6(12),
        Buffer.from('00000008' + '0000000000001000', 'hex'),
        INVALID_PARAMETER,
      ],
      [
        'another capacity',
        modeSelect6(12),
        Buffer.from('00000008' + '0000000100000200', 'hex'),
        INVALID_PARAMETER,
      ],
      [
        'a descriptor of another length',
        modeSelect6(8),
        Buffer.from('0000000400000000', 'hex'),
        INVALID_PARAMETER,
      ],
    ];
    for (const [name, cdb, out, expected] of FAULTS) {
      it(`refuses ${name}`, async () => {
        const host = hostOf();
        assert.equal(await host.failure(cdb, { out }), expected);
        assert.equal(await wce(host), 4);
      });
    }

    it('changes nothing if a later page is wrong', async () => {
      const host = hostOf();
      const out = list(page(0), Buffer.from('1c020000', 'hex'));
      assert.equal(await host.failure(modeSelect6(out.length), { out }), INVALID_PARAMETER);
      assert.equal(await wce(host), 4);
    });
  });

  describe('sense data (SPC-4, 4.5)', () => {
    it('fixed format, read once', async () => {
      const host = hostOf();
      assert.equal((await host.command([0x85, ...new Array(15).fill(0)])).status, 1);
      const data = await answer(host, [0x03, 0, 0, 0, 96, 0], 96);
      assert.equal(hex(data), '7000050000000' + '00a000000002000' + '00000000');
      assert.equal(await host.sense(), NO_SENSE);
    });

    it('descriptor format', async () => {
      const host = hostOf();
      await host.command(cdb10(0x28, 5000, 1), { in: 512 });
      assert.equal(hex(await answer(host, [0x03, 1, 0, 0, 96, 0], 96)), '7205210000000000');
    });

    it('is forgotten by the next command', async () => {
      const host = hostOf();
      await host.command([0xff, 0, 0, 0, 0, 0]);
      await host.pass([0, 0, 0, 0, 0, 0]);
      assert.equal(await host.sense(), NO_SENSE);
    });

    it('there is no unit attention, neither at first nor after a reset', async () => {
      const host = hostOf();
      await host.pass([0, 0, 0, 0, 0, 0]);
      host.definition.onReset?.(host.state);
      await host.pass([0, 0, 0, 0, 0, 0]);
    });
  });

  describe('what every opcode answers', () => {
    it('unknown ones are refused, all others never with 5/20/00', async () => {
      const known = new Set([
        0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x23, 0x25, 0x28, 0x2a, 0x2f, 0x35,
        0x41, 0x42, 0x55, 0x5a, 0x88, 0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa,
      ]);
      for (let opcode = 0; opcode < 256; opcode++) {
        const host = hostOf();
        await host.command([opcode, ...new Array(15).fill(0)], { in: 512 });
        assert.equal(
          (await host.sense()) === INVALID_OPCODE,
          !known.has(opcode),
          `opcode ${opcode}`,
        );
      }
    });

    it('a command block that is too short for its opcode is refused', async () => {
      assert.equal(
        await hostOf().failure(cdb10(0x28, 0, 1).slice(0, 9), { in: 512 }),
        INVALID_FIELD,
      );
      assert.equal(await hostOf().failure([0x12], { in: 36 }), INVALID_FIELD);
    });

    it('a command block may be padded, as Windows pads REQUEST SENSE', async () => {
      await hostOf().pass([0x03, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0], { in: 18 });
    });

    it('commands without effect pass', async () => {
      for (const cdb of [
        [0x00, 0, 0, 0, 0, 0],
        [0x1e, 0, 0, 0, 1, 0],
        [0x1b, 0, 0, 0, 0, 0],
        [0x1b, 0, 0, 0, 1, 0],
        [0x1b, 0, 0, 0, 2, 0],
        [0x1b, 0, 0, 0, 4, 0],
        cdb10(0x35, 0, 0),
        cdb16(0x91, 0, 0),
        cdb10(0x2f, 0, 100),
        cdb16(0x8f, 0, 100),
      ]) {
        await hostOf().pass(cdb);
      }
    });
  });

  describe('READ and WRITE (SBC-3, 5)', () => {
    const BLOCKS = 2048;
    const short = (opcode: number, block: number, blocks: number) => [
      opcode,
      block >> 16,
      (block >> 8) & 0xff,
      block & 0xff,
      blocks,
      0,
    ];
    const cdb12 = (opcode: number, block: number, blocks: number) => {
      const cdb = Buffer.alloc(12);
      cdb[0] = opcode;
      cdb.writeUInt32BE(block, 2);
      cdb.writeUInt32BE(blocks, 6);
      return [...cdb];
    };
    const FORMS = [
      { name: '(6)', read: 0x08, write: 0x0a, cdb: short },
      { name: '(10)', read: 0x28, write: 0x2a, cdb: cdb10 },
      { name: '(12)', read: 0xa8, write: 0xaa, cdb: cdb12 },
      { name: '(16)', read: 0x88, write: 0x8a, cdb: cdb16 },
    ];
    for (const { name, read, write, cdb } of FORMS) {
      it(`${name} reads back what it wrote, there and nowhere else`, async () => {
        const memory = new MemoryBacking(BLOCKS * 512);
        const host = hostOf(memory);
        const data = pattern(3 * 512);
        await host.pass(cdb(write, BLOCKS - 3, 3), { out: data });
        assertOctets(await host.pass(cdb(read, BLOCKS - 3, 3), { in: 3 * 512 }), data);
        assertZeros(await host.pass(cdb(read, 0, 100), { in: 100 * 512 }));
      });

      it(`${name} beyond the end`, async () => {
        const host = hostOf(new MemoryBacking(BLOCKS * 512));
        assert.equal(await host.failure(cdb(read, BLOCKS - 2, 3), { in: 3 * 512 }), OUT_OF_RANGE);
        assert.equal(await host.failure(cdb(read, BLOCKS, 1), { in: 512 }), OUT_OF_RANGE);
        assert.equal(
          await host.failure(cdb(write, BLOCKS - 2, 3), { out: pattern(3 * 512) }),
          OUT_OF_RANGE,
        );
        const last = await host.pass(cdb(read, BLOCKS - 1, 1), { in: 512 });
        assertZeros(last);
      });
    }

    it('0 blocks are 256 in (6), and none in the others', async () => {
      const host = hostOf();
      await host.pass(short(0x0a, 0, 0), { out: pattern(256 * 512) });
      assertOctets(await host.pass(short(0x08, 0, 0), { in: 256 * 512 }), pattern(256 * 512));
      for (const cdb of [
        cdb10(0x28, 0, 0),
        cdb12(0xa8, 0, 0),
        cdb16(0x88, 0, 0),
        cdb10(0x2a, 0, 0),
      ]) {
        await host.pass(cdb);
      }
      assert.equal(await host.failure(cdb10(0x28, BLOCKS + 1, 0)), OUT_OF_RANGE);
    });

    it('(6) has no use for the bits that were once the unit number', async () => {
      const host = hostOf();
      await host.pass([0x0a, 0xe0, 0, 1, 1, 0], { out: pattern(512) });
      assertOctets(await host.pass([0x08, 0, 0, 1, 1, 0], { in: 512 }), pattern(512));
    });

    it('addresses that overflow', async () => {
      const host = hostOf();
      for (const block of [2n ** 32n, 2n ** 53n - 1n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
        assert.equal(await host.failure(cdb16(0x88, block, 1), { in: 512 }), OUT_OF_RANGE);
        assert.equal(
          await host.failure(cdb16(0x8a, block, 1), { out: pattern(512) }),
          OUT_OF_RANGE,
        );
        assert.equal(await host.failure(cdb16(0x91, block, 1)), OUT_OF_RANGE);
      }
      assert.equal(await host.failure(cdb10(0x28, 0xffffffff, 0xffff), { in: 512 }), OUT_OF_RANGE);
    });

    it('limits the length', async () => {
      const host = hostOf(new MemoryBacking(TIB));
      assert.equal(await host.failure(cdb16(0x88, 0, 0x10000), { in: 512 }), INVALID_FIELD);
      assert.equal(
        await host.failure(cdb16(0x8a, 0, 0xffffffff), { out: pattern(512) }),
        INVALID_FIELD,
      );
      assert.equal(await host.failure(cdb16(0x8f, 0, 0x10000)), INVALID_FIELD);
    });

    it('refuses protection information', async () => {
      assert.equal(await hostOf().failure(cdb10(0x28, 0, 1, 0x20), { in: 512 }), INVALID_FIELD);
      assert.equal(
        await hostOf().failure(cdb10(0x2f, 0, 1, 0x02), { out: pattern(512) }),
        INVALID_FIELD,
      );
    });

    it('the far end of 3 TiB', async () => {
      const memory = new MemoryBacking(3 * TIB);
      const host = hostOf(memory);
      const end = (3 * TIB) / 512;
      const data = pattern(1024 * 512);
      await host.pass(cdb16(0x8a, end - 1024, 1024), { out: data });
      assertOctets(await host.pass(cdb16(0x88, end - 1024, 1024), { in: data.length }), data);
      assert.equal(
        await host.failure(cdb16(0x88, end - 1023, 1024), { in: data.length }),
        OUT_OF_RANGE,
      );
      // What a 32-bit address would have hit.
      const wrapped = await host.pass(cdb16(0x88, (end - 1024) % 2 ** 32, 8), { in: 4096 });
      assertZeros(wrapped);
      assert.equal(memory.allocatedOctets, 8 * PAGE_OCTETS);
    });

    it('blocks of 4096 octets', async () => {
      const host = hostOf(undefined, { blockOctets: 4096 });
      await host.pass(cdb10(0x2a, 255, 1), { out: pattern(4096) });
      assertOctets(await host.pass(cdb10(0x28, 255, 1), { in: 4096 }), pattern(4096));
      assert.equal(await host.failure(cdb10(0x28, 256, 1), { in: 4096 }), OUT_OF_RANGE);
    });
  });

  describe('a read-only disk', () => {
    const WRITES: readonly [string, readonly number[], number][] = [
      ['WRITE(6)', [0x0a, 0, 0, 0, 1, 0], 512],
      ['WRITE(10)', cdb10(0x2a, 0, 1), 512],
      ['WRITE(16)', cdb16(0x8a, 0, 1), 512],
      ['WRITE SAME', cdb10(0x41, 0, 1), 512],
      ['UNMAP', cdb10(0x42, 0, 24), 24],
    ];
    for (const [name, cdb, octets] of WRITES) {
      it(`refuses ${name}`, async () => {
        const memory = new MemoryBacking(1 << 20, { readonly: true });
        const host = hostOf(memory);
        assert.equal(await host.failure(cdb, { out: pattern(octets) }), WRITE_PROTECTED);
        assert.equal(memory.allocatedOctets, 0);
      });
    }
    it('still reads and synchronizes', async () => {
      const host = hostOf(new MemoryBacking(1 << 20, { readonly: true }));
      await host.pass(cdb10(0x28, 0, 1), { in: 512 });
      await host.pass(cdb10(0x35, 0, 0));
    });
  });

  describe('UNMAP and WRITE SAME (SBC-3, 5.28 and 5.44)', () => {
    const unmapList = (...ranges: readonly [bigint, number][]) => {
      const list = Buffer.alloc(8 + 16 * ranges.length);
      list.writeUInt16BE(list.length - 2, 0);
      list.writeUInt16BE(16 * ranges.length, 2);
      ranges.forEach(([block, blocks], i) => {
        list.writeBigUInt64BE(block, 8 + 16 * i);
        list.writeUInt32BE(blocks, 16 + 16 * i);
      });
      return list;
    };
    const unmap = (list: Buffer, flags = 0) => cdb10(0x42, 0, list.length, flags);
    const MEGABYTE = 1 << 20;
    const filled = async () => {
      const memory = new MemoryBacking(MEGABYTE);
      const host = hostOf(memory);
      await host.pass(cdb10(0x2a, 0, 2048), { out: pattern(MEGABYTE) });
      return { memory, host };
    };

    it('unmapped blocks read zeros, their neighbours do not; pages are freed', async () => {
      const { memory, host } = await filled();
      const list = unmapList([10n, 3], [120n, 600], [2047n, 1]);
      await host.pass(unmap(list), { out: list });
      const expected = pattern(MEGABYTE);
      expected.fill(0, 10 * 512, 13 * 512);
      expected.fill(0, 120 * 512, 720 * 512);
      expected.fill(0, 2047 * 512);
      assertOctets(await host.pass(cdb10(0x28, 0, 2048), { in: MEGABYTE }), expected);
      assert.equal(memory.allocatedOctets, MEGABYTE - 4 * PAGE_OCTETS);
    });

    it('a range of more pages than are in use spares those outside of it', async () => {
      const memory = new MemoryBacking(TIB);
      const host = hostOf(memory);
      for (const block of [0, 1000, 1_000_000]) {
        await host.pass(cdb10(0x2a, block, 8), { out: pattern(4096) });
      }
      const list = unmapList([500n, 500_000]);
      await host.pass(unmap(list), { out: list });
      assert.equal(memory.allocatedOctets, 2 * PAGE_OCTETS);
      const data = await host.pass(cdb10(0x28, 1_000_000, 8), { in: 4096 });
      assertOctets(data, pattern(4096));
    });

    it('an empty list does nothing', async () => {
      await hostOf().pass(cdb10(0x42, 0, 0));
      await hostOf().pass(unmap(unmapList()), { out: unmapList() });
    });

    it('refuses ranges beyond the end before anything is unmapped', async () => {
      const { host } = await filled();
      const list = unmapList([0n, 8], [2047n, 2]);
      assert.equal(await host.failure(unmap(list), { out: list }), OUT_OF_RANGE);
      const huge = unmapList([2n ** 64n - 1n, 1]);
      assert.equal(await host.failure(unmap(huge), { out: huge }), OUT_OF_RANGE);
      assertOctets(await host.pass(cdb10(0x28, 0, 2048), { in: MEGABYTE }), pattern(MEGABYTE));
    });

    it('limits lists and blocks', async () => {
      const host = hostOf(new MemoryBacking(TIB));
      const most = unmapList([0n, UNMAP_BLOCKS_MAX]);
      await host.pass(unmap(most), { out: most });
      const more = unmapList([0n, UNMAP_BLOCKS_MAX], [0n, 1]);
      assert.equal(await host.failure(unmap(more), { out: more }), INVALID_PARAMETER);
      const long = unmapList(...new Array(UNMAP_DESCRIPTORS_MAX + 1).fill([0n, 1]));
      assert.equal(await host.failure(unmap(long), { out: long }), INVALID_FIELD);
      assert.equal(await host.failure(cdb10(0x42, 0, 7), { out: Buffer.alloc(7) }), LIST_LENGTH);
      assert.equal(await host.failure(unmap(most, 1), { out: most }), INVALID_FIELD);
    });

    it('believes what was sent, not the lengths inside', async () => {
      const { host } = await filled();
      const list = unmapList([0n, 1]);
      list.writeUInt16BE(0xfff0, 2);
      await host.pass(unmap(list), { out: list });
      const data = await host.pass(cdb10(0x28, 0, 2), { in: 1024 });
      assertZeros(data.subarray(0, 512));
      assertOctets(data.subarray(512), pattern(1024).subarray(512));
    });

    it('a disk that cannot discard does not know UNMAP', async () => {
      const list = unmapList([0n, 1]);
      const host = hostOf(withoutDiscard());
      assert.equal(await host.failure(unmap(list), { out: list }), INVALID_OPCODE);
      assert.equal(
        await host.failure(cdb10(0x41, 0, 1, 0x08), { out: Buffer.alloc(512) }),
        INVALID_FIELD,
      );
    });

    it('WRITE SAME repeats a block', async () => {
      for (const cdb of [
        cdb10(0x41, 100, 1000),
        cdb16(0x93, 100, 1000),
        cdb10(0x41, 100, 1000, 0x08),
      ]) {
        const { host } = await filled();
        await host.pass(cdb, { out: pattern(512, 5) });
        const expected = pattern(MEGABYTE);
        for (let block = 100; block < 1100; block++) pattern(512, 5).copy(expected, block * 512);
        assertOctets(await host.pass(cdb10(0x28, 0, 2048), { in: MEGABYTE }), expected);
      }
    });

    it('the longest WRITE SAME is worked off in slices, with turns of others in between', async () => {
      const memory = new MemoryBacking(64 << 20);
      const host = hostOf(memory);
      const blocks = WRITE_SAME_OCTETS_MAX / 512;
      await host.write(host.cbw(cdb16(0x93, 0, blocks), 512, false));
      await host.write(pattern(512, 5));
      for (let slices = 1, before = 0; memory.allocatedOctets < WRITE_SAME_OCTETS_MAX; slices++) {
        const slice = memory.allocatedOctets - before;
        assert.equal(slice, SLICE_BYTES, `slice ${slices}`);
        assert.equal(host.peekIn(13), 'nak');
        before = memory.allocatedOctets;
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal((await host.readStatus()).status, 0);
      const last = await host.pass(cdb16(0x88, blocks - 1, 2), { in: 1024 });
      assertOctets(last.subarray(0, 512), pattern(512, 5));
      assertZeros(last.subarray(512));
    });

    it('many short ones have turns in between, too', async () => {
      const memory = new MemoryBacking(64 << 20);
      const host = hostOf(memory);
      let turns = 0;
      const count = () => {
        turns++;
        immediate = setImmediate(count);
      };
      let immediate = setImmediate(count);
      for (let n = 0; n < 32; n++) {
        await host.pass(cdb16(0x93, n * 1024, 1024), { out: pattern(512, 5) });
      }
      clearImmediate(immediate);
      assert(turns >= 15, `${turns} turns for 16 MiB`);
    });

    it('UNMAP of much is worked off in slices', async () => {
      const memory = new MemoryBacking(TIB);
      const host = hostOf(memory);
      const list = unmapList([0n, 4 << 20]);
      await host.write(host.cbw(unmap(list), list.length, false));
      await host.write(list);
      let turns = 0;
      for (; host.peekIn(13) === 'nak'; turns++) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert(turns >= 31, `${turns} turns for 2 GiB`);
    });

    it('WRITE SAME of zeros with UNMAP frees pages', async () => {
      const { memory, host } = await filled();
      await host.pass(cdb16(0x93, 0, 2048, 0x08), { out: Buffer.alloc(512) });
      assert.equal(memory.allocatedOctets, 0);
    });

    it('WRITE SAME refuses what the block limits page excludes', async () => {
      const host = hostOf(new MemoryBacking(TIB));
      for (const cdb of [
        cdb10(0x41, 0, 0),
        cdb16(0x93, 0, 65537),
        cdb16(0x93, 0, 1, 0x01),
        cdb16(0x93, 0, 1, 0x10),
        cdb16(0x93, 0, 1, 0x20),
      ]) {
        assert.equal(await host.failure(cdb, { out: pattern(512) }), INVALID_FIELD);
      }
      assert.equal(
        await hostOf().failure(cdb10(0x41, 2047, 2), { out: pattern(512) }),
        OUT_OF_RANGE,
      );
    });
  });
});

function withoutDiscard(): ScriptedBacking {
  return Object.assign(new ScriptedBacking(1 << 20), { discard: null as never });
}
