/** What clients hold of a memory that they share: each byte that may be there counts, until it is not. */
import { strict as assert } from 'node:assert';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { MemoryBudget } from '../../src/core/memory-budget.ts';
import { Registry } from '../../src/core/registry.ts';
import { BufferPool } from '../../src/usbip/buffer-pool.ts';
import { BULK_IN, BULK_OUT, ISO_OUT, scriptedDevice } from '../core/scripted-device.ts';
import { IN, OUT, ScriptedClient } from './scripted-client.ts';

const KIB = 1024;
const [ENOMEM, ECONNRESET] = [-12, -104];
const number = (address: number): number => address & 15;

/** A pool that says what was taken of it. */
class NotingPool extends BufferPool {
  readonly taken: number[] = [];

  override take(bytes: number): Buffer {
    this.taken.push(bytes);
    return super.take(bytes);
  }
}

describe('memory that clients share', () => {
  let memory: MemoryBudget;
  let pool: NotingPool;

  beforeEach(() => {
    memory = new MemoryBudget(1000 * KIB, 50 * KIB);
    pool = new NotingPool();
  });

  const client = () => {
    const registry = new Registry();
    registry.add(new VirtualDevice(scriptedDevice()), 'scripted');
    const one = new ScriptedClient({ registry, memory, pool });
    one.import();
    one.configure();
    one.replies();
    return one;
  };
  const read = (kibibytes: number) =>
    ({ direction: IN, endpoint: number(BULK_IN), octets: kibibytes * KIB }) as const;
  const isRefused = (one: ScriptedClient) => {
    const statuses = one.replies().map(({ status }) => status);
    assert(statuses.length <= 1 && (statuses[0] ?? ENOMEM) === ENOMEM);
    return statuses.length === 1;
  };

  it('a URB beyond what a client may have is refused, until something comes back', () => {
    const greedy = client();
    const seqnums = [1, 2, 3, 4].map(() => greedy.submit(read(100)));
    assert.equal(isRefused(greedy), false);
    greedy.submit(read(100)); // with half of all, it would have more than it leaves to others
    assert.equal(isRefused(greedy), true);
    greedy.unlink(seqnums[3] ?? 0);
    assert.deepEqual(
      greedy.replies().map(({ status }) => status),
      [ECONNRESET],
    );
    greedy.submit(read(100));
    assert.equal(isRefused(greedy), false);
  });

  it('another has as much as that leaves, and its guarantee in any case', () => {
    const [greedy, other] = [client(), client()];
    for (let n = 0; n < 4; n++) greedy.submit(read(100));
    assert.equal(isRefused(greedy), false);
    other.submit(read(300)); // 400 are taken, and 600 / 2 more may be
    assert.equal(isRefused(other), true);
    other.submit(read(290));
    assert.equal(isRefused(other), false);
    const late = new MemoryBudget(1000 * KIB, 50 * KIB);
    late.account().note(990 * KIB);
    memory = late;
    const last = client();
    last.submit(read(40));
    assert.equal(isRefused(last), false);
    last.submit(read(40));
    assert.equal(isRefused(last), true);
  });

  it('a body counts from its header on, before any of it has come', () => {
    const [greedy, other] = [client(), client()];
    const data = Buffer.alloc(400 * KIB);
    const command = greedy.wire.submit({
      direction: OUT,
      endpoint: number(BULK_OUT),
      data,
      seqnum: 9,
    });
    greedy.send(command.subarray(0, 100));
    greedy.output();
    assert(memory.heldBytes >= 400 * KIB, `${memory.heldBytes}`);
    other.submit(read(310));
    assert.equal(isRefused(other), true);
    greedy.send(command.subarray(100)); // which the device takes
    greedy.replies();
    for (const one of [greedy, other]) one.output(); // their replies have left now
    assert.equal(memory.heldBytes, 0);
    other.submit(read(310));
    assert.equal(isRefused(other), false);
  });

  it('replies count until they have left the socket', () => {
    const one = client();
    one.unsentOctets = 300 * KIB;
    one.output();
    assert.equal(memory.heldBytes, 300 * KIB);
    one.unsentOctets = 0;
    one.output();
    assert.equal(memory.heldBytes, 0);
  });

  it('a client that is gone holds nothing, whatever it had', async () => {
    const one = client();
    for (let n = 0; n < 3; n++) one.submit(read(100));
    const data = Buffer.alloc(50 * KIB);
    const command = one.wire.submit({
      direction: OUT,
      endpoint: number(BULK_OUT),
      data,
      seqnum: 9,
    });
    one.send(command.subarray(0, 1000));
    one.unsentOctets = 77;
    one.output();
    assert(memory.heldBytes > 350 * KIB);
    await one.connection.close();
    one.output();
    assert.equal(memory.heldBytes, 0);
  });

  it('of an isochronous body that is refused only the packet descriptors are kept', () => {
    const one = client();
    for (let n = 0; n < 5; n++) one.submit(read(95));
    one.replies();
    const command = one.wire.submit({
      direction: OUT,
      endpoint: number(ISO_OUT),
      data: Buffer.alloc(100 * KIB, 0xff),
      packets: [
        [0, 5],
        [5, 5],
      ],
      seqnum: 99,
    });
    pool.taken.length = 0;
    for (let at = 0; at < command.length; at += 10_000) one.send(command.subarray(at, at + 10_000));
    const [reply] = one.replies();
    assert(reply?.type === 'submit');
    assert.deepEqual([reply.status, reply.packetCount], [ENOMEM, 2]);
    assert.deepEqual(
      reply.packets.map(({ offset, length }) => [offset, length]),
      [
        [0, 5],
        [5, 5],
      ],
    );
    assert.deepEqual(pool.taken, [32]);
  });
});
