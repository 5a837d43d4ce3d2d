/** What one client sends is worked off a turn at a time, and others have theirs in between. */
import { strict as assert } from 'node:assert';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { TURN_BYTES_MAX, TURN_OPERATIONS_MAX } from '../../src/core/turn-budget.ts';
import { EarlyUnlinks } from '../../src/usbip/early-unlinks.ts';
import { isAfter, SeqnumHeap } from '../../src/usbip/seqnum-heap.ts';
import { UsbipServer } from '../../src/usbip/server.ts';
import { IN, OUT, ScriptedClient, type Submit, setupOctets } from './scripted-client.ts';
import { SocketClient } from './socket-client.ts';

const GET_DESCRIPTOR: Submit = {
  direction: IN,
  endpoint: 0,
  octets: 18,
  setup: setupOctets(0x80, 6, 0x0100, 0, 18),
};
const SET_CONFIGURATION: Submit = {
  direction: OUT,
  endpoint: 0,
  setup: setupOctets(0, 9, 1, 0, 0),
};
const COUNT = 5000;

/** A turn's worth of small commands; a little less, for what is read and written counts, too. */
function assertTurn(count: number): void {
  assert(count <= TURN_OPERATIONS_MAX && count > 0.9 * TURN_OPERATIONS_MAX, `${count} commands`);
}

function imported(): ScriptedClient {
  const client = new ScriptedClient();
  client.registry.add(new VirtualDevice(sourceSink.define({})), 'source-sink');
  client.import();
  client.transfer(SET_CONFIGURATION);
  return client;
}

describe('a turn of a connection', () => {
  it('ends after so many operations; the rest is gone on with, and in order', () => {
    const { connection, wire, ...client } = imported();
    const numbers = Array.from({ length: COUNT }, () => wire.nextSeqnum());
    const chunk = Buffer.concat(
      numbers.map((seqnum) => wire.submit({ ...GET_DESCRIPTOR, seqnum })),
    );
    const replies = () => wire.receive(Buffer.concat(connection.takeOutput()));
    connection.receive(chunk);
    chunk.fill(0xee); // the next read does
    const seen = replies().map(({ seqnum }) => seqnum);
    assertTurn(seen.length);
    for (let turns = 1; connection.isBehind; turns++) {
      connection.goOn();
      seen.push(...replies().map(({ seqnum }) => seqnum));
      assert(seen.length <= (turns + 1) * TURN_OPERATIONS_MAX);
    }
    assert.deepEqual(seen, numbers);
    assert.equal(client.registry.get('1-1')?.holder?.session.outstandingCount, 0);
  });

  it('ends after so many bytes', () => {
    const { connection, wire } = imported();
    const urb: Submit = { direction: IN, endpoint: 1, octets: 256 << 10 };
    const submits = Array.from({ length: 64 }, () =>
      wire.submit({ ...urb, seqnum: wire.nextSeqnum() }),
    );
    connection.receive(Buffer.concat(submits));
    const count = wire.receive(Buffer.concat(connection.takeOutput())).length;
    assert(count <= TURN_BYTES_MAX / (256 << 10) && count > 16, `${count} URBs`);
    assert.equal(connection.isBehind, true);
  });

  it('is the same for all chunks that are read in it', () => {
    const { connection, wire } = imported();
    const chunk = () =>
      Buffer.concat(
        Array.from({ length: 600 }, () =>
          wire.submit({ ...GET_DESCRIPTOR, seqnum: wire.nextSeqnum() }),
        ),
      );
    connection.receive(chunk());
    assert.equal(connection.isBehind, false);
    connection.receive(chunk(), true);
    assert.equal(connection.isBehind, true);
    connection.goOn();
    assert.equal(connection.isBehind, false);
    assert.equal(wire.receive(Buffer.concat(connection.takeOutput())).length, 1200);
  });

  it('counts each isochronous packet', () => {
    const { connection, wire } = imported();
    connection.receive(
      wire.submit({
        direction: OUT,
        endpoint: 0,
        setup: setupOctets(1, 11, 1, 0, 0),
        seqnum: wire.nextSeqnum(),
      }),
    );
    connection.takeOutput();
    const packets = Array.from({ length: 256 }, () => [0, 0] as const);
    const submits = Array.from({ length: 32 }, () =>
      wire.submit({
        direction: IN,
        endpoint: 3,
        octets: 0,
        packetCount: 256,
        packets,
        seqnum: wire.nextSeqnum(),
      }),
    );
    connection.receive(Buffer.concat(submits));
    assert.equal(connection.isBehind, true);
    const count = Buffer.concat(connection.takeOutput()).length / (48 + 256 * 16);
    assert.equal(count, 8); // four are a turn's worth of packets; the budget is looked at after eight
  });

  it('counts what is refused, too', () => {
    const { connection, wire } = imported();
    const refused: Submit = { direction: IN, endpoint: 9, octets: 64 };
    const submits = Array.from({ length: COUNT }, () =>
      wire.submit({ ...refused, seqnum: wire.nextSeqnum() }),
    );
    connection.receive(Buffer.concat(submits));
    const count = wire.receive(Buffer.concat(connection.takeOutput())).length;
    assertTurn(count);
  });

  it('what is left is dropped when the connection closes', async () => {
    const { connection, wire } = imported();
    const submits = Array.from({ length: COUNT }, () =>
      wire.submit({ ...GET_DESCRIPTOR, seqnum: wire.nextSeqnum() }),
    );
    connection.receive(Buffer.concat(submits));
    await connection.close();
    assert.equal(connection.isBehind, false);
    connection.takeOutput();
    connection.goOn();
    assert.deepEqual(connection.takeOutput(), []);
  });
});

describe('clients of one server', () => {
  const registry = new Registry();
  const server = new UsbipServer({ registry, log: { info: () => {}, warn: () => {} } });
  const clients: SocketClient[] = [];

  after(async () => {
    for (const { socket } of clients) socket.destroy();
    await server.close();
  });

  it('one is served while another has thousands of commands waiting', async () => {
    const address = await server.listen({ host: '127.0.0.1', port: 0 });
    for (const _ of ['1-1', '1-2']) {
      registry.add(new VirtualDevice(sourceSink.define({})), 'source-sink');
    }
    const connect = async (busId: string) => {
      const client = await SocketClient.connect(address);
      clients.push(client);
      await client.import(busId);
      return client;
    };
    const [greedy, other] = [await connect('1-1'), await connect('1-2')];
    const doneOf = (busId: string) => registry.get(busId)?.holder?.session.urbCount ?? 0;
    const first = doneOf('1-1');
    let most = 0;
    for (let round = 0; round < 3; round++) {
      const before = doneOf('1-1');
      const seqnums = Array.from({ length: 20_000 }, () => greedy.wire.nextSeqnum());
      greedy.send(
        Buffer.concat(seqnums.map((seqnum) => greedy.wire.submit({ ...GET_DESCRIPTOR, seqnum }))),
      );
      // Until the first of them is done: from here on the other one's wait counts.
      while (doneOf('1-1') === before) await new Promise((resolve) => setImmediate(resolve));
      const begun = doneOf('1-1');
      assert.equal((await other.read(1, 64)).status, 0);
      most = Math.max(most, begun - before, doneOf('1-1') - begun);
      await greedy.reply(seqnums.at(-1) ?? 0);
    }
    assert.equal(doneOf('1-1') - first, 60_000);
    // A turn while the request is on its way, one beside it, one while the reply is; and one to spare.
    const limit = 4 * TURN_OPERATIONS_MAX;
    assert(most <= limit, `${most} URBs of the other in one round trip, at most ${limit}`);
  }).timeout(60_000);
});

describe('unlinks that wait for their URBs', () => {
  it('are found without a look at the others, whatever comes', () => {
    let looks = 0;
    const heap = new SeqnumHeap((one, other) => {
      looks++;
      return isAfter(one, other);
    });
    const unlinks = new EarlyUnlinks(4096, heap);
    unlinks.arrived(1);
    for (let n = 0; n < 4096; n++) assert(unlinks.keep(0x4000_0000 + n, 0x5000_0000 + n));
    looks = 0;
    for (let n = 2; n < 100_000; n++) {
      unlinks.arrived(n);
      assert.deepEqual(unlinks.takeMissed(), []);
    }
    assert.equal(looks, 0);
    for (let n = 0; n < 4096; n += 2) {
      // One that passes the one before, which is missed.
      assert.equal(unlinks.arrived(0x4000_0001 + n), 0x5000_0001 + n);
      assert.deepEqual(unlinks.takeMissed(), [0x5000_0000 + n]);
    }
    assert(looks < 30 * 4096, `${looks} comparisons`);
  });

  it('leave in the order of their victims, across the end of the numbers', () => {
    const unlinks = new EarlyUnlinks(100);
    unlinks.arrived(0xffff_fff0);
    const victims = [5, 0xffff_fffa, 0, 0xffff_fff5, 9, 3].map((victim) => [victim, victim + 20]);
    for (const [victim = 0, unlink = 0] of victims) assert(unlinks.keep(victim, unlink >>> 0));
    unlinks.arrived(4);
    const missed = unlinks.takeMissed().map((unlink) => (unlink - 20) >>> 0);
    assert.deepEqual(missed, [0xffff_fff5, 0xffff_fffa, 0, 3]);
    unlinks.arrived(100);
    assert.deepEqual(unlinks.takeMissed(), [25, 29]);
  });
});
