import { strict as assert } from 'node:assert';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { requestOf } from '../../src/cli/attach.ts';
import { readSaved, save, savedLines } from '../../src/cli/attach-file.ts';
import { type AttachRequest, parseSupervisorRequest } from '../../src/cli/attach-protocol.ts';
import { portLines, portsInUse } from '../../src/cli/port.ts';
import { Supervisor } from '../../src/cli/supervisor.ts';
import { serialKind } from '../../src/core/devices/virtual/serial/kind.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { FakeVhci } from '../usbip/fake-vhci.ts';

const HOST = '127.0.0.1';

describe('supervisor of attachments', function () {
  this.timeout(60_000);
  let server: UsbipServer;
  let address: ListenAddress;
  let vhci: FakeVhci;
  let supervisor: Supervisor;

  async function serve(port: number): Promise<void> {
    const registry = new Registry();
    registry.add(new VirtualDevice(sourceSink.define({} as never)), 'source-sink');
    registry.add(new VirtualDevice(serialKind.define({})), 'serial');
    server = new UsbipServer({ registry, log: { info: () => {}, warn: () => {} } });
    address = await server.listen({ host: HOST, port });
  }

  beforeEach(async () => {
    await serve(0);
    vhci = new FakeVhci();
    supervisor = new Supervisor(vhci, pino({ level: 'silent' }));
  });

  afterEach(async () => {
    await supervisor.close();
    await server.close();
    vhci.remove();
  });

  const request = (fields: Partial<AttachRequest> = {}): AttachRequest => ({
    command: 'attach',
    server: address,
    ...('device' in fields ? {} : { busId: '1-1' }),
    wait: false,
    persist: false,
    direct: false,
    ...fields,
  });

  async function until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const first = () => supervisor.status().attachments[0];

  it('attaches, shows, and detaches by port', async () => {
    const status = await supervisor.attach(request());
    assert.deepEqual([status.port, status.phase, status.busId], [0, 'attached', '1-1']);
    assert.equal(status.server, `${HOST}:${address.port}`);
    assert.equal(status.stallProtocol, true);
    const second = await supervisor.attach(request({ busId: '1-2' }));
    assert.equal(second.port, 1);
    assert.deepEqual(await supervisor.detach('0'), ['port 0']);
    assert.equal(supervisor.attachmentCount, 1);
    assert.equal(vhci.recorded(0), undefined);
    await assert.rejects(supervisor.detach('0'), /nothing is attached there/);
  });

  it('leaves the files that stock usbip reads', async () => {
    await supervisor.attach(request());
    const line = readFileSync(join(vhci.folder, 'state', 'port0'), 'utf8');
    assert.equal(line, `${HOST} ${address.port} 1-1\n`);
    const lines = portLines({ ...supervisor.status(), ports: portsInUse(vhci) });
    assert.match(lines[0] ?? '', new RegExp(`^ {2}0 {2}3-1 {2}${HOST}:${address.port}/1-1$`));
    assert.match(lines[1] ?? '', /a1, stall protocol, since/);
  });

  it('says why it cannot', async () => {
    await assert.rejects(supervisor.attach(request({ busId: '9-9' })), /does not export it/);
    await supervisor.attach(request());
    await assert.rejects(supervisor.attach(request()), /another client has it/);
    assert.equal(supervisor.attachmentCount, 1);
  });

  it('finds a device by what it is', async () => {
    const status = await supervisor.attach(request({ device: '0525:a4a0' }));
    assert.equal(status.busId, '1-1');
    await assert.rejects(supervisor.attach(request({ device: 'ffff:0001' })), /no such device/);
  });

  it('finds a device by its serial number', async () => {
    await assert.rejects(
      supervisor.attach(request({ device: '0525:a4a0:nobody' })),
      /no such device/,
    );
    const status = await supervisor.attach(request({ device: '0525:a4a0:0001' }));
    assert.equal(status.busId, '1-1');
  });

  it('ends when the server goes, unless it is to persist', async () => {
    await supervisor.attach(request());
    await server.close();
    await until(() => supervisor.attachmentCount === 0);
  });

  it('waits for a server that is not there, and can be stopped meanwhile', async () => {
    await server.close();
    const status = await supervisor.attach(request({ wait: true }));
    assert.equal(status.phase, 'waiting');
    assert.match(status.why ?? '', /ECONNREFUSED/);
    assert.deepEqual(await supervisor.detach(status.id), ['a1']);
    const again = await supervisor.attach(request({ wait: true }));
    assert.equal(again.id, 'a2');
    await serve(address.port);
    await until(() => first()?.phase === 'attached');
  });

  it('comes back to the same port when the server does', async () => {
    await supervisor.attach(request({ busId: '1-2' }));
    await supervisor.attach(request({ persist: true }));
    await supervisor.detach('0');
    for (let round = 1; round <= 3; round++) {
      await server.close();
      await until(() => first()?.phase === 'waiting');
      assert.equal(first()?.port, null);
      await serve(address.port);
      await until(() => first()?.phase === 'attached');
      assert.deepEqual([first()?.port, first()?.attachedCount], [1, round + 1]);
    }
  });

  it('does not come back when somebody has detached it', async () => {
    await supervisor.attach(request({ persist: true }));
    vhci.detach(0);
    await until(() => supervisor.attachmentCount === 0);
  });

  it('tells when it has nothing to do', async () => {
    const idle = new Promise<void>((resolve) => {
      supervisor.onIdle = resolve;
    });
    await supervisor.attach(request());
    await supervisor.detach('all');
    await idle;
  });

  it('answers requests, and refuses what is none', async () => {
    const { ok } = await supervisor.answer(request());
    assert(ok);
    const answer = await supervisor.answer({ command: 'detach', target: 'all' });
    assert.deepEqual(answer, { ok: true, result: ['port 0'] });
    for (const wrong of [
      null,
      {},
      { command: 'x' },
      { command: 'detach' },
      { command: 'attach' },
      { command: 'attach', server: { host: HOST, port: 1 } },
      { command: 'attach', server: { host: HOST, port: 1 }, device: 'x' },
    ]) {
      assert.throws(() => parseSupervisorRequest(wrong), { name: 'UserError' });
    }
  });
});

describe('urbgate attach, its arguments', () => {
  it('wants a server, and a bus id or what the device is', () => {
    const wanted = { wait: false, persist: false, direct: false };
    assert.deepEqual(requestOf({ remote: 'h:1', busid: '1-1' }), {
      command: 'attach',
      server: { host: 'h', port: 1 },
      busId: '1-1',
      ...wanted,
    });
    assert.equal(requestOf({ remote: 'h', device: '0525:a4a0', wait: true }).wait, true);
    assert.throws(() => requestOf({ busid: '1-1' }), /no server/);
    assert.throws(() => requestOf({ remote: 'h' }), /one of -b BUSID and -d/);
    assert.throws(() => requestOf({ remote: 'h', busid: '1-1', device: '1:1' }), /one of/);
    assert.throws(() => requestOf({ remote: 'h', device: 'printer' }), /wanted VVVV:PPPP/);
  });

  it('are kept in a file', () => {
    const folder = mkdtempSync(join(tmpdir(), 'urbgate-attachments-'));
    const path = join(folder, 'deep', 'attachments');
    const request = requestOf({ remote: 'h', busid: '1-1', persist: true });
    save(path, request);
    save(path, request);
    save(path, requestOf({ remote: '[::1]:3', device: '0525:a4a0:7', direct: true }));
    assert.deepEqual(readSaved(path), [
      ['-r', 'h:3240', '-b', '1-1'],
      ['-r', '[::1]:3', '-d', '0525:a4a0:7', '--direct'],
    ]);
    writeFileSync(path, '# nothing\n\n  -r a -b 1-1 # why\n');
    assert.deepEqual(readSaved(path), [['-r', 'a', '-b', '1-1']]);
    assert.deepEqual(savedLines(''), []);
    assert.throws(() => readSaved(join(folder, 'none')), /Cannot read saved attachments/);
    rmSync(folder, { recursive: true });
  });
});
