import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { ERRNO, FLAG } from '../../../../src/core/devices/usbfs/abi.ts';
import { LENT_OCTETS_MAX } from '../../../../src/core/devices/usbfs/transfer-memory.ts';
import { ClaimError, UsbfsDevice } from '../../../../src/core/devices/usbfs/usbfs-device.ts';
import { Registry } from '../../../../src/core/registry.ts';
import { DeviceSession } from '../../../../src/core/session.ts';
import { type IsoPacket, type Loan, Urb } from '../../../../src/core/urb.ts';
import { FakeClock } from '../../../examples/rig.ts';
import {
  configurationBytes,
  deviceBytes,
  interfaceBytes,
  many,
} from '../../../usbip/hostile-server.ts';
import { NotingClient } from '../../manual-device.ts';
import { FakeUsbfs } from './fake-usbfs.ts';

const MIB = 1 << 20;

interface Bench {
  readonly file: FakeUsbfs;
  readonly device: UsbfsDevice;
  readonly client: NotingClient;
  readonly clock: FakeClock;
  readonly session: DeviceSession;
  readonly gone: { count: number };
}

async function open(file = new FakeUsbfs()): Promise<Bench> {
  const gone = { count: 0 };
  const device = await UsbfsDevice.take(file, {
    speed: 'high',
    configurationValue: 1,
    label: 'fake',
    isStray: false,
    onGone: () => gone.count++,
  });
  const client = new NotingClient();
  const clock = new FakeClock();
  const session = new DeviceSession(device, client, { clock });
  file.takeCalls();
  return { file, device, client, clock, session, gone };
}

const endpointOf = (device: UsbfsDevice, address: number) => {
  const found = device.endpoint(address);
  assert(found !== undefined);
  return found;
};
const read = (device: UsbfsDevice, id: number, octets: number, shortNotOk = false) =>
  Urb.read(id, endpointOf(device, 0x81), octets, shortNotOk);
const write = (device: UsbfsDevice, id: number, data: Buffer, zeroPacket = false) =>
  Urb.write(id, endpointOf(device, 0x02), data, zeroPacket);
const control = (
  device: UsbfsDevice,
  id: number,
  [requestType, request, value, index, length]: [number, number, number, number, number],
  data?: Buffer,
) => Urb.control(id, endpointOf(device, 0), { requestType, request, value, index, length }, data);

const settle = () => new Promise((resolve) => setImmediate(resolve));
const stamped = (octets: number, from = 0) =>
  Buffer.from(Array.from({ length: octets }, (_, at) => (from + at) & 255));
const continued = ({ flags }: { flags: number }) => (flags & FLAG.bulkContinuation) !== 0;

describe('UsbfsDevice', () => {
  describe('what it shows', () => {
    it('descriptors, with the endpoints of the active settings', async () => {
      const { device, session, file, client } = await open();
      assert.equal(device.info.vendorId, 0x0525);
      assert.equal(device.info.interfaces.length, 2);
      assert.equal(device.endpoint(0x81)?.maxPacketOctets, 512);
      assert.equal(device.endpoint(0)?.maxPacketOctets, 64);
      assert.equal(device.endpoint(0x83), undefined);
      session.submit(control(device, 1, [0x01, 11, 1, 1, 0]));
      await settle();
      assert.deepEqual(file.takeCalls(), ['setInterface 1 1']);
      assert.deepEqual(client.take(), ['1 ok 0']);
      assert.equal(device.endpoint(0x83)?.type, 'isochronous');
      assert.equal(file.submissions.length, 0, 'it went to the device twice');
    });

    it('claims every interface, and gives all back', async () => {
      const file = new FakeUsbfs();
      const device = await UsbfsDevice.take(file, {
        speed: 'high',
        configurationValue: 1,
        label: '',
        isStray: false,
        onGone: () => assert.fail(),
      });
      assert.deepEqual(file.takeCalls(), ['disconnectClaim 0', 'disconnectClaim 1']);
      await device.dispose();
      assert.deepEqual(file.takeCalls(), [
        'releaseInterface 0',
        'releaseInterface 1',
        'connect 0',
        'connect 1',
      ]);
      assert.equal(file.memories.size, 0);
      assert.equal(file.closed, true);
    });

    it('resets what was left behind without a driver', async () => {
      const file = new FakeUsbfs();
      const options = { speed: 'high', configurationValue: 1, label: '', isStray: true } as const;
      await UsbfsDevice.take(file, { ...options, onGone: () => assert.fail() });
      assert.deepEqual(file.takeCalls().slice(2, -2), [
        'releaseInterface 0',
        'releaseInterface 1',
        'reset',
      ]);
    });

    it('256 interfaces: 32 are claimed and listed', async () => {
      const parts = many(256, (at) => Buffer.concat([interfaceBytes(at), interfaceBytes(at, 1)]));
      const descriptors = Buffer.concat([deviceBytes(), configurationBytes(parts)]);
      const { device, file, session } = await open(Object.assign(new FakeUsbfs(), { descriptors }));
      const { info } = new Registry().add(device, 'usb');
      assert.equal(info.interfaces.length, 32);
      await session.close();
      assert.equal(
        file.takeCalls().filter((call) => call.startsWith('disconnectClaim')).length,
        32,
      );
    });

    it('descriptors that make no sense are refused, and the file is closed', async () => {
      for (const descriptors of [Buffer.alloc(0), Buffer.alloc(18), Buffer.alloc(1 << 20, 1)]) {
        const file = Object.assign(new FakeUsbfs(), { descriptors });
        await assert.rejects(open(file), RangeError);
        assert.equal(file.closed, true);
        assert.equal(file.memories.size, 0);
      }
      const empty = Buffer.from([9, 2, 9, 0, 0, 1, 0, 0, 0]);
      const long = Buffer.concat([deviceBytes(), Buffer.alloc(1 << 20, empty)]);
      const { device } = await open(Object.assign(new FakeUsbfs(), { descriptors: long }));
      assert.equal(device.info.interfaces.length, 0);
    });

    it('a claim that fails leaves nothing behind', async () => {
      const file = new FakeUsbfs();
      file.answers.set('disconnectClaim 1', -ERRNO.EBUSY);
      const taking = UsbfsDevice.take(file, {
        speed: 'high',
        configurationValue: 1,
        label: '',
        isStray: false,
        onGone: () => {},
      });
      await assert.rejects(taking, (error) => error instanceof ClaimError && error.errno === 16);
      assert.equal(file.memories.size, 0);
      assert.equal(file.closed, true);
    });
  });

  describe('bulk', () => {
    it('copies data in and out', async () => {
      const { file, device, client, session } = await open();
      session.submit(write(device, 1, stamped(700), true));
      const [out] = file.pending;
      assert.deepEqual(out?.data, stamped(700));
      assert.equal(out?.flags, FLAG.zeroPacket);
      const urb = read(device, 2, 1024);
      session.submit(urb);
      const pending = file.pending.find(({ endpoint }) => endpoint === 0x81);
      file.end(out, { octets: 700 });
      file.finish(pending, { data: stamped(600, 7) });
      assert.deepEqual(client.take(), ['1 ok 700', '2 ok 600']);
      assert.deepEqual(Buffer.from(urb.dataIn), stamped(600, 7));
      // The memory is used again, and what was handed on stays.
      session.submit(read(device, 3, 1024));
      file.finish(file.pending[0], { data: stamped(600, 99) });
      assert.deepEqual(Buffer.from(urb.dataIn), stamped(600, 7));
    });

    it('nothing is asked for when all is back', async () => {
      const { file, device, client, session } = await open();
      for (let id = 1; id <= 3; id++) session.submit(read(device, id, 512));
      file.end(file.pending[0], { data: stamped(512) });
      file.finish(file.pending[0], { data: stamped(512) });
      assert.equal(file.reapCount, 3, 'two, and one in vain: the third is out');
      file.finish(file.pending[0], { data: stamped(512) });
      assert.equal(file.reapCount, 4);
      file.wake();
      assert.equal(file.reapCount, 5, 'a wake-up for nothing is looked into');
      assert.deepEqual(client.take(), ['1 ok 512', '2 ok 512', '3 ok 512']);
    });

    it('has several in flight, all but the first marked as continuation', async () => {
      const { file, device, client, session } = await open();
      for (let id = 1; id <= 10; id++) session.submit(read(device, id, 512));
      assert.deepEqual(file.pending.map(continued), [false, ...Array(7).fill(true)]);
      file.finish(file.pending[0], { data: stamped(512) });
      assert.equal(file.pending.length, 8);
      while (file.pending.length > 0) file.finish(file.pending[0], { data: stamped(512) });
      assert.equal(client.take().length, 10);
      session.submit(read(device, 11, 512));
      assert.equal(continued(file.pending[0] as never), false, 'a queue that was empty restarts');
    });

    it('behind an error nothing runs, and the rest starts again in order', async () => {
      const { file, device, client, clock, session } = await open();
      for (let id = 1; id <= 4; id++) session.submit(read(device, id, id * 512));
      file.end(file.pending[0], { errno: ERRNO.EPIPE });
      assert.equal(file.pending.length, 0, 'the kernel takes the others back');
      session.submit(read(device, 5, 5 * 512)); // not reaped yet: refused with EREMOTEIO
      file.wake();
      clock.advance(10);
      assert.deepEqual(client.take(), ['1 stall 0']);
      assert.equal(file.pending.length, 0);
      session.unlink(3);
      clock.advance(5000);
      assert.deepEqual(client.take(), ['3 unlinked 0']);
      assert.deepEqual(
        file.pending.map(({ octets }) => octets),
        [2 * 512, 4 * 512, 5 * 512],
      );
      assert.deepEqual(file.pending.map(continued), [false, true, true]);
    });

    it('short-not-ok: nothing in flight behind it', async () => {
      const { file, device, client, session } = await open();
      session.submit(read(device, 1, 512));
      session.submit(read(device, 2, 1024, true));
      session.submit(read(device, 3, 1536));
      assert.deepEqual(
        file.pending.map(({ flags }) => flags),
        [0, FLAG.shortNotOk | FLAG.bulkContinuation],
      );
      file.finish(file.pending[0], { data: stamped(512) });
      assert.equal(file.pending.length, 1);
      file.finish(file.pending[0], { errno: ERRNO.EREMOTEIO, data: stamped(1000) });
      assert.equal(file.pending.length, 0);
      assert.deepEqual(client.take(), ['1 ok 512']); // the short one settles
    });

    it('every errno has its status', async () => {
      const statuses: [number, string][] = [
        [ERRNO.EPIPE, 'stall'],
        [ERRNO.EOVERFLOW, 'babble'],
        [ERRNO.EPROTO, 'protocol-error'],
        [ERRNO.EILSEQ, 'crc-error'],
        [ERRNO.ETIME, 'timeout'],
        [ERRNO.ECOMM, 'protocol-error'],
        [ERRNO.ENOENT, 'shutdown'], // swept away by the kernel, nobody has asked for it
      ];
      for (const [errno, status] of statuses) {
        const { file, device, client, clock, session } = await open();
        session.submit(read(device, 1, 512));
        file.finish(file.pending[0], { errno });
        clock.advance(100);
        assert.deepEqual(client.take(), [`1 ${status} 0`]);
      }
    });

    it('a device that says too much is clamped', async () => {
      const { file, device, client, session } = await open();
      const urb = read(device, 1, 10);
      session.submit(urb);
      file.finish(file.pending[0], { data: stamped(64) });
      assert.deepEqual(client.take(), ['1 ok 10']);
      assert.equal(urb.dataIn.length, 10);
    });

    it('no octets at all', async () => {
      const { file, device, client, session } = await open();
      session.submit(read(device, 1, 0));
      session.submit(write(device, 2, Buffer.alloc(0)));
      assert.equal(file.pending[0]?.octets, 0);
      while (file.pending.length > 0) file.finish(file.pending[0]);
      assert.deepEqual(client.take(), ['1 ok 0', '2 ok 0']);
    });

    it('an unlink takes one back', async () => {
      const { file, device, client, session } = await open();
      session.submit(read(device, 1, 512));
      session.submit(read(device, 2, 512));
      session.unlink(2);
      file.wake();
      assert.deepEqual(client.take(), ['2 unlinked 0']);
      assert.equal(file.pending.length, 1, 'what is ahead goes on');
      file.finish(file.pending[0], { data: stamped(512) });
      assert.deepEqual(client.take(), ['1 ok 512']);
    });

    it('an unlink that comes too late finds the URB as it ended', async () => {
      const { file, device, client, session } = await open();
      session.submit(read(device, 1, 512));
      file.end(file.pending[0], { data: stamped(512) });
      session.unlink(1);
      file.wake();
      assert.deepEqual(client.take(), ['1 ok 512']);
    });
  });

  describe('URBs that go in pieces', () => {
    it('IN: put together, and nothing starts behind it', async () => {
      const { file, device, client, session } = await open();
      const urb = read(device, 1, 2.5 * MIB);
      session.submit(urb);
      session.submit(read(device, 2, 512));
      for (const octets of [MIB, MIB, MIB / 2]) {
        assert.deepEqual(
          file.pending.map((one) => one.octets),
          [octets],
        );
        file.finish(file.pending[0], { data: Buffer.alloc(octets, octets / 8192) });
      }
      assert.deepEqual(client.take(), [`1 ok ${2.5 * MIB}`]);
      assert.deepEqual([urb.dataIn[0], urb.dataIn.at(-1)], [128, 64]);
      assert.equal(file.pending[0]?.octets, 512);
    });

    it('IN: a short packet ends it', async () => {
      const { file, device, client, session } = await open();
      session.submit(read(device, 1, 3 * MIB));
      file.finish(file.pending[0], { data: Buffer.alloc(MIB) });
      file.finish(file.pending[0], { data: Buffer.alloc(1000) });
      assert.deepEqual(client.take(), [`1 ok ${MIB + 1000}`]);
      assert.equal(file.submissions.length, 2);
    });

    it('IN: an error ends it, with what moved before', async () => {
      const { file, device, client, clock, session } = await open();
      session.submit(read(device, 1, 3 * MIB, true));
      file.finish(file.pending[0], { data: Buffer.alloc(MIB) });
      file.finish(file.pending[0], { errno: ERRNO.EPIPE, data: Buffer.alloc(512) });
      clock.advance(100);
      assert.deepEqual(client.take(), [`1 stall ${MIB + 512}`]);
    });

    it('OUT: only the last has the zero packet', async () => {
      const { file, device, client, session } = await open();
      session.submit(write(device, 1, stamped(2 * MIB + 512), true));
      for (const octets of [MIB, MIB, 512]) {
        assert.equal(file.pending[0]?.flags, octets === 512 ? FLAG.zeroPacket : 0);
        file.finish(file.pending[0], { octets });
      }
      const sent = Buffer.concat(file.submissions.map(({ data }) => data));
      assert.equal(sent.compare(stamped(2 * MIB + 512)), 0);
      assert.deepEqual(client.take(), [`1 ok ${2 * MIB + 512}`]);
    });

    it('unlinked between two pieces', async () => {
      const { file, device, client, session } = await open();
      session.submit(read(device, 1, 3 * MIB));
      file.end(file.pending[0], { data: Buffer.alloc(MIB) });
      session.unlink(1);
      file.wake();
      assert.equal(file.submissions.length, 1);
      assert.deepEqual(client.take(), ['1 unlinked 1048576']); // the client's own unlink does not settle
    });
  });

  describe('memory', () => {
    it('smaller blocks when usbfs has little left, then memory of its own', async () => {
      const file = new FakeUsbfs();
      file.sharedLeft = 300_000;
      const { device, client, session } = await open(file);
      session.submit(read(device, 1, MIB));
      assert.equal(file.pending[0]?.octets, 262_144);
      session.unlink(1);
      file.wake();
      file.sharedLeft = 0;
      session.submit(write(device, 2, stamped(40_000)));
      for (const octets of [40_000]) file.finish(file.pending[0], { octets });
      assert.equal(client.take().at(-1), '2 ok 40000', 'a block that lies free serves');
    });

    it('plain memory goes in small pieces', async () => {
      const file = new FakeUsbfs();
      file.sharedLeft = 0;
      const { device, client, session } = await open(file);
      session.submit(write(device, 1, stamped(40_000)));
      for (const octets of [16_384, 16_384, 7232]) {
        assert.equal(file.pending[0]?.octets, octets);
        file.finish(file.pending[0], { octets });
      }
      assert.deepEqual(client.take(), ['1 ok 40000']);
    });

    /** A device whose client takes loans and keeps them in the list returned. */
    async function lending(): Promise<Bench & { loans: Loan[] }> {
      const loans: Loan[] = [];
      const bench = await open();
      await bench.session.close();
      const client = Object.assign(new NotingClient(), { borrows: true });
      client.onGaveBack = ({ loan }) => {
        if (loan !== null) loans.push(loan);
      };
      const session = new DeviceSession(bench.device, client, { clock: bench.clock });
      return { ...bench, client, session, loans };
    }

    it('with data is lent, and not used until it is given back', async () => {
      const { file, device, client, session, loans } = await lending();
      const first = read(device, 1, 600);
      session.submit(first);
      session.submit(read(device, 2, 600));
      const [one, two] = file.pending;
      file.finish(one, { data: stamped(600, 7) });
      file.finish(two, { errno: ERRNO.EPIPE }); // nothing moved: nothing to lend
      assert.equal(loans.length, 1);
      session.submit(control(device, 3, [0x80, 6, 0x100, 0, 18]));
      assert.notEqual(file.pending[0]?.buffer, one?.buffer);
      file.finish(file.pending[0], { data: stamped(18) });
      assert.equal(loans.length, 2);
      assert.deepEqual(Buffer.from(first.dataIn), stamped(600, 7));
      for (const loan of loans) loan.giveBack();
      assert.throws(() => loans[0]?.giveBack(), /not lent/);
      session.submit(control(device, 4, [0x80, 6, 0x100, 0, 18]));
      session.submit(control(device, 5, [0x80, 6, 0x100, 0, 18]));
      assert(client.take().includes('3 ok 18'));
      assert.equal(file.memories.size, 1 + 2, 'the table, and two blocks used again');
    });

    it('beyond a limit data is copied', async () => {
      const { file, device, session, loans } = await lending();
      const count = LENT_OCTETS_MAX / MIB;
      for (let id = 1; id <= count + 1; id++) {
        const urb = read(device, id, MIB);
        session.submit(urb);
        file.finish(file.pending[0], { data: stamped(700, id) });
        assert.equal(urb.loan === null, id > count);
        assert.deepEqual(Buffer.from(urb.dataIn), stamped(700, id));
      }
      loans.pop()?.giveBack();
      const urb = read(device, 99, MIB);
      session.submit(urb);
      file.finish(file.pending[0], { data: stamped(700) });
      assert.notEqual(urb.loan, null);
    });

    it('on loan is unmapped when it comes back after the device has been let go', async () => {
      const { file, device, session, loans } = await lending();
      for (let id = 1; id <= 2; id++) session.submit(read(device, id, 600));
      for (const one of [...file.pending]) file.finish(one, { data: stamped(600) });
      await session.close();
      await device.dispose();
      assert.equal(file.memories.size, 2);
      for (const loan of loans) loan.giveBack();
      assert.equal(file.memories.size, 0);
    });

    it('none at all: no-memory, and the next may succeed', async () => {
      const file = new FakeUsbfs();
      const { device, client, clock, session } = await open(file);
      file.sharedLeft = 0;
      file.plainLeft = 0;
      session.submit(read(device, 1, 512));
      clock.advance(100);
      assert.deepEqual(client.take(), ['1 no-memory 0']);
      file.sharedLeft = MIB;
      session.submit(read(device, 2, 512));
      clock.advance(100);
      file.finish(file.pending[0], { data: stamped(1) });
      assert.deepEqual(client.take(), ['2 ok 1']);
    });

    it('the kernel may have none either', async () => {
      const { file, device, client, clock, session } = await open();
      file.refuseNext = -ERRNO.ENOMEM;
      session.submit(read(device, 1, 512));
      clock.advance(100);
      assert.deepEqual(client.take(), ['1 no-memory 0']);
    });

    it('is bounded, and used again', async () => {
      const { file, device, session } = await open();
      for (let round = 0; round < 50; round++) {
        for (let id = 0; id < 8; id++) session.submit(read(device, id, 65536 << (round & 3)));
        while (file.pending.length > 0) file.finish(file.pending[0], { data: Buffer.alloc(9) });
      }
      const mapped = [...file.memories.values()].reduce(
        (sum, { octets }) => sum + octets.length,
        0,
      );
      assert(mapped < 10 * MIB, `${mapped}`);
    });
  });

  describe('control', () => {
    it('setup and data', async () => {
      const { file, device, client, session } = await open();
      session.submit(control(device, 1, [0x40, 5, 0x1234, 0x5678, 3], Buffer.from('abc')));
      assert.equal(file.pending[0]?.data.toString('hex'), '4005341278560300616263');
      file.finish(file.pending[0], { octets: 3 });
      const urb = control(device, 2, [0xc0, 5, 0, 0, 64]);
      session.submit(urb);
      assert.equal(file.pending[0]?.octets, 72);
      file.finish(file.pending[0], { data: stamped(5, 1) });
      assert.deepEqual(client.take(), ['1 ok 3', '2 ok 5']);
      assert.deepEqual(Buffer.from(urb.dataIn), stamped(5, 1));
    });

    const intercepted: [string, [number, number, number, number, number], string[]][] = [
      ['clear-halt', [0x02, 1, 0, 0x81, 0], ['clearHalt 129']],
      ['set-interface', [0x01, 11, 0, 1, 0], ['setInterface 1 0']],
      [
        'set-configuration',
        [0x00, 9, 1, 0, 0],
        [
          'releaseInterface 0',
          'releaseInterface 1',
          'setConfiguration 1',
          'disconnectClaim 0',
          'disconnectClaim 1',
        ],
      ],
      [
        'reset',
        [0x23, 3, 4, 0, 0],
        [
          'releaseInterface 0',
          'releaseInterface 1',
          'reset',
          'disconnectClaim 0',
          'disconnectClaim 1',
        ],
      ],
    ];
    for (const [name, setup, calls] of intercepted) {
      it(`${name} is the kernel's to do, and goes out once`, async () => {
        const { file, device, client, session } = await open();
        session.submit(control(device, 1, setup));
        await settle();
        assert.deepEqual(file.takeCalls(), calls);
        assert.deepEqual(client.take(), ['1 ok 0']);
        assert.equal(file.submissions.length, 0);
      });
    }

    it('while the kernel has the device locked, nothing waits for it', async () => {
      const { file, device, client, session } = await open();
      session.submit(write(device, 1, Buffer.alloc(4)));
      session.submit(read(device, 9, 512));
      let unlock = () => {};
      file.gate = new Promise((resolve) => {
        unlock = resolve;
      });
      session.submit(control(device, 2, [0x02, 1, 0, 0x81, 0]));
      session.submit(read(device, 3, 512));
      session.submit(read(device, 4, 512));
      session.unlink(4); // never seen by the kernel
      file.finish(file.pending[0], { octets: 4 });
      session.unlink(1);
      await settle();
      assert.deepEqual(client.take(), ['4 unlinked 0']);
      unlock();
      await settle();
      file.wake();
      assert.deepEqual(client.take(), ['2 ok 0', '1 ok 4']);
      assert.deepEqual(
        file.pending.map(({ endpoint }) => endpoint),
        [0x81, 0x81],
      );
    });

    it('what the kernel refuses is a stall', async () => {
      const { file, device, client, session } = await open();
      file.answers.set('setInterface 1 7', -ERRNO.EINVAL);
      session.submit(control(device, 1, [0x01, 11, 7, 1, 0]));
      await settle();
      assert.deepEqual(client.take(), ['1 stall 0']);
    });

    it('clear-halt of what no setting has is for the device', async () => {
      const { file, device, session } = await open();
      session.submit(control(device, 1, [0x02, 1, 0, 0x8f, 0]));
      assert.equal(file.pending.length, 1);
      assert.deepEqual(file.takeCalls(), []);
    });

    it('the address is the host to give', async () => {
      const { file, device, client, session } = await open();
      session.submit(control(device, 1, [0x00, 5, 7, 0, 0]));
      assert.deepEqual(client.take(), ['1 stall 0']);
      assert.equal(file.submissions.length, 0);
    });
  });

  describe('isochronous', () => {
    async function streaming() {
      const bench = await open();
      bench.session.submit(control(bench.device, 1000, [0x01, 11, 1, 1, 0]));
      await settle();
      bench.client.take();
      return bench;
    }
    const packetsOf = (count: number, octets: number, stride = octets): IsoPacket[] =>
      Array.from({ length: count }, (_, at) => ({
        offset: at * stride,
        octets,
        actualOctets: 0,
        status: 'ok',
      }));

    it('300 packets go as three and come back as one, without gaps', async () => {
      const { file, device, client, session } = await streaming();
      const packets = packetsOf(300, 10);
      const urb = Urb.isochronous(1, endpointOf(device, 0x83), 3000, packets);
      session.submit(urb);
      assert.deepEqual(
        file.pending.map((one) => one.packets.length),
        [128, 128, 44],
      );
      for (const one of [...file.pending]) {
        const results = one.packets.map((_, at) => ({
          octets: at === 1 ? 0 : 4,
          errno: at === 1 ? ERRNO.EXDEV : 0,
        }));
        file.finish(one, { data: stamped(one.octets), packets: results });
      }
      assert.deepEqual(client.take(), [`1 ok ${297 * 4}`]);
      assert.equal(urb.dataIn.length, 297 * 4);
      assert.deepEqual([...urb.dataIn.subarray(0, 8)], [0, 1, 2, 3, 20, 21, 22, 23]);
      assert.equal(urb.errorCount, 3);
      assert.equal(packets[1]?.status, 'missed');
    });

    it('OUT packets with gaps between them are sent without', async () => {
      const { file, device, client, session } = await streaming();
      const packets = packetsOf(3, 2, 5);
      const urb = Urb.isochronous(1, endpointOf(device, 0x04), 15, packets, stamped(15));
      session.submit(urb);
      assert.deepEqual(file.pending[0]?.data, Buffer.from([0, 1, 5, 6, 10, 11]));
      file.finish(file.pending[0], { packets: packets.map(() => ({ octets: 2 })) });
      assert.deepEqual(client.take(), ['1 ok 6']);
    });

    it('many are in flight, and an unlink takes all parts of one', async () => {
      const { file, device, client, session } = await streaming();
      const endpoint = endpointOf(device, 0x83);
      for (let id = 1; id <= 40; id++) {
        session.submit(Urb.isochronous(id, endpoint, 1290, packetsOf(129, 10)));
      }
      assert.equal(file.pending.length, 64);
      session.unlink(2);
      file.wake();
      assert.deepEqual(client.take(), ['2 unlinked 0']);
      assert.equal(file.pending.length, 64, 'the next has taken its place');
    });

    it('no packets at all are soon done', async () => {
      const { device, client, session } = await streaming();
      session.submit(Urb.isochronous(1, endpointOf(device, 0x83), 0, []));
      assert.deepEqual(client.take(), ['1 ok 0']);
    });

    it('what finds no memory is missed; what is under way still counts', async () => {
      const { file, device, client, session } = await streaming();
      file.sharedLeft = 4096;
      file.plainLeft = 0;
      const urb = Urb.isochronous(1, endpointOf(device, 0x83), 1500, packetsOf(150, 10));
      session.submit(urb);
      assert.equal(file.pending.length, 1);
      file.finish(file.pending[0], {
        data: stamped(1280),
        packets: Array(128).fill({ octets: 10 }),
      });
      assert.deepEqual(client.take(), ['1 no-memory 1280']);
      assert.equal(urb.errorCount, 22);
    });
  });

  describe('the end', () => {
    it('unplugged: everything comes back once, then the client is told', async () => {
      const { file, device, client, clock, session, gone } = await open();
      for (let id = 1; id <= 12; id++) session.submit(read(device, id, 512));
      session.submit(read(device, 20, 2 * MIB));
      session.submit(control(device, 30, [0x80, 6, 0x100, 0, 18]));
      file.unplug();
      clock.advance(5000);
      const log = client.take();
      assert.equal(log.pop(), 'removed');
      assert.equal(log.length, 14);
      assert.equal(new Set(log.map((line) => line.split(' ')[0])).size, 14);
      for (const line of log) assert.match(line, / shutdown 0$/);
      assert.equal(gone.count, 1);
      file.wake();
      assert.equal(gone.count, 1);
      await session.close();
      await device.dispose();
      assert.equal(file.memories.size, 0);
      assert.throws(() => device.open(session), /unplugged/);
    });

    it('the machine slept: everything comes back once, the client is told, drivers are called back', async () => {
      const { file, device, client, clock, session, gone } = await open();
      for (let id = 1; id <= 12; id++) session.submit(read(device, id, 512));
      session.submit(control(device, 30, [0x80, 6, 0x100, 0, 18]));
      file.sleep();
      clock.advance(5000);
      const log = client.take();
      assert.equal(log.pop(), 'removed');
      assert.equal(new Set(log.map((line) => line.split(' ')[0])).size, 13);
      assert.equal(log.length, 13);
      assert.equal(gone.count, 1);
      await session.close();
      file.takeCalls();
      await device.dispose();
      assert.deepEqual(file.takeCalls(), [
        ...['releaseInterface 0', 'releaseInterface 1'],
        ...['connect 0', 'connect 1'],
      ]);
      assert.equal(file.memories.size, 0);
    });

    it('the machine slept with nothing under way, and a driver has an interface since', async () => {
      const { file, device, client, clock, session, gone } = await open();
      file.sleep();
      assert.equal(gone.count, 0);
      session.submit(write(device, 1, Buffer.alloc(64)));
      file.refuseNext = -ERRNO.EBUSY;
      session.submit(read(device, 2, 512));
      await settle();
      assert.deepEqual(file.pending, [], 'what was under way is taken back');
      file.wake();
      clock.advance(5000);
      const log = client.take();
      assert.equal(log.pop(), 'removed');
      assert.deepEqual(log.map((line) => line.split(' ')[0]).sort(), ['1', '2']);
      assert.equal(gone.count, 1);
    });

    it('the machine slept while the kernel had the device locked', async () => {
      const { file, device, client, clock, session, gone } = await open();
      session.submit(control(device, 1, [0x02, 1, 0, 0x81, 0]));
      session.submit(read(device, 2, 512)); // for later
      file.refuseNext = -ERRNO.EBUSY;
      await settle();
      clock.advance(5000);
      assert.deepEqual(client.take(), ['1 ok 0', '2 shutdown 0', 'removed']);
      assert.equal(gone.count, 1);
    });

    describe('what a sleep took back ends as shutdown, whatever the kernel says of it', () => {
      /** Its log, after reads of the bulk endpoint and one of the interrupt endpoint. */
      async function slept(happens: (bench: Bench) => void): Promise<string[]> {
        const bench = await open();
        const { device, client, clock, session, gone } = bench;
        session.submit(control(device, 1, [0x01, 11, 1, 1, 0]));
        await settle();
        client.take();
        for (let id = 2; id <= 5; id++) session.submit(read(device, id, 512));
        for (let id = 6; id <= 7; id++) {
          session.submit(Urb.read(id, endpointOf(device, 0x85), 8, false));
        }
        happens(bench);
        await settle();
        clock.advance(5000);
        await settle();
        assert.equal(gone.count, 1);
        return client.take();
      }
      const all = (...lines: string[]) => [
        ...[2, 3, 4, 5, 6, 7].map(
          (id) => lines.find((line) => line.startsWith(`${id} `)) ?? `${id} shutdown 0`,
        ),
        'removed',
      ];
      const sorted = (lines: string[]) => {
        assert.equal(lines.at(-1), 'removed');
        return lines.sort();
      };

      it('the kernel takes back all (ESHUTDOWN)', async () => {
        assert.deepEqual(sorted(await slept(({ file }) => file.sleep())), all());
      });

      for (const errno of [ERRNO.EPROTO, ERRNO.EILSEQ, ERRNO.ETIME]) {
        it(`the controller was in the middle of a transaction (errno ${errno}), then the kernel`, async () => {
          const log = await slept(({ file }) => file.sleep(errno));
          assert.deepEqual(sorted(log), all());
        });
      }

      it('the kernel first, the controller then', async () => {
        const log = await slept(({ file }) => {
          file.end(file.pending.at(-1), { errno: ERRNO.ESHUTDOWN });
          file.sleep(ERRNO.EPROTO);
        });
        assert.deepEqual(sorted(log), all());
      });

      for (const driver of ['usbhid', null]) {
        it(`an error of the bus alone, and the interface has ${driver ?? 'no'} driver since`, async () => {
          const log = await slept(({ file }) => {
            file.drivers.set(1, driver);
            file.finish(file.pending.at(-1), { errno: ERRNO.EPROTO });
            file.wake(); // the others are taken back
          });
          assert.deepEqual(sorted(log), all());
        });
      }

      it('what had ended before keeps its result', async () => {
        const log = await slept(({ file }) => {
          file.end(file.pending[0], { data: Buffer.alloc(512) });
          file.end(file.pending[0], { data: Buffer.alloc(100) });
          file.sleep();
        });
        assert.deepEqual(sorted(log), all('2 ok 512', '3 ok 100'));
      });

      it('the drivers are called back first, which sweeps (ENOENT)', async () => {
        const log = await slept(({ file }) => {
          file.end(file.pending.at(-1), { errno: ERRNO.ENOENT });
          file.sleep();
        });
        assert.deepEqual(sorted(log), all());
      });

      it('it is submitted when a driver has the interface (EBUSY)', async () => {
        const log = await slept(({ file, session, device }) => {
          file.refuseNext = -ERRNO.EBUSY;
          session.submit(write(device, 8, Buffer.alloc(8)));
          queueMicrotask(() => queueMicrotask(() => file.wake()));
        });
        assert.deepEqual(sorted(log), [...all().slice(0, -1), '8 shutdown 0', 'removed']);
      });

      it('so is a control request, and an isochronous URB', async () => {
        for (const later of [
          (device: UsbfsDevice) => control(device, 8, [0x21, 9, 0, 0, 0]),
          (device: UsbfsDevice) =>
            Urb.isochronous(8, endpointOf(device, 0x83), 64, [
              { offset: 0, octets: 64, actualOctets: 0, status: 'ok' },
            ]),
        ]) {
          const log = await slept(({ file, session, device }) => {
            file.refuseNext = -ERRNO.EBUSY;
            session.submit(later(device));
            queueMicrotask(() => queueMicrotask(() => file.wake()));
          });
          assert.deepEqual(sorted(log), [...all().slice(0, -1), '8 shutdown 0', 'removed']);
        }
      });

      it('the kernel does not set a configuration while a driver has an interface (EBUSY)', async () => {
        const log = await slept(({ file, session, device }) => {
          file.answers.set('setConfiguration 1', -ERRNO.EBUSY);
          session.submit(control(device, 8, [0x00, 9, 1, 0, 0]));
          setImmediate(() => setImmediate(() => file.wake()));
        });
        assert.deepEqual(sorted(log), [...all().slice(0, -1), '8 shutdown 0', 'removed']);
      });
    });

    it('nothing is asked of the kernel once a request of the queue has locked the device', async () => {
      const { file, device, client, session } = await open();
      session.submit(control(device, 1, [0x80, 6, 0x100, 0, 18]));
      session.submit(control(device, 2, [0x01, 11, 1, 1, 0])); // starts inside the end of the first
      session.submit(read(device, 3, 512));
      const [first, second] = file.pending;
      file.end(first, { data: Buffer.alloc(18) });
      file.end(second, { data: Buffer.alloc(512) });
      file.wake();
      await settle();
      file.wake();
      await settle();
      assert.deepEqual(client.take().sort(), ['1 ok 18', '2 ok 0', '3 ok 512']);
    });

    it('what was looked at ahead is not forgotten while the device is locked', async () => {
      const { file, device, client, clock, session } = await open();
      session.submit(read(device, 1, 512));
      session.submit(control(device, 2, [0x80, 6, 0x100, 0, 18]));
      session.submit(control(device, 3, [0x01, 11, 1, 1, 0]));
      session.submit(write(device, 4, Buffer.alloc(64)));
      const [first, second, third] = file.pending;
      file.end(first, { errno: ERRNO.EPROTO }); // what is behind it may say that the machine slept
      file.end(second, { data: Buffer.alloc(18) }); // and the next request locks the device
      file.end(third, { octets: 64 });
      file.wake();
      for (let n = 0; n < 4; n++) await settle();
      clock.advance(5000);
      const log = client.take().sort();
      assert.deepEqual(log, ['1 protocol-error 0', '2 ok 18', '3 ok 0', '4 ok 64']);
    });

    it('a request that comes in a reset locks the device once more, and then all goes on', async () => {
      const { file, device, client, session } = await open();
      device.reset();
      session.submit(control(device, 1, [0x01, 11, 1, 1, 0]));
      for (let n = 0; n < 8; n++) await settle();
      session.submit(read(device, 2, 512));
      file.finish(file.pending[0], { data: Buffer.alloc(512) });
      assert.deepEqual(client.take(), ['1 ok 0', '2 ok 512']);
    });

    it('an error of the bus while the interfaces are ours is what it says', async () => {
      const { file, device, client, clock, session, gone } = await open();
      session.submit(read(device, 1, 512));
      file.finish(file.pending[0], { errno: ERRNO.EPROTO });
      clock.advance(5000);
      assert.deepEqual(client.take(), ['1 protocol-error 0']);
      assert.equal(gone.count, 0);
    });

    it('a request that finds a driver at an interface is back before the device is gone', async () => {
      const { file, device, client, session, gone } = await open();
      file.answers.set('setConfiguration 1', -ERRNO.EBUSY);
      session.submit(control(device, 1, [0x00, 9, 1, 0, 0]));
      for (let n = 0; n < 8; n++) await settle();
      assert.deepEqual(client.take(), ['1 shutdown 0', 'removed']);
      assert.equal(gone.count, 1);
    });

    it('a reset while a control request is under way is no sleep', async () => {
      const { file, device, client, session, gone } = await open();
      session.submit(control(device, 1, [0x80, 6, 0x100, 0, 18]));
      file.finish(file.pending[0], { errno: ERRNO.ESHUTDOWN });
      session.submit(read(device, 2, 512));
      file.finish(file.pending[0], { data: Buffer.alloc(512) });
      assert.equal(client.take().at(-1), '2 ok 512');
      assert.equal(gone.count, 0);
    });

    it('idle devices are missed too', async () => {
      const { file, client, gone } = await open();
      file.unplug();
      assert.deepEqual(client.take(), ['removed']);
      assert.equal(gone.count, 1);
    });

    it('hundreds at a time, more than a wake-up takes else, are all missed', async () => {
      const { file, device, client, session, gone } = await open();
      session.submit(control(device, 100, [0x01, 11, 1, 1, 0]));
      await settle();
      const packets = () =>
        Array.from({ length: 1280 }, (_, at) => ({
          offset: at,
          octets: 1,
          actualOctets: 0,
          status: 'ok' as const,
        }));
      for (let id = 1; id <= 32; id++) {
        session.submit(Urb.isochronous(id, endpointOf(device, 0x83), 1280, packets()));
      }
      assert.equal(file.pending.length, 320);
      file.unplug(); // says so once
      assert.equal(client.take().length, 1 + 32 + 1);
      assert.equal(gone.count, 1);
    });

    it('closed: unlinked, reset and ready for another', async () => {
      const { file, device, client, session } = await open();
      for (let id = 1; id <= 3; id++) session.submit(read(device, id, 512));
      const closing = session.close();
      file.wake();
      await closing;
      assert.equal(client.take().length, 3);
      assert.deepEqual(file.takeCalls(), [
        'releaseInterface 0',
        'releaseInterface 1',
        'reset',
        'disconnectClaim 0',
        'disconnectClaim 1',
      ]);
      const again = new DeviceSession(device, client);
      again.submit(read(device, 1, 512));
      assert.equal(file.pending.length, 1);
    });

    it('a reset and the end of its session at once: one reset after the other', async () => {
      const { file, device, session } = await open();
      let go = () => {};
      file.gate = new Promise((resolve) => {
        go = resolve;
      });
      device.reset(); // a guest resets its port
      const closing = session.close(); // and the device is detached
      const disposing = closing.then(() => device.dispose());
      await settle();
      go();
      await disposing;
      assert.equal(file.takeCalls().filter((call) => call === 'reset').length, 2);
      assert(file.closed);
    });

    it('a request that came during a reset locks the device again', async () => {
      const { file, device, client, session } = await open();
      let go = () => {};
      file.gate = new Promise((resolve) => {
        go = resolve;
      });
      device.reset();
      session.submit(control(device, 1, [0x01, 11, 1, 1, 0]));
      session.submit(read(device, 2, 512));
      go();
      for (let n = 0; n < 5; n++) await settle();
      assert.deepEqual(client.take(), ['1 ok 0']);
      file.finish(file.pending[0], { data: stamped(512) });
      assert.deepEqual(client.take(), ['2 ok 512']);
      await session.close();
    });
  });

  describe('a bug', () => {
    it('while URBs are reaped ends the session, and the device goes on for the next', async () => {
      const { file, device, client, session } = await open();
      const bugs: unknown[] = [];
      const contained = Object.assign(client, { failed: (error: unknown) => bugs.push(error) });
      session.submit(read(device, 1, 512));
      session.submit(read(device, 2, 512));
      const [first, second] = file.pending;
      const { reapCount } = file;
      file.onReap = () => {
        throw new TypeError('made by a test');
      };
      file.end(first, { data: stamped(512) });
      file.wake();
      assert(file.reapCount > reapCount);
      assert.equal(bugs.length, 1);
      assert.match(String(bugs[0]), /made by a test/);
      file.onReap = () => {};
      const closing = session.close();
      file.wake();
      await closing;
      assert.equal(file.pending.includes(second as never), false);
      assert.deepEqual(contained.take(), ['1 shutdown 512', '2 shutdown 0']);
      const again = new DeviceSession(device, client);
      again.submit(read(device, 1, 512));
      assert.equal(file.pending.length, 1);
    });

    it('in a call about the device ends the session', async () => {
      const { file, device, client, session } = await open();
      const bugs: unknown[] = [];
      Object.assign(client, { failed: (error: unknown) => bugs.push(error) });
      const { ioctlSlow } = file;
      file.ioctlSlow = async () => {
        throw new TypeError('made by a test');
      };
      session.submit(control(device, 1, [0x01, 11, 1, 1, 0]));
      await settle();
      assert.match(String(bugs), /made by a test/);
      file.ioctlSlow = ioctlSlow;
      await session.close();
      assert.deepEqual(client.take(), ['1 shutdown 0']);
    });
  });

  it('whatever happens, each URB comes back once and no memory is lost (property)', async () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ do: fc.constant('read'), octets: fc.nat(3 * MIB) }) },
      { weight: 4, arbitrary: fc.record({ do: fc.constant('snok'), octets: fc.nat(9000) }) },
      { weight: 4, arbitrary: fc.record({ do: fc.constant('ok'), octets: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('fail'), octets: fc.nat() }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('unlink'), octets: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('wait'), octets: fc.nat(2000) }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('wake'), octets: fc.constant(0) }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const { file, device, client, clock, session } = await open();
        let id = 0;
        for (const one of steps) {
          if (one.do === 'read') session.submit(read(device, id++, one.octets));
          else if (one.do === 'snok') session.submit(read(device, id++, one.octets, true));
          else if (one.do === 'unlink' && id > 0) session.unlink(one.octets % id);
          else if (one.do === 'wait') clock.advance(one.octets);
          else if (one.do === 'wake') file.wake();
          const [head] = file.pending;
          if (head === undefined) continue;
          const short = (head.flags & FLAG.shortNotOk) !== 0;
          const octets = head.octets === 0 ? 0 : one.octets % (head.octets + 1);
          const errno = short && octets < head.octets ? ERRNO.EREMOTEIO : 0;
          if (one.do === 'ok') file.end(head, { data: Buffer.alloc(octets), errno });
          if (one.do === 'fail') file.end(head, { errno: ERRNO.EPROTO });
        }
        const closing = session.close();
        file.wake();
        await closing;
        const ids = client.take().map((line) => line.split(' ')[0]);
        assert.equal(ids.length, id);
        assert.equal(new Set(ids).size, id);
        await device.dispose();
        assert.equal(file.memories.size, 0);
      }),
      { numRuns: 200 },
    );
  });
});
