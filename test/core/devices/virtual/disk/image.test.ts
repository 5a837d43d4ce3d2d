/** Disks on image files: opening, refusing, locking, syncing. */
import { strict as assert } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { DeviceDefinition } from '../../../../../src/core/devices/virtual/definition.ts';
import type { Disk } from '../../../../../src/core/devices/virtual/disk/disk.ts';
import {
  disk,
  type DiskKindOptions as Options,
} from '../../../../../src/core/devices/virtual/disk/kind.ts';
import { UserError } from '../../../../../src/core/errors.ts';
import { assertOctets, cdb10, Host, pattern } from './host.ts';

const MEGABYTE = 1 << 20;
const isRoot = process.getuid?.() === 0;

describe('disk: kind and image files', () => {
  let folder = '';
  const hosts: Host[] = [];
  const children: ChildProcess[] = [];

  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'disk-test-'));
  });

  afterEach(async () => {
    for (const host of hosts.splice(0)) await host.state.dispose();
    for (const child of children.splice(0)) child.kill('SIGKILL');
    fs.rmSync(folder, { recursive: true });
  });

  const at = (name: string) => path.join(folder, name);
  const image = (octets = MEGABYTE, name = 'a.img') => {
    fs.writeFileSync(at(name), Buffer.alloc(octets));
    return at(name);
  };
  const open = (options: Options) => {
    const host = new Host(disk.define(options as never) as DeviceDefinition<Disk>);
    hosts.push(host);
    return host;
  };
  const refused = (options: Options, message: RegExp) => {
    assert.throws(
      () => open(options),
      (error: Error) => {
        assert(error instanceof UserError, String(error.stack));
        assert.match(error.message, message);
        return true;
      },
    );
  };
  const inquiryText = async (host: Host) =>
    (await host.pass([0x12, 0, 0, 0, 36, 0], { in: 36 })).toString('latin1', 8, 32);

  describe('options', () => {
    it('size makes a disk in memory', async () => {
      const host = open({ size: 3 * 2 ** 40 });
      assert.equal(
        (await host.pass(cdb10(0x25, 0, 0), { in: 8 })).toString('hex'),
        'ffffffff00000200',
      );
      assert.equal(host.definition.speed, 'high');
      assert.equal(await inquiryText(host), 'urbgate Virtual Disk    ');
      assert.match(host.definition.strings?.serialNumber ?? '', /^[0-9A-F]{16}$/);
    });

    it('texts, block size, speed and write protection', async () => {
      const host = open({
        size: MEGABYTE,
        vendor: 'ACME',
        product: 'Rocket Disk',
        serial: 'R-0001',
        blocksize: 4096,
        speed: 'super',
        readonly: true,
      });
      assert.equal(await inquiryText(host), 'ACME    Rocket Disk     ');
      assert.deepEqual(host.definition.strings, {
        manufacturer: 'ACME',
        product: 'Rocket Disk',
        serialNumber: 'R-0001',
      });
      assert.equal(host.definition.speed, 'super');
      assert.equal(
        (await host.pass(cdb10(0x25, 0, 0), { in: 8 })).toString('hex'),
        '000000ff00001000',
      );
      assert.equal(await host.failure(cdb10(0x2a, 0, 1), { out: pattern(4096) }), '07/27/00');
    });

    const FAULTS: readonly [Options, RegExp][] = [
      [
        {},
        /^Cannot make a disk: neither size nor file is given, expected size=64MiB or file=PATH$/,
      ],
      [{ size: 0 }, /^Cannot make a disk of 0 octets: expected a multiple of the block size, 512$/],
      [{ size: 1000 }, /of 1000 octets: expected a multiple of the block size, 512$/],
      [
        { size: 512, blocksize: 4096 },
        /of 512 octets: expected a multiple of the block size, 4096$/,
      ],
      [{ size: 2 ** 60 }, /^Cannot make a disk of/],
      [
        { size: MEGABYTE, blocksize: 520 },
        /^Cannot use block size 520: expected one of 512, 4096 octets$/,
      ],
      [{ size: MEGABYTE, speed: 'full' }, /^Cannot use disk speed "full": expected high or super$/],
      [{ size: MEGABYTE, vendor: 'too long a vendor' }, /^Cannot use disk vendor .* 1 to 8 ASCII/],
      [{ size: MEGABYTE, product: '' }, /^Cannot use disk product "": expected 1 to 16 ASCII/],
      [{ size: MEGABYTE, serial: 'ä' }, /^Cannot use disk serial/],
    ];
    for (const [options, message] of FAULTS) {
      it(`refuses ${JSON.stringify(options)}`, () => refused(options, message));
    }
  });

  describe('opening an image', () => {
    it('file alone takes the size of the file', async () => {
      const host = open({ file: image(5 * 512) });
      assert.equal(
        (await host.pass(cdb10(0x25, 0, 0), { in: 8 })).toString('hex'),
        '0000000400000200',
      );
    });

    it('file and size create a sparse image', async () => {
      const size = 2 ** 40;
      const host = open({ file: at('new.img'), size });
      assert.equal(fs.statSync(at('new.img')).size, size);
      await host.pass(cdb10(0x2a, size / 512 - 8, 8), { out: pattern(4096) });
      await host.pass(cdb10(0x35, 0, 0));
      assert.ok(fs.statSync(at('new.img')).blocks * 512 < MEGABYTE, 'sparse');
      assertOctets(await host.pass(cdb10(0x28, size / 512 - 8, 8), { in: 4096 }), pattern(4096));
    });

    it('file and size take an image of that size as it is', async () => {
      fs.writeFileSync(at('a.img'), pattern(MEGABYTE));
      const host = open({ file: at('a.img'), size: MEGABYTE });
      assertOctets(await host.pass(cdb10(0x28, 0, 2048), { in: MEGABYTE }), pattern(MEGABYTE));
    });

    it('keeps its serial number, which no other image has', async () => {
      const serial = (host: Host) => host.definition.strings?.serialNumber;
      const first = open({ file: image(), readonly: true });
      assert.equal(serial(first), serial(open({ file: image(), readonly: true })));
      assert.notEqual(serial(first), serial(open({ file: image(MEGABYTE, 'b.img') })));
    });

    it('refuses what cannot be a disk, and creates nothing', () => {
      const missing = at('missing.img');
      refused(
        { file: missing },
        /missing.img: there is no such file, expected an image that exists, or size= to create one$/,
      );
      refused(
        { file: missing, size: MEGABYTE, readonly: true },
        /expected an image that exists, to read from$/,
      );
      refused({ file: missing, size: 1000 }, /1000 octets/);
      refused({ file: missing, size: MEGABYTE, vendor: 'too long a vendor' }, /vendor/);
      assert.equal(fs.existsSync(missing), false);
      refused(
        { file: at('no/folder.img'), size: MEGABYTE },
        /^Cannot create disk image .*: no such file or directory, expected a place/,
      );
      refused(
        { file: folder },
        /^Cannot open disk image .*: it is a directory, expected a file or a block device$/,
      );
      refused(
        { file: '/dev/null' },
        /it is a character device, expected a file or a block device$/,
      );
      refused({ file: image(0) }, /it is empty, expected at least one block$/);
      refused(
        { file: image(1000) },
        /it holds 1000 octets, expected a multiple of the block size, 512$/,
      );
      refused(
        { file: image(2048), size: 4096 },
        /it holds 2048 octets, expected the size given, 4096$/,
      );
    });

    it('leaves nothing behind when the file system cannot hold the size', function () {
      const file = at('vast.img');
      try {
        open({ file, size: 2 ** 53 - 512 });
      } catch (error) {
        assert.match(
          String(error),
          /UserError: Cannot create disk image .*vast.img: file too large/,
        );
        assert.equal(fs.existsSync(file), false);
        return;
      }
      this.skip(); // this one can
    });

    it('refuses a named pipe without waiting for it', () => {
      execFileSync('mkfifo', [at('pipe')]);
      refused({ file: at('pipe') }, /it is a named pipe, expected a file or a block device$/);
    });

    it('suggests readonly for an image that cannot be written', function () {
      const file = image();
      try {
        protect(file, true);
      } catch {
        return this.skip(); // root, on a file system without the immutable flag
      }
      try {
        refused({ file }, /it is not writable, expected a writable image or the option readonly$/);
        open({ file, readonly: true });
      } finally {
        protect(file, false);
      }
    });

    it('a block device', function () {
      if (!isRoot) return this.skip();
      let device: string;
      try {
        device = execFileSync('losetup', ['--show', '-f', image()], { encoding: 'utf8' }).trim();
      } catch {
        return this.skip(); // no loop devices here
      }
      const host = open({ file: device });
      return (async () => {
        try {
          assert.equal(
            (await host.pass(cdb10(0x25, 0, 0), { in: 8 })).toString('hex'),
            '000007ff00000200',
          );
          await host.pass(cdb10(0x2a, 2040, 8, 0x08), { out: pattern(4096) });
          assertOctets(await host.pass(cdb10(0x28, 2040, 8), { in: 4096 }), pattern(4096));
          await hosts.pop()?.state.dispose();
          execFileSync('blockdev', ['--flushbufs', device]);
          assertOctets(fs.readFileSync(at('a.img')).subarray(2040 * 512), pattern(4096));
        } finally {
          execFileSync('losetup', ['-d', device]);
        }
      })();
    });
  });

  describe('reading and writing', () => {
    it('reads what is in the file, and writes into it', async () => {
      fs.writeFileSync(at('a.img'), pattern(8 * MEGABYTE));
      const host = open({ file: at('a.img') });
      const octets = 3 * MEGABYTE;
      assertOctets(
        await host.pass(cdb10(0x28, 1000, octets / 512), { in: octets }),
        pattern(8 * MEGABYTE).subarray(1000 * 512, 1000 * 512 + octets),
      );
      const expected = pattern(8 * MEGABYTE);
      pattern(octets, 2).copy(expected, 77 * 512);
      await host.pass(cdb10(0x2a, 77, octets / 512), { out: pattern(octets, 2) });
      assertOctets(fs.readFileSync(at('a.img')), expected, 'written before the status');
    });

    it('an image that shrinks underneath is a medium error', async () => {
      const host = open({ file: image() });
      fs.truncateSync(at('a.img'), 4096);
      assert.equal(await host.failure(cdb10(0x28, 0, 16), { in: 8192 }), '03/11/00');
      await host.pass(cdb10(0x28, 0, 8), { in: 4096 });
    });

    it('FUA and SYNCHRONIZE CACHE call fdatasync, once, before the status', async () => {
      const calls: string[] = [];
      const original = fs.fdatasync;
      fs.fdatasync = ((fd: number, done: (error: NodeJS.ErrnoException | null) => void) => {
        calls.push('fdatasync');
        original(fd, (error) => {
          calls.push('stored');
          done(error);
        });
      }) as typeof fs.fdatasync;
      try {
        const host = open({ file: image() });
        await host.pass(cdb10(0x2a, 0, 8), { out: pattern(4096) });
        assert.deepEqual(calls, []);
        await host.pass(cdb10(0x35, 0, 0));
        assert.deepEqual(calls.splice(0), ['fdatasync', 'stored']);
        await host.pass(cdb10(0x2a, 0, 8, 0x08), { out: pattern(4096) });
        assert.deepEqual(calls.splice(0), ['fdatasync', 'stored']);
        await host.pass(cdb10(0x2a, 0, 8), { out: pattern(4096) });
        await host.state.release();
        assert.deepEqual(calls.splice(0), ['fdatasync', 'stored']);
        await host.state.release();
        assert.deepEqual(calls, [], 'nothing new to store');
      } finally {
        fs.fdatasync = original;
      }
    });

    it('UNMAP makes holes', async function () {
      fs.writeFileSync(at('a.img'), pattern(MEGABYTE));
      const host = open({ file: at('a.img') });
      const { status } = await host.command([0x12, 1, 0xb2, 0, 8, 0], { in: 8 });
      if (status !== 0) return this.skip(); // not on this file system
      const before = fs.statSync(at('a.img')).blocks;
      const list = Buffer.from(
        `00160010${'00'.repeat(4)}000000000000000800000200${'00'.repeat(4)}`,
        'hex',
      );
      await host.pass(cdb10(0x42, 0, list.length), { out: list });
      const expected = pattern(MEGABYTE).fill(0, 8 * 512, 520 * 512);
      assertOctets(fs.readFileSync(at('a.img')), expected);
      assert.equal(fs.statSync(at('a.img')).size, MEGABYTE);
      assert.equal(before - fs.statSync(at('a.img')).blocks, 512);
    });
  });

  describe('locking', () => {
    const LOCKED =
      /^Cannot open disk image .*a.img: it is locked by another process, expected an image that no other gateway exports$/;

    it('one writer, or many readers', async () => {
      const file = image();
      const writer = open({ file });
      refused({ file }, LOCKED);
      refused({ file, readonly: true }, LOCKED);
      await writer.state.dispose();
      hosts.splice(0);
      open({ file, readonly: true });
      open({ file, readonly: true });
      refused({ file }, LOCKED);
    });

    it('holds against another process, and dies with it', async () => {
      const file = image();
      const child = await exporter(file, children);
      refused({ file }, LOCKED);
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
      open({ file });
      await assert.rejects(
        exporter(file, children),
        /UserError: Cannot open disk image .* locked by another/,
      );
    }).timeout(20_000);
  });
});

/** Makes a file unwritable, for root too, whom modes do not stop. */
function protect(file: string, isProtected: boolean): void {
  if (isRoot) execFileSync('chattr', [isProtected ? '+i' : '-i', file], { stdio: 'ignore' });
  else fs.chmodSync(file, isProtected ? 0o400 : 0o600);
}

/** Another process that exports the image, added to `children`. */
async function exporter(file: string, children: ChildProcess[]): Promise<ChildProcess> {
  // Tests run compiled (.js), or through tsx (.ts).
  const extension = path.extname(import.meta.url);
  const kind = new URL(
    `../../../../../src/core/devices/virtual/disk/kind${extension}`,
    import.meta.url,
  );
  const loader = extension === '.ts' ? ['--import=tsx'] : [];
  const script =
    `import { disk } from ${JSON.stringify(kind.href)};` +
    `disk.define({ file: ${JSON.stringify(file)} });` +
    `process.stdout.write('open'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, [...loader, '--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let complaint = '';
  child.stderr?.on('data', (text: Buffer) => {
    complaint += text.toString();
  });
  const isOpen = once(child.stdout ?? child, 'data').then(() => true);
  const hasEnded = once(child, 'close').then(() => false);
  if (await Promise.race([isOpen, hasEnded])) return child;
  throw new Error(complaint);
}
