/** Tests of the lab itself: if these fail, no other interop test means anything. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { bootGuest, GATEWAY_ADDRESS, type Guest } from './lab/guest.ts';
import { exportByKernel } from './lab/kernel-stub.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import * as usbip from './lab/usbip.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';

/** Generous, as the host may be busy: a boot takes 3 s on an idle one. */
const BOOT_SECONDS_MAX = 30;

/** An echo server on the host's loopback that records its connections. */
class EchoServer {
  readonly sockets = new Set<Socket>();
  readonly server: Server;
  #changed: () => void = () => {};

  constructor() {
    this.server = createServer({ allowHalfOpen: true }, (socket) => {
      this.sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.sockets.delete(socket);
        this.#changed();
      });
      socket.pipe(socket);
      this.#changed();
    });
  }

  async listen(): Promise<number> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return (this.server.address() as AddressInfo).port;
  }

  /** Waits for a number of open connections. */
  async connections(wanted: number, timeoutSeconds: number): Promise<void> {
    const end = performance.now() + timeoutSeconds * 1000;
    while (this.sockets.size !== wanted) {
      const left = end - performance.now();
      assert(left > 0, `Cannot count ${wanted} connections: there are ${this.sockets.size}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}

/** A line of bash that opens a connection to the forwarded port as descriptor 3. */
const CONNECT = `exec 3<>/dev/tcp/${GATEWAY_ADDRESS}/3240`;

describe('A lab guest', function () {
  this.timeout(120_000);

  let guest: Guest;
  before(async () => {
    guest = await sharedGuest();
  });

  it('boots within seconds', () => {
    console.log(`      booted in ${guest.bootSeconds.toFixed(1)} s`);
    assert(guest.bootSeconds < BOOT_SECONDS_MAX);
  });

  it('runs a command and reports its output and exit code', async () => {
    const result = await guest.run('echo out; echo err >&2; exit 7');
    assert.deepEqual(result, { code: 7, stdout: 'out\n', stderr: 'err\n' });
  });

  it('passes binary input and output unchanged', async () => {
    const input = Buffer.alloc(3_000_000, 'line of text\n');
    const result = await guest.run('sha256sum; cat /dev/null', { input });
    const { createHash } = await import('node:crypto');
    assert.equal(result.stdout.slice(0, 64), createHash('sha256').update(input).digest('hex'));
    const { stdout } = await guest.run('head -c 2000000 /dev/zero | tr "\\0" x', {});
    assert.equal(stdout, 'x'.repeat(2_000_000));
  });

  it('runs commands side by side', async () => {
    const numbers = [...Array(20).keys()];
    const results = await Promise.all(numbers.map((n) => guest.run(`sleep 1; echo ${n}`)));
    assert.deepEqual(
      results.map(({ stdout }) => Number(stdout)),
      numbers,
    );
  });

  it('ends a command that takes too long, and its children', async () => {
    await assert.rejects(
      guest.run('sleep 4711 & sleep 4711', { timeoutSeconds: 1 }),
      /^Error: Cannot run sleep 4711.*: no end within 1 s/,
    );
    assert.equal((await guest.run('pgrep -fx "sleep 4711"')).code, 1);
  });

  it('talks with a command while it runs', async () => {
    const process = guest.start('while read line; do echo "got $line"; done');
    process.write('one\n');
    await process.printed(/got one/);
    process.end('two\n');
    assert.equal((await process.result(10)).stdout, 'got one\ngot two\n');
  });

  it('stands still while it is paused', async () => {
    const process = guest.start('sleep 0.5; echo done');
    guest.pause();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const printed = process.stdout;
    guest.resume();
    await process.result(10);
    assert.deepEqual([printed, process.stdout], ['', 'done\n']);
  });

  it('has the node of the host', async () => {
    const printed = await guest.succeed("node -p 'process.version'");
    assert.equal(printed.trim(), process.version);
  });

  it('has the stock usbip client and a virtual host controller', async () => {
    await usbip.loadVhci(guest);
    assert.deepEqual(await usbip.ports(guest), []);
    assert.match(await guest.succeed('usbip version'), /usbip/);
  });

  it('keeps the log of its kernel on the host', async () => {
    await guest.succeed("echo '<4>lab: a line of its own' > /dev/kmsg");
    await guest.succeed('true');
    assert.match(guest.kernelLog(), /<4>\[[\d.]+\] lab: a line of its own/);
    assert.deepEqual(guest.kernelComplaints(), []);
  });
});

describe('The way from a guest to the host', function () {
  this.timeout(120_000);

  let guest: Guest;
  let echo: EchoServer;
  before(async () => {
    guest = await sharedGuest();
  });
  beforeEach(async () => {
    echo = new EchoServer();
    guest.forward(await echo.listen());
  });
  afterEach(() => echo.close());

  it('serves a hundred connections one after another', async () => {
    const script = `set -e
for i in $(seq 100); do
  ${CONNECT}
  echo "$i" >&3
  read -r answer <&3
  [ "$answer" = "$i" ]
  exec 3>&-
done`;
    const before = performance.now();
    await guest.succeed(`bash -c '${script}'`, { timeoutSeconds: 60 });
    const milliseconds = (performance.now() - before) / 100;
    console.log(`      ${milliseconds.toFixed(1)} ms for a connection, a line and its echo`);
    await echo.connections(0, 5);
  });

  it('serves 32 connections at once', async () => {
    const script = `for i in $(seq 32); do
  ( ${CONNECT}; echo "$i" >&3; read -r answer <&3; echo "$answer"; read -r go <&3 ) &
done
wait`;
    const clients = guest.start(`bash -c '${script}'`);
    const [answers] = await clients.printed(/(\d+\n){32}/, 30);
    assert.equal(new Set(answers.trim().split('\n')).size, 32);
    assert.equal(echo.sockets.size, 32);
    for (const socket of echo.sockets) socket.end('go\n');
    await clients.result(20);
    await echo.connections(0, 5);
  });

  it('carries a half-closed connection both ways', async () => {
    // The server answers after the end of what it is sent, on the half that is still open.
    const end = "require('net').connect({host:'10.0.2.100',port:3240,allowHalfOpen:true})";
    const script = `const s=${end}; s.end('last words'); s.pipe(process.stdout)`;
    assert.equal(await guest.succeed(`node -e "${script}"`), 'last words');
    await echo.connections(0, 5);
  });

  it('tells the guest when the host closes', async () => {
    const client = guest.start(`bash -c '${CONNECT}; cat <&3; echo closed'`);
    await echo.connections(1, 10);
    for (const socket of echo.sockets) socket.resetAndDestroy();
    await client.printed(/closed/, 5);
  });

  it('leads nowhere else', async () => {
    const { port } = echo.server.address() as AddressInfo;
    const { code } = await guest.run(`timeout 2 bash -c "exec 3<>/dev/tcp/10.0.2.2/${port}"`);
    assert.notEqual(code, 0);
    assert.equal(echo.sockets.size, 0);
  });

  it('refuses by closing when nothing listens', async () => {
    echo.close();
    const { stdout } = await guest.run(`bash -c '${CONNECT}; cat <&3; echo closed'`);
    assert.equal(stdout, 'closed\n');
  });

  it('tells the host when the guest is killed', async () => {
    const doomed = await bootGuest({ name: 'doomed', memoryMebibytes: 512 });
    doomed.forward((echo.server.address() as AddressInfo).port);
    const client = doomed.start(`bash -c '${CONNECT}; echo open >&3; cat <&3'`);
    await client.printed(/open/);
    const lost = assert.rejects(client.result(30), /Cannot run .* in doomed: the guest has ended/);
    await doomed.kill();
    await lost;
    await echo.connections(0, 5);
    assert.equal(doomed.alive, false);
    assert.throws(() => doomed.start('true'), /Cannot start true in doomed: the guest has ended/);
  });
});

describe('The stock client in a guest', function () {
  this.timeout(120_000);

  it('lists, attaches and detaches a device of the kernel, and notices its end', async () => {
    const guest = await bootGuest({ name: 'client' });
    try {
      await usbip.loadVhci(guest);
      const gadget = await sourceSinkGadget(guest);
      const server = await exportByKernel(guest, gadget);
      assert.deepEqual(await usbip.list(guest, server), [
        { busid: gadget.busid, vendorId: '0525', productId: 'a4a0' },
      ]);
      const attached = await usbip.attach(guest, gadget.busid, server);
      assert.deepEqual(
        (await usbip.ports(guest)).map(({ port, state }) => ({ port, state })),
        [{ port: attached.port, state: 'used' }],
      );
      await assert.rejects(usbip.attach(guest, gadget.busid, server), /Cannot attach .*busy/is);
      await usbip.detach(guest, attached.port);
      const again = await usbip.attach(guest, gadget.busid, server);
      await gadget.remove();
      await usbip.waitFree(guest, [again.port]);
    } finally {
      await guest.powerOff();
    }
  });
});
