/** Files that users name in a SPEC, when something is there that would never let go of a process. */
import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { CommandProcess, endAll, PATIENCE_MILLISECONDS, scratchFolder } from './urbgate.ts';

describe('files of a SPEC', function () {
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

  function serve(spec: string) {
    return command.run(['serve', '--control', 'none', '--listen', '127.0.0.1:0', '--export', spec]);
  }
});
