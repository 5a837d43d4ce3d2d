/**
 * Text for terminals. Names come from devices, servers and clients: no character of theirs may steer a
 * terminal (control characters, C1 among them) or reorder what a person reads (bidirectional controls).
 */
const STEERING = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
/** JSON.stringify escapes those below U+0020 itself; the newlines between its lines are to stay. */
const STEERING_IN_JSON = /[\u007f-\u009f\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;

/** Text on one line; what steers is shown as `\n`, `\x1b` or `\u202e`. */
export function printable(text: string): string {
  return text.replace(STEERING, (character) => {
    if (character === '\n') return '\\n';
    const digits = character.charCodeAt(0).toString(16);
    return digits.length > 2 ? `\\u${digits.padStart(4, '0')}` : `\\x${digits.padStart(2, '0')}`;
  });
}

/** The same for text of several lines, such as a stack. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** JSON for programs that a terminal may show, too: parsed, it is the same value. */
export function printableJson(value: unknown): string {
  return JSON.stringify(value, null, 2).replace(
    STEERING_IN_JSON,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
