/** The control socket in this process, and clients that do not keep to the protocol. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { callGateway, NobodyListens } from '../../src/cli/control-client.ts';
import { controlPath, prepareControlPath } from '../../src/cli/control-path.ts';
import { answer, type Controlled } from '../../src/cli/control-protocol.ts';
import { type ControlServer, serveControl } from '../../src/cli/control-server.ts';
import { createLog } from '../../src/cli/log.ts';
import { UserError } from '../../src/core/errors.ts';
import { endAll, scratchFolder } from './urbgate.ts';

const EIGHT = [1, 0, 0, 0, 0, 0, 0, 0] as const;

const HELLO = { t: 0, d: {} };
const REQUEST = { t: 2, n: 'x', d: { command: 'status' } };
const STATUS = { pid: 7, listening: [], exports: [] };

const gateway: Controlled = {
  status: () => STATUS,
  export: async () => {
    throw new Error('out of order');
  },
  unexport: async (busId) => {
    throw new UserError(`Cannot unexport ${busId}: no`);
  },
  kick: async () => 'somebody',
};

const silent = createLog(false, () => true);

describe('control requests', () => {
  it('are answered with a result', async () => {
    assert.deepEqual(await answer(gateway, { command: 'status' }), { ok: true, result: STATUS });
  });

  it('say whose fault an error is', async () => {
    const request = { command: 'unexport', busId: '1-1' };
    const refusal = { ok: false, message: 'Cannot unexport 1-1: no', user: true };
    assert.deepEqual(await answer(gateway, request), refusal);
    const bug = await answer(gateway, { command: 'export', spec: 'x', folder: '/' });
    assert.deepEqual(bug, { ok: false, message: 'out of order', user: false });
  });

  for (const request of [
    undefined,
    null,
    1,
    'status',
    [],
    {},
    { command: 'toString' },
    { command: 'unexport' },
    { command: 'unexport', busId: 1 },
    { command: 'kick' },
    { command: 'export', spec: 'x' },
    { command: 'export', spec: 'x', folder: 'relative' },
    { command: 'export', spec: {}, folder: '/' },
  ]) {
    it(`are refused if they are ${JSON.stringify(request)}`, async () => {
      const answered = await answer(gateway, request);
      assert(!answered.ok && answered.user && answered.message.startsWith('Cannot answer'));
    });
  }
});

describe('control socket', () => {
  let path = '';
  let server: ControlServer | undefined;

  beforeEach(async () => {
    path = join(scratchFolder(), 'control.sock');
    server = await serveControl({ path, chosen: true }, gateway, silent);
  });

  afterEach(() => {
    server?.close();
    endAll();
  });

  const status = () => callGateway({ path, chosen: true }, { command: 'status' }, 5000);

  it('answers', async () => {
    assert.deepEqual(await status(), STATUS);
    await assert.rejects(
      callGateway({ path, chosen: true }, { command: 'unexport', busId: '1-1' }, 5000),
      UserError,
    );
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it('is gone once closed', async () => {
    server?.close();
    await assert.rejects(status(), NobodyListens);
    assert(!existsSync(path));
  });

  it('is not taken from a gateway that answers', async () => {
    const again = serveControl({ path, chosen: true }, gateway, silent);
    await assert.rejects(again, /^UserError: Cannot serve: a gateway \(pid 7\) already listens/);
    assert.deepEqual(await status(), STATUS);
  });

  for (const [what, octets] of [
    ['another protocol', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    [
      'a message of 32 MiB',
      Buffer.concat([Buffer.from('IPC'), Buffer.of(16, 0, 0, 0x80, 1, 2, 3)]),
    ],
    ['a message of 2^62 octets', Buffer.concat([Buffer.from('IPC'), Buffer.of(...EIGHT, 0x80, 1)])],
    ['a request before its hello', frames(REQUEST)],
    ['a hello that asks for compression', frames({ t: 0, d: { compress: true } })],
    ['a second hello', frames(HELLO, { t: 0, d: { messagepack: true } })],
    ['a ping', frames(HELLO, { t: 4, n: 'x' })],
    ['a request without a name', frames(HELLO, { t: 2, d: { command: 'status' } })],
    ['null', frames(HELLO, null)],
    ['a list', frames(HELLO, [])],
    ['a request with something behind it', frames(HELLO, REQUEST, {})],
    ['no JSON', Buffer.concat([Buffer.from('IPC'), Buffer.of(0x83), Buffer.from('{{{')])],
  ] as const) {
    it(`closes the connection on ${what}`, async () => {
      const socket = connect(path);
      const closed = once(socket.resume(), 'close');
      socket.on('error', () => {});
      socket.write(octets);
      await closed;
      assert.deepEqual(await status(), STATUS);
    });
  }

  it('does not wait for a gateway that hangs', async () => {
    const hanging = join(scratchFolder(), 'control.sock');
    const listener = createServer().listen(hanging);
    try {
      await once(listener, 'listening');
      const called = callGateway({ path: hanging, chosen: true }, { command: 'status' }, 100);
      await assert.rejects(called, /^UserError: Cannot reach the gateway: .* gives no answer/);
    } finally {
      listener.close();
    }
  });
});

/** net-ipc's length: seven bits an octet, the highest first, bit 7 in the last. */
function tag(length: number): Buffer {
  const octets = [(length & 127) | 128];
  for (let rest = length >> 7; rest > 0; rest >>= 7) octets.unshift(rest & 127);
  return Buffer.from(octets);
}

function frames(...messages: unknown[]): Buffer {
  const each = messages.map((message) => {
    const octets = Buffer.from(JSON.stringify(message));
    return Buffer.concat([tag(octets.length), octets]);
  });
  return Buffer.concat([Buffer.from('IPC'), ...each]);
}

describe('path of the control socket', () => {
  afterEach(endAll);

  for (const [option, environment, uid, path, chosen] of [
    ['/a/b', { URBGATE_CONTROL: '/c' }, 1000, '/a/b', true],
    [undefined, { URBGATE_CONTROL: '/c' }, 1000, '/c', true],
    [
      undefined,
      { XDG_RUNTIME_DIR: '/run/user/1000' },
      1000,
      '/run/user/1000/urbgate/control.sock',
      false,
    ],
    [
      undefined,
      { URBGATE_CONTROL: '', XDG_RUNTIME_DIR: '/x' },
      1000,
      '/x/urbgate/control.sock',
      false,
    ],
  ] as const) {
    it(`is ${path} for ${option} and ${JSON.stringify(environment)}`, () => {
      assert.deepEqual(controlPath(option, { environment, uid }), { path, chosen });
    });
  }

  it('is for root and for a user without a session where only they can write', function () {
    if (process.platform !== 'linux') this.skip();
    const path = (uid: number) => controlPath(undefined, { environment: {}, uid })?.path ?? '';
    assert.equal(path(0), '/run/urbgate/control.sock');
    assert.match(path(1000), /\/urbgate-1000\/control\.sock$/);
  });

  it('may be none', () => {
    assert.equal(controlPath('none', { environment: {}, uid: 0 }), null);
    assert.equal(
      controlPath(undefined, { environment: { URBGATE_CONTROL: 'none' }, uid: 0 }),
      null,
    );
  });

  it('makes a folder for its user only', () => {
    const folder = join(scratchFolder(), 'a');
    prepareControlPath({ path: join(folder, 'control.sock'), chosen: false });
    assert.equal(statSync(folder).mode & 0o777, 0o700);
  });

  it('is refused in a folder where others can write, unless chosen', () => {
    const folder = scratchFolder();
    const path = join(folder, 'control.sock');
    chmodSync(folder, 0o777);
    assert.throws(() => prepareControlPath({ path, chosen: false }), UserError);
    prepareControlPath({ path, chosen: true });
  });

  it('is refused behind a link that another may have laid', () => {
    const folder = scratchFolder();
    mkdirSync(join(folder, 'real'), { mode: 0o700 });
    symlinkSync('real', join(folder, 'link'));
    const path = join(folder, 'link', 'control.sock');
    assert.throws(() => prepareControlPath({ path, chosen: false }), UserError);
  });

  it('is refused where a file is in the way, which stays', () => {
    const path = join(scratchFolder(), 'file');
    writeFileSync(path, 'precious');
    assert.throws(() => prepareControlPath({ path, chosen: true }), /no socket/);
    assert(existsSync(path));
    const below = join(path, 'control.sock');
    assert.throws(() => prepareControlPath({ path: below, chosen: true }), UserError);
  });

  it('is refused if it is too long for a socket', () => {
    const path = `/tmp/${'x'.repeat(103)}`;
    assert.throws(() => prepareControlPath({ path, chosen: true }), /108 octets, at most/);
  });
});
