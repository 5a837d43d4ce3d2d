import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { UserError } from '../../src/core/errors.ts';
import { parseExportSpec, parseSize, readOptions } from '../../src/core/export-spec.ts';

const TABLE = {
  name: { type: 'text', help: '' },
  image: { type: 'file', help: '' },
  size: { type: 'size', help: '' },
  count: { type: 'count', help: '' },
  quick: { type: 'flag', help: '' },
} as const;

const read = (options: string) =>
  readOptions(parseExportSpec(`virtual:x,${options}`), TABLE, '/at');

describe('export spec', () => {
  it('takes the form apart', () => {
    const spec = parseExportSpec('virtual:disk,size=64MiB,readonly,serial=a=b,busid=3-1');
    assert.equal(spec.scheme, 'virtual');
    assert.equal(spec.target, 'disk');
    assert.equal(spec.busId, '3-1');
    assert.deepEqual(
      [...spec.options],
      [
        ['size', '64MiB'],
        ['readonly', true],
        ['serial', 'a=b'],
      ],
    );
  });

  it('leaves the target to the scheme', () => {
    assert.equal(parseExportSpec('remote:[::1]:3240/1-1').target, '[::1]:3240/1-1');
    assert.equal(parseExportSpec('usb:0525:a4a0').target, '0525:a4a0');
  });

  for (const [written, value] of [
    ['a\\,b', 'a,b'],
    ['\\,', ','],
    ['a\\nb', 'a\\nb'],
    ['a\\\\', 'a\\\\'],
    ['a\\\\\\,b', 'a\\\\,b'],
    ['C:\\dir\\a.img', 'C:\\dir\\a.img'],
    ['two\nlines', 'two\nlines'],
    ['', ''],
  ] as const) {
    it(`reads ${JSON.stringify(written)} as ${JSON.stringify(value)}`, () => {
      const { options } = parseExportSpec(`virtual:x,name=${written},quick`);
      assert.deepEqual([...options.values()], [value, true]);
    });
  }

  it('gives back any text that is escaped', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        fc.pre(!text.includes('\\'));
        assert.equal(read(`name=${text.replaceAll(',', '\\,')},quick`).name, text);
      }),
    );
  });

  for (const text of [
    '',
    'disk',
    'virtual:',
    ':disk',
    'Virtual:disk',
    'virtual:,size=1',
    'virtual:disk,',
    'virtual:disk,=1',
    'virtual:disk,a=1,a=2',
    'virtual:disk,busid',
    `virtual:disk,serial=${'x'.repeat(9000)}`,
  ]) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.throws(() => parseExportSpec(text), isSentence);
    });
  }

  it('reads each type of option', () => {
    const values = read('name=x,image=a.img,size=2K,count=0,quick');
    assert.deepEqual(values, { name: 'x', image: '/at/a.img', size: 2048, count: 0, quick: true });
    assert.equal(read('image=/b.img').image, '/b.img');
  });

  for (const options of [
    'other=1',
    'toString',
    '__proto__=1',
    'name',
    'image',
    'image=',
    'size',
    'size=',
    'size=-1',
    'size=1.5K',
    'count=1K',
    'count=-1',
    'count=0x10',
    'count=99999999999999999999',
    'quick=yes',
    'quick=',
  ]) {
    it(`refuses the option ${options}`, () => assert.throws(() => read(options), isSentence));
  }

  it('refuses with a UserError or not at all, whatever the text', () => {
    const pieces = fc.constantFrom(
      'virtual:',
      'x',
      ',',
      '=',
      '\\',
      'size',
      'busid',
      '1',
      '\0',
      '\n',
    );
    const garbage = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.array(pieces).map((each) => each.join('')),
    );
    fc.assert(
      fc.property(garbage, (text) => {
        try {
          readOptions(parseExportSpec(text), TABLE, '/at');
        } catch (error) {
          assert(error instanceof UserError, String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('size', () => {
  for (const [written, octets] of [
    ['0', 0],
    ['1000', 1000],
    ['64KiB', 65536],
    ['64K', 65536],
    ['3M', 3 << 20],
    ['1GiB', 2 ** 30],
    ['3TiB', 3 * 2 ** 40],
    ['8191T', 8191 * 2 ** 40],
    ['8192T', undefined], // beyond what a number counts exactly
    ['64MB', undefined], // a million or 2^20?
    ['64kib', undefined],
    ['1 K', undefined],
    ['K', undefined],
    ['', undefined],
    ['1e3', undefined],
  ] as const) {
    it(`${JSON.stringify(written)} is ${octets}`, () => assert.equal(parseSize(written), octets));
  }
});

function isSentence(error: unknown): boolean {
  return error instanceof UserError && /^Cannot export .*: .*(wanted|at most)/s.test(error.message);
}
