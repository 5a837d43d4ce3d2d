/** The kernel's usbhid driver reads what an urbgate keyboard types, and sets its LEDs. */
import { strict as assert } from 'node:assert';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startGateway } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { until } from './lab/until.ts';
import { attach, detach, detachAll, loadVhci } from './lab/usbip.ts';

/** What the kernel calls the device: its manufacturer and its product. */
const NAME = 'urbgate Keyboard';

/** From linux/input-event-codes.h. */
const EVENT = { synchronisation: 0, key: 1 } as const;
const SYN_DROPPED = 3;
const KEY = { escape: 1, leftShift: 42, rightShift: 54 } as const;

/** The characters of the key codes from `first` on, plain and with shift, on a US keyboard. */
const LAYOUT = [
  { first: 2, plain: '1234567890-=\b\t', shifted: '!@#$%^&*()_+' },
  { first: 16, plain: 'qwertyuiop[]\n', shifted: 'QWERTYUIOP{}' },
  { first: 30, plain: "asdfghjkl;'`", shifted: 'ASDFGHJKL:"~' },
  { first: 43, plain: '\\zxcvbnm,./', shifted: '|ZXCVBNM<>?' },
  { first: 57, plain: ' ', shifted: ' ' },
] as const;

function character(code: number, shift: boolean): string {
  for (const { first, plain, shifted } of LAYOUT) {
    const found = (shift ? shifted : plain)[code - first];
    if (found !== undefined && code >= first) return found;
  }
  return `<key ${code}>`;
}

/** What somebody who types these events on a US keyboard writes. */
function read(lines: string): { text: string; down: number[] } {
  const down = new Set<number>();
  let text = '';
  for (const line of lines.trim().split('\n')) {
    const [type, code = 0, value] = line.split(' ').map(Number);
    if (type === EVENT.synchronisation && code === SYN_DROPPED) text += '<dropped>';
    if (type !== EVENT.key) continue;
    // 2 is a repetition: the guest's doing, when it is slow to poll for the release.
    if (value === 0) down.delete(code);
    if (value !== 1) continue;
    if (down.has(code)) text += '<pressed again>';
    down.add(code);
    if (code === KEY.leftShift || code === KEY.rightShift || code === KEY.escape) continue;
    text += character(code, down.has(KEY.leftShift) || down.has(KEY.rightShift));
  }
  return { text, down: [...down] };
}

/** The text as it stands in an export SPEC. */
function inSpec(text: string): string {
  return text
    .replaceAll('\\', '\\\\')
    .replaceAll('\n', '\\n')
    .replaceAll('\t', '\\t')
    .replaceAll(',', '\\,');
}

describe('keyboard, attached with the stock usbip client', function () {
  this.timeout(300_000);
  let guest: Guest;
  let folder: string;
  let reader: string;

  before(async () => {
    guest = await sharedGuest();
    await loadVhci(guest);
    await guest.succeed('modprobe -a usbhid hid-generic evdev');
    reader = await compiled(labSource('input-events.c'));
    folder = mkdtempSync(join(tmpdir(), 'urbgate-keyboard-'));
  });

  afterEach(async function () {
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  it('types every character once for each client, in order', async () => {
    const ascii = Array.from({ length: 0x7f - 0x20 }, (_, at) => String.fromCharCode(0x20 + at));
    const text = `Hello, World! aabb AAbb 1122\n${ascii.join('')}\n\tThe end\n`;
    // The kernel's console opens a keyboard at once, and that starts it: the wait is for the
    // reader to open it too. The delay lets a reader on a busy machine keep up. The escape key comes
    // last and tells that all the rest has come.
    const spec = `virtual:keyboard,text=${inSpec(text)}\\e,wait=5000,delay=30`;
    const gateway = await startGateway({ exports: [spec], arguments: ['--control', 'none'] });
    try {
      guest.forward(gateway.port);
      for (const client of ['first', 'second']) {
        const events = guest.start(`exec ${reader} '${NAME}'`);
        events.end();
        const device = await attach(guest, '1-1');
        const ready = await events.printed(/ready .*\n/, 30);
        await events.printed(new RegExp(`^${EVENT.key} ${KEY.escape} 0\n`, 'm'), 120);
        await detach(guest, device.port);
        const { code, stdout } = await events.result(30);
        assert.equal(code, 0);
        const typed = read(stdout.slice(ready.index + ready[0].length));
        assert.deepEqual(typed, { text, down: [] }, `the ${client} client`);
      }
      await gateway.stop();
    } finally {
      await gateway.kill();
    }
  });

  it('shows the LEDs that the kernel sets', async () => {
    const leds = join(folder, 'leds');
    const gateway = await startGateway({
      exports: [`virtual:keyboard,leds=${leds}`],
      arguments: ['--control', 'none'],
    });
    try {
      guest.forward(gateway.port);
      const { sysfs } = await attach(guest, '1-1');
      const shown = () => readFileSync(leds, 'latin1');
      for (const [led, brightness, line] of [
        ['capslock', 1, '0x02 caps-lock\n'],
        ['scrolllock', 1, '0x06 caps-lock scroll-lock\n'],
        ['capslock', 0, '0x04 scroll-lock\n'],
        ['scrolllock', 0, '0x00\n'],
      ] as const) {
        const from = shown().length;
        await guest.succeed(
          `for try in $(seq 200); do
             file=$(find ${sysfs}/ -path '*::${led}/brightness')
             [ -n "$file" ] && echo ${brightness} > $file && exit 0
             sleep 0.1
           done
           echo "no ${led} LED under ${sysfs}" >&2; exit 1`,
        );
        const since = () => shown().slice(from);
        await until(
          30,
          () => since().includes(line) || undefined,
          () => `Cannot see ${line.trim()} in ${leds}: ${JSON.stringify(since())} has come`,
        );
      }
    } finally {
      await gateway.kill();
    }
  });
});
