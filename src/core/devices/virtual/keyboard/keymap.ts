/**
 * From text to key strokes on a US keyboard.
 *
 * A HID keyboard sends keys, not characters: the host's layout turns them back. The usages are
 * those of the HID Usage Tables, chapter 10 (Keyboard/Keypad page 0x07).
 */
import { UserError } from '../../../errors.ts';

/** One key to press and release, with the modifiers that are held meanwhile. */
export interface Stroke {
  /** Octet 0 of the boot report, one bit for each modifier key. */
  readonly modifiers: number;
  /** Usage of the key. */
  readonly usage: number;
}

/** Left shift, usage 0xE1: bit 1 of the modifier octet (HID 1.11, 8.3). */
export const LEFT_SHIFT = 0x02;

/** Usage of the key that stands first in the two rows below. */
const FIRST_USAGE = 0x04;

// The layout, from usage 0x04 (a) to 0x38 (slash). '\0' stands where a key types no character, or
// none with shift; 0x32 is the extra key of other countries' keyboards.
const PLAIN = "abcdefghijklmnopqrstuvwxyz1234567890\n\x1b\b\t -=[]\\\0;'`,./";
const SHIFTED = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ!@#$%^&*()\0\0\0\0\0_+{}|\0:"~<>?';

const STROKES = new Map<string, Stroke>();
for (const [row, modifiers] of [
  [PLAIN, 0],
  [SHIFTED, LEFT_SHIFT],
] as const) {
  [...row].forEach((character, place) => {
    if (character !== '\0') STROKES.set(character, { modifiers, usage: FIRST_USAGE + place });
  });
}

/** What may follow a backslash in the text of an option. */
const ESCAPES: Readonly<Record<string, string>> = { n: '\n', t: '\t', e: '\x1b', '\\': '\\' };

/**
 * The strokes that type `text`; `\n`, `\t`, `\e` and `\\` are escapes.
 *
 * @throws {UserError} for a character that no key of a US keyboard types, or another escape.
 */
export function strokesOf(text: string): Stroke[] {
  const strokes: Stroke[] = [];
  const characters = [...text]; // by code point, so that a message shows whole characters
  for (let at = 0; at < characters.length; at++) {
    let character = characters[at] ?? '';
    if (character === '\\') {
      at++;
      character = charOfEscape(characters[at]);
    }
    const stroke = STROKES.get(character);
    if (stroke === undefined) {
      throw new UserError(
        `Cannot type ${nameOf(character)}: no key of a US keyboard has it, ` +
          'wanted printable ASCII or the escapes \\n, \\t, \\e and \\\\',
      );
    }
    strokes.push(stroke);
  }
  return strokes;
}

function charOfEscape(letter: string | undefined): string {
  const character = ESCAPES[letter ?? ''];
  if (character !== undefined) return character;
  const shown = letter === undefined ? 'the backslash at the end' : `\\${letter}`;
  throw new UserError(`Cannot type ${shown}: unknown escape, wanted \\n, \\t, \\e or \\\\`);
}

function nameOf(character: string): string {
  const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0');
  const printable = /^[^\p{C}\p{Z}]$/u.test(character);
  return printable ? `'${character}' (U+${code})` : `U+${code}`;
}
