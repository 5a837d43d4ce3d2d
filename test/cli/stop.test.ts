/** Nothing that others do, or fail to do, keeps a process that serves from ending. */
import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { importDevice } from '../../src/usbip/client.ts';
import { listDevices } from '../../src/usbip/list-client.ts';
import { ImportRequest, OPERATION, OpCommon, VERSION } from '../../src/usbip/protocol.ts';
import { MutingProxy } from '../usbip/muting-proxy.ts';
import { IN, OUT, setupOctets, Wire } from '../usbip/scripted-client.ts';
import {
  type Ended,
  endAll,
  PATIENCE_MILLISECONDS,
  scratchFolder,
  startGateway,
  Urbgate,
} from './urbgate.ts';

const HOST = '127.0.0.1';
/** A process ends within 5 s of a signal; a busy machine gets more. What hung, hung for minutes. */
const END_MILLISECONDS = 25_000;
/** Reads of it never end. */
const SPEC = 'virtual:source-sink,delay=3600000';

const FIXTURE = fileURLToPath(
  new URL(`./stopping-process${extname(import.meta.filename)}`, import.meta.url),
);

describe('a signal ends', function () {
  this.timeout(2 * PATIENCE_MILLISECONDS);
  const proxies: MutingProxy[] = [];

  afterEach(async () => {
    endAll();
    for (const proxy of proxies.splice(0)) await proxy.close();
  });

  async function stopped(process: Urbgate, ...signals: NodeJS.Signals[]): Promise<Ended> {
    for (const signal of signals.length > 0 ? signals : (['SIGTERM'] as const)) {
      process.kill(signal);
    }
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const why = () => reject(new Error(`it runs on:\n${process.stdout}${process.stderr}`));
      timer = setTimeout(why, END_MILLISECONDS);
    });
    try {
      return await Promise.race([process.ended, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** A gateway that has a device of a server, which can be made silent. */
  async function proxied() {
    const other = await startGateway([SPEC]);
    const proxy = await MutingProxy.before({ host: HOST, port: other.port });
    proxies.push(proxy);
    const gateway = await startGateway([`remote:${HOST}:${proxy.address.port}/1-1,wait`]);
    return { proxy, gateway };
  }

  /** A client of it with a transfer that the silent server has. */
  async function waitingClient(port: number) {
    const client = await importDevice({ host: HOST, port }, '1-1');
    const setup = setupOctets(0, 9, 1);
    assert.equal((await client.transfer({ endpoint: 0, type: 'control', setup })).status, 'ok');
    const waiting = client.transfer({ endpoint: 0x81, type: 'bulk', octets: 512 });
    return { client, waiting };
  }

  it('a gateway with a device of a server that says nothing', async () => {
    const { proxy, gateway } = await proxied();
    const { client, waiting } = await waitingClient(gateway.port);
    proxy.mute();
    const { code, stderr } = await stopped(gateway.process);
    assert.equal(code, 0, stderr);
    assert.equal((await waiting).status, 'shutdown');
    await client.closed;
  });

  it('unexport takes such a device back as well', async () => {
    const { proxy, gateway } = await proxied();
    const { waiting } = await waitingClient(gateway.port);
    proxy.mute();
    const taken = await gateway.command('unexport', '1-1');
    assert.equal(taken.code, 0, taken.stderr);
    assert.equal((await waiting).status, 'shutdown');
    assert.deepEqual(await listDevices({ host: HOST, port: gateway.port }), []);
  });

  it('a gateway that is about to export a device of a server that says nothing', async () => {
    const other = await startGateway([SPEC]);
    const proxy = await MutingProxy.before({ host: HOST, port: other.port });
    proxies.push(proxy);
    proxy.isSilent = () => true;
    const spec = `remote:${HOST}:${proxy.address.port}/1-1`;
    const process = new Urbgate(['serve', '--control', 'none', '--export', spec]);
    while (proxy.imports === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    const { code, stderr } = await stopped(process);
    assert.equal(code, 0, stderr);
  });

  it('a gateway with a client that reads nothing and never closes', async () => {
    const gateway = await startGateway(['virtual:source-sink']);
    const socket = connect({ host: HOST, port: gateway.port, allowHalfOpen: true });
    socket.on('error', () => {});
    await once(socket, 'connect');
    const common = { version: VERSION, code: OPERATION.requestImport, status: 0 };
    socket.write(Buffer.concat([OpCommon.write(common), ImportRequest.write({ busId: '1-1' })]));
    await once(socket, 'readable');
    const wire = new Wire();
    socket.write(wire.submit({ direction: OUT, endpoint: 0, setup: setupOctets(0, 9, 1) }));
    for (let n = 0; n < 64; n++) {
      socket.write(wire.submit({ direction: IN, endpoint: 1, octets: 1 << 20 }));
    }
    const urbs = async () => (await gateway.command('status', '--json')).stdout;
    while (!/"urbs": [1-9]/.test(await urbs()));
    const { code, stderr } = await stopped(gateway.process);
    assert.equal(code, 0, stderr);
    socket.destroy();
  });

  it('a gateway of which a thread hangs in a call of the system', async () => {
    const folder = scratchFolder();
    const [fifo, hang] = [join(folder, 'fifo'), join(folder, 'hang.mjs')];
    execFileSync('mkfifo', [fifo]);
    // As a name server does that says nothing: nobody will ever write there.
    writeFileSync(
      hang,
      `import { open } from 'node:fs'; open(${JSON.stringify(fifo)}, 'r', () => {});`,
    );
    const process = new Urbgate(['serve', '--listen', `${HOST}:0`, '--control', 'none'], {
      NODE_OPTIONS: `--import=${hang}`,
    });
    await process.says(/^Listening/m);
    assert.equal((await stopped(process)).code, 0);
  });

  it('a command that failed, of which a thread hangs in a call of the system', async () => {
    const folder = scratchFolder();
    const [fifo, hang] = [join(folder, 'fifo'), join(folder, 'hang.mjs')];
    execFileSync('mkfifo', [fifo]);
    writeFileSync(
      hang,
      `import { open } from 'node:fs'; open(${JSON.stringify(fifo)}, 'r', () => {});`,
    );
    const process = new Urbgate(['list', '-r', `${HOST}:1`], { NODE_OPTIONS: `--import=${hang}` });
    const { code, stderr } = await process.ended;
    assert.match(stderr, /^Cannot list devices of 127.0.0.1:1: nothing listens there/);
    assert.equal(code, 2);
  });

  it('a gateway whose log nobody reads', async () => {
    const hang = join(scratchFolder(), 'talk.mjs');
    writeFileSync(hang, `for (let n = 0; n < 4; n++) process.stderr.write('x'.repeat(1 << 20));`);
    const process = new Urbgate(['serve', '--listen', `${HOST}:0`, '--control', 'none'], {
      NODE_OPTIONS: `--import=${hang}`,
    });
    process.stopReading();
    await process.says(/^Listening/m);
    const exited = process.exited;
    process.kill('SIGTERM');
    assert.equal(await exited, 0);
  });

  it('what does not let go is named, and waited for no longer', async () => {
    const process = new Urbgate([], {}, undefined, FIXTURE);
    await process.says(/Ready/);
    const { code, stderr } = await stopped(process);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /WARN .*SIGTERM.*did not let go within 4 s: 1-1 \(Printer\), xen:0 \(a1\)$/m,
    );
  });

  it('at the second signal, what does not let go is not waited for', async () => {
    const process = new Urbgate([], {}, undefined, FIXTURE);
    await process.says(/Ready/);
    const { code, stderr } = await stopped(process, 'SIGTERM', 'SIGINT');
    assert([128 + 2, 128 + 15].includes(Number(code)), `${code}`);
    assert.equal(stderr, '');
  });

  it('what fails to close', async () => {
    const process = new Urbgate(['fails'], {}, undefined, FIXTURE);
    await process.says(/Ready/);
    const { code, stderr } = await stopped(process, 'SIGINT');
    assert.equal(code, 1);
    assert.match(stderr, /ERROR Cannot stop in an orderly way/);
  });
});
