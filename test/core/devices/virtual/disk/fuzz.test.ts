/** Whatever a host does, the disk stays in a state that Reset Recovery leads out of. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { MemoryBacking } from '../../../../../src/core/devices/virtual/disk/backing.ts';
import { CBW, CBW_SIGNATURE, NEXT } from '../../../../../src/core/devices/virtual/disk/bot.ts';
import { BULK_IN, BULK_OUT } from '../../../../../src/core/devices/virtual/disk/disk.ts';
import { SlowBacking } from './backings.ts';
import { assertOctets, cdb10, type Host, hostOf, pattern } from './host.ts';

const SIZE = 1 << 20;

type Step =
  | {
      readonly do: 'command';
      readonly cdb: Uint8Array;
      readonly octets: number;
      readonly isIn: boolean;
    }
  | { readonly do: 'spoiled'; readonly packet: Uint8Array }
  | { readonly do: 'out'; readonly octets: number }
  | { readonly do: 'in'; readonly octets: number }
  | { readonly do: 'clear'; readonly address: number }
  | { readonly do: 'reset' }
  | { readonly do: 'massStorageReset' };

const OPCODES = [
  0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x23, 0x25, 0x28, 0x2a, 0x2f, 0x35, 0x41,
  0x42, 0x55, 0x5a, 0x88, 0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa,
];

/** Mostly small numbers, so that block addresses hit the disk. */
const field = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(255));
const cdb = fc
  .tuple(
    fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...OPCODES) }, fc.nat(255)),
    fc.array(field, { minLength: 0, maxLength: 15 }),
  )
  .map(([opcode, rest]) => Uint8Array.from([opcode, ...rest]));
const length = fc.oneof(
  fc.constantFrom(0, 1, 13, 31, 36, 512, 1024, 4096, 65536, 65537, 300_000),
  fc.nat(512).map((blocks) => blocks * 512),
  fc.nat(200_000),
);

/** Commands that mean something, mostly with the length that they need. */
const aimed = fc
  .record({
    opcode: fc.constantFrom(0x28, 0x28, 0x2a, 0x2a, 0x41, 0x42, 0x55, 0x5a),
    flags: fc.constantFrom(0, 0, 0x08, 0x10),
    block: fc.nat(SIZE / 512),
    blocks: fc.oneof(fc.nat(16), fc.nat(1500)),
    surplus: fc.oneof(
      { weight: 3, arbitrary: fc.constant(0) },
      fc.constantFrom(-512, -1, 1, 512, 66_000),
    ),
  })
  .map(({ opcode, flags, block, blocks, surplus }) => {
    const isTransfer = opcode === 0x28 || opcode === 0x2a;
    const need = isTransfer ? blocks * 512 : opcode === 0x41 ? 512 : blocks;
    return {
      do: 'command' as const,
      cdb: Uint8Array.from(cdb10(opcode, block, blocks, flags)),
      octets: Math.max(0, need + surplus),
      isIn: opcode === 0x28 || opcode === 0x5a,
    };
  });
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: aimed },
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant('command' as const),
        cdb,
        octets: length,
        isIn: fc.boolean(),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constant('spoiled' as const),
        packet: fc.uint8Array({ maxLength: 40 }),
      }),
    },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('out' as const), octets: length }) },
    { weight: 6, arbitrary: fc.record({ do: fc.constant('in' as const), octets: length }) },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('clear' as const),
        address: fc.constantFrom(BULK_IN, BULK_OUT),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('reset' as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('massStorageReset' as const) }) },
  ),
  { maxLength: 40 },
);

/** A transfer that the device naks is given up after a while: what a host's timeout does. */
async function attempt(host: Host, action: () => string): Promise<void> {
  for (let i = 0; i < 8; i++) {
    if (action() !== 'nak') return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(host.state.bot.stage in NEXT, 'a stage');
}

async function perform(host: Host, one: Step): Promise<void> {
  switch (one.do) {
    case 'command': {
      const packet = CBW.write({
        signature: CBW_SIGNATURE,
        tag: 7,
        dataOctets: one.octets,
        flags: one.isIn ? 0x80 : 0,
        unit: 0,
        commandOctets: one.cdb.length,
        command: Buffer.concat([one.cdb, Buffer.alloc(16)]).subarray(0, 16),
      });
      return attempt(host, () => host.peekOut(packet));
    }
    case 'spoiled':
      return attempt(host, () => host.peekOut(Buffer.from(one.packet)));
    case 'out':
      return attempt(host, () => host.peekOut(pattern(one.octets)));
    case 'in':
      return attempt(host, () => host.peekIn(one.octets));
    case 'clear':
      return host.clearHalt(one.address);
    case 'reset':
      host.halted.clear();
      return host.definition.onReset?.(host.state);
    case 'massStorageReset':
      host.control(0xff);
      return;
  }
}

async function survive(host: Host, script: readonly Step[]): Promise<void> {
  for (const one of script) {
    await perform(host, one);
    const { stage, host: expected, crossedOctets } = host.state.bot;
    assert.ok(stage in NEXT, 'a stage');
    assert.ok(crossedOctets <= expected.octets, 'more than the host expects');
  }
  host.resetRecovery();
  await host.pass([0, 0, 0, 0, 0, 0]);
  await host.pass(cdb10(0x2a, 5, 1), { out: pattern(512) });
  assertOctets(await host.pass(cdb10(0x28, 5, 1), { in: 512 }), pattern(512));
  await host.state.release();
  assert.equal((await host.pass([0x12, 0, 0, 0, 36, 0], { in: 36 })).length, 36);
}

describe('disk: any host', () => {
  const numRuns = Number(process.env.FUZZ_RUNS ?? 150);

  it('in memory', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.constantFrom('high' as const, 'super' as const), (script, speed) =>
        survive(hostOf(new MemoryBacking(SIZE), { speed }), script),
      ),
      { numRuns },
    );
  }).timeout(120_000);

  it('on a slow backing that fails now and then', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.nat(7), async (script, seed) => {
        const backing = new SlowBacking(SIZE);
        let count = seed;
        backing.fault = ({ kind }) =>
          kind !== 'sync' && ++count % 8 === 0 ? new Error('EIO: now and then') : undefined;
        const host = hostOf(backing);
        for (const one of script) await perform(host, one);
        backing.fault = () => undefined;
        await survive(host, []);
      }),
      { numRuns },
    );
  }).timeout(120_000);

  it('data that does not belong to a command never reaches the disk', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (script) => {
        const memory = new MemoryBacking(SIZE, { readonly: true });
        await surviveReadOnly(hostOf(memory), script);
        assert.equal(memory.allocatedOctets, 0);
      }),
      { numRuns },
    );
  }).timeout(120_000);
});

async function surviveReadOnly(host: Host, script: readonly Step[]): Promise<void> {
  for (const one of script) await perform(host, one);
  host.resetRecovery();
  await host.pass([0, 0, 0, 0, 0, 0]);
}
