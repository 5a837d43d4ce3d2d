/**
 * Random sequences of what clients and devices may do. However they mix: each URB is answered
 * exactly once, in the order of its endpoint, and each octet of the device is in exactly one reply.
 */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { fail, stall, took } from '../../src/core/devices/virtual/definition.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import {
  BULK_IN,
  BULK_OUT,
  INTERRUPT_IN,
  ISO_IN,
  ISO_OUT,
  type Script,
  scriptedDevice,
  VENDOR_IN,
} from '../core/scripted-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { IN, OUT, ScriptedClient, type Submit, setupOctets } from '../usbip/scripted-client.ts';
import { bounded, FUZZ_TIMEOUT_MILLISECONDS } from './bounded.ts';

const number = (address: number): number => address & 15;

/** Room that no sequence here fills, so that nothing is a babble. */
const ROOM = 100_000;

interface SubmitStep {
  readonly do: 'submit';
  readonly address: number;
  readonly flags: number;
  readonly octets: number;
}

type Step =
  | SubmitStep
  | { readonly do: 'unlink'; readonly back: number }
  | { readonly do: 'give'; readonly octets: number }
  | {
      readonly do: 'end';
      readonly address: number;
      readonly how: 'stall' | 'fail' | 'take' | 'answer';
    }
  | { readonly do: 'clear-halt'; readonly address: number }
  | { readonly do: 'select'; readonly alternate: number }
  | { readonly do: 'wait'; readonly milliseconds: number };

const address = fc.constantFrom(BULK_IN, BULK_IN, BULK_OUT, INTERRUPT_IN, ISO_IN, ISO_OUT, 0);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('submit' as const),
      address,
      flags: fc.constantFrom(0, 0, 1, 0x40),
      octets: fc.constantFrom(0, 1, 64, 200),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('unlink' as const), back: fc.nat(8) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('give' as const),
      octets: fc.constantFrom(0, 5, 64, 128, 150),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('end' as const),
      address: fc.constantFrom(BULK_IN, BULK_OUT, INTERRUPT_IN, 0),
      how: fc.constantFrom('stall' as const, 'fail' as const, 'take' as const, 'answer' as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('clear-halt' as const),
      address: fc.constantFrom(BULK_IN, BULK_OUT, INTERRUPT_IN),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('select' as const), alternate: fc.nat(2) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('wait' as const),
      milliseconds: fc.constantFrom(1, 5, 20, 60, 1100, 10_000),
    }),
  },
);

function setting() {
  const clock = new FakeClock();
  const device = new VirtualDevice(scriptedDevice({ paced: true }), {
    clock,
    // The device may say that it took an octet of none; anything else is a fault of the engine.
    onFault: (error) => assert(error instanceof assert.AssertionError, String(error)),
  });
  const registry = new Registry();
  registry.add(device, 'scripted');
  const client = new ScriptedClient({ registry, clock });
  client.import();
  client.configure();
  return { client, script: device.state as Script };
}

interface Asked {
  readonly seqnum: number;
  readonly address: number;
}

/** Carries out the steps; returns what was asked, and how many octets BULK_IN gave. */
function play(client: ScriptedClient, script: Script, steps: readonly Step[]) {
  const asked: Asked[] = [];
  const unlinks = new Map<number, number>();
  let given = 0;
  // The client sends packets to what it knows as isochronous, or knew before its setting went.
  const selects = new Map<number, number>();
  const isochronous = new Map([
    [ISO_IN, false],
    [ISO_OUT, false],
  ]);
  let alternate = 0;
  const submit = (at: number, fields: Submit) => {
    asked.push({ seqnum: client.submit(fields), address: at });
  };
  for (const one of steps) {
    switch (one.do) {
      case 'submit':
        if (alternate === 0 && isochronous.has(one.address)) isochronous.set(one.address, true);
        if (alternate === 2) isochronous.set(ISO_IN, false);
        submit(one.address, fieldsOf(one, isochronous.get(one.address) ?? false));
        break;
      case 'unlink': {
        const victim = asked.at(-1 - one.back)?.seqnum ?? 4711;
        unlinks.set(client.unlink(victim), victim);
        break;
      }
      case 'give': {
        const octets = Buffer.from(Array.from({ length: one.octets }, () => given++ & 0xff));
        script.wakeWith(BULK_IN, octets);
        break;
      }
      case 'end':
        script.wakeWith(one.address === 0 ? 0x80 : one.address, answerOf(one.address, one.how));
        break;
      case 'clear-halt':
        submit(0, { direction: OUT, endpoint: 0, setup: setupOctets(2, 1, 0, one.address) });
        break;
      case 'select':
        submit(0, { direction: OUT, endpoint: 0, setup: setupOctets(1, 11, one.alternate, 0) });
        selects.set(asked.at(-1)?.seqnum ?? 0, one.alternate);
        break;
      case 'wait':
        client.clock.advance(one.milliseconds);
        break;
    }
    for (const { seqnum, status } of client.replies()) {
      if (status === 0) alternate = selects.get(seqnum) ?? alternate;
    }
  }
  return { asked, unlinks };
}

function fieldsOf({ address: at, flags, octets }: SubmitStep, isochronous: boolean): Submit {
  const isIn = (at & 0x80) !== 0;
  if (at === 0) {
    return { direction: IN, endpoint: 0, octets: 8, setup: setupOctets(0xc0, VENDOR_IN, 0, 0, 8) };
  }
  const common = { direction: isIn ? IN : OUT, endpoint: number(at), flags };
  const room = at === BULK_IN ? ROOM : octets;
  const data = isIn ? { octets: room } : { data: Buffer.alloc(octets) };
  return { ...common, ...data, ...(isochronous && { packets: [[0, octets]] as const }) };
}

function answerOf(at: number, how: 'stall' | 'fail' | 'take' | 'answer') {
  if (how === 'stall') return stall;
  if (how === 'fail') return fail('protocol-error');
  if (how === 'take' && at === BULK_OUT) return took(1);
  // Not the octets that are counted: BULK_IN gets those from 'give' alone.
  return at === BULK_IN ? fail('crc-error') : at === BULK_OUT ? fail('timeout') : Buffer.from('x');
}

function check(client: ScriptedClient, { asked, unlinks }: ReturnType<typeof play>): void {
  const { replies } = client.wire;
  const submits = replies.slice(1).filter((reply) => reply.type === 'submit');
  const statusOf = new Map(submits.map((reply) => [reply.seqnum, reply.status]));
  assert.equal(statusOf.size, submits.length, 'a URB was answered twice');
  const cancelled = new Set<number>();
  const answered = replies.filter((reply) => reply.type === 'unlink');
  assert.deepEqual(answered.map((reply) => reply.seqnum).sort(), [...unlinks.keys()].sort());
  for (const { seqnum, status } of answered) {
    assert(status === 0 || status === -104, `RET_UNLINK ${status}`);
    const victim = unlinks.get(seqnum) ?? -1;
    if (status !== -104) continue;
    assert(!cancelled.has(victim), `URB ${victim} was cancelled twice`);
    cancelled.add(victim);
  }
  for (const { seqnum } of asked) {
    assert.notEqual(statusOf.has(seqnum), cancelled.has(seqnum), `URB ${seqnum}: once, one way`);
  }
  // Order: what an endpoint carried out or failed, not what was taken back or refused at the door.
  const place = new Map(submits.map((reply, n) => [reply.seqnum, n]));
  const last = new Map<number, number>();
  for (const { seqnum, address: at } of asked) {
    const status = statusOf.get(seqnum);
    if (status === undefined || status === -104 || status === -108 || status === -12) continue;
    const here = place.get(seqnum) ?? -1;
    assert(here > (last.get(at) ?? -1), `URB ${seqnum} of 0x${at.toString(16)} came too early`);
    last.set(at, here);
  }
  const got = submits.filter((reply) =>
    asked.some((one) => one.seqnum === reply.seqnum && one.address === BULK_IN),
  );
  const octets = Buffer.concat(got.map((reply) => reply.data));
  for (let at = 0; at < octets.length; at++) {
    assert.equal(octets[at], at & 0xff, `octet ${at} of the device is lost, doubled or misplaced`);
  }
}

describe('fuzz: sequences', function () {
  this.timeout(FUZZ_TIMEOUT_MILLISECONDS);

  for (const ending of ['waits', 'closes', 'unplugs'] as const) {
    it(`each URB is answered once and in order; in the end the client or device ${ending}`, async () => {
      let longest = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
          const { client, script } = setting();
          const played = play(client, script, steps);
          longest = Math.max(longest, played.asked.length);
          if (ending === 'unplugs') await client.registry.remove('1-1');
          if (ending === 'waits') client.clock.advance(100_000);
          await client.connection.close();
          client.replies();
          check(client, played);
          assert.equal(client.clock.timers, 0, 'a timer is left');
        }),
        bounded(),
      );
      assert(longest > 5, 'nothing much was tried');
    });
  }
});
