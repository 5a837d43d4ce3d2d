/** The commands that talk to a running gateway, as child processes. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { GatewayStatus } from '../../src/cli/gateway.ts';
import { ImportRequest, OPERATION, OpCommon, VERSION } from '../../src/usbip/protocol.ts';
import {
  endAll,
  PATIENCE_MILLISECONDS,
  run,
  scratchFolder,
  startGateway,
  type TestGateway,
} from './urbgate.ts';

describe('urbgate status, export, unexport', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  afterEach(endAll);

  async function statusOf(gateway: TestGateway): Promise<GatewayStatus> {
    return JSON.parse((await gateway.command('status', '--json')).stdout);
  }

  it('export, show and take back a device', async () => {
    const gateway = await startGateway(['virtual:source-sink']);
    const exported = await gateway.command('export', 'virtual:disk,size=1MiB,busid=3-1');
    assert.equal(
      exported.stdout,
      'Exporting 3-1 virtual:disk,size=1MiB,busid=3-1 (urbgate Virtual Disk)\n',
    );
    const status = await statusOf(gateway);
    assert.equal(status.pid, gateway.process.pid);
    assert.deepEqual(status.listening, [`127.0.0.1:${gateway.port}`]);
    assert.deepEqual(status.exports[0], {
      busId: '1-1',
      spec: 'virtual:source-sink',
      deviceId: '0525:a4a0',
      speed: 'high',
      label: 'urbgate Source and sink',
      client: null,
      fault: null,
      total: { urbs: 0, errors: 0 },
    });
    assert.equal((await gateway.command('unexport', '1-1')).stdout, 'Unexported 1-1\n');
    const after = (await gateway.command('status')).stdout;
    assert.match(after, /^3-1 .*Virtual Disk$/m);
    assert.doesNotMatch(after, /^1-1/m);
  });

  /** A client that has 1-1. */
  async function attached(port: number): Promise<Socket> {
    const client = connect(port, '127.0.0.1');
    client.write(
      Buffer.concat([
        OpCommon.write({ version: VERSION, code: OPERATION.requestImport, status: 0 }),
        ImportRequest.write({ busId: '1-1' }),
      ]),
    );
    const [reply] = await once(client, 'data');
    assert.equal(reply.readUInt32BE(4), 0);
    return client;
  }

  it('kick sends the client away, and another one may have the device at once', async () => {
    const gateway = await startGateway(['virtual:source-sink']);
    const client = await attached(gateway.port);
    const { localPort } = client;
    const closed = once(client.resume(), 'end');
    const { stdout } = await gateway.command('kick', '1-1');
    assert.equal(stdout, `Took 1-1 from 127.0.0.1:${localPort}\n`);
    await closed;
    client.destroy();
    await gateway.process.says(/INFO .*1-1 was taken from 127\.0\.0\.1:/);
    const next = await attached(gateway.port);
    next.destroy();
  });

  it('shows the client of a device, whom unexport sends away', async () => {
    const gateway = await startGateway(['virtual:source-sink']);
    const client = await attached(gateway.port);
    try {
      const [{ client: shown } = assert.fail('nothing is exported')] = (await statusOf(gateway))
        .exports;
      assert.equal(shown?.peer, `127.0.0.1:${client.localPort}`);
      assert.equal(shown.outstanding, 0);
      assert(Date.parse(shown.since) <= Date.now());
      assert.match((await gateway.command('status')).stdout, /attached by 127\.0\.0\.1:/);
      const closed = once(client.resume(), 'end');
      assert.equal((await gateway.command('unexport', '1-1')).code, 0);
      await closed;
      await gateway.process.says(/INFO .*attached 1-1/);
      await gateway.process.says(/INFO .*released 1-1 after 0 URBs/);
    } finally {
      client.destroy();
    }
  });

  it('takes relative paths from where export is run, not from the gateway', async () => {
    const gateway = await startGateway([]);
    const args = ['export', 'virtual:disk,size=64KiB,file=new.img', '--control', gateway.control];
    const exported = await run(args, {}, gateway.folder);
    assert.equal(exported.code, 0, exported.stderr);
    assert(existsSync(join(gateway.folder, 'new.img')));
  });

  it('say in one sentence what the gateway refuses', async () => {
    const gateway = await startGateway(['virtual:source-sink']);
    for (const [args, reason] of [
      [['unexport', '9-9'], 'Cannot unexport 9-9: it is not exported, exported is 1-1\n'],
      [['kick', '9-9'], 'Cannot kick 9-9: it is not exported, exported is 1-1\n'],
      [['kick', '1-1'], 'Cannot kick 1-1: no client has it, see urbgate status\n'],
      [['export', 'virtual:disk,file=/no/such.img'], 'there is no such file'],
      [['export', 'virtual:source-sink,busid=1-1'], 'bus id 1-1 is taken'],
      [['export', 'nonsense'], 'not a SPEC'],
      [['export'], "missing required argument 'spec'"],
    ] as const) {
      const { code, stdout, stderr } = await gateway.command(...args);
      assert.equal(code, 2, args.join(' '));
      assert.equal(stdout, '');
      assert(stderr.startsWith('Cannot ') && stderr.includes(reason), stderr);
    }
    assert.equal((await statusOf(gateway)).exports.length, 1);
  });

  it('say where no gateway is', async () => {
    const control = join(scratchFolder(), 'control.sock');
    for (const args of [['status'], ['unexport', '1-1'], ['export', 'virtual:source-sink']]) {
      const { code, stderr } = await run(args, { URBGATE_CONTROL: control });
      assert.equal(code, 2);
      assert.equal(
        stderr,
        `Cannot reach the gateway: nothing listens on ${control}, start one with urbgate serve\n`,
      );
    }
    assert.equal((await run(['status', '--control', 'none'])).code, 2);
  });
});
