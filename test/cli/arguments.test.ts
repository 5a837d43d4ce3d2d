/**
 * Every option and argument with values of the wrong kind: each is one sentence and exit code 2, and leaves
 * nothing behind.
 */
import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { controlPath } from '../../src/cli/control-path.ts';
import { parseRequest } from '../../src/cli/control-protocol.ts';
import { urbgate } from '../../src/cli/program.ts';
import { VIRTUAL_KINDS } from '../../src/core/devices/virtual/kinds.ts';
import { UserError } from '../../src/core/errors.ts';
import { CommandProcess, endAll, PATIENCE_MILLISECONDS, scratchFolder } from './urbgate.ts';

const LONG = 'x'.repeat(300);
/** One more than what fits an AF_UNIX address. */
const LONG_PATH = `/tmp/${'x'.repeat(103)}`;

/** What is neither a number nor a size. */
const NO_NUMBERS = [
  '',
  ' ',
  '-1',
  'NaN',
  '1e3',
  '0x10',
  'Infinity',
  '1.5',
  '1 ',
  'ünï',
  '9'.repeat(20),
  LONG,
];
const NO_ADDRESSES = [
  '',
  ' ',
  '::1',
  '[::1',
  'a b',
  'h:',
  'h:-1',
  'h:65536',
  'h:NaN',
  'h:1:2',
  '[x]:1',
  'h:999999',
];
const NO_NAMES = ['', ' ', '../..', 'ünï\u202e', '--', '-1', LONG];
/** Paths to what is no socket and no place for one; @ is a folder of the test's. */
const NO_SOCKETS = [
  '',
  '@/file',
  '@/fifo',
  '@/folder',
  '@/file/below',
  '/dev/zero',
  LONG,
  LONG_PATH,
];
const NO_FOLDERS = [
  '',
  '@/file',
  '@/fifo',
  '@/file/below',
  '/dev/zero',
  '/proc/self',
  '/tmp',
  LONG,
  LONG_PATH,
];
const NO_FILES = ['', '@/fifo', '@/folder', '@/file/below', '@/none/x', '/dev/zero', '/', LONG];

const SERVE = ['serve', '--control', 'none', '--listen', '127.0.0.1:0'];
const NOBODY = ['--control', '@/nobody.sock'];
const STORE = ['--store', '@/nobody.sock'];

/** Commands that take one word each; ? stands for it. */
const WORDS: readonly [words: readonly string[], wrong: readonly string[]][] = [
  [['?'], [...NO_NAMES, 'serv']],
  [
    ['serve', '?'],
    [...NO_NAMES.filter((one) => one !== '--'), '--no-such-option', '--shm'],
  ],
  [['serve', '--control', 'none', '--listen', '?'], NO_ADDRESSES],
  [
    [...SERVE, '--stall-hold', '?'],
    [...NO_NUMBERS, '60001'],
  ],
  [[...SERVE, '--shm', '?'], NO_FOLDERS],
  [['serve', '--listen', '127.0.0.1:0', '--control', '?'], NO_SOCKETS],
  [
    ['list', '--remote', '?'],
    [...NO_ADDRESSES, 'h:0', '127.0.0.1:1', LONG],
  ],
  [
    ['export', '?', ...NOBODY],
    ['', 'x', 'x:', ':x', 'virtual:disk,', 'virtual:disk,=', 'virtual:disk'],
  ],
  [
    ['export', 'virtual:disk,size=1', '--control', '?'],
    [...NO_SOCKETS, 'none'],
  ],
  [['unexport', '?', ...NOBODY], NO_NAMES],
  [
    ['unexport', '1-1', '--control', '?'],
    [...NO_SOCKETS, 'none'],
  ],
  [['kick', '?', ...NOBODY], NO_NAMES],
  [
    ['kick', '1-1', '--control', '?'],
    [...NO_SOCKETS, 'none'],
  ],
  [
    ['status', '--control', '?'],
    [...NO_SOCKETS, 'none'],
  ],
  [
    ['udev-rule', '?'],
    ['', 'usb:', 'usb:x', 'usb:12345:1', 'virtual:disk', LONG],
  ],
  [
    ['udev-rule', 'usb:1234:5678', '--group', '?'],
    [...NO_NAMES, 'a b', '"'],
  ],
  [['xen', '?'], NO_NAMES],
  [
    ['xen', 'list', '--store', '?'],
    [...NO_SOCKETS, '3240'],
  ],
  [['xen', 'ctrl-add', '?', ...STORE], NO_NAMES],
  [['xen', 'ctrl-add', '1', ...STORE, '--ports', '?'], NO_NUMBERS],
  [['xen', 'ctrl-add', '1', ...STORE, '--usb-version', '?'], NO_NUMBERS],
  [['xen', 'ctrl-remove', '1', '?', ...STORE], NO_NUMBERS],
  [['xen', 'attach', '1', '?', ...STORE], NO_NAMES],
  [['xen', 'attach', '1', '1-1', ...STORE, '--controller', '?'], NO_NUMBERS],
  [['xen', 'attach', '1', '1-1', ...STORE, '--port', '?'], NO_NUMBERS],
  [['xen', 'detach', '1', '?', ...STORE], NO_NAMES],
  [['attach', '--remote', '?', '--busid', '1-1'], NO_ADDRESSES],
  [
    ['attach', '--remote', 'h', '--device', '?'],
    [...NO_NAMES, '1:2', '12345:6', '0525:a4a0:'],
  ],
  [
    ['attach', '--xen', '--controller', '?'],
    [...NO_NUMBERS, '65536'],
  ],
  [
    ['attach', '--xen', '--port', '?'],
    [...NO_NUMBERS, '0', '32'],
  ],
  [['attach', '--remote', 'h', '--busid', '?', '--device', '0525:a4a0'], ['1-1']],
  [
    ['attach', '--remote', 'h', '--busid', '1-1', '--control', '?'],
    ['none', ''],
  ],
  [
    ['port', '--control', '?'],
    ['none', ''],
  ],
  [
    ['detach', '?'],
    [...NO_NAMES, 'a', 'a1 ', '1.5'],
  ],
  [
    ['detach', '0', '--control', '?'],
    ['none', ''],
  ],
];

/** Values of the options of virtual devices by their type, that no option takes. */
const BY_TYPE = {
  size: [...NO_NUMBERS, '1MB', '1 MiB', '8192TiB'],
  count: [...NO_NUMBERS, String(2 ** 53)],
  flag: ['', '1', 'true'],
  file: ['', 'a\0b'],
  text: [],
} as const;

const SPECS: readonly [spec: string, wrong: readonly string[]][] = [
  ['?', ['', ' ', ':', 'virtual', 'virtual:', 'Virtual:disk', 'file:x', LONG, 'x'.repeat(9000)]],
  [
    'virtual:?',
    [
      ...NO_NAMES,
      'Disk',
      'disk,',
      'disk,,',
      'disk,=1',
      'disk,nosuch=1',
      'disk,size=1MiB,size=1MiB',
    ],
  ],
  ['virtual:disk,size=?', ['0', '1', '513', 'disk']],
  ['virtual:disk,file=?', [...NO_FILES, '@/file', '@/none']],
  ['virtual:disk,readonly,size=1MiB,file=?', [...NO_FILES, '@/none']],
  ['virtual:disk,size=1MiB,blocksize=?', ['0', '1', '513', '65536']],
  ['virtual:disk,size=1MiB,speed=?', ['', 'full', 'HIGH']],
  ['virtual:disk,size=1MiB,serial=?', ['', 'ü', 'x'.repeat(33)]],
  ['virtual:disk,size=1MiB,vendor=?', ['', 'ü', 'x'.repeat(9)]],
  ['virtual:disk,size=1MiB,product=?', ['', 'ü', 'x'.repeat(17)]],
  [
    'virtual:disk,size=1MiB,busid=?',
    ['', ' ', '1', '1-', '-1', '1-1-1', '../..', LONG, '9'.repeat(20)],
  ],
  ['virtual:keyboard,text=?', ['ü', '\\x', '\u0007', '\u202e']],
  ['virtual:keyboard,leds=?', NO_FILES],
  ['virtual:keyboard,wait=?', ['86400001', String(2 ** 53 - 1)]],
  ['virtual:keyboard,delay=?', ['86400001', String(2 ** 53 - 1)]],
  ['virtual:serial,connect=?', [...NO_ADDRESSES, 'h', 'h:0']],
  ['virtual:audio,out=?', [...NO_FILES, '@/file']],
  ['virtual:audio,in=?', [...NO_FILES, '@/file', '@/none']],
  ['virtual:audio,rate=?', ['0', '1', '96000', String(2 ** 53 - 1)]],
  ['virtual:audio,tone=?', ['0', '24000', String(2 ** 53 - 1)]],
  ['virtual:audio,out=@/none/x,size=?', ['0', '1', '5GiB']],
  ['virtual:source-sink,end=?', ['', 'end', 'stall']],
  ['virtual:source-sink,pattern=?', ['2']],
  ['virtual:source-sink,speed=?', ['', 'low']],
  ['virtual:source-sink,delay=?', ['86400001', String(2 ** 53 - 1)]],
  ['usb:?', [...NO_NAMES, '1234', '1234:', '12345:1', 'x:y', '1234:5678:a:b:\0']],
  ['usb:1-1,backend=?', ['', 'libusb', 'nusb']],
  ['usb:1-1,wait=?', ['', '1']],
  ['remote:?', ['', 'h', '/', 'h/', '/1-1', 'h:0/1-1', 'h:65536/1-1', '::1/1-1', 'a b/1-1']],
  ['remote:127.0.0.1:1/?', [...NO_NAMES, '1-1', '1234:5678', '1234:5678:S']],
  ['remote:127.0.0.1:1/1-1,?', ['force', 'wait=1', 'wait,wait']],
];

describe('wrong arguments', function () {
  this.timeout(PATIENCE_MILLISECONDS * 2);
  if (process.platform === 'win32') return;
  let command: CommandProcess;
  let folder = '';
  let environment: Record<string, string>;

  before(() => {
    command = new CommandProcess();
    folder = scratchFolder();
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    mkdirSync(join(folder, 'folder'));
    writeFileSync(join(folder, 'file'), 'x');
    environment = { URBGATE_ATTACH_CONTROL: join(folder, 'attach.sock') };
  });
  after(() => {
    assert.deepEqual(readdirSync(folder).sort(), ['fifo', 'file', 'folder']);
    endAll();
  });

  async function refused(words: readonly string[]): Promise<void> {
    const given = words.map((word) => word.replace(/(^|[=/])@/, `$1${folder}`));
    const { code, stdout, stderr } = await command.run(given, environment);
    const shown = `urbgate ${JSON.stringify(given)}: ${code} ${stdout}${stderr}`;
    assert.match(stderr, /^Cannot [^\n]*\n$/, shown);
    assert.doesNotMatch(stderr, /[\p{Cc}\p{Bidi_Control}](?!$)/u, shown);
    assert.deepEqual([code, stdout], [2, ''], shown);
  }

  for (const [words, wrong] of WORDS) {
    it(`are refused in one sentence: ${words.join(' ')}`, async () => {
      for (const value of wrong) {
        await refused(words.map((word) => (word === '?' ? value : word)));
      }
    });
  }

  for (const [spec, wrong] of SPECS) {
    it(`are refused in one sentence: --export ${spec}`, async () => {
      for (const value of wrong)
        await refused([...SERVE, '--export', spec.replace('?', () => value)]);
    });
  }

  for (const { name, options } of VIRTUAL_KINDS) {
    it(`are refused in one sentence: each option of virtual:${name}, by its type`, async () => {
      for (const [key, { type }] of Object.entries(options)) {
        const wrong = BY_TYPE[type].map((value) => `${key}=${value}`);
        const noValue = type === 'flag' ? [] : [key];
        for (const one of [...wrong, ...noValue]) {
          await refused([...SERVE, '--export', `virtual:${name},${one}`]);
        }
      }
    });
  }

  it('are refused in one sentence: options that are given twice', async () => {
    for (const words of [
      [...SERVE, '--shm', '@/a', '--shm', '@/b'],
      [...SERVE, '--control', 'none'],
      [...SERVE, '--stall-hold', '1', '--stall-hold', '2'],
      ['list', '-r', 'a', '--remote', 'b'],
      ['status', ...NOBODY, ...NOBODY],
      ['udev-rule', 'usb:1234:5678', '--group', 'a', '--group', 'b'],
      ['xen', 'list', ...STORE, ...STORE],
      ['attach', '-r', 'h', '-b', '1-1', '-b', '1-2'],
    ]) {
      await refused(words);
    }
  });

  it('are refused in one sentence: commands and arguments that are missing, or too many', async () => {
    for (const words of [
      [],
      ['xen'],
      ['export'],
      ['unexport'],
      ['kick'],
      ['detach'],
      ['udev-rule'],
      ['xen', 'attach', '1'],
      ['list', 'x'],
      ['status', 'x'],
      ['unexport', 'x', 'y'],
    ]) {
      await refused(words);
    }
  });

  it('that only a control request can have are refused', () => {
    for (const request of [
      { command: 'export', spec: 'virtual:disk', folder: '/a\0b' },
      { command: 'export', spec: 'virtual:disk', folder: '' },
    ]) {
      assert.throws(() => parseRequest(request), UserError);
    }
    assert.throws(() => controlPath('a\0b'), UserError);
  });

  it('are tried for every command there is', () => {
    const commands = urbgate().commands.flatMap((one) =>
      one.commands.length === 0
        ? [[one.name()]]
        : one.commands.map((sub) => [one.name(), sub.name()]),
    );
    for (const names of commands) {
      const tried = WORDS.some(([words]) => names.every((name, at) => words[at] === name));
      assert(tried, `urbgate ${names.join(' ')} is not in the table`);
    }
  });
});
