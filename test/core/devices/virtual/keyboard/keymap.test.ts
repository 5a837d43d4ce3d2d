import { strict as assert } from 'node:assert';
import { LEFT_SHIFT, strokesOf } from '../../../../../src/core/devices/virtual/keyboard/keymap.ts';
import { UserError } from '../../../../../src/core/errors.ts';

describe('keyboard keymap', () => {
  // HID Usage Tables, chapter 10: usages of the US layout, some of each kind.
  const vectors: [text: string, usage: number, shifted: boolean][] = [
    ['a', 0x04, false],
    ['z', 0x1d, false],
    ['A', 0x04, true],
    ['Z', 0x1d, true],
    ['1', 0x1e, false],
    ['9', 0x26, false],
    ['0', 0x27, false],
    ['!', 0x1e, true],
    ['@', 0x1f, true],
    ['(', 0x26, true],
    [')', 0x27, true],
    ['\n', 0x28, false],
    ['\\n', 0x28, false],
    ['\\e', 0x29, false],
    ['\b', 0x2a, false],
    ['\t', 0x2b, false],
    ['\\t', 0x2b, false],
    [' ', 0x2c, false],
    ['-', 0x2d, false],
    ['_', 0x2d, true],
    ['=', 0x2e, false],
    ['+', 0x2e, true],
    ['[', 0x2f, false],
    ['{', 0x2f, true],
    [']', 0x30, false],
    ['}', 0x30, true],
    ['\\\\', 0x31, false],
    ['|', 0x31, true],
    [';', 0x33, false],
    [':', 0x33, true],
    ["'", 0x34, false],
    ['"', 0x34, true],
    ['`', 0x35, false],
    ['~', 0x35, true],
    [',', 0x36, false],
    ['<', 0x36, true],
    ['.', 0x37, false],
    ['>', 0x37, true],
    ['/', 0x38, false],
    ['?', 0x38, true],
  ];
  for (const [text, usage, shifted] of vectors) {
    it(`types ${JSON.stringify(text)} with usage 0x${usage.toString(16)}`, () => {
      const modifiers = shifted ? LEFT_SHIFT : 0;
      assert.deepEqual(strokesOf(text), [{ modifiers, usage }]);
    });
  }

  it('types every printable ASCII character, each with a stroke of its own', () => {
    const strokes = new Set<string>();
    for (let code = 0x20; code < 0x7f; code++) {
      const character = String.fromCharCode(code);
      const [stroke] = strokesOf(character === '\\' ? '\\\\' : character);
      strokes.add(JSON.stringify(stroke));
    }
    assert.equal(strokes.size, 95);
  });

  const refused: [text: string, message: RegExp][] = [
    ['naïve', /^Cannot type 'ï' \(U\+00EF\): no key of a US keyboard has it, wanted printable/],
    ['😀', /^Cannot type '😀' \(U\+1F600\)/],
    ['a\0b', /^Cannot type U\+0000/],
    ['a\rb', /^Cannot type U\+000D/],
    ['\u00a0', /^Cannot type U\+00A0/],
    ['\\q', /^Cannot type \\q: unknown escape, wanted \\n, \\t, \\e or \\\\$/],
    ['end\\', /^Cannot type the backslash at the end/],
  ];
  for (const [text, message] of refused) {
    it(`refuses ${JSON.stringify(text)} and names what it cannot type`, () => {
      assert.throws(
        () => strokesOf(text),
        (error) => error instanceof UserError && message.test(error.message),
      );
    });
  }
});
