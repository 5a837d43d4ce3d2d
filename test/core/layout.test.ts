import { AssertionError, strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  type Field,
  i32be,
  layout,
  octets,
  text,
  u8,
  u16be,
  u16le,
  u32be,
  u32le,
} from '../../src/core/layout.ts';

const Every = layout('every kind', 27, {
  a: u8,
  b: u16be,
  c: u32be,
  d: i32be,
  e: u16le,
  f: u32le,
  g: octets(3),
  h: text(7),
});

const value = {
  a: 1,
  b: 0x0203,
  c: 0x04050607,
  d: -2,
  e: 0x0809,
  f: 0x0a0b0c0d,
  g: Buffer.from([0xe1, 0xe2, 0xe3]),
  h: 'urb',
};
const written = Buffer.from(
  '01 0203 04050607 fffffffe 0908 0d0c0b0a e1e2e3 75726200000000'.replace(/ /g, ''),
  'hex',
);

describe('layout', () => {
  it('refuses, when it is declared, fields that do not fill the total', () => {
    assert.throws(() => layout('too few', 3, { a: u16be }), AssertionError);
    assert.throws(() => layout('too many', 1, { a: u16be }), AssertionError);
    assert.throws(() => layout('none', 1, {}), AssertionError);
    assert.doesNotThrow(() => layout('right', 3, { a: u16be, b: u8 }));
  });

  it('tells the offset of each field', () => {
    assert.deepEqual({ ...Every.offsets }, { a: 0, b: 1, c: 3, d: 7, e: 11, f: 13, g: 17, h: 20 });
    assert(Object.isFrozen(Every.offsets));
  });

  it('writes each kind of field, and reads it back', () => {
    assert.deepEqual(Every.write(value), written);
    assert.deepEqual(Every.read(written), value);
  });

  it('reads and writes at any place and leaves the rest alone', () => {
    const memory = Buffer.alloc(40, 0xee);
    assert.equal(Every.write(value, memory, 5), memory);
    assert.deepEqual(memory.subarray(5, 32), written);
    assert(memory.subarray(0, 5).every((octet) => octet === 0xee));
    assert(memory.subarray(32).every((octet) => octet === 0xee));
    assert.deepEqual(Every.read(memory, 5), value);
  });

  it('refuses a buffer that is too small', () => {
    for (let length = 0; length < 27; length++) {
      assert.throws(() => Every.read(written.subarray(0, length)), RangeError);
      assert.throws(() => Every.write(value, Buffer.alloc(length)), RangeError, `${length}`);
    }
    assert.throws(() => Every.read(written, 1), RangeError);
    assert.throws(() => Every.write(value, Buffer.alloc(27), 1), RangeError);
  });

  const ranges: [string, Field<number>, number, number][] = [
    ['u8', u8, 0, 0xff],
    ['u16be', u16be, 0, 0xffff],
    ['u16le', u16le, 0, 0xffff],
    ['u32be', u32be, 0, 0xffffffff],
    ['u32le', u32le, 0, 0xffffffff],
    ['i32be', i32be, -0x80000000, 0x7fffffff],
  ];
  for (const [name, field, least, most] of ranges) {
    it(`${name} takes ${least} to ${most} and nothing else`, () => {
      const one = layout('one', field.octets, { value: field });
      for (const number of [least, least + 1, most - 1, most]) {
        assert.equal(one.read(one.write({ value: number })).value, number);
      }
      assert.throws(() => one.write({ value: least - 1 }), RangeError);
      assert.throws(() => one.write({ value: most + 1 }), RangeError);
      assert.throws(() => one.write({ value: Number.POSITIVE_INFINITY }), RangeError);
    });
  }

  it('octets must be exactly as many', () => {
    const one = layout('one', 3, { value: octets(3) });
    assert.throws(() => one.write({ value: Buffer.alloc(2) }), RangeError);
    assert.throws(() => one.write({ value: Buffer.alloc(4) }), RangeError);
  });

  it('text leaves room for its NUL, in octets, not characters', () => {
    const one = layout('one', 4, { value: text(4) });
    assert.equal(one.write({ value: 'abc' }).toString('latin1'), 'abc\0');
    assert.throws(() => one.write({ value: 'abcd' }), RangeError);
    assert.throws(() => one.write({ value: 'éé' }), RangeError);
  });

  it('text ends at its first NUL, or with its field', () => {
    const one = layout('one', 4, { value: text(4) });
    const read = (octetsOf: string) => one.read(Buffer.from(octetsOf, 'latin1'), 1).value;
    assert.equal(read('-ab\0d'), 'ab');
    assert.equal(read('-\0bcd'), '');
    assert.equal(read('-abcd'), 'abcd');
    assert.equal(read('-abcdefg\0'), 'abcd');
    assert.equal(read('-abcd\0'), 'abcd');
    assert.equal(read('\0abcd'), 'abcd', 'a NUL before the field');
  });

  it('writing text clears what was there', () => {
    const one = layout('one', 4, { value: text(4) });
    assert.deepEqual(one.write({ value: 'a' }, Buffer.alloc(4, 0xee)), Buffer.from('a\0\0\0'));
  });

  it('gives back what was written, whatever it was', () => {
    fc.assert(
      fc.property(
        fc.record(
          {
            a: fc.nat(0xff),
            b: fc.nat(0xffff),
            c: fc.nat(0xffffffff),
            d: fc.integer(),
            e: fc.nat(0xffff),
            f: fc.nat(0xffffffff),
            g: fc.uint8Array({ minLength: 3, maxLength: 3 }).map((array) => Buffer.from(array)),
            h: fc.stringMatching(/^[ -~]{0,6}$/),
          },
          { noNullPrototype: true },
        ),
        (any) => assert.deepEqual(Every.read(Every.write(any)), any),
      ),
    );
  });
});
