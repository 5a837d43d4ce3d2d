import { strict as assert } from 'node:assert';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import {
  defineSerial,
  ENDPOINT,
  type SerialState,
} from '../../../../../src/core/devices/virtual/serial/serial.ts';
import {
  CLOSE_MILLISECONDS_MAX,
  LINGER_MILLISECONDS_MAX,
  LINGERING_MAX,
  TcpLine,
  TO_PEER_OCTETS_MAX,
} from '../../../../../src/core/devices/virtual/serial/tcp-line.ts';
import { FakeClock, Rig, setup } from '../../../../examples/rig.ts';

const CARRIER_UP = 3;
const CARRIER_DOWN = 0;

describe('serial over TCP', () => {
  let server: Server;
  let peers: Socket[];

  beforeEach(async () => {
    peers = [];
    server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (peer) => {
      peers.push(peer);
      peer.on('error', () => {});
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
  });

  afterEach(() => {
    for (const peer of peers) peer.destroy();
    server.close();
  });

  async function attached(clock?: FakeClock) {
    const { port } = server.address() as AddressInfo;
    const address = { host: '127.0.0.1', port };
    const rig = new Rig(defineSerial((listener) => new TcpLine(address, listener, clock)));
    await rig.configure();
    const line = rig.state.line;
    assert(line instanceof TcpLine);
    return { rig, line };
  }

  /** Raises DTR and waits for the carrier. */
  async function connected() {
    const { rig, line } = await attached();
    const connection = once(server, 'connection');
    await rig.control(setup(0x21, 0x22, 1, 0, 0));
    assert.equal(line.phase, 'dialling');
    assert.equal(await state(rig), CARRIER_UP);
    const [peer] = (await connection) as [Socket];
    peer.resume();
    return { rig, line, peer };
  }

  /** The next SERIAL_STATE. */
  async function state(rig: Rig<SerialState>): Promise<number | undefined> {
    return (await rig.read(ENDPOINT.notification, 16)).dataIn[8];
  }

  async function readAll(rig: Rig<SerialState>, octets: number): Promise<Buffer> {
    const parts: Uint8Array[] = [];
    for (let left = octets; left > 0; ) {
      const { dataIn } = await rig.read(ENDPOINT.dataIn, 1024);
      parts.push(dataIn);
      left -= dataIn.length;
    }
    return Buffer.concat(parts);
  }

  it('connects with DTR and carries 2 MiB each way at once, complete and in order', async () => {
    const { rig, peer } = await connected();
    const sent = randomFillSync(Buffer.alloc(2 ** 21));
    const back = randomFillSync(Buffer.alloc(2 ** 21));
    const received: Buffer[] = [];
    peer.on('data', (octets) => received.push(octets));
    peer.write(back);
    const writing = (async () => {
      for (let at = 0; at < sent.length; at += 10_240) {
        await rig.write(ENDPOINT.dataOut, sent.subarray(at, at + 10_240));
      }
    })();
    assert((await readAll(rig, back.length)).equals(back));
    await writing;
    await rig.control(setup(0x21, 0x22, 0, 0, 0)); // hang up: what is under way arrives
    await once(peer, 'end');
    assert(Buffer.concat(received).equals(sent));
    peer.end();
    await rig.end();
  });

  it('holds the host back when the peer does not read, within its limit', async () => {
    const { rig, line, peer } = await connected();
    peer.pause();
    const sent = randomFillSync(Buffer.alloc(64 * 2 ** 20)); // more than the kernel's buffers
    const writing = rig.write(ENDPOINT.dataOut, sent);
    await quiet();
    assert.equal(rig.pending, 1, 'the write waits');
    const received: Buffer[] = [];
    peer.on('data', (octets) => received.push(octets)).resume();
    assert.equal((await writing).actualOctets, sent.length);
    assert.equal(line.droppedOctets, 0);
    await rig.control(setup(0x21, 0x22, 0, 0, 0));
    await once(peer, 'end');
    assert(Buffer.concat(received).equals(sent));
    peer.end();
    await rig.end();
  });

  it('takes no more than its limit before the peer answers, nor waits for it for ever', async () => {
    const { port } = server.address() as AddressInfo;
    const nobody = { octets: () => {}, room: () => {}, carrier: () => {} };
    const clock = new FakeClock();
    const line = new TcpLine({ host: '127.0.0.1', port }, nobody, clock);
    assert.equal(line.give(Buffer.alloc(TO_PEER_OCTETS_MAX + 1)), TO_PEER_OCTETS_MAX);
    assert.equal(line.give(Buffer.alloc(1)), 0);
    line.drop();
    clock.advance(CLOSE_MILLISECONDS_MAX);
    assert.equal(line.lingeringCount, 1);
    clock.advance(LINGER_MILLISECONDS_MAX - CLOSE_MILLISECONDS_MAX);
    while (line.lingeringCount > 0) await new Promise((resolve) => setImmediate(resolve));
    line.raise();
    const closed = line.close();
    assert.equal(line.lingeringCount, 1);
    clock.advance(CLOSE_MILLISECONDS_MAX);
    await closed;
    assert.deepEqual([line.lingeringCount, clock.timers], [0, 0]);
  });

  it('holds the peer back when the host does not read, and loses nothing', async () => {
    const { rig, peer } = await connected();
    const sent = randomFillSync(Buffer.alloc(32 * 2 ** 20));
    peer.end(sent);
    await quiet();
    assert(peer.writableLength > 0, 'the peer waits for TCP');
    const received = await readAll(rig, sent.length);
    assert(received.equals(sent));
    assert.equal(await state(rig), CARRIER_DOWN, 'only after the last octet');
    await rig.end();
  });

  it('drops the carrier after the last octet that the peer has sent', async () => {
    const { rig, line, peer } = await connected();
    peer.end('bye');
    await quiet();
    assert.equal(rig.poll(ENDPOINT.notification, 16).status, 'unlinked', 'not before');
    assert.equal((await readAll(rig, 3)).toString(), 'bye');
    assert.equal(await state(rig), CARRIER_DOWN);
    assert.equal(line.phase, 'lost');
    // The host's writes go nowhere, and do not hang.
    assert.equal((await rig.write(ENDPOINT.dataOut, Buffer.alloc(1000))).status, 'ok');
    assert.equal(line.droppedOctets, 1000);
    await rig.end();
  });

  it('ends a write that waits when the peer has ended', async () => {
    const { rig, line, peer } = await connected();
    peer.pause();
    const writing = rig.write(ENDPOINT.dataOut, Buffer.alloc(64 * 2 ** 20));
    await quiet();
    peer.end();
    assert.equal((await writing).status, 'ok');
    assert(line.droppedOctets > 0);
    peer.destroy();
    await rig.end();
  });

  it('hangs up on a peer that goes on talking', async () => {
    const { rig, peer } = await connected();
    await rig.control(setup(0x21, 0x22, 0, 0, 0));
    peer.write(Buffer.alloc(2 ** 20));
    await once(peer, 'end');
    const closed = once(peer, 'close');
    peer.end(Buffer.alloc(2 ** 20));
    await rig.end();
    await closed;
    assert.equal(peer.bytesWritten, 2 ** 21);
    assert.equal(peer.errored, null);
  });

  it('keeps no hold of the memory of a transfer', async () => {
    const { rig, line } = await attached();
    const connection = once(server, 'connection');
    const octets = Buffer.from('kept');
    line.give(octets); // waits for the connection
    octets.fill(0);
    const [peer] = (await connection) as [Socket];
    const [received] = (await once(peer.resume(), 'data')) as [Buffer];
    assert.equal(received.toString(), 'kept');
    peer.end();
    await rig.end();
  });

  it('ends a write that waits when the connection is lost', async () => {
    const { rig, peer } = await connected();
    peer.pause();
    const writing = rig.write(ENDPOINT.dataOut, Buffer.alloc(64 * 2 ** 20));
    await quiet();
    assert.equal(rig.pending, 1);
    peer.resetAndDestroy();
    assert.equal((await writing).status, 'ok');
    assert.equal(await state(rig), CARRIER_DOWN);
    assert.match(
      rig.state.line instanceof TcpLine ? String(rig.state.line.lastError) : '',
      /ECONN|EPIPE/,
    );
    await rig.end();
  });

  it('reports no carrier when nobody answers', async () => {
    const { rig, line } = await attached();
    await new Promise((resolve) => server.close(resolve));
    await rig.control(setup(0x21, 0x22, 1, 0, 0));
    assert.equal(await state(rig), CARRIER_DOWN);
    assert.match(String(line.lastError), /ECONNREFUSED/);
    await rig.end();
  });

  it('gives up dialling after a time', async () => {
    const clock = new FakeClock();
    const { rig, line } = await attached(clock);
    await rig.control(setup(0x21, 0x22, 1, 0, 0));
    clock.advance(10_000); // before the event loop has seen the connection
    assert.equal(await state(rig), CARRIER_DOWN);
    assert.match(String(line.lastError), /no answer within 10000 ms/);
    await rig.end();
  });

  it('dials with the first octets of a program that leaves DTR alone', async () => {
    const { rig } = await attached();
    const connection = once(server, 'connection');
    await rig.write(ENDPOINT.dataOut, Buffer.from('hello'));
    const [peer] = (await connection) as [Socket];
    const [octets] = (await once(peer.resume(), 'data')) as [Buffer];
    assert.equal(octets.toString(), 'hello');
    peer.end();
    await rig.end();
  });

  it('dials again when DTR goes up again, and old octets stay with the old connection', async () => {
    const { rig, peer } = await connected();
    peer.write('old');
    await quiet();
    await rig.control(setup(0x21, 0x22, 0, 0, 0));
    const connection = once(server, 'connection');
    await rig.control(setup(0x21, 0x22, 1, 0, 0));
    assert.equal(await state(rig), CARRIER_UP);
    const [next] = (await connection) as [Socket];
    next.write('new');
    assert.equal((await readAll(rig, 3)).toString(), 'new');
    for (const one of [peer, next]) one.end();
    await rig.end();
  });

  it('keeps few connections when DTR goes up and down, and none after dispose', async () => {
    const { rig, line } = await attached();
    for (let n = 0; n < 50; n++) {
      await rig.control(setup(0x21, 0x22, 1, 0, 0));
      await rig.control(setup(0x21, 0x22, 0, 0, 0));
    }
    await quiet();
    assert.equal(line.lingeringCount, LINGERING_MAX);
    for (const peer of peers) peer.end();
    await rig.end();
    assert.equal(line.lingeringCount, 0);
  });
});

/** Long enough for loopback to settle. */
function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 50));
}
