/** The store's client, against the distribution's xenstored and against our own. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../../src/core/errors.ts';
import { ShmFolder } from '../../src/xenring/platform/shm-folder.ts';
import { StoreServer } from '../../src/xenring/platform/store-server.ts';
import { StoreConnection } from '../../src/xenring/platform/store-service.ts';
import { connectStore, type XenstoreClient } from '../../src/xenring/xenstore.ts';
import { ANSWER_MILLISECONDS } from '../../src/xenring/xenstore-requests.ts';
import { encodeMessage, STORE_TYPE, StoreError } from '../../src/xenring/xenstore-wire.ts';
import { FakeClock } from '../examples/rig.ts';
import { until } from './platform/until.ts';
import { type StockXenstored, startStockXenstored } from './stock-xenstored.ts';
import { storeContract } from './xenstore-contract.ts';

describe("the distribution's xenstored", () => {
  let xenstored: StockXenstored | undefined;
  let store: XenstoreClient;
  let other: XenstoreClient;

  before(async function () {
    xenstored = await startStockXenstored();
    if (xenstored === undefined) return this.skip();
    store = await connectStore(xenstored.socket);
    other = await connectStore(xenstored.socket);
  });
  after(async () => {
    store?.close();
    other?.close();
    await xenstored?.end();
  });

  storeContract(() => ({ store, other }));

  it('and its own clients see the same', async () => {
    assert(xenstored !== undefined);
    await store.write('/contract/ours', 'from us');
    await store.setPermissions('/contract/ours', {
      owner: 0,
      others: 'none',
      exceptions: [{ domain: 7, access: 'read' }],
    });
    assert.equal(
      xenstored.client('xenstore-ls', '-fp', '/contract'),
      '/contract/ours = "from us"   (n0,r7)\n',
    );
    const seen: string[] = [];
    const watch = await store.watch('/contract', (changed) => seen.push(changed));
    xenstored.client('xenstore-write', '/contract/theirs', 'from them');
    assert.equal(await store.read('/contract/theirs'), 'from them');
    await until('the watch has told', () => seen.includes('/contract/theirs'));
    await watch.end();
    xenstored.client('xenstore-rm', '/contract');
    assert.equal(await store.list('/contract'), undefined);
  });
});

describe('the store server', () => {
  let path: string;
  let server: StoreServer;
  let store: XenstoreClient;
  let other: XenstoreClient;
  const clients: XenstoreClient[] = [];

  async function join0(domain: number): Promise<XenstoreClient> {
    const client = await connectStore(join(path, 'store.socket'));
    clients.push(client);
    await client.introduce(domain);
    return client;
  }

  before(async () => {
    path = mkdtempSync(join(tmpdir(), 'urbgate-store-'));
    server = await StoreServer.start(new ShmFolder(path));
    store = await join0(0);
    other = await join0(0);
  });
  after(async () => {
    for (const client of clients) client.close();
    await until('all have gone', () => server.clients === 0);
    await server.close();
    rmSync(path, { recursive: true });
  });

  storeContract(() => ({ store, other }));

  const refused = (code: string, work: Promise<unknown>) =>
    assert.rejects(work, (error: Error) => (error as StoreError).code === code);

  it('only one serves a folder', async () => {
    await assert.rejects(StoreServer.start(new ShmFolder(path)), UserError);
  });

  it('a bug ends the connection of one client, and is told', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'urbgate-store-'));
    const bugs: unknown[] = [];
    const faulty = await StoreServer.start(new ShmFolder(folder), (error) => bugs.push(error));
    const [first, second] = [
      await connectStore(join(folder, 'store.socket')),
      await connectStore(join(folder, 'store.socket')),
    ];
    await first.introduce(0);
    await second.introduce(0);
    const { receive } = StoreConnection.prototype;
    StoreConnection.prototype.receive = function (chunk) {
      if (chunk.includes('/bug')) throw new TypeError('made by a test');
      receive.call(this, chunk);
    };
    try {
      await refused('ECONNRESET', first.read('/bug'));
      await second.write('/fine', 'x');
      assert.equal(await second.read('/fine'), 'x');
      assert.equal(bugs.length, 1);
      assert.match(String(bugs[0]), /made by a test/);
    } finally {
      StoreConnection.prototype.receive = receive;
    }
    first.close();
    second.close();
    await until('both have gone', () => faulty.clients === 0);
    await faulty.close();
    rmSync(folder, { recursive: true });
  });

  it('says nothing to whoever has not said who it is', async () => {
    const nobody = await connectStore(join(path, 'store.socket'));
    await refused('EACCES', nobody.read('/local'));
    await refused('EINVAL', nobody.introduce(70_000));
    await nobody.introduce(40);
    await refused('EBUSY', nobody.introduce(0));
    nobody.close();
  });

  it('a domain may use its home and what others let it use', async () => {
    const guest = await join0(5);
    assert.equal(await guest.read('domid'), '5');
    assert.equal(await guest.read('/local/domain/5/domid'), '5');
    await guest.write('device/vusb/0/state', '1');
    assert.equal(await store.read('/local/domain/5/device/vusb/0/state'), '1');
    assert.equal((await store.permissions('/local/domain/5/device'))?.owner, 5);
    await store.write('/contract/closed', 'x');
    await refused('EACCES', guest.read('/contract/closed'));
    await refused('EACCES', guest.write('/contract/closed', 'y'));
    await refused('EACCES', guest.write('/contract/closed/new', 'y'));
    await refused('EACCES', guest.remove('/contract/closed'));
    const permissions = (access: 'read' | 'both') =>
      ({ owner: 0, others: 'none', exceptions: [{ domain: 5, access }] }) as const;
    await refused('EACCES', guest.setPermissions('/contract/closed', permissions('both')));
    await store.setPermissions('/contract/closed', permissions('read'));
    assert.equal(await guest.read('/contract/closed'), 'x');
    await refused('EACCES', guest.write('/contract/closed', 'y'));
    await store.setPermissions('/contract/closed', permissions('both'));
    await guest.write('/contract/closed', 'y');
    await refused('EPERM', guest.setPermissions('device', { owner: 6, others: 'none' }));
  });

  it('watches tell nothing of what may not be read', async () => {
    const guest = await join0(6);
    const seen: string[] = [];
    await guest.watch('/contract', (changed) => seen.push(changed));
    await store.write('/contract/secret', 'x');
    await store.write('/contract/open', 'x');
    await store.setPermissions('/contract/open', { owner: 0, others: 'read' });
    await until('what is open is told', () => seen.includes('/contract/open'));
    assert(!seen.includes('/contract/secret'));
  });

  it('what one domain may have is limited', async () => {
    const guest = await join0(8);
    await refused('ENOSPC', guest.write('big', 'x'.repeat(3000)));
    const writes = Array.from({ length: 1200 }, (_, index) => guest.write(`n/${index}`, ''));
    const results = await Promise.allSettled(writes);
    const failed = results.filter(({ status }) => status === 'rejected').length;
    assert(failed > 150 && failed < 250, `${failed} failed`);
    const watches = Array.from({ length: 1100 }, () => guest.watch('n', () => {}));
    const watched = await Promise.allSettled(watches);
    assert(watched.some(({ status }) => status === 'rejected'));
    assert.equal(await store.read('/local/domain/8/domid'), '8');
    guest.close();
    await until('its home is gone', async () => !(await store.list('/local/domain/8')));
  });

  it('tells of domains that come and go', async () => {
    const told: string[] = [];
    const watches = await Promise.all(
      ['@introduceDomain', '@releaseDomain'].map((special) =>
        store.watch(special, (changed) => told.push(changed)),
      ),
    );
    await until('both are there', () => told.length === 2);
    told.length = 0;
    const guest = await join0(9);
    await until('it is told', () => told.length === 1);
    guest.close();
    await until('that, too', () => told.length === 2);
    assert.deepEqual(told, ['@introduceDomain', '@releaseDomain']);
    for (const watch of watches) await watch.end();
  });
});

describe('a store that breaks the protocol', () => {
  let server: Server;
  let path: string;
  let client: XenstoreClient;
  let socket: Socket;

  beforeEach(async () => {
    path = mkdtempSync(join(tmpdir(), 'urbgate-store-'));
    const connected = new Promise<Socket>((resolve) => {
      server = createServer(resolve);
    });
    await new Promise<void>((resolve) => server.listen(join(path, 'socket'), resolve));
    client = await connectStore(join(path, 'socket'));
    socket = await connected;
    socket.on('error', () => {});
  });
  afterEach(async () => {
    client.close();
    socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    rmSync(path, { recursive: true });
  });

  const oversized = Buffer.alloc(16);
  oversized.writeUInt32LE(4097, 12);
  const cases: [string, Buffer][] = [
    ['a length beyond the limit', oversized],
    ['an answer that nobody asked for', encodeMessage(STORE_TYPE.read, 77, 0, Buffer.from('x'))],
    ['an answer of another type', encodeMessage(STORE_TYPE.write, 1, 0, Buffer.from('OK\0'))],
    ['an event without a token', encodeMessage(STORE_TYPE.watchEvent, 0, 0, Buffer.from('/a\0'))],
  ];
  for (const [name, octets] of cases) {
    it(`${name} ends all with one error`, async () => {
      const asked = [client.read('/a'), client.read('/b')];
      socket.write(octets);
      const errors = await Promise.all(asked.map((one) => one.catch((error: unknown) => error)));
      assert(errors[0] instanceof StoreError);
      assert.equal(errors[0].code, 'ECONNRESET');
      assert.equal(errors[0], errors[1]);
      assert.equal(await client.lost, errors[0]);
      await assert.rejects(client.write('/c', ''), errors[0]);
    });
  }

  it('answers may come in any order, and octet by octet', async () => {
    const asked = [client.read('/a'), client.read('/b')];
    const octets = Buffer.concat([
      encodeMessage(STORE_TYPE.read, 2, 0, Buffer.from('second')),
      encodeMessage(STORE_TYPE.error, 1, 0, Buffer.from('EACCES\0')),
    ]);
    asked[0]?.catch(() => {}); // it is looked at below
    for (const octet of octets) {
      socket.write(Buffer.of(octet));
      await new Promise(setImmediate);
    }
    assert.equal(await asked[1], 'second');
    await assert.rejects(asked[0] as Promise<unknown>, { code: 'EACCES' });
  });

  it("the kernel's device answers watches with id 0", async () => {
    const watched = Promise.all(['/a', '/b'].map((path) => client.watch(path, () => {})));
    const read = client.read('/c');
    const ok = Buffer.from('OK\0');
    socket.write(encodeMessage(STORE_TYPE.watch, 0, 0, ok));
    socket.write(encodeMessage(STORE_TYPE.watch, 0, 0, ok));
    socket.write(encodeMessage(STORE_TYPE.read, 3, 0, Buffer.from('c')));
    await watched;
    assert.equal(await read, 'c');
  });

  it('its silence ends all', async () => {
    client.close();
    const clock = new FakeClock();
    const accepted = once(server, 'connection');
    const silent = await connectStore(join(path, 'socket'), clock);
    const [other] = (await accepted) as [Socket];
    const asked = [
      silent.read('/a'),
      silent.watch('/b', () => {}),
      silent.transaction(async () => {}),
    ];
    const errors = asked.map((one) => one.catch((error: unknown) => error));
    clock.advance(ANSWER_MILLISECONDS - 1_000);
    let lost = false;
    void silent.lost.then(() => {
      lost = true;
    });
    await new Promise(setImmediate);
    assert.equal(lost, false);
    clock.advance(10_000);
    for (const error of await Promise.all(errors)) {
      assert.match(String(error), /the connection has ended \(no answer in 30 s\)/);
    }
    assert.equal((await silent.lost).code, 'ECONNRESET');
    assert.equal(clock.timers, 0);
    other.destroy();
  });

  it('its end ends all', async () => {
    const asked = client.read('/a');
    socket.destroy();
    await assert.rejects(asked, { code: 'ECONNRESET' });
    assert.equal((await client.lost).code, 'ECONNRESET');
  });
});
