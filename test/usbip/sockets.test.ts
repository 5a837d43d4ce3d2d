import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { ackedOctets, readInto, setUserTimeout, writeGathered } from '../../src/usbip/sockets.ts';

/** A socket as it would look if Node.js kept its handle elsewhere: `readInto` must do without. */
function withoutHandle(socket: Socket): Socket {
  return new Proxy(socket, {
    get(target, key) {
      if (key === '_handle') return undefined;
      const value = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** Unlike `once`, it does not mind an error before. */
const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => socket.once('close', () => resolve()));

const portOf = (server: Server) => {
  const { address: host, port } = server.address() as AddressInfo;
  return { host, port };
};

interface Pair {
  readonly client: Socket;
  readonly accepted: Socket;
  /** What was given to `readInto`. */
  readonly given: Socket;
  /** What `readInto` returned. */
  readonly socket: Socket;
  readonly server: Server;
  readonly received: Buffer[];
  readonly closes: () => number;
}

const MEMORY_OCTETS = 8192;

describe('readInto', () => {
  const servers: Server[] = [];
  const clients: Socket[] = [];
  const sockets: Socket[] = [];

  afterEach(async () => {
    for (const one of [...clients.splice(0), ...sockets.splice(0)]) one.destroy();
    await Promise.all(
      servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))),
    );
  });

  async function pair(fallback: boolean, onReceive?: (socket: Socket) => void): Promise<Pair> {
    const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
    servers.push(server);
    await once(server, 'listening');
    const client = connect({ ...portOf(server), allowHalfOpen: true });
    clients.push(client);
    client.on('error', () => {});
    const [accepted] = (await once(server, 'connection')) as [Socket];
    const memory = Buffer.alloc(MEMORY_OCTETS);
    const received: Buffer[] = [];
    const given = fallback ? withoutHandle(accepted) : accepted;
    const socket = readInto(given, server, memory, (chunk) => {
      received.push(Buffer.from(chunk));
      onReceive?.(socket);
    });
    sockets.push(socket);
    let closes = 0;
    socket.on('close', () => closes++);
    socket.on('error', () => {});
    return { client, accepted, given, socket, server, received, closes: () => closes };
  }

  const connections = (server: Server): Promise<number> =>
    new Promise((resolve, reject) => {
      server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
    });

  for (const fallback of [false, true]) {
    describe(fallback ? 'without a handle: data events' : 'with a handle', () => {
      it(
        fallback ? 'returns the socket itself' : 'moves the handle to another socket',
        async () => {
          const { accepted, given, socket } = await pair(fallback);
          assert.equal(socket === given, fallback);
          const { _handle: handle } = accepted as unknown as { _handle: unknown };
          assert.equal(handle === null, !fallback);
        },
      );

      it('receives every octet in order, and writes', async () => {
        const { client, socket, received } = await pair(fallback);
        const sent = Buffer.from(Array.from({ length: 300_000 }, (_, n) => (n * 31) >> 4));
        client.end(sent);
        socket.write('answer');
        const answer = once(client, 'data');
        await once(socket, 'end');
        assert(Buffer.concat(received).equals(sent));
        if (!fallback) assert(received.every((chunk) => chunk.length <= MEMORY_OCTETS));
        assert.equal(String((await answer)[0]), 'answer');
      });

      it('ends and closes once when the client ends; the server counts to zero', async () => {
        const { client, socket, server, closes } = await pair(fallback);
        assert.equal(await connections(server), 1);
        client.resume();
        client.end('x');
        await Promise.all([closed(socket), closed(client)]);
        assert.equal(closes(), 1);
        assert.equal(await connections(server), 0);
        assert(socket.destroyed);
      });

      it('closes once when the client resets', async () => {
        const { client, socket, server, closes } = await pair(fallback);
        client.resetAndDestroy();
        await closed(socket);
        assert.equal(closes(), 1);
        assert.equal(await connections(server), 0);
      });

      it('destroy twice closes once', async () => {
        const { client, socket, server, closes } = await pair(fallback);
        client.resume();
        socket.destroy();
        socket.destroy();
        await closed(socket);
        assert.equal(closes(), 1);
        assert.equal(await connections(server), 0);
      });

      it('destroyed from inside receive: nothing is received after that', async () => {
        const { client, socket, received } = await pair(fallback, (one) => one.destroy());
        client.write(Buffer.alloc(MEMORY_OCTETS * 20));
        await once(socket, 'close');
        assert.equal(received.length, 1);
      });

      it('pauses and resumes', async () => {
        let reads = 0;
        const { client, socket, received } = await pair(fallback, (one) => {
          reads++;
          one.pause();
        });
        const total = MEMORY_OCTETS * 4;
        client.write(Buffer.alloc(total));
        while (Buffer.concat(received).length < total) {
          const before = reads;
          socket.resume();
          while (reads === before) await new Promise((resolve) => setImmediate(resolve));
          // Paused from inside: nothing more comes although there is more.
          for (let n = 0; n < 3; n++) await new Promise((resolve) => setImmediate(resolve));
          assert.equal(reads, before + 1);
        }
      });

      it('a listener’s close waits for the socket, and no longer', async () => {
        const { client, socket, server } = await pair(fallback);
        let isClosed = false;
        const done = new Promise<void>((resolve) => {
          server.close(() => {
            isClosed = true;
            resolve();
          });
        });
        servers.splice(0);
        await new Promise((resolve) => setImmediate(resolve));
        assert.equal(isClosed, false);
        client.resume();
        client.end();
        await done;
        assert(socket.destroyed);
      });
    });
  }

  it('many sockets share one memory', async () => {
    const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
    servers.push(server);
    await once(server, 'listening');
    const memory = Buffer.alloc(1000);
    const received = new Map<number, Buffer[]>();
    const ended: Promise<unknown>[] = [];
    server.on('connection', (accepted: Socket) => {
      const chunks: Buffer[] = [];
      const port = accepted.remotePort ?? 0;
      received.set(port, chunks);
      const socket = readInto(accepted, server, memory, (chunk) => chunks.push(Buffer.from(chunk)));
      ended.push(once(socket, 'end'));
    });
    const ports = await Promise.all(
      Array.from({ length: 10 }, async (_, n) => {
        const client = connect(portOf(server));
        clients.push(client);
        await once(client, 'connect');
        const port = client.localPort ?? 0;
        client.resume();
        client.end(Buffer.alloc(50_000, n));
        await once(client, 'close');
        return port;
      }),
    );
    await Promise.all(ended);
    ports.forEach((port, n) => {
      assert(Buffer.concat(received.get(port) ?? []).equals(Buffer.alloc(50_000, n)));
    });
  });

  it('tells what the peer has acknowledged, of the moved socket too', async function () {
    if (process.platform !== 'linux') this.skip();
    const { client, socket } = await pair(false);
    setUserTimeout(socket, 20_000);
    const before = ackedOctets(socket) ?? assert.fail('it cannot be told');
    socket.write(Buffer.alloc(1000));
    let count = 0;
    client.on('data', (chunk: Buffer) => {
      count += chunk.length;
    });
    while (count < 1000) await once(client, 'data');
    client.write('x'); // brings an acknowledgement at the latest
    await new Promise<void>((resolve) => {
      const look = () =>
        (ackedOctets(socket) ?? 0) - before >= 1000 ? resolve() : setImmediate(look);
      look();
    });
    socket.destroy();
    assert.equal(ackedOctets(socket), undefined, 'of a closed socket nothing can be told');
    setUserTimeout(socket, 1000);
  });
});

describe('writeGathered', () => {
  /** More than the system takes while the client does not read. */
  const LARGE_OCTETS = 64 << 20;

  async function pair(): Promise<{ server: Server; client: Socket; socket: Socket }> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const client = connect(portOf(server));
    client.on('error', () => {});
    const [socket] = (await once(server, 'connection')) as [Socket];
    socket.on('error', () => {});
    return { server, client, socket };
  }

  it('gives loans back when all is on its way', async () => {
    const { server, client, socket } = await pair();
    client.pause();
    let back = 0;
    writeGathered(
      socket,
      [Buffer.alloc(LARGE_OCTETS), Buffer.alloc(1)],
      [{ giveBack: () => back++ }, { giveBack: () => back++ }],
    );
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(back, 0);
    client.resume();
    await once(socket, 'drain');
    assert.equal(back, 2);
    client.destroy();
    server.close();
  });

  it('gives loans back when the socket ends first, or has ended', async () => {
    const { server, client, socket } = await pair();
    client.pause();
    let back = 0;
    const loans = [{ giveBack: () => back++ }];
    writeGathered(socket, [Buffer.alloc(LARGE_OCTETS)], loans);
    writeGathered(socket, [Buffer.alloc(1), Buffer.alloc(1)], loans);
    socket.destroy();
    await closed(socket);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(back, 2);
    client.destroy();
    server.close();
  });
});
