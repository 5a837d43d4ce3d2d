import { strict as assert } from 'node:assert';
import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '../../src/core/clock.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { importDevice } from '../../src/usbip/client.ts';
import { readDescriptors, readEndpoints } from '../../src/usbip/remote-descriptors.ts';
import type { RemoteEndpoints } from '../../src/usbip/remote-endpoints.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { VhciLink } from '../../src/usbip/vhci-link.ts';
import { FakeClock } from '../examples/rig.ts';
import { type FakeKernel, FakeVhci } from './fake-vhci.ts';
import { numbered, recorder } from './recorder.ts';
import { IN, OUT, type Reply, type SubmitReply, setupOctets } from './scripted-client.ts';
import { UsbipdWin } from './usbipd-win.ts';

const DEPTH = 8;
/** Packets of a transfer of 1000 octets. */
const PACKETS = 2;
const SHORT_NOT_OK = 1;

/** More than the socket to the kernel takes, and several that come from it at a time. */
const READ_OCTETS = 480 * 1024;
const WRITE_OCTETS = 48 * 1024;

/** With so much unread, a reply of a megabyte is on its way and stuck. */
const FULL_OCTETS = 64 << 10;

describe('relay between a server and vhci', function () {
  this.timeout(60_000);
  let registry: Registry;
  let server: UsbipServer;
  let address: ListenAddress;
  let vhci: FakeVhci;
  let link: VhciLink | undefined;
  let windows: UsbipdWin | undefined;
  let kernel: FakeKernel;
  /** A handler runs, or what it wants unlinked is not sent. */
  let busy = false;
  const threads = { receiverSleeps: () => true, senderSleeps: () => !busy, close: () => {} };

  beforeEach(async () => {
    registry = new Registry();
    const options = { short: 1000, stamp: true } as never;
    registry.add(new VirtualDevice(sourceSink.define(options)), 'source-sink');
    server = new UsbipServer({ registry, log: { info: () => {}, warn: () => {} } });
    address = await server.listen({ host: '127.0.0.1', port: 0 });
    vhci = new FakeVhci();
  });

  afterEach(async () => {
    await link?.close();
    link = undefined;
    await windows?.close();
    assert.deepEqual(windows?.faults ?? [], []);
    windows = undefined;
    await server.close();
    vhci.remove();
  });

  async function attach(stallProtocol: boolean, at = address, clock?: Clock): Promise<VhciLink> {
    const remote = await importDevice(at, '1-1', { stallProtocol, holdBack: 'all' });
    const endpoints = await readEndpoints(remote, await readDescriptors(remote));
    link = new VhciLink(remote, endpoints, vhci, { threads, ...(clock && { clock }) });
    kernel = vhci.attached.get(link.port) as FakeKernel;
    assert.equal((await control(setupOctets(0, 9, 1))).status, 0);
    return link;
  }

  async function control(setup: Buffer, octets = 0): Promise<SubmitReply> {
    const seqnum = kernel.wire.nextSeqnum();
    const direction = octets > 0 ? IN : OUT;
    kernel.send(kernel.wire.submit({ seqnum, direction, endpoint: 0, octets, setup }));
    return (await kernel.reply(seqnum)) as SubmitReply;
  }

  function read(): { seqnum: number; octets: Buffer } {
    const seqnum = kernel.wire.nextSeqnum();
    const fields = { direction: IN, endpoint: 1, octets: 4096, flags: SHORT_NOT_OK };
    return { seqnum, octets: kernel.wire.submit({ seqnum, ...fields }) };
  }

  for (const [where, break_] of [
    [
      'a completion handler',
      (endpoints: RemoteEndpoints) => {
        endpoints.applied = () => {
          throw new TypeError('made by a test');
        };
      },
    ],
    [
      'what vhci sends',
      (endpoints: RemoteEndpoints) => {
        endpoints.endpoint = () => {
          throw new TypeError('made by a test');
        };
      },
    ],
  ] as const) {
    it(`a bug in ${where} ends one link, and is told; another goes on`, async () => {
      registry.add(new VirtualDevice(sourceSink.define({})), 'another');
      const bugs: unknown[] = [];
      const remote = await importDevice(address, '1-2', { holdBack: 'all' });
      const endpoints = await readEndpoints(remote, await readDescriptors(remote));
      const onBug = (error: unknown) => bugs.push(error);
      const faulty = new VhciLink(remote, endpoints, vhci, { threads, onBug });
      const faultyKernel = vhci.attached.get(faulty.port) as FakeKernel;
      await attach(true);
      break_(endpoints);
      const seqnum = faultyKernel.wire.nextSeqnum();
      const setup = setupOctets(0, 9, 1);
      faultyKernel.send(
        faultyKernel.wire.submit({
          seqnum,
          deviceId: remote.deviceId,
          direction: OUT,
          endpoint: 0,
          octets: 0,
          setup,
        }),
      );
      assert.equal(await faulty.ended, 'lost');
      assert.equal(bugs.length, 1);
      assert.match(String(bugs[0]), /made by a test/);
      assert.equal((await control(setupOctets(0x80, 0), 2)).status, 0);
      while (registry.get('1-2')?.holder !== null) await wait(1);
    });
  }

  const kinds = {
    'that speaks the stall protocol': () => attach(true),
    'that does not': () => attach(false),
    'like usbipd-win': async () => {
      const device = new VirtualDevice(sourceSink.define({ short: 1000, stamp: true } as never));
      windows = new UsbipdWin(device);
      await attach(true, await windows.listen());
    },
  };

  for (const [kind, attachTo] of Object.entries(kinds)) {
    /** The driver's handler runs a while after the report has been read, as on a busy machine. */
    it(`lets nothing move behind an error, with a server ${kind}`, async () => {
      await attachTo();
      for (let round = 0; round < 20; round++) {
        const reads = Array.from({ length: DEPTH }, read);
        const rest = reads.slice(1).map(({ seqnum }) => seqnum);
        const unlinks = rest.map((victim) => ({ victim, seqnum: kernel.wire.nextSeqnum() }));
        kernel.onReply = (reply) => {
          if (reply.seqnum !== reads[0]?.seqnum) return;
          kernel.onReply = () => {};
          busy = true;
          const send = () => {
            for (const { victim, seqnum } of unlinks) {
              kernel.send(kernel.wire.unlink(victim, seqnum));
            }
            busy = false;
          };
          if (round % 2 === 0) send();
          else setTimeout(send, 30);
        };
        kernel.send(...reads.map(({ octets }) => octets));
        const first = (await kernel.reply(reads[0]?.seqnum ?? 0)) as SubmitReply;
        assert.equal(first.status, -121);
        assert.equal(first.data.readUInt32LE(0), round * PACKETS, 'packets are missing');
        const answers = await Promise.all(unlinks.map(({ seqnum }) => kernel.reply(seqnum)));
        assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([-104]));
        for (const seqnum of rest) {
          assert(!kernel.wire.replies.some((one) => one.seqnum === seqnum), 'it came back twice');
        }
      }
    });

    it(`goes on in order if the driver unlinks nothing, with a server ${kind}`, async () => {
      await attachTo();
      const reads = Array.from({ length: DEPTH }, read);
      kernel.send(...reads.map(({ octets }) => octets));
      const replies = await Promise.all(reads.map(({ seqnum }) => kernel.reply(seqnum)));
      assert.deepEqual(
        replies.map((one) => [one.status, (one as SubmitReply).data.readUInt32LE(0)]),
        reads.map((_, n) => [-121, n * PACKETS]),
      );
    });
  }

  it('lets other endpoints go on', async () => {
    await attach(true);
    const reads = Array.from({ length: DEPTH }, read);
    kernel.send(...reads.map(({ octets }) => octets));
    const writes = Array.from({ length: 20 }, () => kernel.wire.nextSeqnum());
    for (const seqnum of writes) {
      const data = Buffer.alloc(512);
      kernel.send(kernel.wire.submit({ seqnum, direction: OUT, endpoint: 2, data }));
    }
    await Promise.all(writes.map((seqnum) => kernel.reply(seqnum)));
    const order = kernel.wire.replies.map(({ seqnum }) => seqnum);
    const last = reads.at(-1)?.seqnum ?? 0;
    assert(!order.includes(last), 'writes have waited for reads');
    await kernel.reply(last);
  });

  it('answers an unlink that comes before its URB', async () => {
    await attach(true);
    const { seqnum, octets } = read();
    const unlink = kernel.wire.nextSeqnum();
    const next = read();
    kernel.send(kernel.wire.unlink(seqnum, unlink), octets, next.octets);
    assert.equal((await kernel.reply(unlink)).status, -104);
    const reply = (await kernel.reply(next.seqnum)) as SubmitReply;
    assert.equal(reply.data.readUInt32LE(0), 0);
    assert.equal(link?.counts.errors, 1);
    assert((link?.counts.fences ?? 0) >= 1);
  });

  it('carries isochronous transfers both ways', async () => {
    await attach(true);
    assert.equal((await control(setupOctets(1, 11, 1, 0))).status, 0);
    const packets = [0, 1, 2, 3].map((n): [number, number] => [n * 1024, 1024]);
    const seqnum = kernel.wire.nextSeqnum();
    const flags = 2;
    kernel.send(
      kernel.wire.submit({ seqnum, direction: IN, endpoint: 3, octets: 4096, flags, packets }),
    );
    const reply = (await kernel.reply(seqnum)) as SubmitReply;
    assert.equal(reply.status, 0);
    assert.equal(reply.packetCount, 4);
    assert.equal(
      reply.actualLength,
      reply.packets.reduce((sum, one) => sum + one.actualLength, 0),
    );
    assert.deepEqual(
      reply.packets.map(({ offset, length }) => [offset, length]),
      packets,
    );
    const out = kernel.wire.nextSeqnum();
    const data = Buffer.alloc(4096);
    kernel.send(kernel.wire.submit({ seqnum: out, direction: OUT, endpoint: 4, data, packets }));
    const written = (await kernel.reply(out)) as SubmitReply;
    assert.deepEqual([written.status, written.actualLength], [0, 4096]);
  });

  for (const stallProtocol of [true, false]) {
    it(`keeps long data apart while the kernel is slow to read (stall protocol: ${stallProtocol})`, async () => {
      const written: Buffer[] = [];
      await registry.remove('1-1');
      registry.add(recorder(written), 'recorder', '1-1');
      await attach(stallProtocol);
      const reads: number[] = [];
      const writes: number[] = [];
      for (let n = 0; n < 3 * DEPTH; n++) {
        if (n % DEPTH === 0) {
          await wait(20); // what is back already is on its way to the kernel
          kernel.pause();
        }
        const [read, write] = [kernel.wire.nextSeqnum(), kernel.wire.nextSeqnum()];
        const octets = { seqnum: read, direction: IN, endpoint: 1, octets: READ_OCTETS };
        const data = numbered(n * WRITE_OCTETS, WRITE_OCTETS);
        kernel.send(
          kernel.wire.submit(octets),
          kernel.wire.submit({ seqnum: write, direction: OUT, endpoint: 2, data }),
        );
        reads.push(read);
        writes.push(write);
      }
      kernel.resume();
      for (const [n, read] of reads.entries()) {
        const reply = (await kernel.reply(read)) as SubmitReply;
        assert(
          reply.data.equals(numbered(n * READ_OCTETS, READ_OCTETS)),
          `read ${n} has other data`,
        );
      }
      for (const write of writes) assert.equal((await kernel.reply(write)).status, 0);
      const all = numbered(0, writes.length * WRITE_OCTETS);
      assert(Buffer.concat(written).equals(all), 'other data was written');
    });
  }

  it('lets go of the device when vhci reads nothing any more', async () => {
    await registry.remove('1-1');
    registry.add(new VirtualDevice(sourceSink.define({} as never)), 'source-sink', '1-1');
    const clock = new FakeClock();
    const attached = await attach(true, address, clock);
    kernel.pause();
    for (let n = 0; n < DEPTH; n++) {
      const seqnum = kernel.wire.nextSeqnum();
      kernel.send(kernel.wire.submit({ seqnum, direction: IN, endpoint: 1, octets: 1 << 20 }));
    }
    while (kernel.unread < FULL_OCTETS) await wait(1);
    const released = new Promise((resolve) => registry.once('released', resolve));
    const closed = attached.close();
    clock.advance(10_000);
    await closed;
    await released;
    assert.equal(clock.timers, 0);
  });

  it('lets go of the device when vhci does', async () => {
    const attached = await attach(true);
    assert(registry.get('1-1')?.holder);
    const released = new Promise((resolve) => registry.once('released', resolve));
    kernel.detach();
    assert.equal(await attached.ended, 'detached');
    await released;
    assert.equal(registry.get('1-1')?.holder, null);
  });

  it('unplugs the device when the server goes, with every URB answered', async () => {
    const attached = await attach(true);
    const seqnum = kernel.wire.nextSeqnum();
    kernel.send(kernel.wire.submit({ seqnum, direction: IN, endpoint: 0, octets: 18, setup }));
    const closing = server.close();
    const reply: Reply = await kernel.reply(seqnum);
    assert([0, -108].includes(reply.status));
    assert.equal(await attached.ended, 'lost');
    await kernel.closed;
    await closing;
  });

  it('ends when vhci breaks the protocol', async () => {
    const attached = await attach(true);
    kernel.send(Buffer.alloc(48));
    assert.equal(await attached.ended, 'lost');
  });

  it('takes another port when the wanted one is in use', async () => {
    registry.add(new VirtualDevice(sourceSink.define({} as never)), 'another');
    await attach(true);
    const remote = await importDevice(address, '1-2');
    const endpoints = await readEndpoints(remote, await readDescriptors(remote));
    const second = new VhciLink(remote, endpoints, vhci, { wantedPort: 0, threads });
    assert.equal(second.port, 1);
    await second.close();
  });

  const setup = setupOctets(0x80, 6, 0x0100, 0, 18);
});
