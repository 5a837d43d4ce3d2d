import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { UserError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import { formatAddress, type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { BULK_IN, BULK_OUT, type Script, scriptedDevice } from '../core/scripted-device.ts';
import { hex } from '../vectors/usbip.ts';
import { IN, importRequest, listRequest, OUT } from './scripted-client.ts';
import { SocketClient } from './socket-client.ts';

const number = (address: number): number => address & 15;
const sockets = (): number =>
  process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;

/** A turn of the event loop in which sockets are looked at. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class Bench {
  readonly registry = new Registry();
  readonly log: string[] = [];
  readonly server: UsbipServer;
  readonly clients: SocketClient[] = [];
  address: ListenAddress = { host: '', port: 0 };

  constructor() {
    const note = (level: string) => (message: string) => this.log.push(`${level} ${message}`);
    this.server = new UsbipServer({
      registry: this.registry,
      log: { info: note('info'), warn: note('warn') },
    });
  }

  async listen(host = '127.0.0.1'): Promise<void> {
    this.address = await this.server.listen({ host, port: 0 });
  }

  scripted(): Script {
    const device = new VirtualDevice(scriptedDevice());
    this.registry.add(device, 'scripted');
    return device.state;
  }

  sourceSink(): void {
    this.registry.add(new VirtualDevice(sourceSink.define({})), 'source-sink');
  }

  async client(options = {}): Promise<SocketClient> {
    const client = await SocketClient.connect(this.address, options);
    this.clients.push(client);
    return client;
  }

  released(): Promise<unknown> {
    return once(this.registry, 'released');
  }

  /** Log lines of a level, without the peers' addresses. */
  lines(level: string): string[] {
    return this.log
      .filter((line) => line.startsWith(level))
      .map((line) => line.replace(/^\w+ \S+: /, ''));
  }

  /** Waits until every connection is gone. */
  async empty(): Promise<void> {
    while (this.server.clientCount > 0) await turn();
  }
}

describe('UsbipServer', () => {
  let bench: Bench;
  let socketsBefore = 0;

  beforeEach(async () => {
    socketsBefore = sockets();
    bench = new Bench();
    await bench.listen();
  });

  afterEach(async () => {
    await Promise.all(bench.clients.map((client) => client.close()));
    await bench.server.close();
    await bench.empty();
    // Handles are closed one turn after their sockets.
    for (let n = 0; n < 10 && sockets() > socketsBefore; n++) await turn();
    assert.equal(sockets(), socketsBefore, 'a socket is left');
  });

  it('lists, and closes the connection', async () => {
    bench.scripted();
    const client = await bench.client();
    client.send(listRequest());
    assert.equal((await client.rest()).length, 8 + 4 + 312 + 2 * 4);
    await client.closed;
    await bench.empty();
    assert.deepEqual(bench.lines('info'), ['listed devices']);
  });

  it('imports and carries URBs, octet by octet and all at once', async () => {
    const script = bench.scripted();
    const client = await bench.client();
    await client.import();
    script.answer(BULK_IN, Buffer.from('one'), Buffer.from('two'));
    for (const octet of client.wire.submit({
      direction: IN,
      endpoint: number(BULK_IN),
      octets: 64,
      seqnum: 100,
      deviceId: client.deviceId,
    })) {
      client.send(Buffer.from([octet]));
    }
    const first = await client.reply(100);
    assert(first.type === 'submit');
    assert.equal(first.data.toString(), 'one');
    assert.equal((await client.read(number(BULK_IN), 64)).data.toString(), 'two');
  });

  it('a megabyte each way, in pieces as the network has it', async () => {
    bench.sourceSink();
    const client = await bench.client();
    await client.import();
    const data = Buffer.alloc(1 << 20);
    for (let n = 0; n < 8; n++) {
      const [written, read] = await Promise.all([
        client.transfer({ direction: OUT, endpoint: 2, data }),
        client.read(1, data.length),
      ]);
      assert.deepEqual([written.status, written.actualLength], [0, data.length]);
      assert(read.data.equals(data));
    }
  });

  it('a client that ends its side gets its reply first', async () => {
    bench.scripted();
    const lister = await bench.client({ allowHalfOpen: true });
    lister.socket.end(listRequest());
    assert.equal((await lister.rest()).length, 8 + 4 + 312 + 2 * 4);
    const script = bench.scripted();
    const client = await bench.client({ allowHalfOpen: true });
    await client.import('1-2');
    script.answer(BULK_IN, Buffer.from('last'));
    const released = bench.released();
    const seqnum = client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
    const waiting = client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
    client.socket.end();
    await client.reply(seqnum);
    await client.ended;
    await released;
    assert(client.wire.replies.every((reply) => reply.seqnum !== waiting || reply.status < 0));
  });

  it('a reset in the middle of a payload frees the device', async () => {
    const script = bench.scripted();
    const client = await bench.client();
    await client.import();
    const data = Buffer.alloc(100_000);
    const command = client.wire.submit({
      direction: OUT,
      endpoint: number(BULK_OUT),
      data,
      deviceId: client.deviceId,
    });
    client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
    client.send(command.subarray(0, 50_000));
    // A round trip of another client's: what was sent before has most likely arrived.
    await (await bench.client()).close();
    const released = bench.released();
    client.socket.resetAndDestroy();
    await released;
    assert.deepEqual(script.offered, []);
    const next = await bench.client();
    await next.import();
  });

  it('a second client is refused, and served when the first has gone', async () => {
    bench.scripted();
    const first = await bench.client();
    await first.import();
    const second = await bench.client();
    second.send(importRequest('1-1'));
    assert.deepEqual(await second.rest(), hex('0111 0003 00000002'));
    const released = bench.released();
    await first.close();
    await released;
    const third = await bench.client();
    await third.import();
    assert.deepEqual(bench.lines('warn'), ['refused 1-1: busy']);
  });

  it('a client that comes while the one before leaves is served when that is over', async () => {
    const script = bench.scripted();
    let ready = (): void => {};
    script.released = new Promise((resolve) => {
      ready = resolve;
    });
    const first = await bench.client();
    await first.import();
    await first.close();
    while (bench.registry.freed('1-1') === null) await turn();
    const second = await bench.client();
    const imported = second.import();
    // A round trip of another client's: the import has most likely arrived.
    await (await bench.client()).close();
    assert.equal(bench.lines('info').length, 1);
    ready();
    await imported;
    assert.deepEqual(bench.lines('warn'), []);
  });

  it('two clients of two devices do not see each other’s data', async () => {
    const scripts = [bench.scripted(), bench.scripted()];
    const clients = [await bench.client(), await bench.client()];
    await Promise.all(clients.map((client, n) => client.import(`1-${n + 1}`)));
    const ask = (n: number) => {
      scripts[n]?.answer(BULK_IN, Buffer.from(`for ${n}`));
      return clients[n]?.read(number(BULK_IN), 64);
    };
    for (let round = 0; round < 20; round++) {
      const replies = await Promise.all([ask(0), ask(1)]);
      assert.deepEqual(replies.map(String).length, 2);
      replies.forEach((reply, n) => {
        assert.equal(reply?.data.toString(), `for ${n}`);
      });
    }
  });

  it('100 connections at a time', async () => {
    const count = 100;
    const scripts = Array.from({ length: count }, () => bench.scripted());
    const clients = await Promise.all(scripts.map(() => bench.client()));
    await Promise.all(clients.map((client, n) => client.import(`1-${n + 1}`)));
    assert.equal(bench.server.clientCount, count);
    await Promise.all(
      clients.map(async (client, n) => {
        const data = Buffer.alloc(64 * n + 1, n);
        scripts[n]?.answer(BULK_IN, data);
        assert((await client.read(number(BULK_IN), 8000)).data.equals(data));
      }),
    );
    await Promise.all(clients.map((client) => client.close()));
    await bench.empty();
    assert(bench.registry.list().every((one) => one.holder === null));
  });

  it('clients that go away as soon as they have come leave nothing behind', async () => {
    bench.scripted();
    for (let n = 0; n < 30; n++) {
      const client = await SocketClient.connect(bench.address);
      if (n % 3 === 0) client.send(importRequest('1-1'));
      if (n % 2 === 0) client.socket.resetAndDestroy();
      else client.socket.destroy();
      await client.closed;
    }
    // A connection is accepted in order: when this one is served, all of those were seen.
    const last = await bench.client();
    last.send(listRequest());
    await last.rest();
    await last.close();
    await bench.empty();
    assert.equal(bench.registry.get('1-1')?.holder, null);
  });

  for (const [name, octets] of [
    ['zeros', Buffer.alloc(300_000)],
    ['text', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['noise', Buffer.from(Array.from({ length: 5000 }, (_, n) => (n * 7919) >> 3))],
  ] as const) {
    it(`garbage (${name}) closes that connection alone, with one line in the log`, async () => {
      const script = bench.scripted();
      const good = await bench.client();
      await good.import();
      const bad = await bench.client();
      bad.send(octets);
      await bad.closed;
      assert.deepEqual(bench.lines('warn').length, 1);
      assert.match(bench.lines('warn')[0] ?? '', /^connection closed: Cannot .*\(bad-version\)$/);
      script.answer(BULK_IN, Buffer.from('x'));
      assert.equal((await good.read(number(BULK_IN), 64)).status, 0);
    });
  }

  it('garbage after an import frees the device, with one line of warning', async () => {
    bench.scripted();
    const client = await bench.client();
    await client.import();
    const released = bench.released();
    client.send(Buffer.alloc(5000, 0xff));
    await Promise.all([client.closed, released]);
    await bench.empty();
    assert.equal(bench.lines('warn').length, 1);
    assert.deepEqual(bench.lines('info'), ['attached 1-1', 'released 1-1']);
  });

  it('a client that stops reading is not read from; others go on; it can catch up', async () => {
    bench.sourceSink();
    bench.sourceSink();
    const [slow, other] = [await bench.client(), await bench.client()];
    await slow.import('1-1');
    await other.import('1-2');
    const octets = 64 * 1024;
    const taken = (): number => bench.registry.get('1-1')?.holder?.session.urbCount ?? 0;
    slow.socket.pause();
    const seqnums: number[] = [];
    // Until the server takes no more: the socket buffers of both kernels are full, too.
    for (let idle = 0, last = 0; idle < 30; ) {
      seqnums.push(slow.submit({ direction: IN, endpoint: 1, octets }));
      assert.equal((await other.read(1, 100)).actualLength, 100);
      idle = taken() === last ? idle + 1 : 0;
      last = taken();
      assert(seqnums.length < 2000, 'the server takes whatever comes');
    }
    assert(taken() * octets < 40 << 20, `${taken() * octets} octets wait`);
    slow.socket.resume();
    await slow.reply(seqnums.at(-1) ?? 0);
    const replies = slow.wire.replies.slice(1);
    assert.deepEqual(
      replies.map((reply) => [reply.seqnum, reply.status]),
      seqnums.map((seqnum) => [seqnum, 0]),
    );
  });

  it('removing a device answers its client’s URBs and ends the connection', async () => {
    bench.scripted();
    const client = await bench.client();
    await client.import();
    const seqnum = client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
    // The reply to a second command shows that the first has arrived.
    await client.transfer({ direction: OUT, endpoint: number(BULK_OUT), data: Buffer.from('x') });
    await bench.registry.remove('1-1');
    assert.equal((await client.reply(seqnum)).status, -108);
    await client.ended;
  });

  describe('close', () => {
    it('answers what is outstanding, says goodbye, and resolves', async () => {
      bench.scripted();
      const [busy, idle] = [await bench.client(), await bench.client()];
      await busy.import();
      const seqnum = busy.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
      await busy.transfer({ direction: OUT, endpoint: number(BULK_OUT), data: Buffer.from('x') });
      await bench.server.close();
      assert((await busy.reply(seqnum)).status < 0);
      await Promise.all([busy.ended, idle.ended]);
      assert.equal(busy.error, undefined);
      assert.equal(bench.server.clientCount, 0);
      assert.equal(bench.registry.get('1-1')?.holder, null);
      await assert.rejects(SocketClient.connect(bench.address), { code: 'ECONNREFUSED' });
    });

    it('twice, and with nothing open', async () => {
      await bench.server.close();
      await bench.server.close();
    });

    it('in the middle of much data', async () => {
      bench.sourceSink();
      const client = await bench.client();
      await client.import();
      for (let n = 0; n < 50; n++) client.submit({ direction: IN, endpoint: 1, octets: 1 << 18 });
      await client.until(() => client.wire.replies.length > 3);
      await Promise.all([bench.server.close(), client.closed]);
      assert.equal(bench.registry.get('1-1')?.holder, null);
    });

    it('waits for a device that is still being released by a client that has gone', async () => {
      const script = bench.scripted();
      let ready = (): void => {};
      script.released = new Promise((resolve) => {
        ready = resolve;
      });
      const client = await bench.client();
      await client.import();
      await client.close();
      while (!script.log.includes('release')) await turn();
      const closed = bench.server.close();
      ready();
      await closed;
      assert.equal(bench.registry.get('1-1')?.holder, null);
    });

    it('is not held up for ever by a client that never closes its side', async () => {
      const client = await bench.client({ allowHalfOpen: true });
      await bench.server.close();
      await client.ended;
      assert.equal(bench.server.clientCount, 0);
    });
  });

  it('CVE-2018-5814: attach and detach in a storm, while the device comes and goes', async () => {
    const attach = async (): Promise<void> => {
      const client = await SocketClient.connect(bench.address);
      client.send(importRequest('1-1'));
      await client.until(() => client.socket.bytesRead > 0);
      client.socket.resetAndDestroy();
      await client.closed;
    };
    bench.scripted();
    const attaching = Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let n = 0; n < 10; n++) await attach();
      }),
    );
    for (let n = 0; n < 20; n++) {
      await turn();
      await bench.registry.remove('1-1');
      bench.scripted();
    }
    await attaching;
    await bench.empty();
    const last = await bench.client();
    await last.import();
  });

  describe('listening', () => {
    it('on IPv6', async () => {
      const address = await bench.server.listen({ host: '::1', port: 0 });
      assert.equal(address.host, '::1');
      const client = await SocketClient.connect(address);
      bench.clients.push(client);
      client.send(listRequest());
      assert.equal((await client.rest()).length, 12);
      assert.match(bench.log[0] ?? '', /^info \[::1\]:\d+: listed devices$/);
    });

    it('on a port in use is the user’s mistake, and the server can go on', async () => {
      const taken = createServer().listen(0, '127.0.0.1');
      await once(taken, 'listening');
      const { port } = taken.address() as AddressInfo;
      await assert.rejects(bench.server.listen({ host: '127.0.0.1', port }), (error) => {
        assert(error instanceof UserError);
        assert.match(
          error.message,
          /^Cannot listen on 127\.0\.0\.1:\d+: the port is in use, wanted/,
        );
        return true;
      });
      taken.close();
      await once(taken, 'close');
      await bench.server.listen({ host: '127.0.0.1', port });
    });

    it('on an address of another machine is the user’s mistake', async () => {
      await assert.rejects(bench.server.listen({ host: '192.0.2.1', port: 0 }), UserError);
    });

    it('formats addresses', () => {
      assert.equal(formatAddress({ host: '::1', port: 3240 }), '[::1]:3240');
      assert.equal(formatAddress({ host: '127.0.0.1', port: 1 }), '127.0.0.1:1');
    });
  });
});
