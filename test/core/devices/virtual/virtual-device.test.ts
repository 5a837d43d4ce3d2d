import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { fail, nak, stall, took } from '../../../../src/core/devices/virtual/definition.ts';
import { VirtualDevice } from '../../../../src/core/devices/virtual/virtual-device.ts';
import { Urb } from '../../../../src/core/urb.ts';
import { FakeClock, Rig } from '../../../examples/rig.ts';
import {
  BULK_IN,
  BULK_OUT,
  INTERRUPT_IN,
  INTERRUPT_OUT,
  ISO_IN,
  ISO_OUT,
  OTHER_IN,
  type Script,
  scriptedDevice,
} from '../../scripted-device.ts';

async function configured({ paced = false } = {}): Promise<Rig<Script> & { clock: FakeClock }> {
  const clock = new FakeClock();
  const rig = new Rig(scriptedDevice({ paced }), clock);
  await rig.configure();
  rig.state.take();
  return Object.assign(rig, { clock });
}

const result = (urb: Urb): [string, string] => [urb.status, Buffer.from(urb.dataIn).toString()];
const packets = (count: number, letter = 'p'): Buffer => Buffer.from(letter.repeat(64 * count));

describe('VirtualDevice', () => {
  describe('IN: the rules of packets', () => {
    it('whole packets leave a transfer open; a short one ends it', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1, 'a'), packets(2, 'b'), Buffer.from('c'));
      const urb = await rig.read(BULK_IN, 1000);
      assert.deepEqual(result(urb), ['ok', `${'a'.repeat(64)}${'b'.repeat(128)}c`]);
      assert.equal(urb.actualOctets, 193);
      assert.deepEqual(rig.state.take(), ['81 in 1000', '81 in 936', '81 in 808']);
    });

    it('whole packets, then nothing to say: it waits, and keeps what it has', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1, 'a'));
      const waiting = rig.read(BULK_IN, 1000);
      assert.equal(rig.pending, 1);
      rig.state.wakeWith(BULK_IN, Buffer.from('b'));
      assert.deepEqual(result(await waiting), ['ok', `${'a'.repeat(64)}b`]);
    });

    it('an empty answer is a zero packet and ends it', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1), Buffer.alloc(0));
      assert.equal((await rig.read(BULK_IN, 1000)).actualOctets, 64);
      rig.state.answer(BULK_IN, Buffer.alloc(0));
      assert.equal((await rig.read(BULK_IN, 1000)).actualOctets, 0);
    });

    it('a full transfer ends without asking again', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(2));
      assert.equal((await rig.read(BULK_IN, 128)).actualOctets, 128);
      rig.state.answer(BULK_IN, packets(1), Buffer.from('rest'));
      assert.equal((await rig.read(BULK_IN, 68)).actualOctets, 68);
      assert.deepEqual(rig.state.take(), ['81 in 128', '81 in 68', '81 in 4']);
    });

    it('short-not-ok: short is an error, full is not', async () => {
      const rig = await configured();
      const read = (id: number) => Urb.read(id, rig.endpoint(BULK_IN), 128, true);
      rig.state.answer(BULK_IN, packets(2));
      assert.equal((await rig.submit(read(1))).status, 'ok');
      rig.state.answer(BULK_IN, packets(1), Buffer.alloc(0));
      const short = await rig.submit(read(2));
      assert.deepEqual([short.status, short.actualOctets], ['short', 64]);
    });

    it('Nitrokey#261: more than asked for is a babble, and what fits comes along', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1, 'a'), Buffer.from('bcdef'));
      assert.deepEqual(result(await rig.read(BULK_IN, 66)), ['babble', `${'a'.repeat(64)}bc`]);
      rig.state.answer(BULK_IN, Buffer.from('next'));
      assert.deepEqual(result(await rig.read(BULK_IN, 66)), ['ok', 'next'], 'nothing is left over');
    });

    it('a transfer of no octets asks once, and any octet is a babble', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, Buffer.alloc(0), Buffer.from('x'));
      assert.deepEqual(result(await rig.read(BULK_IN, 0)), ['ok', '']);
      assert.deepEqual(result(await rig.read(BULK_IN, 0)), ['babble', '']);
    });

    it('a failure ends it, with what was moved; the endpoint is not halted', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1), fail('crc-error'), Buffer.from('x'));
      const urb = await rig.read(BULK_IN, 1000);
      assert.deepEqual([urb.status, urb.actualOctets], ['crc-error', 64]);
      assert.equal((await rig.read(BULK_IN, 1000)).status, 'ok');
    });

    it('any answers: no octet is lost, doubled or out of place', async () => {
      const lengths = fc.array(
        fc.oneof(
          fc.nat(3).map((n) => n * 64),
          fc.nat(200),
        ),
        { maxLength: 30 },
      );
      const reads = fc.array(fc.nat(400), { minLength: 1, maxLength: 12 });
      await fc.assert(
        fc.asyncProperty(lengths, reads, async (answers, sizes) => {
          const rig = await configured();
          let written = 0;
          const given: number[] = [];
          for (const length of answers) {
            const octets = Buffer.from(Array.from({ length }, () => written++ & 0xff));
            given.push(length);
            rig.state.answer(BULK_IN, octets);
          }
          const ended: Urb[] = [];
          for (const size of sizes) {
            const waiting = rig.read(BULK_IN, size);
            if (rig.pending > 0) {
              await rig.close();
            }
            ended.push(await waiting);
            if (ended.at(-1)?.status !== 'ok') break; // babble drops octets, as a bus does
          }
          const got = Buffer.concat(ended.map((urb) => urb.dataIn));
          got.forEach((octet, at) => {
            assert.equal(octet, at & 0xff);
          });
          for (const urb of ended) assert.equal(urb.actualOctets, urb.dataIn.length);
          for (const urb of ended) assert(urb.actualOctets <= urb.octets);
        }),
        { numRuns: 100 },
      );
    });
  });

  describe('OUT', () => {
    it('offers all at once; ack takes all', async () => {
      const rig = await configured();
      const urb = await rig.write(BULK_OUT, Buffer.from('abc'));
      assert.deepEqual([urb.status, urb.actualOctets], ['ok', 3]);
      assert.deepEqual(rig.state.offered.map(String), ['abc']);
    });

    it('took(n): offers the rest again', async () => {
      const rig = await configured();
      rig.state.answer(BULK_OUT, took(2), took(1), nak);
      const waiting = rig.write(BULK_OUT, Buffer.from('abcdef'));
      assert.equal(rig.pending, 1);
      rig.state.wakeWith(BULK_OUT, took(3));
      const urb = await waiting;
      assert.deepEqual([urb.status, urb.actualOctets], ['ok', 6]);
      assert.deepEqual(rig.state.offered.map(String), ['abcdef', 'cdef', 'def', 'def']);
    });

    it('took() of nothing, or of more than was offered, is the device’s fault', async () => {
      const rig = await configured();
      for (const octets of [0, 4, -1]) {
        rig.state.answer(BULK_OUT, took(octets));
        assert.equal((await rig.write(BULK_OUT, Buffer.from('abc'))).status, 'protocol-error');
      }
      assert.equal(rig.faults.length, 3);
    });

    it('a stall or failure tells how much was taken', async () => {
      const rig = await configured();
      rig.state.answer(BULK_OUT, took(2), fail('timeout'), took(1), stall);
      const failed = await rig.write(BULK_OUT, Buffer.from('abcdef'));
      assert.deepEqual([failed.status, failed.actualOctets], ['timeout', 2]);
      const stalled = await rig.write(BULK_OUT, Buffer.from('abcdef'));
      assert.deepEqual([stalled.status, stalled.actualOctets], ['stall', 1]);
      assert.equal((await rig.write(BULK_OUT, Buffer.from('x'))).status, 'stall', 'halted');
    });

    it('an empty transfer is offered as no octets', async () => {
      const rig = await configured();
      assert.equal((await rig.write(BULK_OUT, Buffer.alloc(0))).status, 'ok');
      assert.equal((await rig.write(BULK_OUT, Buffer.alloc(0), true)).status, 'ok');
      assert.deepEqual(rig.state.take(), ['02 out 0', '02 out 0']);
    });

    it('the zero packet: once, after whole packets, when asked for', async () => {
      const rig = await configured();
      await rig.write(BULK_OUT, packets(2), true);
      await rig.write(BULK_OUT, packets(2), false);
      await rig.write(BULK_OUT, Buffer.alloc(65), true);
      assert.deepEqual(rig.state.take(), ['02 out 128', '02 out 0', '02 out 128', '02 out 65']);
    });

    it('the zero packet may wait', async () => {
      const rig = await configured();
      rig.state.answer(BULK_OUT, took(64), nak);
      const waiting = rig.write(BULK_OUT, packets(1), true);
      assert.equal(rig.pending, 1);
      rig.state.bus.wake(BULK_OUT);
      assert.equal((await waiting).actualOctets, 64);
      assert.deepEqual(rig.state.take(), ['02 out 64', '02 out 0', '02 out 0']);
    });

    it('any way of taking it: all octets, once, in order', async () => {
      const steps = fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 90 })), {
        maxLength: 12,
      });
      await fc.assert(
        fc.asyncProperty(steps, fc.nat(300), async (answers, length) => {
          const rig = await configured();
          const octets = Buffer.from(Array.from({ length }, (_, n) => n & 0xff));
          let left = length;
          const taken: number[] = [];
          for (const step of answers) {
            const octetsTaken = Math.min(step, left);
            left -= octetsTaken;
            taken.push(octetsTaken);
            rig.state.answer(BULK_OUT, octetsTaken === 0 ? nak : took(octetsTaken));
          }
          const waiting = rig.write(BULK_OUT, octets);
          for (const _ of answers) rig.state.bus.wake(BULK_OUT);
          const urb = await waiting;
          assert.deepEqual([urb.status, urb.actualOctets], ['ok', length]);
          let at = 0;
          rig.state.offered.forEach((offer, n) => {
            assert(offer.equals(octets.subarray(at)));
            at += taken[n] ?? 0;
          });
        }),
        { numRuns: 100 },
      );
    });
  });

  describe('halted endpoints', () => {
    it('a stall halts until the host clears it; others go on', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1), stall, Buffer.from('later'));
      const urb = await rig.read(BULK_IN, 100);
      assert.deepEqual([urb.status, urb.actualOctets], ['stall', 64]);
      assert.equal((await rig.read(BULK_IN, 100)).status, 'stall');
      assert.equal((await rig.write(BULK_OUT, Buffer.from('x'))).status, 'ok');
      const packet = { requestType: 2, request: 1, value: 0, index: BULK_IN, length: 0 };
      assert.equal((await rig.control(packet)).status, 'ok');
      assert.deepEqual(result(await rig.read(BULK_IN, 100)), ['ok', 'later']);
    });

    it('bus.halt ends what waits there, also from inside its own handler', async () => {
      const rig = await configured();
      const waiting = rig.read(BULK_IN, 100);
      rig.state.bus.halt(BULK_IN);
      assert.equal((await waiting).status, 'stall');
      rig.state.inside.set(INTERRUPT_IN, () => rig.state.bus.halt(INTERRUPT_IN));
      assert.equal((await rig.read(INTERRUPT_IN, 8)).status, 'stall');
      rig.state.inside.set(INTERRUPT_OUT, () => rig.state.bus.halt(INTERRUPT_OUT));
      assert.equal((await rig.write(INTERRUPT_OUT, Buffer.from('x'))).status, 'ok', 'it was taken');
      assert.equal((await rig.write(INTERRUPT_OUT, Buffer.from('x'))).status, 'stall');
    });

    it('bus.halt of what cannot halt does nothing', async () => {
      const rig = await configured();
      for (const address of [0, 0x80, ISO_IN, OTHER_IN, 0x0f]) rig.state.bus.halt(address);
      assert.equal((await rig.stream(ISO_IN, [10])).status, 'ok');
    });
  });

  describe('wake', () => {
    it('asks again, and only where something waits', async () => {
      const rig = await configured();
      rig.state.bus.wake(BULK_IN);
      assert.deepEqual(rig.state.take(), []);
      const waiting = rig.read(BULK_IN, 10);
      rig.state.bus.wake(INTERRUPT_IN);
      rig.state.bus.wake(OTHER_IN);
      rig.state.bus.wake(BULK_IN);
      assert.deepEqual(rig.state.take(), ['81 in 10', '81 in 10']);
      rig.state.wakeWith(BULK_IN, Buffer.from('x'));
      await waiting;
      rig.state.bus.wake(BULK_IN);
      assert.deepEqual(rig.state.take(), ['81 in 10']);
    });

    it('from inside a handler of another endpoint comes after that handler', async () => {
      const rig = await configured();
      const waiting = rig.read(BULK_IN, 10);
      rig.state.take();
      rig.state.inside.set(BULK_OUT, () => {
        rig.state.wakeWith(BULK_IN, Buffer.from('echo'));
        assert.deepEqual(rig.state.log, ['02 out 1'], 'handlers do not nest');
      });
      const [, echo] = await Promise.all([rig.write(BULK_OUT, Buffer.from('x')), waiting]);
      assert.deepEqual(result(echo), ['ok', 'echo']);
      assert.deepEqual(rig.state.take(), ['02 out 1', '81 in 10']);
    });

    it('from inside the own handler asks again', async () => {
      const rig = await configured();
      rig.state.inside.set(BULK_IN, () => rig.state.bus.wake(BULK_IN));
      rig.state.answer(BULK_IN, nak, Buffer.from('second'));
      assert.deepEqual(result(await rig.read(BULK_IN, 10)), ['ok', 'second']);
    });

    it('of each of the 31 endpoints works', async () => {
      const addresses = Array.from({ length: 30 }, (_, n) => (n % 15) + 1 + (n < 15 ? 0 : 0x80));
      const seen: number[] = [];
      const rig = new Rig({
        ...scriptedDevice(),
        configurations: [
          {
            interfaces: [
              {
                class: 0xff,
                endpoints: addresses.map((address) => ({
                  address,
                  type: 'bulk' as const,
                  maxPacketOctets: 64,
                  ...((address & 0x80) !== 0
                    ? {
                        onIn: () => {
                          seen.push(address);
                          return nak;
                        },
                      }
                    : {
                        onOut: () => {
                          seen.push(address);
                          return nak;
                        },
                      }),
                })),
              },
            ],
          },
        ],
      } as never) as Rig<Script>;
      await rig.configure();
      for (const address of addresses) {
        if ((address & 0x80) !== 0) void rig.read(address, 8);
        else void rig.write(address, Buffer.from('x'));
      }
      seen.length = 0;
      for (const address of addresses) rig.state.bus.wake(address);
      assert.deepEqual(seen, addresses);
      await rig.close();
    });
  });

  describe('unlink', () => {
    it('of an untouched URB tells nobody', async () => {
      const rig = await configured();
      const urb = Urb.read(1, rig.endpoint(BULK_IN), 100);
      const waiting = rig.submit(urb);
      rig.device.unlink(urb);
      assert.deepEqual(result(await waiting), ['unlinked', '']);
      assert.deepEqual(rig.state.take(), ['81 in 100']);
      rig.device.unlink(urb);
    });

    it('of a URB with data returns it, tells the device, and the next one starts clean', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1, 'a'));
      const urb = Urb.read(1, rig.endpoint(BULK_IN), 100);
      const waiting = rig.submit(urb);
      rig.device.unlink(urb);
      assert.deepEqual(result(await waiting), ['unlinked', 'a'.repeat(64)]);
      assert.deepEqual(rig.state.take().at(-1), 'unlink 81');
      rig.state.answer(BULK_IN, Buffer.from('b'));
      const next = await rig.read(BULK_IN, 100);
      assert.deepEqual([...result(next), next.actualOctets], ['ok', 'b', 1]);
    });

    it('a handler that throws there is the device’s fault, and the URB comes back', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1));
      rig.state.onUnlink = () => {
        throw new Error('a bug');
      };
      const urb = Urb.read(1, rig.endpoint(BULK_IN), 100);
      const waiting = rig.submit(urb);
      rig.device.unlink(urb);
      assert.equal((await waiting).status, 'unlinked');
      assert.equal(rig.faults.length, 1);
    });

    it('of a URB that has ended does nothing, even when another is at its endpoint', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, Buffer.from('x'));
      const urb = Urb.read(1, rig.endpoint(BULK_IN), 100);
      await rig.submit(urb);
      const waiting = rig.read(BULK_IN, 100);
      rig.device.unlink(urb);
      assert.equal(rig.pending, 1);
      rig.state.wakeWith(BULK_IN, Buffer.from('y'));
      assert.deepEqual(result(await waiting), ['ok', 'y']);
    });
  });

  describe('handlers that throw', () => {
    it('fail their transfer, and the device goes on', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1), new Error('a bug'), Buffer.from('fine'));
      const urb = await rig.read(BULK_IN, 1000);
      assert.deepEqual([urb.status, urb.actualOctets], ['protocol-error', 64]);
      assert.deepEqual(result(await rig.read(BULK_IN, 1000)), ['ok', 'fine']);
      rig.state.answer(BULK_OUT, took(1), new Error('another'));
      const write = await rig.write(BULK_OUT, Buffer.from('abc'));
      assert.deepEqual([write.status, write.actualOctets], ['protocol-error', 1]);
      assert.deepEqual(rig.faults.map(String), ['Error: a bug', 'Error: another']);
    });

    it('an exception of the host’s is not the device’s fault, and not hidden', async () => {
      const definition = scriptedDevice();
      const faults: unknown[] = [];
      const device = new VirtualDevice(definition, { onFault: (error) => faults.push(error) });
      let broken = false;
      device.open({
        completed: () => {
          if (broken) throw new Error('a bug of the session');
        },
        removed: () => {},
        failed: (error) => {
          throw error;
        },
      });
      const setup = { requestType: 0, request: 9, value: 1, index: 0, length: 0 };
      const endpoint = device.endpoint(0);
      assert(endpoint);
      device.submit(Urb.control(1, endpoint, setup));
      const bulk = device.endpoint(BULK_IN);
      assert(bulk);
      broken = true;
      device.state.answer(BULK_IN, Buffer.from('x'));
      assert.throws(() => device.submit(Urb.read(2, bulk, 10)), {
        message: 'a bug of the session',
      });
      assert.deepEqual(faults, []);
    });

    it('a bug that comes up when a timer of the definition wakes an endpoint is the session’s to know', () => {
      const device = new VirtualDevice(scriptedDevice(), {
        onFault: (error) => assert.fail(`no handler throws: ${error}`),
      });
      const bugs: unknown[] = [];
      let isBroken = false;
      device.open({
        completed: () => {
          if (isBroken) throw new TypeError('made by a test');
        },
        removed: () => {},
        failed: (error) => bugs.push(error),
      });
      const [control, bulk] = [device.endpoint(0), () => device.endpoint(BULK_IN)];
      assert(control);
      const setup = { requestType: 0, request: 9, value: 1, index: 0, length: 0 };
      device.submit(Urb.control(1, control, setup));
      device.submit(Urb.read(2, bulk() ?? assert.fail(), 10));
      isBroken = true;
      device.state.wakeWith(BULK_IN, Buffer.from('x'));
      assert.match(String(bugs), /made by a test/);
      isBroken = false;
      const next = Urb.read(3, bulk() ?? assert.fail(), 10);
      device.submit(next);
      device.state.wakeWith(BULK_IN, Buffer.from('yz'));
      assert.deepEqual([next.status, next.actualOctets], ['ok', 2]);
    });
  });

  describe('transfers of many megabytes', () => {
    const pieces = (count: number) =>
      Array.from({ length: count }, (_, n) => Buffer.alloc(512 << 10, n + 1));

    it('IN: are moved in slices, and put together', async () => {
      const rig = await configured();
      const all = pieces(10);
      rig.state.answer(BULK_IN, ...all);
      const moved = () => rig.state.take().filter((line) => line.startsWith('81 in')).length;
      const reading = rig.read(BULK_IN, 5 << 20);
      for (const count of [4, 4, 2]) {
        assert.equal(moved(), count, 'pieces of one slice');
        rig.clock.advanceOnce();
      }
      const urb = await reading;
      assert.equal(urb.status, 'ok');
      assert(Buffer.concat(all).equals(urb.dataIn));
    });

    it('IN: a short packet in a later slice ends one', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, ...pieces(4), Buffer.from('end'));
      const reading = rig.read(BULK_IN, 5 << 20);
      rig.clock.advanceOnce();
      const urb = await reading;
      assert.deepEqual([urb.status, urb.actualOctets], ['ok', (2 << 20) + 3]);
      assert.equal(Buffer.from(urb.dataIn.subarray(-3)).toString(), 'end');
    });

    it('IN: one that is unlinked between two slices brings what was moved', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, ...pieces(8));
      const urb = Urb.read(1, rig.endpoint(BULK_IN), 5 << 20);
      const ended = rig.submit(urb);
      rig.device.unlink(urb);
      rig.clock.advanceOnce(); // the slice that was to come
      assert.equal((await ended).actualOctets, 2 << 20);
      assert.equal(urb.dataIn.length, 2 << 20);
    });

    it('OUT: are moved in slices', async () => {
      const rig = await configured();
      const answers = Array.from({ length: 10 }, () => took(512 << 10));
      rig.state.answer(BULK_OUT, ...answers);
      const writing = rig.write(BULK_OUT, Buffer.alloc(5 << 20));
      const offered = () => rig.state.offered.splice(0).length;
      for (const count of [4, 4, 2]) {
        assert.equal(offered(), count, 'pieces of one slice');
        rig.clock.advanceOnce();
      }
      assert.equal((await writing).status, 'ok');
    });
  });

  describe('isochronous', () => {
    it('asks for each packet, joins what comes, and counts', async () => {
      const rig = await configured();
      rig.state.answer(
        ISO_IN,
        Buffer.from('a'),
        fail('crc-error'),
        Buffer.from('too long'),
        Buffer.alloc(0),
      );
      const urb = await rig.stream(ISO_IN, [4, 4, 3, 4]);
      assert.deepEqual(result(urb), ['ok', 'atoo']);
      assert.deepEqual(
        urb.packets?.map((packet) => [packet.status, packet.actualOctets]),
        [
          ['ok', 1],
          ['crc-error', 0],
          ['babble', 3],
          ['ok', 0],
        ],
      );
      assert.deepEqual([urb.actualOctets, urb.errorCount], [4, 2]);
    });

    it('asks for no more than the endpoint moves in an interval, and makes no room for it', async () => {
      const rig = await configured();
      const { intervalOctets } = rig.endpoint(ISO_IN);
      rig.state.answer(ISO_IN, Buffer.from('a'), Buffer.alloc(intervalOctets + 1, 'b'));
      rig.state.take();
      const urb = await rig.stream(ISO_IN, [8 << 20, 8 << 20]);
      const asked = `${ISO_IN.toString(16)} packet ${intervalOctets}`;
      assert.deepEqual(rig.state.take(), [asked, asked]);
      assert.deepEqual(
        urb.packets?.map((packet) => [packet.status, packet.actualOctets]),
        [
          ['ok', 1],
          ['babble', intervalOctets],
        ],
      );
      assert(urb.dataIn.buffer.byteLength < 1 << 20, `${urb.dataIn.buffer.byteLength} bytes`);
    });

    it('hands on each OUT packet from its place', async () => {
      const rig = await configured();
      rig.state.answer(ISO_OUT, { answer: 'ack' }, fail('protocol-error'));
      const urb = await rig.stream(ISO_OUT, [2, 3, 0], Buffer.from('abcde'));
      assert.deepEqual(rig.state.offered.map(String), ['ab', 'cde', '']);
      assert.deepEqual([urb.actualOctets, urb.errorCount], [2, 1]);
    });

    it('a packet may be given from one buffer again and again', async () => {
      const rig = await configured();
      const buffer = Buffer.from('x');
      for (const letter of 'abc') {
        rig.state.answer(ISO_IN, buffer);
        rig.state.inside.set(ISO_IN, () => buffer.write(letter));
        assert.equal(result(await rig.stream(ISO_IN, [4]))[1], letter);
      }
    });

    it('paced: ends after its packets’ time, each URB behind the one before', async () => {
      const rig = await configured({ paced: true });
      const ends: number[] = [];
      for (let n = 0; n < 3; n++) {
        const waiting = rig.stream(ISO_IN, [1, 1, 1, 1]).then(() => ends.push(rig.clock.now()));
        assert.equal(rig.clock.timers, 1);
        assert.deepEqual(rig.state.take(), [], 'nothing moves before its time');
        rig.clock.advance(3);
        assert.equal(rig.pending, 1);
        rig.clock.advance(1);
        await waiting;
        assert.equal(rig.state.take().length, 4);
      }
      assert.deepEqual(ends, [1004, 1008, 1012]);
    });

    it('paced: a late timer or a late URB does not slow the stream down', async () => {
      const rig = await configured({ paced: true });
      const start = rig.clock.now();
      for (let n = 1; n <= 50; n++) {
        const waiting = rig.stream(ISO_IN, new Array(10).fill(1));
        rig.clock.advance(Math.max(0, start + n * 10 - rig.clock.now()));
        await waiting;
        rig.clock.advance(n % 7); // the client takes its time
      }
      assert(rig.clock.now() - start <= 507, `${rig.clock.now() - start} ms for 500`);
    });

    it('paced: who is late by more than the slack has lost its place', async () => {
      const rig = await configured({ paced: true });
      const first = rig.stream(ISO_IN, [1]);
      rig.clock.advance(1);
      await first;
      rig.clock.advance(1000);
      const before = rig.clock.now();
      const second = rig.stream(ISO_IN, new Array(20).fill(1));
      rig.clock.advance(19);
      assert.equal(rig.pending, 1, 'it does not end at once');
      rig.clock.advance(1);
      await second;
      assert.equal(rig.clock.now(), before + 20);
    });

    it('paced: IN and OUT keep their own time, and a new setting begins anew', async () => {
      const rig = await configured({ paced: true });
      const both = [rig.stream(ISO_IN, [1, 1]), rig.stream(ISO_OUT, [1], Buffer.from('x'))];
      rig.clock.advance(1);
      assert.equal((await both[1])?.status, 'ok');
      await rig.select(0, 0);
      assert.equal((await both[0])?.status, 'shutdown');
      assert.equal(rig.clock.timers, 0);
    });

    it('paced: unlink stops the timer', async () => {
      const rig = await configured({ paced: true });
      const waiting = rig.stream(ISO_IN, [1]);
      await rig.close();
      assert.equal((await waiting).status, 'unlinked');
      assert.equal(rig.clock.timers, 0);
    });

    it('CVE-2020-27661: no packets end at once, at their time', async () => {
      const rig = await configured({ paced: true });
      const waiting = rig.stream(ISO_IN, []);
      rig.clock.advance(0);
      assert.deepEqual(result(await waiting), ['ok', '']);
    });
  });

  describe('settings and ends', () => {
    it('a URB for an endpoint that has gone, or was replaced, is shut down', async () => {
      const rig = await configured();
      const old = {
        in: rig.endpoint(BULK_IN),
        out: rig.endpoint(BULK_OUT),
        iso: rig.endpoint(ISO_IN),
      };
      await rig.select(0, 1);
      rig.state.take();
      assert.equal((await rig.submit(Urb.read(90, old.in, 10))).status, 'shutdown');
      assert.equal((await rig.submit(Urb.write(91, old.out, Buffer.from('x')))).status, 'shutdown');
      assert.equal((await rig.submit(Urb.isochronous(92, old.iso, 0, []))).status, 'shutdown');
      assert.deepEqual(rig.state.take(), []);
    });

    it('a new setting ends what is at the old one’s endpoints, with its data, not others', async () => {
      const rig = await configured();
      rig.state.answer(BULK_IN, packets(1));
      const [reading, polling] = [rig.read(BULK_IN, 100), rig.read(INTERRUPT_IN, 8)];
      await rig.select(1, 0);
      assert.equal(rig.pending, 2);
      await rig.select(0, 1);
      const urb = await reading;
      assert.deepEqual([urb.status, urb.actualOctets], ['shutdown', 64]);
      assert.equal((await polling).status, 'shutdown');
    });

    it('closing resets, releases, and forgets the host', async () => {
      const rig = await configured();
      await rig.close();
      assert.deepEqual(rig.state.take(), ['reset', 'release']);
      rig.state.bus.wake(BULK_IN);
      rig.state.bus.halt(BULK_IN);
      rig.device.unplug();
      rig.open();
      assert.equal(rig.device.endpoint(BULK_IN), undefined);
      await rig.configure();
      rig.state.answer(BULK_IN, Buffer.from('x'));
      assert.equal((await rig.read(BULK_IN, 8)).status, 'ok');
      await rig.end();
      assert.equal(rig.state.take().at(-1), 'dispose');
    });

    it('a handler may unplug its device: the transfer at hand comes back as it was', () => {
      const clock = new FakeClock();
      const device = new VirtualDevice(scriptedDevice(), {
        clock,
        onFault: (error) => assert.fail(String(error)),
      });
      const ended: Urb[] = [];
      const at: Urb[] = [];
      device.open({
        completed: (urb) => ended.push(urb),
        removed: () => {
          for (const urb of at) device.unlink(urb);
        },
        failed: (error) => assert.fail(`failed: ${error}`),
      });
      const setup = { requestType: 0, request: 9, value: 1, index: 0, length: 0 };
      const find = (address: number) => device.endpoint(address) ?? assert.fail();
      device.submit(Urb.control(1, find(0), setup));
      at.push(Urb.read(2, find(BULK_IN), 100), Urb.write(3, find(BULK_OUT), Buffer.from('x')));
      device.state.answer(BULK_OUT, nak);
      for (const urb of at) device.submit(urb);
      for (const address of [BULK_IN, BULK_OUT]) {
        device.state.inside.set(address, () => device.unplug());
        device.state.wakeWith(address, ...(address === BULK_IN ? [Buffer.from('late')] : []));
      }
      assert.deepEqual(
        ended.map((urb) => [urb.id, urb.status, urb.actualOctets]),
        [
          [1, 'ok', 0],
          [2, 'unlinked', 0],
          [3, 'unlinked', 0],
        ],
      );
    });

    it('a second host is refused while it is open', async () => {
      const rig = await configured();
      assert.throws(() => rig.open(), { code: 'ERR_ASSERTION' });
    });
  });
});
