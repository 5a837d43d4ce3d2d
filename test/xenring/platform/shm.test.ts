/** The platform of one host: the contract between two processes, and what is left of the dead. */
import { strict as assert } from 'node:assert';
import { execFileSync, fork } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  constants,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { UserError } from '../../../src/core/errors.ts';
import { openShmPlatform, type ShmPlatform } from '../../../src/xenring/platform/shm.ts';
import { PAGE_OCTETS, PlatformError } from '../../../src/xenring/platform.ts';
import { platformContract } from './contract.ts';
import { Remote } from './remote.ts';
import { until } from './until.ts';

describe('shared memory of one host', () => {
  let folder: string;
  let here: ShmPlatform;
  let there: Remote;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
    here = await openShmPlatform({ folder, domain: 0 });
    there = await Remote.start('shm', folder, 1);
  });
  after(async () => {
    await there.kill();
    await here.close();
    assert.deepEqual(readdirSync(folder), []);
    rmSync(folder, { recursive: true });
  });

  platformContract(() => ({ here, there }));

  it('refuses pages that there are not', () => {
    assert.throws(() => here.grant(1, 20_000), PlatformError);
    const half = here.grant(1, 10_000);
    assert.throws(() => here.grant(1, 10_000), PlatformError);
    half.end();
    here.grant(1, 10_000).end();
  });

  it('a page that a peer still has mapped is not given out again', async () => {
    const first = here.grant(1, 1);
    await there.ask('map', 0, [...first.references]);
    first.end();
    // So many that all numbers come round.
    for (let round = 0; round < 3; round++) {
      const granted = here.grant(1, 8000);
      assert(!granted.references.includes(first.references[0] as number));
      granted.end();
    }
    await there.ask('unmap', first.references[0] as number);
    let found = false;
    for (let round = 0; round < 3; round++) {
      const granted = here.grant(1, 8000);
      found ||= granted.references.includes(first.references[0] as number);
      granted.end();
    }
    assert(found, 'it comes back when the peer has let go');
  });

  it('a second process cannot be the same domain', async () => {
    await assert.rejects(openShmPlatform({ folder, domain: 0 }), UserError);
    await assert.rejects(Remote.start('shm', folder, 1), /another process/);
  });

  it('a folder that others can read is refused', async () => {
    const open = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
    chmodSync(open, 0o755);
    await assert.rejects(openShmPlatform({ folder: open, domain: 0 }), UserError);
    rmSync(open, { recursive: true });
  });

  it('without a store there is no domain, and nothing is left of the attempt', async () => {
    const empty = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
    await assert.rejects(openShmPlatform({ folder: empty, domain: 3 }), UserError);
    assert.deepEqual(readdirSync(empty), []);
    rmSync(empty, { recursive: true });
  });

  it('files that are no folder, and folders that are none of its own, are refused', async () => {
    const other = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
    writeFileSync(join(other, 'file'), '');
    for (const path of [
      '',
      join(other, 'file'),
      join(other, 'file', 'below'),
      '/proc/self',
      'a\0b',
    ])
      await assert.rejects(
        openShmPlatform({ folder: path, domain: 0 }),
        /^UserError: Cannot share memory in "[^"]*": /,
      );
    rmSync(other, { recursive: true });
  });

  it('what lies in place of its files is not waited for, nor written to', async () => {
    const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
    const mine = join(own, 'mine');
    writeFileSync(mine, '0123456789abcdefgh');
    const refused = async (what: RegExp) => {
      await assert.rejects(openShmPlatform({ folder: own, domain: 0 }), (error: Error) => {
        assert(error instanceof UserError, error.stack);
        assert.match(error.message, what);
        return true;
      });
    };
    for (const name of ['store.lock', 'domain-0.lock']) {
      const path = join(own, name);
      execFileSync('mkfifo', [path]);
      await refused(/^Cannot lock \S+: it is a named pipe, wanted /);
      rmSync(path);
      symlinkSync(mine, path);
      await refused(/^Cannot lock \S+: it is a symbolic link, wanted /);
      rmSync(path);
      mkdirSync(path);
      await refused(/^Cannot lock \S+: it is a directory, wanted /);
      rmSync(path, { recursive: true });
    }
    for (const name of [
      'store.socket',
      'domain-0.pages',
      'domain-0.events',
      'domain-0.pages.new',
    ]) {
      const path = join(own, name);
      mkdirSync(path);
      await refused(/^Cannot share memory in "\S+": .*, wanted it empty$/);
      rmSync(path, { recursive: true });
      symlinkSync(mine, path);
      const platform = await openShmPlatform({ folder: own, domain: 0 });
      await platform.close();
      assert.equal(readFileSync(mine, 'utf8'), '0123456789abcdefgh', name);
    }
    rmSync(own, { recursive: true });
  });

  it('a peer whose doorbell or memory is something else is not there', async () => {
    const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
    const platform = await openShmPlatform({ folder: own, domain: 0 });
    const [pages, events, mine] = ['domain-7.pages', 'domain-7.events', 'mine'].map((name) =>
      join(own, name),
    ) as [string, string, string];
    writeFileSync(mine, 'mine');
    linkSync(join(own, 'domain-0.pages'), pages);
    for (const make of [
      (path: string) => writeFileSync(path, 'file'),
      (path: string) => symlinkSync(mine, path),
      (path: string) => mkdirSync(path),
    ]) {
      make(events);
      assert.throws(() => platform.map(7, [8]), /^PlatformError: Cannot reach domain 7: /);
      rmSync(events, { recursive: true });
    }
    rmSync(pages);
    const fifo = openFifo(events);
    for (const make of [
      (path: string) => execFileSync('mkfifo', [path]),
      (path: string) => symlinkSync(join(own, 'domain-0.pages'), path),
      (path: string) => mkdirSync(path),
    ]) {
      make(pages);
      assert.throws(() => platform.map(7, [8]), /^PlatformError: .* the domain is not there$/);
      rmSync(pages, { recursive: true });
    }
    closeSync(fifo);
    assert.equal(readFileSync(mine, 'utf8'), 'mine');
    await platform.close();
    rmSync(own, { recursive: true });
  });

  describe('a peer that is killed', () => {
    it('vanishes from the store, and its next life begins anew', async () => {
      let peer = await Remote.start('shm', folder, 2);
      const references = await peer.ask('grant', 0, 2);
      await peer.ask('writeGrant', references[0] as number, 0, Buffer.from('old'));
      const port = await peer.ask('offer', 0);
      const mapped = here.map(2, references);
      const channel = here.bindChannel(2, port);
      const granted = here.grant(2, 1);
      await peer.ask('map', 0, [...granted.references]);
      let changes = 0;
      const watch = await here.store.watch('/local/domain/2', () => {
        changes++;
      });
      await until('the watch is there', () => changes === 1);
      await peer.kill();
      await until('its end is told', () => changes > 1);
      assert.equal(await here.store.list('/local/domain/2'), undefined);
      // What was mapped stays readable, and what is rung is not there.
      assert.equal(mapped.memory.toString('latin1', 0, 3), 'old');
      channel.notify();

      peer = await Remote.start('shm', folder, 2);
      channel.notify();
      const segments = [{ reference: references[0] as number, offset: 0, octets: 3 }];
      assert.throws(() => here.copyFrom(2, segments, Buffer.alloc(3)), PlatformError);
      assert.throws(() => here.map(2, references), PlatformError);
      assert.throws(() => here.bindChannel(2, port), PlatformError);
      const again = await peer.ask('grant', 0, 1);
      await peer.ask('writeGrant', again[0] as number, 0, Buffer.from('new'));
      const target = Buffer.alloc(3);
      here.copyFrom(2, [{ reference: again[0] as number, offset: 0, octets: 3 }], target);
      assert.equal(target.toString(), 'new');

      mapped.unmap();
      channel.close();
      granted.end();
      await watch.end();
      await peer.kill();
      assert.deepEqual(
        { ...here.inUse },
        { grantedPages: 0, mappedPages: 0, channels: 0, watches: 0 },
      );
    });

    it('leaves nothing after the next start', async () => {
      const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
      const zero = await Remote.start('shm', own, 0);
      const one = await Remote.start('shm', own, 1);
      await one.ask('grant', 0, 1);
      await zero.kill();
      await one.kill();
      assert(readdirSync(own).length > 0, 'they left their files');
      const next = await openShmPlatform({ folder: own, domain: 0 });
      assert.deepEqual(
        readdirSync(own).filter((name) => name.includes('domain-1')),
        [],
      );
      await next.close();
      assert.deepEqual(readdirSync(own), []);
      rmSync(own, { recursive: true });
    });

    it('a restarted back end finds channels and grants of the front end again', async () => {
      const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
      const server = await openShmPlatform({ folder: own, domain: 9, serveStore: true });
      let back = await Remote.start('shm', own, 5);
      const granted = server.grant(5, 1);
      const channel = server.offerChannel(5);
      let events = 0;
      channel.onEvent = () => {
        events++;
      };
      const port = await back.ask('bind', 9, channel.port);
      await back.ask('map', 9, [...granted.references]);
      await back.ask('notify', port);
      await until('an event is here', () => events > 0);
      await back.kill();
      channel.notify();
      back = await Remote.start('shm', own, 5);
      await back.ask('map', 9, [...granted.references]);
      const again = await back.ask('bind', 9, channel.port);
      const before = events;
      await back.ask('notify', again);
      await until('an event is here', () => events > before);
      const there = await back.ask('events', again);
      channel.notify();
      await until('it is there', async () => (await back.ask('events', again)) > there);
      await back.kill();
      await server.close();
      rmSync(own, { recursive: true });
    });

    it('and dies between the bit and the bell leaves nobody deaf', async () => {
      const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
      const server = await openShmPlatform({ folder: own, domain: 9, serveStore: true });
      let back = await Remote.start('shm', own, 5);
      const channel = server.offerChannel(5);
      let events = 0;
      channel.onEvent = () => {
        events++;
      };
      const port = await back.ask('bind', 9, channel.port);
      await assert.rejects(back.ask('notifyAndDie', port), /has ended/);
      back = await Remote.start('shm', own, 5);
      const again = await back.ask('bind', 9, channel.port);
      await back.ask('notify', again);
      await until('an event is here', () => events > 0);
      const before = events;
      await back.ask('notify', again);
      await until('and the next', () => events > before);
      await back.kill();
      await server.close();
      rmSync(own, { recursive: true });
    });

    it('takes the store with it, if it was the one who served it', async () => {
      const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
      const zero = await Remote.start('shm', own, 0);
      const one = await openShmPlatform({ folder: own, domain: 1 });
      await zero.kill();
      const error = await one.storeLost;
      assert.equal(error.code, 'ECONNRESET');
      await assert.rejects(one.store.read('/x'), error);
      await one.close();
      rmSync(own, { recursive: true });
    });
  });

  describe('a hostile peer', () => {
    it('segments that are something else are refused', () => {
      for (const content of [
        Buffer.alloc(0),
        Buffer.alloc(100),
        Buffer.alloc(3 * PAGE_OCTETS, 255),
      ]) {
        writeFileSync(join(folder, 'domain-7.pages'), content);
        // Its doorbell is our own, so that only the pages are wrong.
        writeFileSync(join(folder, 'domain-7.events'), '');
        assert.throws(() => here.map(7, [8]), PlatformError);
        assert.throws(() => here.bindChannel(7, 1), PlatformError);
      }
      rmSync(join(folder, 'domain-7.pages'));
      rmSync(join(folder, 'domain-7.events'));
    });

    it('a handler that throws takes no event from another channel', async () => {
      const offered = [here.offerChannel(0), here.offerChannel(0)];
      const bound = offered.map(({ port }) => here.bindChannel(0, port));
      const seen = [0, 0];
      for (const [n, channel] of offered.entries()) {
        channel.onEvent = () => {
          seen[n] = (seen[n] ?? 0) + 1;
          throw new Error(`thrown by ${n}`);
        };
      }
      const listeners = process.listeners('uncaughtException');
      process.removeAllListeners('uncaughtException');
      const caught: string[] = [];
      process.on('uncaughtException', ({ message }) => caught.push(message));
      try {
        for (const channel of bound) channel.notify(); // one look at the doorbell finds both
        await until('both errors are told', () => caught.length === 2);
      } finally {
        process.removeAllListeners('uncaughtException');
        for (const listener of listeners) process.on('uncaughtException', listener);
        for (const channel of [...bound, ...offered]) channel.close();
      }
      assert.deepEqual(seen, [1, 1]);
      assert.deepEqual(caught.sort(), ['thrown by 0', 'thrown by 1']);
    });

    it('noise in the doorbell does nothing', async () => {
      const channel = here.offerChannel(1);
      let events = 0;
      channel.onEvent = () => {
        events++;
      };
      const fd = openSync(
        join(folder, 'domain-0.events'),
        constants.O_WRONLY | constants.O_NONBLOCK,
      );
      for (let round = 0; round < 10; round++) writeSync(fd, Buffer.alloc(4000, round));
      closeSync(fd);
      await there.ask('inUse');
      assert.equal(events, 0);
      channel.close();
    });
  });

  describe('in one process', () => {
    const shm = new URL(
      `../../../src/xenring/platform/shm${import.meta.url.slice(-3)}`,
      import.meta.url,
    );

    it('a worker thread is a domain as well', async function () {
      // Workers do not take over the loader of sources; npm test runs what is compiled.
      if (shm.pathname.endsWith('.ts')) return this.skip();
      const channel = here.offerChannel(3);
      const granted = here.grant(3, 1);
      const [reference] = granted.references;
      const script = join(folder, 'worker.mjs');
      writeFileSync(
        script,
        `import { openShmPlatform } from '${shm}';
         const platform = await openShmPlatform({ folder: '${folder}', domain: 3 });
         const mapped = platform.map(0, [${reference}]);
         const words = new Int32Array(mapped.memory.buffer, mapped.memory.byteOffset, 2);
         const channel = platform.bindChannel(0, ${channel.port});
         channel.onEvent = async () => {
           if (Atomics.load(words, 0) !== 41) return;
           Atomics.store(words, 1, 42);
           channel.notify();
           await platform.close();
         };`,
      );
      const words = new Int32Array(granted.memory.buffer, granted.memory.byteOffset, 2);
      Atomics.store(words, 0, 41);
      let answer = 0;
      channel.onEvent = () => {
        answer = Atomics.load(words, 1);
      };
      const worker = new Worker(script);
      const code = await new Promise((resolve, reject) => {
        worker.on('exit', resolve);
        worker.on('error', reject);
      });
      assert.equal(code, 0);
      await until('its answer is here', () => answer === 42);
      channel.close();
      granted.end();
      rmSync(script);
    });

    it('nothing keeps it after close', async () => {
      // Timers, sockets and polls that were left would.
      const own = mkdtempSync(join(tmpdir(), 'urbgate-shm-'));
      const script = join(folder, 'end.mjs');
      writeFileSync(
        script,
        `import { openShmPlatform } from '${shm}';
         const platform = await openShmPlatform({ folder: '${own}', domain: 0 });
         platform.grant(1, 1);
         platform.offerChannel(1);
         await platform.store.watch('/', () => {});
         await platform.close();`,
      );
      const code = await new Promise((resolve) => fork(script).on('exit', resolve));
      assert.equal(code, 0);
      assert.deepEqual(readdirSync(own), []);
      rmSync(script);
      rmSync(own, { recursive: true });
    });
  });
});

/** A FIFO that somebody reads from. */
function openFifo(path: string): number {
  execFileSync('mkfifo', [path]);
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
}
