/** Who listens on a control socket, and who connects to one, may be anything. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { callGateway } from '../../src/cli/control-client.ts';
import { checkControlPath } from '../../src/cli/control-path.ts';
import type { Controlled } from '../../src/cli/control-protocol.ts';
import { serveControl } from '../../src/cli/control-server.ts';
import { createLog } from '../../src/cli/log.ts';
import { UserError } from '../../src/core/errors.ts';
import { CommandProcess, endAll, PATIENCE_MILLISECONDS, run, scratchFolder } from './urbgate.ts';

const HELLO = { t: 0, d: { id: 'x', compress: false, messagepack: false } };

/** net-ipc's length: seven bits a byte, the highest first, bit 7 in the last. */
function lengthBytes(length: number): Buffer {
  const bytes = [(length % 128) | 128];
  for (let rest = Math.floor(length / 128); rest > 0; rest = Math.floor(rest / 128))
    bytes.unshift(rest % 128);
  return Buffer.from(bytes);
}

function frame(message: unknown): Buffer {
  const bytes = Buffer.from(typeof message === 'string' ? message : JSON.stringify(message));
  return Buffer.concat([lengthBytes(bytes.length), bytes]);
}

const frames = (...messages: unknown[]) => Buffer.concat(messages.map(frame));
const announced = (length: number) => Buffer.concat([lengthBytes(length), Buffer.alloc(100, 1)]);

/** The request's number, which a response repeats. */
function numberIn(sent: Buffer): string {
  return /"n":"(\w+)"/.exec(sent.toString('latin1'))?.[1] ?? '?';
}

const nothing = () => Buffer.alloc(0);

/** Answers each request of a client with what `reply` makes of its number. */
async function listen(path: string, hello: Buffer, reply: (n: string) => Buffer): Promise<Server> {
  const server = createServer((socket) => {
    let sent = Buffer.alloc(0);
    socket.on('error', () => {});
    if (reply === nothing) socket.end(hello);
    else socket.write(hello);
    socket.on('data', (chunk) => {
      sent = Buffer.concat([sent, chunk]);
      if (numberIn(sent) === '?') return;
      socket.end(reply(numberIn(sent)));
    });
  });
  await once(server.listen(path), 'listening');
  return server;
}

const answered = (result: unknown) => (n: string) => frame({ t: 3, n, d: { ok: true, result } });

describe('a hostile server behind a control socket', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  let command: CommandProcess;
  let server: Server | undefined;
  before(() => {
    command = new CommandProcess();
  });
  afterEach(() => server?.close());
  after(endAll);

  const STATUS = { pid: 7, listening: [], exports: [] };
  const ATTACKS: readonly [what: string, hello: Buffer, reply: (n: string) => Buffer][] = [
    ['a message of 2 GiB', announced(2 ** 31), nothing],
    ['a message of 2^62 bytes', announced(2 ** 62), nothing],
    ['an answer of 2 GiB', frames(HELLO), () => announced(2 ** 31)],
    ['an answer of 17 MiB', frames(HELLO), () => announced(17 << 20)],
    ['a length without an end', Buffer.alloc(100_000), nothing],
    ['half a hello', frames(HELLO).subarray(0, 7), nothing],
    ['half an answer', frames(HELLO), (n) => answered(STATUS)(n).subarray(0, 20)],
    ['a hello that is null', frames({ t: 0, d: null }), nothing],
    ['a hello that compresses', frames({ t: 0, d: { compress: true } }), answered(STATUS)],
    ['a hello with messagepack', frames({ t: 0, d: { messagepack: true } }), answered(STATUS)],
    ['no hello', frames({ t: 3, n: 'x', d: 1 }), nothing],
    ['no JSON', frames('{{{'), nothing],
    ['a request of its own', frames(HELLO, { t: 2, n: 'x', d: {} }), nothing],
    ['a ping', frames(HELLO, { t: 4, n: 'x' }), nothing],
    ['an end', frames(HELLO, { t: 6, d: { m: 'x', a: true } }), nothing],
    ['an answer to __proto__', frames(HELLO, { t: 3, n: '__proto__', d: 1 }), nothing],
    ['an answer that is null', frames(HELLO), (n) => frame({ t: 3, n, d: null })],
    ['an answer without a form', frames(HELLO), (n) => frame({ t: 3, n, d: { ok: 1 } })],
    ['a refusal without a word', frames(HELLO), (n) => frame({ t: 3, n, d: { ok: false } })],
    ['a status that is null', frames(HELLO), answered(null)],
    ['a status without exports', frames(HELLO), answered({ pid: 7, listening: [] })],
    ['exports that are none', frames(HELLO), answered({ ...STATUS, exports: [null, 1] })],
    ['a client that is none', frames(HELLO), answered({ ...STATUS, exports: [{ client: 1 }] })],
  ];
  for (const [what, hello, reply] of ATTACKS) {
    it(`that sends ${what} is one sentence to who asks`, async () => {
      const path = join(scratchFolder(), 'control.sock');
      server = await listen(path, hello, reply);
      const { code, stdout, stderr } = await command.run(['status', '--control', path]);
      assert.match(stderr, /^Cannot reach the gateway: \S+ gives .*, wanted an answer\n$/);
      assert.deepEqual([code, stdout], [2, '']);
    });
  }

  it('is one sentence of a whole process, too', async () => {
    const path = join(scratchFolder(), 'control.sock');
    server = await listen(path, announced(2 ** 31), nothing);
    const { code, stderr } = await run(['status', '--control', path]);
    assert.match(stderr, /^Cannot reach the gateway: .* a message of 2147483653 octets, .*\n$/);
    assert.equal(code, 2);
  });

  it('that sends anything is an error to who asks', async () => {
    const path = join(scratchFolder(), 'control.sock');
    let hello = nothing();
    let reply = (_: string) => nothing();
    server = await listen(path, frames(HELLO), (n) => Buffer.concat([hello, reply(n)]));
    const cut = fc.tuple(fc.nat(400), fc.nat(400), fc.uint8Array({ maxLength: 8 }));
    await fc.assert(
      fc.asyncProperty(
        cut,
        fc.uint8Array({ maxLength: 300 }),
        async ([from, count, put], noise) => {
          hello = Buffer.from(noise.subarray(0, noise.length % 7));
          reply = (n) => {
            const whole = answered(STATUS)(n);
            const at = from % whole.length;
            return Buffer.concat([
              whole.subarray(0, at),
              put,
              whole.subarray(at + (count % 20)),
              noise,
            ]);
          };
          const called = callGateway({ path, chosen: true }, { command: 'status' }, 10_000);
          await called.then(
            (status) => assert.equal(typeof status.pid, 'number'),
            (error) => assert(error instanceof UserError, error.stack),
          );
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('hostile clients of a control socket', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  const gateway: Controlled = {
    status: () => ({ pid: 7, listening: ['x'.repeat(50_000)], exports: [] }),
    export: async () => [],
    unexport: async () => {},
    kick: async () => '',
  };
  afterEach(endAll);

  it('that send anything do no harm', async () => {
    const path = join(scratchFolder(), 'control.sock');
    const control = await serveControl(
      { path, chosen: true },
      gateway,
      createLog(false, () => true),
    );
    try {
      const whole = Buffer.concat([
        Buffer.from('IPC'),
        frames({ t: 0, d: {} }, { t: 2, n: 'x', d: { command: 'status' } }),
      ]);
      const cut = fc.tuple(fc.nat(whole.length), fc.nat(20), fc.uint8Array({ maxLength: 20 }));
      await fc.assert(
        fc.asyncProperty(cut, fc.boolean(), async ([at, count, put], inPieces) => {
          const bytes = Buffer.concat([whole.subarray(0, at), put, whole.subarray(at + count)]);
          const socket = connect(path);
          socket.on('error', () => {});
          const closed = once(socket.resume(), 'close');
          if (inPieces) {
            socket.write(bytes.subarray(0, at));
            await new Promise((resolve) => setImmediate(resolve));
            socket.end(bytes.subarray(at));
          } else socket.end(bytes);
          await closed;
        }),
        { numRuns: 300 },
      );
      const { pid } = await callGateway({ path, chosen: true }, { command: 'status' }, 10_000);
      assert.equal(pid, 7);
    } finally {
      control.close();
    }
  });

  it('that read no answers are cut off', async () => {
    const path = join(scratchFolder(), 'control.sock');
    const control = await serveControl(
      { path, chosen: true },
      gateway,
      createLog(false, () => true),
    );
    const socket: Socket = connect(path);
    try {
      let sent = 0;
      const gone = new Promise<void>((resolve) => socket.once('error', () => resolve()));
      socket.write(Buffer.concat([Buffer.from('IPC'), frames({ t: 0, d: {} })]));
      const request = frames({ t: 2, n: 'x', d: { command: 'status' } });
      const send = () => {
        // Each is answered with 50 kB: 200 MB, if all were.
        for (let n = 0; n < 100 && sent < 4000; n++, sent++) socket.write(request);
        if (!socket.destroyed && sent < 4000) setImmediate(send);
      };
      socket.pause();
      send();
      await gone;
    } finally {
      socket.destroy();
      control.close();
    }
  });
});

describe('a control socket that another user may have made', () => {
  afterEach(endAll);
  const isRoot = process.getuid?.() === 0;
  const OTHER_USER = 54_321;
  const check = (path: string, chosen: boolean) =>
    checkControlPath({ path, chosen }, 'Cannot reach the gateway');

  it('is trusted in a folder of its user alone', () => {
    const folder = scratchFolder();
    check(join(folder, 'control.sock'), false);
    check(join(folder, 'absent', 'control.sock'), false);
  });

  it('is not in a folder that others can write to, unless chosen', () => {
    const folder = scratchFolder();
    for (const mode of [0o777, 0o720, 0o702]) {
      chmodSync(folder, mode);
      assert.throws(() => check(join(folder, 'control.sock'), false), /^UserError: Cannot reach /);
      check(join(folder, 'control.sock'), true);
    }
  });

  it('is not behind a link', () => {
    const folder = scratchFolder();
    mkdirSync(join(folder, 'real'), { mode: 0o700 });
    symlinkSync('real', join(folder, 'link'));
    check(join(folder, 'real', 'control.sock'), false);
    assert.throws(() => check(join(folder, 'link', 'control.sock'), false), UserError);
  });

  it('is not in a folder of another user', function () {
    if (!isRoot) this.skip();
    const folder = scratchFolder();
    chownSync(folder, OTHER_USER, OTHER_USER);
    assert.throws(() => check(join(folder, 'control.sock'), false), UserError);
  });

  it('is not if it belongs to another user, chosen or not', async function () {
    if (!isRoot) this.skip();
    const path = join(scratchFolder(), 'control.sock');
    const server = await listen(path, Buffer.alloc(0), nothing);
    try {
      check(path, true);
      chownSync(path, OTHER_USER, OTHER_USER);
      for (const chosen of [true, false])
        assert.throws(() => check(path, chosen), /is of user 54321, wanted a socket of this user/);
      const { code, stderr } = await run(['status', '--control', path]);
      assert.match(stderr, /is of user 54321/);
      assert.equal(code, 2);
    } finally {
      server.close();
    }
  });

  it('is nowhere if its path is too long or a file', async () => {
    const folder = scratchFolder();
    assert.throws(() => check(join(folder, 'x'.repeat(100)), true), /octets, wanted at most/);
    writeFileSync(join(folder, 'file'), '');
    const where = { path: join(folder, 'file'), chosen: true };
    await assert.rejects(callGateway(where, { command: 'status' }, 1000), /nothing listens on/);
  });
});
