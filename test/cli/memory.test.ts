/** What clients that never read cost a real gateway. */
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { IN } from '../usbip/scripted-client.ts';
import { SocketClient } from '../usbip/socket-client.ts';
import { endAll, PATIENCE_MILLISECONDS, startGateway, type TestGateway } from './urbgate.ts';

const CLIENTS = 64;
const READ_BYTES = 1 << 20;
/** Of each client: 44 MiB, so that 64 clients ask for 2.8 GB. */
const READS = 44;
/** A third of what they had. */
const GROWN_BYTES_MAX = 930e6;

/** The most that a process ever had in memory. */
function peakBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

describe('64 clients that never read', function () {
  this.timeout(2 * PATIENCE_MILLISECONDS);
  const clients: SocketClient[] = [];
  let gateway: TestGateway;

  before(async () => {
    const specs = Array.from({ length: CLIENTS + 1 }, () => 'virtual:source-sink');
    gateway = await startGateway(specs);
    for (let n = 1; n <= CLIENTS + 1; n++) {
      const client = await SocketClient.connect({ host: '127.0.0.1', port: gateway.port });
      clients.push(client);
      await client.import(`1-${n}`);
    }
  });

  after(async () => {
    for (const client of clients) await client.close();
    await gateway?.process.stop();
    endAll();
  });

  it('cost a bounded amount of memory together, and another one is served', async function () {
    if (process.platform !== 'linux') this.skip();
    const honest = clients.pop() as SocketClient;
    const before = peakBytes(gateway.process.pid);
    for (const client of clients) {
      client.socket.pause();
      for (let n = 0; n < READS; n++) {
        client.submit({ direction: IN, endpoint: 1, octets: READ_BYTES });
      }
    }
    // Each round trip is a turn of the gateway's event loop, in which it reads from everybody.
    for (let n = 0; n < 20; n++) {
      const { status, actualLength } = await honest.read(1, 4096);
      assert.deepEqual([status, actualLength], [0, 4096]);
    }
    const grownBytes = peakBytes(gateway.process.pid) - before;
    assert(
      grownBytes < GROWN_BYTES_MAX,
      `${CLIENTS} clients cost ${Math.round(grownBytes / 1e6)} MB`,
    );
    await honest.close();
  });
});
