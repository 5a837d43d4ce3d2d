/** Programs on the ring of a gateway in another process, which is the real `urbgate serve --shm`. */
import { strict as assert } from 'node:assert';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../../src/core/errors.ts';
import { connectRing, type RingClient, type Transfer } from '../../src/ring.ts';
import { endAll, startGateway, type Urbgate } from '../cli/urbgate.ts';
import { FakeClock } from '../examples/rig.ts';
import { control } from './front-driver.ts';
import { until } from './platform/until.ts';

const READ: Transfer = { endpoint: 0x81, type: 'bulk', octets: 512 };
const READS = 12;

describe('a program on the ring of a gateway', function () {
  this.timeout(60_000);
  let folder: string;
  let gateway: Urbgate;
  const clients: RingClient[] = [];

  const start = async () => {
    const exports = ['virtual:source-sink,delay=1', 'virtual:source-sink,speed=super'];
    gateway = (await startGateway(exports, '--shm', folder)).process;
  };
  const connect = async () => {
    const client = await connectRing({ folder });
    clients.push(client);
    return client;
  };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'urbgate-ring-'));
    await start();
  });

  afterEach(async () => {
    for (const client of clients.splice(0)) await client.close();
    await gateway.stop();
    endAll();
    rmSync(folder, { recursive: true });
  });

  async function device(client: RingClient) {
    const ring = await client.importDevice('1-1');
    assert.equal((await ring.transfer(control(0, 9, 1))).status, 'ok');
    return ring;
  }

  it('has a device, gives it back, and leaves nothing', async () => {
    const files = readdirSync(folder).sort();
    const client = await connect();
    const ring = await device(client);
    const { status, data } = await ring.transfer(READ);
    assert.deepEqual([status, data.length], ['ok', 512]);
    await client.release(ring);
    await device(client);
    await client.close();
    await client.closed;
    assert.deepEqual(readdirSync(folder).sort(), files);
    await device(await connect());
  });

  it('leaves, and gives back, whatever the gateway does', async () => {
    const clock = new FakeClock();
    const [client, other] = [
      await connectRing({ folder }, clock),
      await connectRing({ folder }, clock),
    ];
    const ring = await device(client);
    const waiting = ring.transfer({ ...READ, octets: 1 << 16 });
    gateway.kill('SIGSTOP');
    try {
      // It is closed before its release has failed.
      const released = assert.rejects(client.release(ring), { name: 'StoreError' });
      const ends = Promise.allSettled([released, client.close(), other.close()]);
      let ended = false;
      void ends.then(() => {
        ended = true;
      });
      while (!ended) {
        clock.advance(100);
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.deepEqual(
        (await ends).map(({ status }) => status),
        ['fulfilled', 'fulfilled', 'fulfilled'],
      );
      assert.equal((await waiting).status, 'shutdown');
      await Promise.all([client.closed, other.closed]);
    } finally {
      gateway.kill('SIGCONT');
    }
  });

  it('is told why it has none', async () => {
    const client = await connect();
    await device(client);
    const refused = (busId: string) => (error: unknown) =>
      error instanceof UserError && error.message.startsWith(`Cannot import ${busId}: `);
    const other = await connect();
    await Promise.all(
      ['1-1', '1-2', '1-3'].map((busId) =>
        assert.rejects(other.importDevice(busId), refused(busId)),
      ),
    );
  });

  it('is told where no gateway is', async () => {
    const empty = mkdtempSync(join(tmpdir(), 'urbgate-ring-'));
    await assert.rejects(connectRing({ folder: empty }), UserError);
    assert.deepEqual(readdirSync(empty), []);
    rmSync(empty, { recursive: true });
  });

  it('each transfer ends once when the gateway is killed, and the next gateway is another chance', async () => {
    const client = await connect();
    const ring = await device(client);
    const ends: string[] = [];
    let sent = 0;
    let killed = false;
    const read = () => {
      sent++;
      ring.submit(READ, ({ status }) => {
        ends.push(status);
        if (!killed) read();
      });
    };
    for (let n = 0; n < READS; n++) read();
    await until('the load is on', () => ends.includes('ok'));
    gateway.kill('SIGKILL');
    killed = true;
    await client.closed;
    assert.equal(ends.length, sent);
    assert.deepEqual(new Set(ends), new Set(['ok', 'shutdown']));
    await start();
    await (await device(await connect())).transfer(READ);
  });
});
