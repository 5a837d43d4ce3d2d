/** The kernel's cdc_acm driver talks through an urbgate serial port: to its echo, and to TCP. */
import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { startGateway } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { until } from './lab/until.ts';
import { type AttachedDevice, attach, detachAll, loadVhci } from './lab/usbip.ts';

/** Around a packet of 512 octets, which is where a transfer may end or not. */
const SIZES = [1, 511, 512, 513, 1024, 1536, 2047, 2048];

/** Octets whose every word tells its place, so that a loss, a repetition or an exchange shows. */
function numbered(octets: number): Buffer {
  const words = Buffer.alloc(octets);
  for (let at = 0; at < octets; at += 4) words.writeUInt32BE(at + 0x0a0d1103, at); // and ^C ^Q \r \n
  return words;
}

const hashOf = (octets: Uint8Array) => createHash('sha256').update(octets).digest('hex');

/** Waits for the tty of an attached port. @returns its path in the guest */
async function ttyOf(guest: Guest, { sysfs }: AttachedDevice): Promise<string> {
  const name = await guest.succeed(
    `for try in $(seq 200); do
       tty=$(ls ${sysfs}/*/tty 2>/dev/null) && [ -c /dev/$tty ] && echo $tty && exit 0
       sleep 0.1
     done
     echo "no tty under ${sysfs}" >&2; exit 1`,
  );
  return `/dev/${name.trim()}`;
}

/**
 * Opens the tty in raw mode as descriptor 3, runs the script and closes it. `exchange NAME` sends
 * /run/NAME and takes as many octets; they must be the same.
 *
 * All of it is in a child of the shell: the shell leads a session, and a tty that it opened would
 * become its terminal, with signals for whoever reads in the background.
 */
function withTty(tty: string, script: string): string {
  return `exchange() {
  octets=$(stat -c %s /run/$1)
  timeout --foreground 150 head -c $octets <&3 > /run/$1.back &
  timeout --foreground 150 cat /run/$1 >&3
  wait $!
  cmp /run/$1 /run/$1.back && return
  echo "$(stat -c %s /run/$1.back) of $octets octets are back" >&2
  exit 1
}
(
exec 3<>${tty} || exit 1
stty raw -echo <&3
${script}
)
exit $?`;
}

/** A server on the host's loopback that sends back what it gets. */
class Peer {
  port = 0;
  /** Connections ever made. */
  connections = 0;
  readonly open = new Set<Socket>();
  readonly received = createHash('sha256');
  receivedOctets = 0;
  readonly #server = createServer((socket) => {
    this.connections++;
    this.open.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.open.delete(socket));
    socket.on('data', (octets: Buffer) => {
      this.received.update(octets);
      this.receivedOctets += octets.length;
    });
    socket.pipe(socket);
  });

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as AddressInfo).port;
  }

  async opened(connections: number, open: number): Promise<void> {
    await until(
      30,
      () => (this.connections === connections && this.open.size === open) || undefined,
      () =>
        `Cannot see ${connections} connections, ${open} of them open: ` +
        `there are ${this.connections} and ${this.open.size}`,
    );
  }

  close(): void {
    this.#server.close();
    for (const socket of this.open) socket.destroy();
  }
}

describe('serial, attached with the stock usbip client', function () {
  this.timeout(400_000);
  let guest: Guest;

  before(async () => {
    guest = await sharedGuest();
    await loadVhci(guest);
    await guest.succeed('modprobe cdc-acm');
  });

  afterEach(async function () {
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  /** Runs a gateway with one port that is attached, and checks that the gateway ends well. */
  async function withPort(
    spec: string,
    body: (tty: string, device: AttachedDevice) => Promise<void>,
  ): Promise<void> {
    const gateway = await startGateway({ exports: [spec], arguments: ['--control', 'none'] });
    try {
      guest.forward(gateway.port);
      const device = await attach(guest, '1-1');
      await body(await ttyOf(guest, device), device);
      await detachAll(guest);
      await gateway.stop();
    } finally {
      await gateway.kill();
    }
  }

  async function withPeer(
    body: (peer: Peer, tty: string, device: AttachedDevice) => Promise<void>,
  ): Promise<void> {
    const peer = new Peer();
    await peer.listen();
    try {
      await withPort(`virtual:serial,connect=127.0.0.1:${peer.port}`, (tty, device) =>
        body(peer, tty, device),
      );
    } finally {
      peer.close();
    }
  }

  /** Sends 1 MiB and takes it back. */
  async function exchangeMebibyte(tty: string): Promise<Buffer> {
    const octets = numbered(1 << 20);
    await guest.succeed('cat > /run/mebibyte', { input: octets });
    await guest.succeed(withTty(tty, 'exchange mebibyte'), { timeoutSeconds: 200 });
    const [sum] = (await guest.succeed('sha256sum < /run/mebibyte.back')).split(' ');
    assert.equal(sum, hashOf(octets));
    return octets;
  }

  /** One size after the other: the host is given each of them without anything behind it. */
  async function exchangeSizes(tty: string): Promise<void> {
    const whole = numbered(1 << 16);
    let script = '';
    let at = 0;
    for (const size of [...SIZES, ...SIZES.toReversed()]) {
      const name = `from-${at}`;
      await guest.succeed(`cat > /run/${name}`, { input: whole.subarray(at, at + size) });
      script += `exchange ${name}\n`;
      at += size;
    }
    await guest.succeed(withTty(tty, script), { timeoutSeconds: 200 });
  }

  describe('as an echo', () => {
    it('gives back 1 MiB, complete and in order', () =>
      withPort('virtual:serial', async (tty) => {
        await exchangeMebibyte(tty);
      }));

    it('gives back sizes around a packet at once', () => withPort('virtual:serial', exchangeSizes));

    it('goes on after the port was closed', () =>
      withPort('virtual:serial', async (tty) => {
        for (const octets of [1000, 1024, 1]) {
          await guest.succeed('cat > /run/piece', { input: numbered(2048).subarray(-octets) });
          await guest.succeed(withTty(tty, 'exchange piece'), { timeoutSeconds: 200 });
        }
      }));

    it('keeps the line coding that stty sets', () =>
      withPort('virtual:serial', async (tty, device) => {
        const program = await compiled(labSource('control-in.c'));
        await guest.succeed(withTty(tty, 'stty 57600 cs7 parenb parodd cstopb <&3 && stty -a <&3'));
        // The driver does not tell; without it, the device does: GET_LINE_CODING (PSTN 1.2, 6.3.11).
        const control = `${device.busid}:1.0`;
        await guest.succeed(`echo ${control} > /sys/bus/usb/drivers/cdc_acm/unbind`);
        const coding = await guest.succeed(`${program} ${device.node} 0xa1 0x21 0 0 7`);
        const bitsPerSecond = Buffer.alloc(4);
        bitsPerSecond.writeUInt32LE(57_600);
        assert.equal(coding.trim(), `${bitsPerSecond.toString('hex')}020107`); // 2, odd, 7
      }));
  });

  describe('bridged to TCP', () => {
    it('carries 1 MiB there and back, complete and in order', () =>
      withPeer(async (peer, tty) => {
        const sent = await exchangeMebibyte(tty);
        assert.equal(peer.receivedOctets, sent.length);
        assert.equal(peer.received.digest('hex'), hashOf(sent));
        assert.equal(peer.connections, 1);
      }));

    it('carries sizes around a packet at once', () =>
      withPeer(async (_, tty) => exchangeSizes(tty)));

    it('connects when the port is opened, and hangs up when it is closed', () =>
      withPeer(async (peer, tty) => {
        await guest.succeed('printf "are you there?" > /run/question');
        await peer.opened(0, 0);
        for (const session of [1, 2, 3]) {
          const user = guest.start(withTty(tty, 'exchange question\necho answered\nread line'));
          await user.printed(/answered/, 200);
          await peer.opened(session, 1);
          user.end('close it\n');
          assert.equal((await user.result(60)).code, 0);
          await peer.opened(session, 0);
        }
      }));

    it('lets the carrier fall when the peer hangs up', () =>
      withPeer(async (peer, tty) => {
        // Without `clocal` a reader comes to its end when there is no carrier.
        const user = guest.start(withTty(tty, 'stty -clocal <&3\necho listening\ncat <&3'));
        user.end();
        await user.printed(/listening/);
        await peer.opened(1, 1);
        for (const socket of peer.open) socket.write('last words\n');
        await user.printed(/last words/);
        for (const socket of peer.open) socket.destroy();
        const { stdout } = await user.result(60);
        assert.equal(stdout, 'listening\nlast words\n');
      }));
  });
});
