/** Files that users name in a SPEC, when something is there that would never let go of a process. */
import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { openLog } from '../../src/cli/supervisor-client.ts';
import { CommandProcess, endAll, PATIENCE_MILLISECONDS, scratchFolder } from './urbgate.ts';

describe('files that users name', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  if (process.platform === 'win32') return;
  let command: CommandProcess;
  let listener: Server;
  let folder = '';

  before(() => {
    command = new CommandProcess();
    folder = scratchFolder();
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    mkdirSync(join(folder, 'folder'));
    writeFileSync(join(folder, 'notes.txt'), 'mine\n');
    symlinkSync(join(folder, 'notes.txt'), join(folder, 'link'));
    symlinkSync(join(folder, 'absent.txt'), join(folder, 'dangling'));
    listener = createServer().listen(join(folder, 'socket'));
  });
  after(() => {
    listener.close();
    endAll();
  });

  const NOT_REGULAR = [
    ['fifo', 'a named pipe'],
    ['folder', 'a directory'],
    ['socket', 'a socket'],
    ['/dev/zero', 'a character device'],
    ['/dev/tty', 'a character device'],
  ] as const;
  const OPTIONS = [
    ['virtual:keyboard,leds=', 'Cannot open LED file'],
    ['virtual:audio,out=', 'Cannot write WAV file'],
    ['virtual:audio,in=', 'Cannot read WAV file'],
    ['virtual:disk,file=', 'Cannot open disk image'],
    ['virtual:disk,readonly,file=', 'Cannot open disk image'],
  ] as const;
  for (const [option, begin] of OPTIONS) {
    for (const [name, kind] of NOT_REGULAR) {
      it(`${option} refuses ${kind} (${name}) and does not wait`, async () => {
        const path = name.startsWith('/') ? name : join(folder, name);
        const { code, stderr } = await serve(`${option}${path}`);
        assert(stderr.startsWith(`${begin} ${path}: it is ${kind}, `), stderr);
        assert.equal(code, 2);
      });
    }
  }

  for (const option of [
    'virtual:keyboard,leds=',
    'virtual:audio,out=',
    'virtual:audio,overwrite,out=',
  ]) {
    for (const name of ['link', 'dangling']) {
      it(`${option} does not write through a symbolic link (${name})`, async () => {
        const { code, stderr } = await serve(`${option}${join(folder, name)}`);
        assert.match(stderr, /: it is a symbolic link, wanted a file to (append|write) to\n$/);
        assert.equal(code, 2);
        assert.equal(readFileSync(join(folder, 'notes.txt'), 'utf8'), 'mine\n');
        assert.throws(() => readFileSync(join(folder, 'absent.txt')));
      });
    }
  }

  it('virtual:audio,out= does not take the place of a file unless asked', async () => {
    const path = join(folder, 'notes.txt');
    const { code, stderr } = await serve(`virtual:audio,out=${path}`);
    assert.equal(
      stderr,
      `Cannot write WAV file ${path}: there is one of 5 bytes, wanted a new file or the option overwrite\n`,
    );
    assert.equal(code, 2);
    assert.equal(readFileSync(path, 'utf8'), 'mine\n');
  });

  it('virtual:audio,in= of a file that has no end is refused', async function () {
    const endless = '/proc/self/pagemap'; // a regular file by its stat, and of size 0
    try {
      readFileSync('/proc/self/stat');
    } catch {
      this.skip();
    }
    const { code, stderr } = await serve(`virtual:audio,in=${endless}`);
    assert.match(
      stderr,
      /^Cannot read WAV file \/proc\/self\/pagemap: it has no end after \d+ bytes/,
    );
    assert.equal(code, 2);
  });

  it('a new disk image does not come about through a dangling link', async () => {
    const { code, stderr } = await serve(`virtual:disk,size=1MiB,file=${join(folder, 'dangling')}`);
    assert.match(stderr, /^Cannot create disk image .*: file already exists, /);
    assert.equal(code, 2);
    rmSync(join(folder, 'dangling'));
  });

  for (const [name, kind] of NOT_REGULAR) {
    it(`attach --save and --saved refuse ${kind} (${name}) and do not wait`, async () => {
      const path = name.startsWith('/') ? name : join(folder, name);
      for (const [words, begin] of [
        [['attach', '--saved'], 'Cannot read saved attachments in'],
        [['attach', '--save', '-r', '127.0.0.1', '-b', '1-1'], 'Cannot save the attachment in'],
      ] as const) {
        const ended = await command.run(words, { URBGATE_ATTACHMENTS: path });
        assert.equal(ended.stderr, `${begin} ${path}: it is ${kind}, wanted a text file\n`);
        assert.equal(ended.code, 2);
      }
    });

    it(`the supervisor's log is not written to ${kind} (${name})`, () => {
      const path = name.startsWith('/') ? name : join(folder, name);
      assert.throws(
        () => openLog(path),
        (error: Error) =>
          error.message ===
          `Cannot open the supervisor's log ${path}: it is ${kind}, wanted a file to append to`,
      );
    });
  }

  it("the supervisor's log is written through no link, and begun anew when it is long", () => {
    assert.throws(() => openLog(join(folder, 'link')), /: it is a symbolic link, wanted a file/);
    const log = join(folder, 'attach.log');
    for (const [lines, kept] of [
      [3, 12],
      [300_000, 0],
    ] as const) {
      writeFileSync(log, 'old\n'.repeat(lines));
      closeSync(openLog(log));
      assert.equal(statSync(log).size, kept);
    }
  });

  function serve(spec: string) {
    return command.run(['serve', '--control', 'none', '--listen', '127.0.0.1:0', '--export', spec]);
  }
});
