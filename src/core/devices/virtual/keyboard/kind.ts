/** `virtual:keyboard`: types a text into whatever it is attached to. */
import { defineKind } from '../kind.ts';
import { defineKeyboard } from './keyboard.ts';
import { strokesOf } from './keymap.ts';
import { LedLog } from './led-log.ts';

/** Long enough for a host that listens only some time after its first poll; see keyboard.ts. */
const WAIT_DEFAULT_MILLISECONDS = 500;

/** A day. Timers of more than 25 would be over at once. */
const WAIT_MAX_MILLISECONDS = 24 * 60 * 60 * 1000;

export const keyboardKind = defineKind({
  name: 'keyboard',
  summary: 'HID boot keyboard that types a text once for each client',
  options: {
    text: { type: 'text', help: 'what to type on a US layout; \\n, \\t, \\e and \\\\ are escapes' },
    wait: {
      type: 'count',
      max: WAIT_MAX_MILLISECONDS,
      help: `milliseconds from the first poll to the first key (default ${WAIT_DEFAULT_MILLISECONDS})`,
    },
    delay: {
      type: 'count',
      max: WAIT_MAX_MILLISECONDS,
      help: 'milliseconds between keys (default 0: as the host polls)',
    },
    leds: {
      type: 'file',
      help: 'file that gets a line for each change of the LEDs, until it has 1 MiB; no link',
    },
  },
  define: (options) =>
    defineKeyboard({
      strokes: strokesOf(options.text ?? ''),
      waitMilliseconds: options.wait ?? WAIT_DEFAULT_MILLISECONDS,
      delayMilliseconds: options.delay ?? 0,
      ...(options.leds === undefined ? {} : { ledLog: new LedLog(options.leds) }),
    }),
});
