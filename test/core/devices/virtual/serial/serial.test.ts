import { strict as assert } from 'node:assert';
import { randomFillSync } from 'node:crypto';
import fc from 'fast-check';
import {
  ECHO_OCTETS_MAX,
  EchoLine,
} from '../../../../../src/core/devices/virtual/serial/echo-line.ts';
import { Fifo } from '../../../../../src/core/devices/virtual/serial/fifo.ts';
import { parseAddress, serialKind } from '../../../../../src/core/devices/virtual/serial/kind.ts';
import {
  LINE_CODING_DEFAULT,
  parseLineCoding,
  writeLineCoding,
} from '../../../../../src/core/devices/virtual/serial/line-coding.ts';
import { SerialStateQueue } from '../../../../../src/core/devices/virtual/serial/notifications.ts';
import { defineSerial, ENDPOINT } from '../../../../../src/core/devices/virtual/serial/serial.ts';
import type { UrbStatus } from '../../../../../src/core/urb.ts';
import { FakeBus, Rig, setup, split } from '../../../../examples/rig.ts';

const echo = () => defineSerial((listener) => new EchoLine(listener));
const CARRIER_UP = 'a120000000000200' + '0300';
const CARRIER_DOWN = 'a120000000000200' + '0000';

async function attached() {
  const rig = new Rig(echo());
  await rig.configure();
  return rig;
}

/** SET_CONTROL_LINE_STATE. */
const lines = (value: number) => setup(0x21, 0x22, value, 0, 0);
const hex = (octets: Uint8Array) => Buffer.from(octets).toString('hex');

function noise(octets: number): Buffer {
  return randomFillSync(Buffer.alloc(octets));
}

describe('serial', () => {
  it('has the descriptors of a CDC-ACM function (CDC 1.2, 5.2.3; PSTN 1.2, 5.3)', async () => {
    const rig = await attached();
    const device = await rig.descriptor(1);
    assert.deepEqual([...device.subarray(4, 7)], [0xef, 2, 1]);
    const parts = split(await rig.descriptor(2));
    assert.equal(parts[0]?.[4], 2, 'bNumInterfaces');
    assert.deepEqual(parts.slice(1).map(hex), [
      '080b000202020000', // association: interfaces 0 and 1
      '090400000102020000',
      '0524002001', // header, CDC 1.20
      '0524010001', // call management: none, data interface 1
      '04240206', // ACM: line coding and state, break
      '0524060001', // union: 0 controls 1
      '07058203100008',
      '09040100020a000000',
      '07050102000200',
      '07058102000200',
    ]);
    await rig.end();
  });

  it('gives back what it is sent, transfer by transfer', async () => {
    const rig = await attached();
    await rig.write(ENDPOINT.dataOut, Buffer.from('hello'));
    const { dataIn, status } = await rig.read(ENDPOINT.dataIn, 1024);
    assert.equal(Buffer.from(dataIn).toString(), 'hello');
    assert.equal(status, 'ok');
    const waiting = rig.read(ENDPOINT.dataIn, 1024);
    assert.equal(rig.pending, 1);
    await rig.write(ENDPOINT.dataOut, Buffer.from('!'));
    assert.equal(Buffer.from((await waiting).dataIn).toString(), '!');
    await rig.end();
  });

  for (const [octets, moved] of [
    [511, 511],
    [512, 512], // a zero packet ends it
    [513, 513],
    [1024, 1024], // the transfer is full
    [1536, 1024],
  ] as const) {
    it(`ends a transfer of 1024 when ${octets} octets are there`, async () => {
      const rig = await attached();
      const sent = noise(octets);
      await rig.write(ENDPOINT.dataOut, sent, true);
      const first = await rig.read(ENDPOINT.dataIn, 1024);
      assert.equal(first.actualOctets, moved);
      if (octets > moved) {
        assert.equal((await rig.read(ENDPOINT.dataIn, 1024)).actualOctets, octets - moved);
      }
      const next = rig.read(ENDPOINT.dataIn, 1024);
      assert.equal(rig.pending, 1, 'and the next one waits');
      await rig.close();
      assert.equal((await next).status, 'unlinked');
      await rig.device.dispose();
    });
  }

  it('echoes 1 MiB complete and in order, with several transfers each way', async () => {
    const rig = await attached();
    const sent = noise(1024 * 1024);
    const received: Uint8Array[] = [];
    const writer = (async () => {
      // cdc_acm writes 20 packets at a time.
      for (let at = 0; at < sent.length; at += 10_240) {
        const urb = await rig.write(ENDPOINT.dataOut, sent.subarray(at, at + 10_240));
        assert.equal(urb.status, 'ok');
      }
    })();
    for (let octets = 0; octets < sent.length; ) {
      const { dataIn } = await rig.read(ENDPOINT.dataIn, 1024);
      received.push(dataIn);
      octets += dataIn.length;
    }
    await writer;
    assert(Buffer.concat(received).equals(sent));
    await rig.end();
  });

  it('says nak when the echo is full, and takes the rest when it is read', async () => {
    const rig = await attached();
    const sent = noise(ECHO_OCTETS_MAX + 100);
    const write = rig.write(ENDPOINT.dataOut, sent);
    assert.equal(rig.pending, 1);
    const first = await rig.read(ENDPOINT.dataIn, ECHO_OCTETS_MAX);
    assert.equal(first.actualOctets, ECHO_OCTETS_MAX);
    assert.equal((await write).actualOctets, sent.length);
    const rest = await rig.read(ENDPOINT.dataIn, 1024);
    assert(Buffer.concat([first.dataIn, rest.dataIn]).equals(sent));
    await rig.end();
  });

  it('loses, doubles and reorders nothing, however reads and writes interleave', async () => {
    const step = fc.oneof(
      fc.record({ write: fc.integer({ min: 0, max: 100_000 }), zeroPacket: fc.boolean() }),
      fc.record({ readPackets: fc.integer({ min: 1, max: 80 }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const rig = await attached();
        const sent: Buffer[] = [];
        const received: Uint8Array[] = [];
        for (const one of steps) {
          if ('readPackets' in one) {
            received.push(rig.poll(ENDPOINT.dataIn, one.readPackets * 512).dataIn);
          } else if (rig.pending === 0) {
            const octets = noise(one.write);
            sent.push(octets);
            void rig.write(ENDPOINT.dataOut, octets, one.zeroPacket);
          }
          const inEcho = octetsOf(sent) - octetsOf(received);
          assert(rig.pending === 1 || inEcho <= ECHO_OCTETS_MAX, 'a write ends when it is held');
          assert(rig.pending === 0 || inEcho > ECHO_OCTETS_MAX, 'a write waits only for room');
        }
        for (let urb = rig.poll(ENDPOINT.dataIn, 4096); urb.status === 'ok'; ) {
          received.push(urb.dataIn);
          urb = rig.poll(ENDPOINT.dataIn, 4096);
        }
        assert.equal(rig.pending, 0, 'every write has ended');
        assert(Buffer.concat(received).equals(Buffer.concat(sent)));
        await rig.end();
      }),
      { numRuns: 60 },
    );
  });

  it('reports the carrier when DTR goes up, and its fall only to who listens', async () => {
    const rig = await attached();
    const listening = rig.read(ENDPOINT.notification, 16);
    assert.equal(rig.pending, 1);
    await rig.control(lines(3));
    assert.deepEqual([rig.state.dtr, rig.state.rts], [true, true]);
    assert.equal(hex((await listening).dataIn), CARRIER_UP);

    // A program that hangs up with the port open hears of it ...
    const hangUp = rig.read(ENDPOINT.notification, 16);
    await rig.control(lines(2));
    assert.equal(hex((await hangUp).dataIn), CARRIER_DOWN);
    // ... but a fall that nobody was there to hear is no news for the next one.
    await rig.control(lines(1));
    assert.equal(hex(rig.poll(ENDPOINT.notification, 16).dataIn), CARRIER_UP);
    await rig.control(lines(0));
    assert.equal(rig.poll(ENDPOINT.notification, 16).status, 'unlinked');
    await rig.control(lines(1));
    await rig.control(lines(0)); // the port was closed before this rise was read
    await rig.control(lines(1));
    assert.equal(hex(rig.poll(ENDPOINT.notification, 16).dataIn), CARRIER_UP);
    assert.equal(rig.poll(ENDPOINT.notification, 16).status, 'unlinked');
    await rig.end();
  });

  it('forgets the session with a reset', async () => {
    const rig = await attached();
    await rig.control(lines(3));
    await rig.control(setup(0x21, 0x23, 500, 0, 0));
    await rig.control(setup(0x21, 0x20, 0, 0, 7), Buffer.from('80250000000007', 'hex'));
    await rig.write(ENDPOINT.dataOut, Buffer.from('old'));
    rig.device.reset();
    await rig.configure();
    const { dtr, rts, breakMilliseconds, lineCoding } = rig.state;
    assert.deepEqual([dtr, rts, breakMilliseconds], [false, false, 0]);
    assert.deepEqual(lineCoding, LINE_CODING_DEFAULT);
    assert.equal(rig.poll(ENDPOINT.dataIn, 1024).status, 'unlinked');
    assert.equal(rig.poll(ENDPOINT.notification, 16).status, 'unlinked');
    await rig.end();
  });

  it('owes no empty packet to the next transfer when one is gone', () => {
    const definition = echo();
    const state = definition.state(new FakeBus());
    for (const gone of [definition.onUnlink, definition.onClearHalt]) {
      state.bulkOut(noise(512));
      assert.equal((state.bulkIn(1024) as Uint8Array).length, 512);
      gone?.(state, ENDPOINT.dataIn);
      assert.deepEqual(state.bulkIn(1024), { answer: 'nak' });
    }
  });

  it('wakes only an endpoint that waits', () => {
    const bus = new FakeBus();
    const state = echo().state(bus);
    state.bulkOut(noise(10));
    assert.deepEqual(bus.take(), []);
    state.bulkIn(1024);
    assert.deepEqual(bus.take(), []);
    state.bulkIn(1024); // nak
    state.bulkOut(noise(ECHO_OCTETS_MAX));
    assert.deepEqual(bus.take(), [ENDPOINT.dataIn]);
    state.bulkOut(noise(1)); // nak
    state.bulkIn(1024);
    assert.deepEqual(bus.take(), [ENDPOINT.dataOut]);
  });

  describe('answers requests', () => {
    // In order; each row is a request, what it carries, and how it ends.
    type Row = [string, Parameters<typeof setup>, data: string, UrbStatus, answer?: string];
    const rows: Row[] = [
      ['GET_LINE_CODING at first', [0xa1, 0x21, 0, 0, 7], '', 'ok', '00c20100000008'],
      ['SET_LINE_CODING 9600 7E2', [0x21, 0x20, 0, 0, 7], '80250000020207', 'ok'],
      ['GET_LINE_CODING', [0xa1, 0x21, 0, 0, 7], '', 'ok', '80250000020207'],
      ['three stop bits', [0x21, 0x20, 0, 0, 7], '80250000030008', 'stall'],
      ['parity 5', [0x21, 0x20, 0, 0, 7], '80250000000508', 'stall'],
      ['nine data bits', [0x21, 0x20, 0, 0, 7], '80250000000009', 'stall'],
      ['six octets', [0x21, 0x20, 0, 0, 6], '802500000000', 'stall'],
      ['and none of these changed it', [0xa1, 0x21, 0, 0, 7], '', 'ok', '80250000020207'],
      ['SET_CONTROL_LINE_STATE', [0x21, 0x22, 3, 0, 0], '', 'ok'],
      ['SEND_BREAK', [0x21, 0x23, 0xffff, 0, 0], '', 'ok'],
      ['the data interface', [0x21, 0x22, 3, 1, 0], '', 'stall'],
      ['SEND_ENCAPSULATED_COMMAND', [0x21, 0x00, 0, 0, 2], '4154', 'stall'],
    ];
    let rig: Awaited<ReturnType<typeof attached>>;
    before(async () => {
      rig = await attached();
    });
    after(() => rig.end());
    for (const [name, packet, sent, status, answer] of rows) {
      it(name, async () => {
        const urb = await rig.control(setup(...packet), Buffer.from(sent, 'hex'));
        assert.equal(urb.status, status);
        assert.equal(hex(urb.dataIn), answer ?? '');
      });
    }
  });

  it('reads and writes line codings alike', () => {
    const stopBits = fc.constantFrom(0, 1, 2);
    const parity = fc.constantFrom(0, 1, 2, 3, 4);
    const dataBits = fc.constantFrom(5, 6, 7, 8, 16);
    const rate = fc.integer({ min: 0, max: 0xffff_ffff });
    fc.assert(
      fc.property(rate, stopBits, parity, dataBits, (bitsPerSecond, ...rest) => {
        const octets = Buffer.from([0, 0, 0, 0, ...rest]);
        octets.writeUInt32LE(bitsPerSecond);
        const coding = parseLineCoding(octets);
        assert(coding !== undefined);
        assert.deepEqual(writeLineCoding(coding), octets);
      }),
    );
  });

  it('keeps the last of too many notifications', () => {
    const queue = new SerialStateQueue();
    for (let n = 0; n < 101; n++) queue.push(n % 2 === 0 ? 3 : 0);
    assert.equal(queue.length, 8);
    const states: (number | undefined)[] = [];
    for (let one = queue.shift(); one !== undefined; one = queue.shift()) states.push(one[8]);
    assert.deepEqual(states, [3, 0, 3, 0, 3, 0, 3, 3]);
  });

  it('queues octets in a ring as in a list', () => {
    const step = fc.oneof(
      fc.uint8Array({ maxLength: 12 }),
      fc.integer({ min: 0, max: 12 }),
      fc.constant('clear' as const),
    );
    fc.assert(
      fc.property(fc.array(step), (steps) => {
        const fifo = new Fifo(10);
        let list: number[] = [];
        for (const one of steps) {
          if (one === 'clear') {
            fifo.clear();
            list = [];
          } else if (typeof one === 'number') {
            assert.deepEqual([...fifo.take(one)], list.splice(0, one));
          } else {
            const count = fifo.put(one);
            assert.equal(count, Math.min(one.length, 10 - list.length));
            list.push(...one.subarray(0, count));
          }
          assert.equal(fifo.length, list.length);
        }
      }),
    );
  });

  describe('connect option', () => {
    for (const [text, host, port] of [
      ['localhost:22', 'localhost', 22],
      ['192.0.2.1:65535', '192.0.2.1', 65535],
      ['[::1]:4000', '::1', 4000],
    ] as const) {
      it(`takes ${text}`, () => assert.deepEqual(parseAddress(text), { host, port }));
    }
    for (const text of ['', 'localhost', ':22', 'a:0', 'a:65536', 'a:b', '::1:22', '[]:22']) {
      it(`refuses ${JSON.stringify(text)}`, () => {
        assert.throws(
          () => serialKind.define({ connect: text }),
          /^UserError: Cannot connect to .*: not an address, wanted HOST:PORT/,
        );
      });
    }
  });
});

function octetsOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}
