import { strict as assert } from 'node:assert';
import { MemoryBacking } from '../../../../../src/core/devices/virtual/disk/backing.ts';
import {
  type BotEvent,
  CBW,
  IDLE,
  NEXT,
  parseCommand,
  SLACK_OCTETS_MAX,
  type Stage,
  step,
} from '../../../../../src/core/devices/virtual/disk/bot.ts';
import { BULK_IN, BULK_OUT } from '../../../../../src/core/devices/virtual/disk/disk.ts';
import { defineDisk } from '../../../../../src/core/devices/virtual/disk/kind.ts';
import { assertOctets, assertZeros, cdb10, type Host, hostOf, IDENTITY, pattern } from './host.ts';

const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const INQUIRY = [0x12, 0, 0, 0, 36, 0];
const READ = (blocks: number) => cdb10(0x28, 4, blocks);
const WRITE = (blocks: number) => cdb10(0x2a, 4, blocks);
const LONG = SLACK_OCTETS_MAX + 512;

interface Case {
  readonly name: string;
  readonly cdb: readonly number[];
  readonly in?: number;
  readonly out?: number;
  readonly status: number;
  /** Not given for a phase error, where hosts ignore it. */
  readonly residue?: number;
  /** Octets that cross the bus in the data stage. */
  readonly moved: number;
  readonly stalled: readonly number[];
  /** Octets of the data that are the disk's own; the rest must be zeros. */
  readonly relevant?: number;
  /** Octets that are on the disk afterwards. */
  readonly written?: number;
}

/** BOT 6.7, where two answers are allowed with both mismatches, small and large. */
const CASES: readonly Case[] = [
  { name: '1 Hn = Dn', cdb: TEST_UNIT_READY, status: 0, residue: 0, moved: 0, stalled: [] },
  { name: '2 Hn < Di', cdb: READ(1), status: 2, moved: 0, stalled: [] },
  { name: '3 Hn < Do', cdb: WRITE(1), status: 2, moved: 0, stalled: [], written: 0 },
  {
    name: '4 Hi > Dn',
    cdb: TEST_UNIT_READY,
    in: 512,
    status: 0,
    residue: 512,
    moved: 512,
    stalled: [],
  },
  {
    name: '4 Hi > Dn, large',
    cdb: TEST_UNIT_READY,
    in: LONG,
    status: 0,
    residue: LONG,
    moved: 0,
    stalled: [BULK_IN],
  },
  {
    name: '4 Hi > Dn, the largest fill',
    cdb: TEST_UNIT_READY,
    in: SLACK_OCTETS_MAX,
    status: 0,
    residue: SLACK_OCTETS_MAX,
    moved: SLACK_OCTETS_MAX,
    stalled: [],
  },
  {
    name: '4 Hi > Dn, the smallest stall',
    cdb: TEST_UNIT_READY,
    in: SLACK_OCTETS_MAX + 1,
    status: 0,
    residue: SLACK_OCTETS_MAX + 1,
    moved: 0,
    stalled: [BULK_IN],
  },
  {
    name: '5 Hi > Di',
    cdb: INQUIRY,
    in: 255,
    status: 0,
    residue: 219,
    moved: 255,
    stalled: [],
    relevant: 36,
  },
  {
    name: '5 Hi > Di, blocks',
    cdb: READ(1),
    in: 1024,
    status: 0,
    residue: 512,
    moved: 1024,
    stalled: [],
    relevant: 512,
  },
  {
    name: '5 Hi > Di, large',
    cdb: READ(2),
    in: 1024 + LONG,
    status: 0,
    residue: LONG,
    moved: 1024,
    stalled: [BULK_IN],
    relevant: 1024,
  },
  {
    name: '5 Hi > Di, large and short',
    cdb: INQUIRY,
    in: 36 + LONG,
    status: 0,
    residue: LONG,
    moved: 36,
    stalled: [BULK_IN],
    relevant: 36,
  },
  {
    name: '6 Hi = Di',
    cdb: READ(2),
    in: 1024,
    status: 0,
    residue: 0,
    moved: 1024,
    stalled: [],
    relevant: 1024,
  },
  { name: '7 Hi < Di', cdb: READ(2), in: 512, status: 2, moved: 512, stalled: [] },
  { name: '7 Hi < Di, large', cdb: READ(512), in: LONG, status: 2, moved: 0, stalled: [BULK_IN] },
  { name: '8 Hi <> Do', cdb: WRITE(1), in: 512, status: 2, moved: 512, stalled: [], written: 0 },
  {
    name: '8 Hi <> Do, large',
    cdb: WRITE(129),
    in: LONG,
    status: 2,
    moved: 0,
    stalled: [BULK_IN],
    written: 0,
  },
  {
    name: '9 Ho > Dn',
    cdb: TEST_UNIT_READY,
    out: 512,
    status: 0,
    residue: 512,
    moved: 512,
    stalled: [],
    written: 0,
  },
  {
    name: '9 Ho > Dn, large',
    cdb: TEST_UNIT_READY,
    out: LONG,
    status: 0,
    residue: LONG,
    moved: 0,
    stalled: [BULK_OUT],
    written: 0,
  },
  { name: '10 Ho <> Di', cdb: READ(1), out: 512, status: 2, moved: 512, stalled: [], written: 0 },
  {
    name: '10 Ho <> Di, large',
    cdb: READ(129),
    out: LONG,
    status: 2,
    moved: 0,
    stalled: [BULK_OUT],
    written: 0,
  },
  {
    name: '11 Ho > Do',
    cdb: WRITE(1),
    out: 1024,
    status: 0,
    residue: 512,
    moved: 1024,
    stalled: [],
    written: 512,
  },
  {
    name: '11 Ho > Do, large',
    cdb: WRITE(2),
    out: 1024 + LONG,
    status: 0,
    residue: LONG,
    moved: 1024,
    stalled: [BULK_OUT],
    written: 1024,
  },
  {
    name: '12 Ho = Do',
    cdb: WRITE(2),
    out: 1024,
    status: 0,
    residue: 0,
    moved: 1024,
    stalled: [],
    written: 1024,
  },
  { name: '13 Ho < Do', cdb: WRITE(2), out: 512, status: 2, moved: 512, stalled: [], written: 0 },
  {
    name: '13 Ho < Do, large',
    cdb: WRITE(512),
    out: LONG,
    status: 2,
    moved: 0,
    stalled: [BULK_OUT],
    written: 0,
  },
];

const OFFSET = 4 * 512;

async function run(one: Case, speed: 'high' | 'super'): Promise<void> {
  const memory = new MemoryBacking(1 << 20);
  const before = pattern(1 << 20, 7);
  memory.write(0, before, () => {});
  const host = hostOf(memory, { speed });
  const out = one.out === undefined ? undefined : pattern(one.out, 9);
  const result = await host.command(one.cdb, {
    ...(one.in === undefined ? {} : { in: one.in }),
    ...(out === undefined ? {} : { out }),
  });
  assert.equal(result.status, one.status);
  if (one.residue !== undefined) assert.equal(result.residue, one.residue);
  assert.equal(one.in === undefined ? result.sent : result.data.length, one.moved);
  assert.deepEqual(result.stalled, one.stalled);
  assertZeros(result.data.subarray(one.relevant ?? 0));
  if (one.cdb[0] === 0x28 && one.relevant !== undefined) {
    assertOctets(
      result.data.subarray(0, one.relevant),
      before.subarray(OFFSET, OFFSET + one.relevant),
    );
  }
  const expected = Buffer.from(before);
  out?.copy(expected, OFFSET, 0, one.written ?? 0);
  const after = Buffer.alloc(1 << 20);
  memory.read(0, after, () => {});
  assertOctets(after, expected, 'the disk holds what was written, and nothing else has changed');
  // The next command finds host and device in step.
  if (one.status === 2) host.resetRecovery();
  assert.equal((await host.pass(INQUIRY, { in: 36 })).length, 36);
}

describe('disk: Bulk-Only Transport', () => {
  describe('the thirteen cases (BOT 6.7)', () => {
    for (const one of CASES) {
      it(one.name, () => run(one, 'high'));
      it(`${one.name}, SuperSpeed`, () => run(one, 'super'));
    }
  });

  describe('a CBW that is not valid or not meaningful (BOT 6.2)', () => {
    const good = (host: Host) => host.cbw(TEST_UNIT_READY, 0, false);
    const spoiled = (host: Host, at: number, value: number) => {
      const cbw = good(host);
      cbw[at] = value;
      return cbw;
    };
    const FAULTS: Record<string, (host: Host) => Buffer> = {
      'one octet short': (host) => good(host).subarray(0, 30),
      'one octet long': (host) => Buffer.concat([good(host), Buffer.alloc(1)]),
      'a whole packet': () => Buffer.alloc(512),
      'a wrong signature': (host) => spoiled(host, 0, 0x54),
      'a reserved flag': (host) => spoiled(host, CBW.offsets.flags, 0x01),
      'a unit that is not there': (host) => spoiled(host, CBW.offsets.unit, 1),
      'reserved bits above the unit': (host) => spoiled(host, CBW.offsets.unit, 0x10),
      'an empty command block': (host) => spoiled(host, CBW.offsets.commandOctets, 0),
      'a command block of 17 octets': (host) => spoiled(host, CBW.offsets.commandOctets, 17),
      'reserved bits above its length': (host) => spoiled(host, CBW.offsets.commandOctets, 0x26),
    };
    for (const [name, make] of Object.entries(FAULTS)) {
      it(`${name}: both pipes stall until Reset Recovery`, async () => {
        const host = hostOf();
        await host.write(make(host));
        for (let round = 0; round < 3; round++) {
          assert.equal((await host.read(13)).status, 'stall');
          assert.equal((await host.write(good(host))).status, 'stall');
          host.clearHalt(BULK_IN);
          host.clearHalt(BULK_OUT);
          assert.deepEqual([...host.halted].sort(), [BULK_OUT, BULK_IN].sort());
        }
        assert.equal(host.control(0xff), 'ack');
        // BOT 3.1: the reset leaves the endpoints halted.
        assert.equal((await host.read(13)).status, 'stall');
        host.clearHalt(BULK_IN);
        host.clearHalt(BULK_OUT);
        await host.pass(TEST_UNIT_READY);
      });
    }

    it('stalls a read that was waiting for the status', async () => {
      const host = hostOf();
      const read = host.read(13);
      await host.write(Buffer.alloc(31));
      assert.equal((await read).status, 'stall');
    });

    it('takes a valid CBW apart', () => {
      const cbw = hostOf().cbw(INQUIRY, 36, true);
      assert.deepEqual(parseCommand(cbw), {
        tag: 1,
        host: { direction: 'in', octets: 36 },
        block: Buffer.from(INQUIRY),
      });
    });

    it('ignores the direction when there is no data (BOT 5.1)', () => {
      const cbw = hostOf().cbw(TEST_UNIT_READY, 0, true);
      assert.deepEqual(parseCommand(cbw)?.host, { direction: 'none', octets: 0 });
    });
  });

  describe('class requests', () => {
    it('Get Max LUN (BOT 3.2) answers 0', () => {
      assert.deepEqual(hostOf().control(0xfe, { isIn: true, length: 1 }), Buffer.from([0]));
    });

    it('stalls requests that are not as BOT 3 has them', () => {
      const host = hostOf();
      assert.equal(host.control(0xfe, { isIn: true, length: 2 }), 'stall');
      assert.equal(host.control(0xfe, { isIn: true, length: 1, value: 1 }), 'stall');
      assert.equal(host.control(0xff, { value: 1 }), 'stall');
      assert.equal(host.control(0xff, { length: 1 }), 'stall');
    });

    it('a reset in the middle of data makes the device ready for a command', async () => {
      const host = hostOf();
      await host.write(host.cbw(READ(8), 8 * 512, true));
      assert.equal((await host.read(512)).data.length, 512);
      host.resetRecovery();
      await host.pass(TEST_UNIT_READY);
      await host.write(host.cbw(WRITE(8), 8 * 512, false));
      await host.write(pattern(512));
      host.resetRecovery();
      await host.pass(TEST_UNIT_READY);
    });
  });

  describe('packets', () => {
    it('moves data in transfers of any size', async () => {
      const host = hostOf();
      const written = pattern(64 * 512);
      await host.write(host.cbw(WRITE(64), written.length, false));
      for (let at = 0; at < written.length; at += 5 * 512) {
        await host.write(written.subarray(at, at + 5 * 512));
      }
      assert.equal((await host.readStatus()).status, 0);
      await host.write(host.cbw(READ(64), written.length, true));
      const parts: Buffer[] = [];
      for (let left = written.length; left > 0; left -= 7 * 512) {
        parts.push((await host.read(Math.min(left, 7 * 512))).data);
      }
      assertOctets(Buffer.concat(parts), written);
      assert.equal((await host.readStatus()).status, 0);
    });

    it('a short packet before the announced end is a phase error', async () => {
      for (const first of [100, 512 + 100, 0]) {
        const host = hostOf();
        await host.write(host.cbw(WRITE(4), 2048, false));
        await host.write(pattern(first));
        assert.equal((await host.readStatus()).status, 2);
        await host.pass(TEST_UNIT_READY);
      }
    });

    it('a short packet ends surplus data too', async () => {
      const host = hostOf();
      await host.write(host.cbw(TEST_UNIT_READY, 2048, false));
      await host.write(pattern(100));
      assert.equal((await host.readStatus()).status, 2);
    });

    it('ignores an empty packet behind whole ones', async () => {
      const host = hostOf();
      await host.write(host.cbw(WRITE(1), 512, false));
      await host.write(pattern(512));
      await host.write(Buffer.alloc(0));
      assert.equal((await host.readStatus()).status, 0);
      await host.write(Buffer.alloc(0));
      await host.pass(TEST_UNIT_READY);
    });

    it('naks what comes too early', async () => {
      const host = hostOf();
      assert.equal(host.peekIn(13), 'nak');
      await host.write(host.cbw(WRITE(1), 512, false));
      assert.equal(host.peekIn(13), 'nak');
      await host.write(pattern(512));
      assert.equal(host.peekOut(host.cbw(TEST_UNIT_READY, 0, false)), 'nak');
    });

    it('serves a status read that was waiting, and then a command that was', async () => {
      const host = hostOf();
      const first = host.readStatus();
      await host.write(host.cbw(TEST_UNIT_READY, 0, false));
      assert.equal((await first).status, 0);
    });

    it('serves a command that waited for the status of the one before', async () => {
      const host = hostOf();
      await host.write(host.cbw(TEST_UNIT_READY, 0, false));
      const second = host.write(host.cbw(TEST_UNIT_READY, 0, false));
      assert.equal((await host.read(13)).data.readUInt32LE(4), 1);
      await second;
      assert.equal((await host.readStatus()).status, 0);
    });

    it('a status read of less than 13 octets babbles', async () => {
      const host = hostOf();
      await host.write(host.cbw(TEST_UNIT_READY, 0, false));
      assert.deepEqual(await host.read(0), { status: 'ok', data: Buffer.alloc(0) });
      assert.equal((await host.read(12)).status, 'babble');
    });
  });

  describe('the machine', () => {
    it('goes nowhere that its table does not say', () => {
      const command = parseCommand(hostOf().cbw(INQUIRY, 36, true));
      assert(command !== null);
      const events: BotEvent[] = [
        { type: 'begin', command, device: { direction: 'in', octets: 36 } },
        { type: 'invalid' },
        { type: 'moved', octets: 0 },
        { type: 'failed' },
        { type: 'cut' },
        { type: 'stalled' },
        { type: 'reported' },
        { type: 'reset' },
      ];
      for (const stage of Object.keys(NEXT) as Stage[]) {
        for (const event of events) {
          if (NEXT[stage][event.type] !== undefined) continue;
          assert.throws(() => step({ ...IDLE, stage }, event), /Cannot apply/);
        }
        assert.equal(step({ ...IDLE, stage }, { type: 'reset' }).stage, 'command');
      }
    });

    it('leaves the state it was given alone', () => {
      const frozen = Object.freeze({ ...IDLE });
      step(frozen, { type: 'invalid' });
      assert.deepEqual(frozen, IDLE);
    });
  });

  it('describes itself as Bulk-Only SCSI', () => {
    const backing = new MemoryBacking(512);
    for (const [speed, octets] of [
      ['high', 512],
      ['super', 1024],
    ] as const) {
      const definition = defineDisk({ backing, blockOctets: 512, speed, identity: IDENTITY });
      const [one] = definition.configurations[0]?.interfaces ?? [];
      assert.deepEqual([one?.class, one?.subclass, one?.protocol], [8, 6, 0x50]);
      assert.deepEqual(
        one?.endpoints.map((endpoint) => [endpoint.address, endpoint.maxPacketOctets]),
        [
          [0x81, octets],
          [0x02, octets],
        ],
      );
    }
  });
});
