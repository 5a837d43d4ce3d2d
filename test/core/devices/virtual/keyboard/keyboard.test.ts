import { strict as assert } from 'node:assert';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { REPORT_DESCRIPTOR } from '../../../../../src/core/devices/virtual/keyboard/descriptors.ts';
import {
  defineKeyboard,
  INTERRUPT_IN,
  type KeyboardOptions,
} from '../../../../../src/core/devices/virtual/keyboard/keyboard.ts';
import { strokesOf } from '../../../../../src/core/devices/virtual/keyboard/keymap.ts';
import { keyboardKind } from '../../../../../src/core/devices/virtual/keyboard/kind.ts';
import {
  LED_FILE_BYTES_MAX,
  LedLog,
  ledLine,
} from '../../../../../src/core/devices/virtual/keyboard/led-log.ts';
import type { UrbStatus } from '../../../../../src/core/urb.ts';
import { FakeBus, FakeClock, Rig, setup, split } from '../../../../examples/rig.ts';

function keyboard(text: string, times: Partial<KeyboardOptions> = {}) {
  const clock = new FakeClock();
  const options = { strokes: strokesOf(text), waitMilliseconds: 0, delayMilliseconds: 0 };
  const definition = defineKeyboard({ ...options, ...times }, clock);
  return { clock, definition };
}

/** A configured keyboard whose host has turned idle reports off, as Linux does. */
async function attached(text: string, times: Partial<KeyboardOptions> = {}) {
  const { clock, definition } = keyboard(text, times);
  const rig = new Rig(definition, clock);
  await rig.configure();
  await rig.control(setup(0x21, 0x0a, 0, 0, 0));
  return { clock, rig };
}

/** What a host makes of the reports: the keys that went down, as (modifiers, usage). */
function keysOf(reports: Uint8Array[]): [number, number][] {
  const pressed: [number, number][] = [];
  let down = 0;
  for (const report of reports) {
    assert.equal(report.length, 8);
    assert.deepEqual([report[1], ...report.subarray(3)], [0, 0, 0, 0, 0, 0]);
    const usage = report[2] ?? 0;
    if (usage !== 0 && usage !== down) pressed.push([report[0] ?? 0, usage]);
    down = usage;
  }
  assert.equal(down, 0, 'a key is stuck');
  return pressed;
}

describe('keyboard', () => {
  it('has the descriptors of a boot keyboard (HID 1.11, E.2 to E.6)', async () => {
    const { rig } = await attached('');
    const parts = split(await rig.descriptor(2));
    assert.deepEqual(
      parts.slice(1).map((part) => part.toString('hex')),
      [
        '090400000103010100', // interface 0: class 3, boot, keyboard; one endpoint
        '092111010001223f00', // HID 1.11, one report descriptor of 63 octets
        '0705810308000a', // 0x81, interrupt, 8 octets, every 10 ms
      ],
    );
    assert.equal(REPORT_DESCRIPTOR.length, 63);
    const report = await rig.control(setup(0x81, 6, 0x2200, 0, 63));
    assert.deepEqual(Buffer.from(report.dataIn), Buffer.from(REPORT_DESCRIPTOR));
    const hid = await rig.control(setup(0x81, 6, 0x2100, 0, 255));
    assert.deepEqual(Buffer.from(hid.dataIn), parts[2]);
    await rig.end();
  });

  it('describes reports of 8 octets in and 1 out', () => {
    // A small reader of items (HID 1.11, 6.2.2.2): the sum of size times count for each main item.
    const bits = { input: 0, output: 0 };
    let size = 0;
    let count = 0;
    for (let at = 0; at < REPORT_DESCRIPTOR.length; ) {
      const prefix = REPORT_DESCRIPTOR[at] ?? 0;
      const value = REPORT_DESCRIPTOR[at + 1] ?? 0;
      if ((prefix & 0xfc) === 0x74) size = value;
      if ((prefix & 0xfc) === 0x94) count = value;
      if ((prefix & 0xfc) === 0x80) bits.input += size * count;
      if ((prefix & 0xfc) === 0x90) bits.output += size * count;
      at += 1 + (prefix & 3);
    }
    assert.deepEqual(bits, { input: 64, output: 8 });
  });

  it('presses and releases each key, also a repeated and a shifted one', async () => {
    const { rig } = await attached('aaB');
    const reports: string[] = [];
    for (let n = 0; n < 6; n++) {
      reports.push(Buffer.from((await rig.read(INTERRUPT_IN, 8)).dataIn).toString('hex'));
    }
    const [a, shiftB, none] = ['0000040000000000', '0200050000000000', '0000000000000000'];
    assert.deepEqual(reports, [a, none, a, none, shiftB, none]);
    rig.read(INTERRUPT_IN, 8);
    assert.equal(rig.pending, 1, 'nothing more to say');
    await rig.end();
  });

  it('types any text as it is, at any pace of polls, and leaves no key down', () => {
    const characters = fc.constantFrom(...'abzABZ019!)-_ ;:"?/`~');
    fc.assert(
      fc.property(
        fc.string({ unit: characters, maxLength: 40 }),
        fc.array(fc.integer({ min: 0, max: 30 }), { maxLength: 200 }),
        fc.integer({ min: 0, max: 20 }),
        (text, gaps, delayMilliseconds) => {
          const { clock, definition } = keyboard(text, { delayMilliseconds });
          const state = definition.state(new FakeBus());
          const reports: Uint8Array[] = [];
          for (const gap of [...gaps, ...new Array<number>(2 * text.length).fill(20)]) {
            const answer = state.poll();
            if (answer instanceof Uint8Array) reports.push(answer);
            clock.advance(gap);
          }
          assert.deepEqual(
            keysOf(reports),
            strokesOf(text).map(({ modifiers, usage }) => [modifiers, usage]),
          );
        },
      ),
    );
  });

  it('waits before the first key, and between a release and the next press', async () => {
    const { clock, rig } = await attached('ab', { waitMilliseconds: 500, delayMilliseconds: 30 });
    const first = rig.read(INTERRUPT_IN, 8);
    clock.advance(499);
    assert.equal(rig.pending, 1);
    clock.advance(1);
    assert.equal((await first).dataIn[2], 4);
    assert.equal((await rig.read(INTERRUPT_IN, 8)).dataIn[2], 0, 'a release does not wait');
    const second = rig.read(INTERRUPT_IN, 8);
    clock.advance(29);
    assert.equal(rig.pending, 1);
    clock.advance(1);
    assert.equal((await second).dataIn[2], 5);
    await rig.end();
  });

  it('types once for each client, and again for the next, with no key stuck', async () => {
    const { rig } = await attached('xy');
    assert.equal((await rig.read(INTERRUPT_IN, 8)).dataIn[2], 0x1b); // x is down
    await rig.close();
    rig.open();
    await rig.configure();
    assert.deepEqual(
      [...(await rig.control(setup(0xa1, 1, 0x0100, 0, 8))).dataIn],
      Array(8).fill(0),
    );
    const keys: (number | undefined)[] = [];
    for (let n = 0; n < 4; n++) keys.push((await rig.read(INTERRUPT_IN, 8)).dataIn[2]);
    assert.deepEqual(keys, [0x1b, 0, 0x1c, 0]);
    await rig.end();
  });

  it('goes on where it was after a bus reset', async () => {
    const { rig } = await attached('xy');
    await rig.read(INTERRUPT_IN, 8);
    rig.device.reset();
    await rig.configure();
    const keys: (number | undefined)[] = [];
    for (let n = 0; n < 3; n++) keys.push((await rig.read(INTERRUPT_IN, 8)).dataIn[2]);
    assert.deepEqual(keys, [0, 0x1c, 0]);
    await rig.end();
  });

  it('repeats the current report at the idle rate (HID 1.11, 7.2.4)', async () => {
    const { clock, rig } = await attached('');
    await rig.control(setup(0x21, 0x0a, 25 << 8, 0, 0)); // 100 ms
    for (let n = 0; n < 3; n++) {
      const poll = rig.read(INTERRUPT_IN, 8);
      clock.advance(99);
      assert.equal(rig.pending, 1);
      clock.advance(1);
      assert.deepEqual([...(await poll).dataIn], Array(8).fill(0));
    }
    const early = rig.read(INTERRUPT_IN, 8);
    await rig.control(setup(0x21, 0x0a, 5 << 8, 0, 0)); // 20 ms, also for the poll that waits
    clock.advance(20);
    assert.equal((await early).status, 'ok');
    const silent = rig.read(INTERRUPT_IN, 8);
    await rig.control(setup(0x21, 0x0a, 0, 0, 0));
    clock.advance(100_000);
    assert.equal(rig.pending, 1, 'infinite: a report only when something changes');
    await rig.close();
    assert.equal((await silent).status, 'unlinked');
    assert.equal(clock.timers, 0, 'no timer outlives the client');
  });

  describe('answers requests', () => {
    // In order; each row is a request, what it carries, and how it ends.
    type Row = [
      name: string,
      Parameters<typeof setup>,
      octets: number[],
      UrbStatus,
      answer?: number[],
    ];
    const rows: Row[] = [
      ['GET_IDLE is 500 ms at first', [0xa1, 2, 0, 0, 1], [], 'ok', [125]],
      ['SET_IDLE', [0x21, 0x0a, 0x0700, 0, 0], [], 'ok'],
      ['GET_IDLE', [0xa1, 2, 0, 0, 1], [], 'ok', [7]],
      ['SET_IDLE of a report id', [0x21, 0x0a, 0x0701, 0, 0], [], 'stall'],
      ['GET_PROTOCOL is report at first', [0xa1, 3, 0, 0, 1], [], 'ok', [1]],
      ['SET_PROTOCOL boot', [0x21, 0x0b, 0, 0, 0], [], 'ok'],
      ['GET_PROTOCOL', [0xa1, 3, 0, 0, 1], [], 'ok', [0]],
      ['SET_PROTOCOL 2', [0x21, 0x0b, 2, 0, 0], [], 'stall'],
      ['GET_REPORT input', [0xa1, 1, 0x0100, 0, 8], [], 'ok', [0, 0, 0, 0, 0, 0, 0, 0]],
      ['SET_REPORT output', [0x21, 9, 0x0200, 0, 1], [0xe3], 'ok'],
      ['GET_REPORT output', [0xa1, 1, 0x0200, 0, 1], [], 'ok', [0x03]],
      ['SET_REPORT input', [0x21, 9, 0x0100, 0, 1], [1], 'stall'],
      ['SET_REPORT of two octets', [0x21, 9, 0x0200, 0, 2], [1, 2], 'stall'],
      ['SET_REPORT of none', [0x21, 9, 0x0200, 0, 0], [], 'stall'],
      ['GET_REPORT feature', [0xa1, 1, 0x0300, 0, 8], [], 'stall'],
      ['GET_REPORT of another interface', [0xa1, 1, 0x0100, 1, 8], [], 'stall'],
      ['a physical descriptor', [0x81, 6, 0x2300, 0, 8], [], 'stall'],
      ['an unknown request', [0xa1, 0x42, 0, 0, 8], [], 'stall'],
    ];
    const { clock, definition } = keyboard('');
    let rig: Rig<ReturnType<typeof definition.state>>;
    before(async () => {
      rig = new Rig(definition, clock);
      await rig.configure();
    });
    after(() => rig.end());
    for (const [name, packet, octets, status, answer] of rows) {
      it(name, async () => {
        const urb = await rig.control(setup(...packet), Buffer.from(octets));
        assert.equal(urb.status, status);
        assert.deepEqual([...urb.dataIn], answer ?? []);
      });
    }
  });

  describe('LED file', () => {
    let folder: string;
    before(() => {
      folder = mkdtempSync(join(tmpdir(), 'urbgate-leds-'));
    });
    after(() => rmSync(folder, { recursive: true }));

    it('gets a line for each change', async () => {
      const leds = join(folder, 'leds');
      const rig = new Rig(keyboardKind.define({ leds }));
      await rig.configure();
      for (const bits of [0, 0, 2, 3, 3, 3, 2]) {
        await rig.control(setup(0x21, 9, 0x0200, 0, 1), Uint8Array.of(bits));
      }
      await rig.end();
      assert.deepEqual(readFileSync(leds, 'utf8').split('\n'), [
        '0x00',
        '0x02 caps-lock',
        '0x03 num-lock caps-lock',
        '0x02 caps-lock',
        '',
      ]);
    });

    it('has an end, however long a client toggles, and says so', async () => {
      const leds = join(folder, 'full');
      writeFileSync(leds, 'mine\n');
      const log = new LedLog(leds);
      const warnings: string[] = [];
      const onWarning = ({ message }: Error) => warnings.push(message);
      process.on('warning', onWarning);
      for (let n = 0; !log.isFull; n++) {
        log.append(n & 3);
        if (n % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      for (let n = 0; n < 10_000; n++) log.append(n & 3);
      await log.close();
      process.off('warning', onWarning);
      const lines = readFileSync(leds, 'utf8');
      assert(lines.length <= LED_FILE_BYTES_MAX, `${lines.length} bytes`);
      assert(lines.length > LED_FILE_BYTES_MAX - 100, `${lines.length} bytes`);
      assert(lines.startsWith('mine\n0x00\n0x01 num-lock\n'));
      assert(lines.endsWith('\n# full: no more lines in a file of 1048576 bytes\n'));
      assert.deepEqual(warnings, [`Cannot write LED file ${leds}: it is full`]);

      const again = new LedLog(leds);
      again.append(1);
      await again.close();
      assert.equal(readFileSync(leds, 'utf8'), lines, 'the next gateway leaves it alone');
    });

    it('ends with the last state although the disk was behind', async () => {
      const leds = join(folder, 'behind');
      const log = new LedLog(leds);
      // In one turn of the event loop, in which nothing can be written.
      for (let n = 0; n < 20_000; n++) log.append(n & 3);
      log.append(4);
      await log.close();
      assert(readFileSync(leds, 'utf8').endsWith('\n0x04 scroll-lock\n'));
      assert(statSync(leds).size < 100_000, 'most were not kept in memory');
    });

    it('that cannot be written is refused when the device is made', () => {
      assert.throws(
        () => keyboardKind.define({ leds: join(folder, 'none', 'leds') }),
        /^UserError: Cannot open LED file .*ENOENT.*, wanted a file to append to$/,
      );
    });

    it('names every LED', () => {
      assert.equal(ledLine(0x1f), '0x1f num-lock caps-lock scroll-lock compose kana');
    });
  });

  it('refuses a text it cannot type when the device is made', () => {
    assert.throws(() => keyboardKind.define({ text: 'é' }), /^UserError: Cannot type 'é'/);
  });
});
