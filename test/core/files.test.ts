/** Opening files beside somebody who puts other things in their place. */
import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import {
  APPEND_NO_LINK,
  NotRegular,
  openRegular,
  READ,
  readRegular,
  readRegularFile,
  WRITE_NO_LINK,
} from '../../src/core/files.ts';

describe('files', () => {
  let folder = '';
  const at = (name: string) => join(folder, name);
  before(() => {
    folder = fs.mkdtempSync(join(tmpdir(), 'urbgate-files-'));
    fs.writeFileSync(at('file'), 'abc');
    fs.symlinkSync('file', at('link'));
  });
  after(() => fs.rmSync(folder, { recursive: true }));

  it('are read through a link, and written through none', () => {
    assert.equal(readRegular(at('link'), 3).toString(), 'abc');
    for (const flags of [WRITE_NO_LINK, APPEND_NO_LINK]) {
      assert.throws(() => openRegular(at('link'), flags), /^Error: it is a symbolic link$/);
    }
  });

  it('are read as far as is allowed', () => {
    assert.throws(() => readRegular(at('file'), 2), /: it has 3 bytes, at most 2 are read$/);
    if (!fs.existsSync('/proc/self/maps')) return;
    assert(readRegular('/proc/self/maps', 1 << 20).length > 100, 'it has no size');
    assert.throws(() => readRegular('/proc/self/maps', 100), /: it has no end after 100 bytes/);
  });

  it('that cannot be opened are a user error of one sentence', () => {
    const use = { action: 'read the list', wanted: 'a list' };
    assert.throws(
      () => readRegularFile(at('absent'), 10, use),
      /^UserError: Cannot read the list \S+absent: ENOENT: .*, wanted a list$/,
    );
    assert.throws(
      () => readRegularFile('a\0b', 10, use),
      /^UserError: Cannot read the list a\0b: /,
    );
  });

  it('are opened as they were found, without a wait, while a named pipe takes their place', function () {
    if (process.platform === 'win32') this.skip();
    this.timeout(60_000);
    execFileSync('mkfifo', [at('pipe')]);
    fs.writeFileSync(at('plain'), 'abc');
    fs.linkSync(at('plain'), at('changing'));
    const stop = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(EXCHANGES, { eval: true, workerData: { folder, stop } });
    const seen = { regular: 0, refused: 0 };
    try {
      // Until both have been opened often, and the exchange has been made often.
      while (Math.min(seen.regular, seen.refused, Atomics.load(stop, 1)) < 300) {
        try {
          const fd = openRegular(at('changing'), READ);
          assert(fs.fstatSync(fd).isFile());
          fs.closeSync(fd);
          seen.regular++;
        } catch (error) {
          assert(error instanceof NotRegular, String(error));
          seen.refused++;
        }
      }
    } finally {
      Atomics.store(stop, 0, 1);
      void worker.terminate();
    }
  });
});

/** Puts a pipe and a file in each other's place until it is told to stop. */
const EXCHANGES = `
  const { linkSync, renameSync } = require('node:fs');
  const { folder, stop } = require('node:worker_threads').workerData;
  while (Atomics.load(stop, 0) === 0) {
    for (const name of ['pipe', 'plain']) {
      linkSync(folder + '/' + name, folder + '/next');
      renameSync(folder + '/next', folder + '/changing');
    }
    Atomics.add(stop, 1, 1);
  }
`;
