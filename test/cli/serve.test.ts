import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { busIdsFor } from '../../src/cli/serve.ts';
import {
  type Ended,
  endAll,
  PATIENCE_MILLISECONDS,
  run,
  scratchFolder,
  startGateway,
  Urbgate,
} from './urbgate.ts';

const SOURCE_SINK = 'virtual:source-sink';

describe('urbgate serve', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  afterEach(endAll);

  it('says where it listens and what it exports, once each', async () => {
    const specs = [SOURCE_SINK, `${SOURCE_SINK},short=1000,busid=1-1`, 'virtual:disk,size=1MiB'];
    const gateway = await startGateway(specs);
    await gateway.process.says(/Exporting 1-3/);
    const { stdout, stderr } = await gateway.process.stop();
    assert.deepEqual(stdout.trimEnd().split('\n'), [
      `Listening on 127.0.0.1:${gateway.port}`,
      `Exporting 1-2 ${SOURCE_SINK} (urbgate Source and sink)`,
      `Exporting 1-1 ${SOURCE_SINK},short=1000,busid=1-1 (urbgate Source and sink)`,
      'Exporting 1-3 virtual:disk,size=1MiB (urbgate Virtual Disk)',
    ]);
    assert.equal(stderr, '');
  });

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`ends with 0 on ${signal} and takes its socket away`, async () => {
      const gateway = await startGateway([SOURCE_SINK]);
      assert(existsSync(gateway.control));
      gateway.process.kill(signal);
      assert.equal((await gateway.process.ended).code, 0);
      assert(!existsSync(gateway.control));
    });
  }

  it('says with --demo what to type next', async () => {
    const gateway = await startGateway([], '--demo');
    await gateway.process.says(/Ctrl-C/);
    const { stdout } = await gateway.process.stop();
    assert.match(stdout, /modprobe vhci-hcd/);
    assert.match(
      stdout,
      new RegExp(`usbip --tcp-port ${gateway.port} attach -r 127.0.0.1 -b 1-1 `),
    );
  });

  it('warns of a listener that others can reach, and of no other', async () => {
    const process = new Urbgate(['serve', '--control', 'none', '--listen', '0.0.0.0:0']);
    await process.says(/WARN .*no authentication/);
    assert.equal((await process.stop()).code, 0);
  });

  it('keeps the control socket to its user', async () => {
    const folder = scratchFolder();
    const control = join(folder, 'new', 'control.sock');
    const process = new Urbgate(['serve', '--listen', '127.0.0.1:0', '--control', control]);
    await process.says(/^Listening/m);
    assert.equal(statSync(control).mode & 0o777, 0o600);
    assert.equal(statSync(join(folder, 'new')).mode & 0o777, 0o700);
  });

  it('takes over the socket that a killed gateway has left', async () => {
    const first = await startGateway([]);
    first.process.kill('SIGKILL');
    await first.process.ended;
    assert(existsSync(first.control));
    const second = new Urbgate(['serve', '--listen', '127.0.0.1:0', '--control', first.control]);
    await second.says(/^Listening/m);
    assert.equal((await second.stop()).code, 0);
  });

  it('refuses a second gateway on one control socket, and leaves the first alone', async () => {
    const first = await startGateway([SOURCE_SINK]);
    const second = await first.command('serve', '--listen', '127.0.0.1:0');
    refused(second, `a gateway (pid ${first.process.pid}) already listens on control socket`);
    assert.equal((await first.command('status')).code, 0);
  });

  it('runs beside another gateway with --control none', async () => {
    const first = await startGateway([SOURCE_SINK]);
    const second = new Urbgate(['serve', '--listen', '127.0.0.1:0'], { URBGATE_CONTROL: 'none' });
    await second.says(/^Listening/m);
    assert.equal((await second.stop()).code, 0);
    assert.equal((await first.process.stop()).code, 0);
  });

  it('refuses a port in use, and lets go of what it has', async () => {
    const holder = createServer().listen(0, '127.0.0.1');
    try {
      await once(holder, 'listening');
      const address = holder.address();
      assert(address !== null && typeof address === 'object');
      const control = join(scratchFolder(), 'control.sock');
      const listen = `127.0.0.1:${address.port}`;
      refused(await run(['serve', '--control', control, '--listen', listen]), 'the port is in use');
      assert(!existsSync(control));
    } finally {
      holder.close();
    }
  });

  it('refuses an image that another gateway exports', async () => {
    const first = await startGateway([]);
    const image = join(first.folder, 'a.img');
    writeFileSync(image, Buffer.alloc(1 << 16));
    const spec = `virtual:disk,file=${image}`;
    assert.equal((await first.command('export', spec)).code, 0);
    refused(await serveOne(spec), 'it is locked by another process');
  });

  it('makes no image for a bus id that is taken', async () => {
    const image = join(scratchFolder(), 'a.img');
    const spec = `virtual:disk,size=1MiB,file=${image},busid=1-1`;
    const arguments_ = ['--export', `${SOURCE_SINK},busid=1-1`, '--export', spec];
    const serve = ['serve', '--listen', '127.0.0.1:0', '--control', 'none'];
    refused(await run([...serve, ...arguments_]), 'bus id 1-1 is taken');
    assert(!existsSync(image));
  });

  for (const [spec, reason] of [
    ['virtual:dsik', 'wanted one of disk, keyboard, serial, audio, source-sink'],
    ['usbip:1-1', 'unknown scheme usbip:'],
    ['virtual:source-sink,sort=1', 'unknown option sort, wanted one of short, '],
    ['virtual:source-sink,short=many', 'wanted a whole number such as short=1000'],
    ['virtual:source-sink,busid=first', 'wanted the form 1-1'],
    ['virtual:disk,file=missing.img', 'there is no such file'],
  ] as const) {
    it(`refuses --export ${spec}`, async () => refused(await serveOne(spec), reason));
  }

  for (const [args, reason] of [
    [['--listen', '127.0.0.1:99999'], 'not an address'],
    [['--export'], 'argument missing'],
    [['--no-such'], "unknown option '--no-such'"],
    [['more'], 'too many arguments'],
  ] as const) {
    it(`refuses ${args.join(' ')}`, async () => refused(await run(['serve', ...args]), reason));
  }
});

describe('urbgate', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  afterEach(endAll);

  it('says its version and its commands', async () => {
    assert.match((await run(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
    const { code, stdout } = await run(['--help']);
    assert.equal(code, 0);
    for (const name of ['serve', 'list', 'export', 'unexport', 'kick', 'status']) {
      assert.match(stdout, new RegExp(`^  ${name} `, 'm'));
    }
  });

  for (const command of ['serve', 'list', 'export', 'unexport', 'kick', 'status']) {
    it(`has examples in the help of ${command}`, async () => {
      const { code, stdout } = await run([command, '--help']);
      assert.equal(code, 0);
      assert.match(stdout, new RegExp(`Examples:\n  urbgate ${command}`));
    });
  }

  it('refuses to run without a command, or with an unknown one', async () => {
    refused(await run([]), 'no command given');
    refused(await run(['srve']), "unknown command 'srve' (Did you mean serve?)");
  });
});

describe('bus ids of the command line', () => {
  it('leave those that are asked for', () => {
    const specs = [undefined, '1-2', undefined, '3-1', undefined];
    const given = busIdsFor(specs.map((busId) => ({ busId })));
    assert.deepEqual(given, ['1-1', '1-2', '1-3', '3-1', '1-4']);
  });
});

async function serveOne(spec: string): Promise<Ended> {
  return await run(['serve', '--listen', '127.0.0.1:0', '--control', 'none', '--export', spec]);
}

/** One sentence on stderr, nothing on stdout, exit code 2. */
function refused({ code, stdout, stderr }: Ended, reason: string): void {
  assert(stderr.startsWith('Cannot '), stderr);
  assert(stderr.includes(reason), stderr);
  assert.equal(stderr.split('\n').length, 2, stderr);
  assert.equal(stdout, '');
  assert.equal(code, 2);
}
