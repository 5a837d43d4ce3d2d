import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { abilitiesOf } from '../../../../src/core/devices/webusb/claims.ts';
import { NusbDevice } from '../../../../src/core/devices/webusb/nusb-device.ts';
import {
  PACKET_MILLISECONDS,
  PIECE_MILLISECONDS,
} from '../../../../src/core/devices/webusb/pipe.ts';
import { Registry } from '../../../../src/core/registry.ts';
import { DeviceSession } from '../../../../src/core/session.ts';
import { Urb } from '../../../../src/core/urb.ts';
import { FakeClock } from '../../../examples/rig.ts';
import {
  configurationBytes,
  deviceBytes,
  interfaceBytes,
  many,
} from '../../../usbip/hostile-server.ts';
import { NotingClient } from '../../manual-device.ts';
import { FakePackageDevice, settle } from './fake-package.ts';

interface Bench {
  readonly usb: FakePackageDevice;
  readonly device: NusbDevice;
  readonly client: NotingClient;
  readonly clock: FakeClock;
  readonly session: DeviceSession;
  readonly gone: { count: number };
}

const IN = 0x81;
const OUT = 0x02;

async function take(
  usb: FakePackageDevice,
  platform: NodeJS.Platform = 'linux',
  isStray = false,
  onGone = () => {},
): Promise<NusbDevice> {
  await usb.open();
  if (platform !== 'linux') usb.drivers.clear();
  return await NusbDevice.take(usb, {
    speed: 'high',
    label: 'fake',
    abilities: abilitiesOf(platform),
    isStray,
    onGone,
    onDisposed: () => {},
  });
}

async function open(platform?: NodeJS.Platform): Promise<Bench> {
  const usb = new FakePackageDevice();
  const gone = { count: 0 };
  const device = await take(usb, platform, false, () => gone.count++);
  const client = new NotingClient();
  const clock = new FakeClock();
  const session = new DeviceSession(device, client, { clock });
  usb.takeCalls();
  return { usb, device, client, clock, session, gone };
}

const endpointOf = (device: NusbDevice, address: number) => {
  const found = device.endpoint(address);
  assert(found !== undefined);
  return found;
};
const read = (device: NusbDevice, id: number, octets: number, shortNotOk = false) =>
  Urb.read(id, endpointOf(device, IN), octets, shortNotOk);
const write = (device: NusbDevice, id: number, data: Buffer, zeroPacket = false) =>
  Urb.write(id, endpointOf(device, OUT), data, zeroPacket);
const control = (
  device: NusbDevice,
  id: number,
  [requestType, request, value, index, length]: [number, number, number, number, number],
  data?: Buffer,
) => Urb.control(id, endpointOf(device, 0), { requestType, request, value, index, length }, data);
const CLEAR_HALT_IN: [number, number, number, number, number] = [0x02, 1, 0, IN, 0];
const SET_INTERFACE_1: [number, number, number, number, number] = [0x01, 11, 1, 1, 0];

const stamped = (octets: number, from = 0) =>
  Buffer.from(Array.from({ length: octets }, (_, at) => (from + at) & 255));

describe('NusbDevice', () => {
  describe('what it takes', () => {
    it('255 configurations of 256 interfaces: asks for 8, claims 32', async () => {
      const usb = new FakePackageDevice();
      const one = configurationBytes(many(256, (at) => interfaceBytes(at)));
      let asked = 0;
      usb.controlTransferIn = async ({ request, value }, octets) => {
        asked++;
        const answer = request === 8 ? Buffer.of(1) : value >> 8 === 1 ? deviceBytes(255) : one;
        return { data: new DataView(Uint8Array.from(answer.subarray(0, octets)).buffer) };
      };
      usb.drivers.clear();
      const device = await take(usb);
      assert.equal(asked, 1 + 2 * 8 + 1);
      assert.equal(usb.claimed.size, 32);
      assert.equal(new Registry().add(device, 'usb').info.interfaces.length, 32);
      await device.dispose();
      assert.equal(usb.opened, false);
    });

    it('claims every interface from its driver, and gives all back', async () => {
      const usb = new FakePackageDevice();
      const device = await take(usb);
      assert.deepEqual(usb.takeCalls(), ['open', 'detach 0', 'claim 0', 'detach 1', 'claim 1']);
      assert.equal(device.info.vendorId, 0x0525);
      assert.equal(device.endpoint(IN)?.maxPacketOctets, 512);
      await device.dispose();
      assert.deepEqual(usb.takeCalls(), [
        ...['release 0', 'release 1', 'attach 0', 'attach 1', 'close'],
      ]);
      assert.deepEqual([...usb.drivers], [0, 1]);
      await device.dispose();
      assert.deepEqual(usb.takeCalls(), []);
    });

    it('resets what was left behind without a driver', async () => {
      const usb = new FakePackageDevice();
      await take(usb, 'linux', true);
      assert(usb.takeCalls().includes('reset'));
      assert.deepEqual([...usb.claimed], [0, 1]);
    });

    it('a claim that fails leaves nothing behind', async () => {
      const usb = new FakePackageDevice();
      usb.failures.set('claim 1', 'claimInterface error: interface is busy (errno 16)');
      await assert.rejects(take(usb), /interface is busy/);
      assert.equal(usb.opened, false);
      assert.deepEqual([...usb.claimed], []);
    });

    it('a descriptor that cannot be had is said', async () => {
      const usb = new FakePackageDevice();
      usb.descriptors = usb.descriptors.subarray(0, 40);
      await assert.rejects(take(usb), /descriptor 2\.0: 22 octets, wanted \d+ octets/);
      assert.equal(usb.opened, false);
    });

    it('WinUSB: one interface is claimed before the first request, none twice', async () => {
      const usb = new FakePackageDevice();
      const device = await take(usb, 'win32');
      assert.deepEqual(usb.takeCalls(), ['open', 'claim 0', 'claim 1']);
      assert.deepEqual([...usb.claimed], [0, 1]);
      await device.dispose();
      assert.deepEqual(usb.takeCalls(), ['release 0', 'release 1', 'close']);
    });

    it('WinUSB: a device that does not tell is let go of', async () => {
      const usb = new FakePackageDevice();
      usb.descriptors = usb.descriptors.subarray(0, 40);
      await assert.rejects(take(usb, 'win32'), /wanted \d+ octets/);
      assert.deepEqual([...usb.claimed], []);
      assert.equal(usb.opened, false);
    });
  });

  describe('bulk IN', () => {
    it('first one packet, then the rest', async () => {
      const { usb, device, client, session } = await open();
      const urb = read(device, 1, 2000);
      session.submit(urb);
      assert.equal(usb.only(IN).octets, 512);
      assert.equal(usb.only(IN).milliseconds, PACKET_MILLISECONDS);
      await usb.only(IN).arrive(stamped(512));
      assert.equal(usb.only(IN).octets, 1536); // whole packets
      assert.equal(usb.only(IN).milliseconds, PIECE_MILLISECONDS);
      await usb.only(IN).arrive(stamped(1488, 512));
      assert.deepEqual(client.take(), ['1 ok 2000']);
      assert.deepEqual(urb.dataIn, stamped(2000));
    });

    it('a short packet ends it, as an error where that is one', async () => {
      const { usb, device, client, session, clock } = await open();
      session.submit(read(device, 1, 2000));
      await usb.only(IN).arrive(stamped(13));
      session.submit(read(device, 2, 2000, true));
      await usb.only(IN).arrive(stamped(512));
      await usb.only(IN).arrive(stamped(100));
      clock.advance(10);
      assert.deepEqual(client.take(), ['1 ok 13', '2 short 612']);
      assert.equal(usb.transfers.length, 0);
    });

    it('an empty packet ends it after a full one', async () => {
      const { usb, device, client, session } = await open();
      session.submit(read(device, 1, 4096));
      await usb.only(IN).arrive(stamped(512));
      await usb.only(IN).arrive(stamped(0));
      assert.deepEqual(client.take(), ['1 ok 512']);
    });

    it('more than was asked for is babble, and is cut off', async () => {
      const { usb, device, client, session, clock } = await open();
      const urb = read(device, 1, 13);
      session.submit(urb);
      assert.equal(usb.only(IN).octets, 512);
      await usb.only(IN).arrive(stamped(31));
      clock.advance(10);
      assert.deepEqual(client.take(), ['1 babble 13']);
      assert.deepEqual(urb.dataIn, stamped(13));
    });

    it('a device that says nothing is asked again, for as long as the URB is wanted', async () => {
      const { usb, device, client, session } = await open();
      session.submit(read(device, 1, 2000));
      for (let round = 0; round < 5; round++) await usb.only(IN).fail('Cancelled');
      assert.deepEqual(client.take(), []);
      await usb.only(IN).arrive(stamped(7));
      assert.deepEqual(client.take(), ['1 ok 7']);
    });

    it('many packets that stop half way end as timeout, with what came before', async () => {
      const { usb, device, client, session, clock } = await open();
      session.submit(read(device, 1, 2048));
      await usb.only(IN).arrive(stamped(512));
      await usb.only(IN).fail('Cancelled');
      clock.advance(10);
      assert.deepEqual(client.take(), ['1 timeout 512']);
    });

    for (const [what, status] of [
      ['Stall', 'stall'],
      ['Fault', 'protocol-error'],
      ['InvalidArgument', 'invalid'],
      ['Disconnected', 'shutdown'],
      ['Unknown(12)', process.platform === 'linux' ? 'no-memory' : 'protocol-error'],
      ['something new', 'protocol-error'],
    ] as const) {
      it(`${what} is ${status}, and what is behind it waits`, async () => {
        const { usb, device, client, session, clock } = await open();
        session.submit(read(device, 1, 512));
        session.submit(read(device, 2, 512));
        assert.equal(usb.transfers.length, 1);
        await usb.only(IN).fail(what);
        clock.advance(10);
        assert.deepEqual(client.take(), [`1 ${status} 0`]);
        assert.equal(usb.transfers.length, 0, 'the queue went on');
        session.unlink(2);
        assert.deepEqual(client.take(), ['2 unlinked 0']);
      });
    }
  });

  describe('unlink', () => {
    it('a read that waits is given back at once, and the next takes its packet', async () => {
      const { usb, device, client, session, clock } = await open();
      session.submit(read(device, 1, 2000));
      session.unlink(1);
      clock.advance(2000);
      assert.deepEqual(client.take(), ['1 unlinked 0']);
      const outstanding = usb.only(IN);
      const urb = read(device, 2, 700);
      session.submit(urb);
      assert.equal(usb.only(IN), outstanding);
      await outstanding.arrive(stamped(512));
      await usb.only(IN).arrive(stamped(188, 512));
      assert.deepEqual(client.take(), ['2 ok 700']);
      assert.deepEqual(urb.dataIn, stamped(700));
    });

    it('a packet that comes for nobody is kept for the next read, an empty one too', async () => {
      const { usb, device, client, session, clock } = await open();
      for (const octets of [100, 0]) {
        session.submit(read(device, 1, 2000));
        session.unlink(1);
        await usb.only(IN).arrive(stamped(octets));
        clock.advance(2000);
        session.submit(read(device, 2, 2000));
        assert.deepEqual(client.take(), ['1 unlinked 0', `2 ok ${octets}`]);
        assert.equal(usb.transfers.length, 0);
      }
    });

    it('a deadline of a read that nobody wants ends it', async () => {
      const { usb, device, session } = await open();
      session.submit(read(device, 1, 2000));
      session.unlink(1);
      await usb.only(IN).fail('Cancelled');
      assert.equal(usb.transfers.length, 0);
    });

    it('a write waits for its deadline, and never goes out afterwards', async () => {
      const { usb, device, client, session } = await open();
      session.submit(write(device, 1, stamped(100)));
      session.unlink(1);
      assert.deepEqual(client.take(), []);
      assert.equal(usb.only(OUT).milliseconds, PACKET_MILLISECONDS);
      await usb.only(OUT).fail('Cancelled');
      assert.deepEqual(client.take(), ['1 unlinked 0']);
      assert.equal(usb.transfers.length, 0);
    });

    it('between the pieces it tells what has moved', async () => {
      const { usb, device, client, session, clock } = await open();
      session.submit(write(device, 1, stamped(100_000)));
      await usb.only(OUT).leave();
      session.unlink(1);
      await usb.only(OUT).leave();
      clock.advance(10);
      assert.deepEqual(client.take(), ['1 unlinked 66048']);
      assert.equal(usb.transfers.length, 0);
    });

    it('a URB that ends well first has ended well', async () => {
      const { usb, device, client, session } = await open();
      session.submit(write(device, 1, stamped(100)));
      session.unlink(1);
      await usb.only(OUT).leave();
      assert.deepEqual(client.take(), ['1 ok 100']);
    });
  });

  describe('bulk OUT', () => {
    it('first one packet, then pieces', async () => {
      const { usb, device, client, session } = await open();
      session.submit(write(device, 1, stamped(70_000)));
      const sent: Buffer[] = [];
      while (usb.transfers.length > 0) {
        sent.push(usb.only(OUT).data);
        await usb.only(OUT).leave();
      }
      assert.deepEqual(
        sent.map(({ length }) => length),
        [512, 65_536, 3952],
      );
      assert.deepEqual(Buffer.concat(sent), stamped(70_000));
      assert.deepEqual(client.take(), ['1 ok 70000']);
    });

    for (const [octets, pieces] of [
      [1024, [512, 512, 0]],
      [512, [512, 0]],
      [700, [512, 188]],
      [0, [0]],
    ] as const) {
      it(`zero packet after ${octets} octets where it is due`, async () => {
        const { usb, device, client, session } = await open();
        session.submit(write(device, 1, stamped(octets), true));
        const sent: number[] = [];
        while (usb.transfers.length > 0) {
          sent.push(usb.only(OUT).octets);
          await usb.only(OUT).leave();
        }
        assert.deepEqual(sent, pieces);
        assert.deepEqual(client.take(), [`1 ok ${octets}`]);
      });
    }
  });

  it('an interrupt endpoint goes packet by packet', async () => {
    const { usb, device, client, session } = await open();
    session.submit(control(device, 1, SET_INTERFACE_1));
    await settle();
    const endpoint = endpointOf(device, 0x85);
    session.submit(Urb.read(2, endpoint, 128));
    for (const octets of [64, 64]) {
      assert.equal(usb.only(0x85).octets, 64);
      await usb.only(0x85).fail('Cancelled');
      await usb.only(0x85).arrive(stamped(octets));
    }
    assert.deepEqual(client.take(), ['1 ok 0', '2 ok 128']);
  });

  it('a bug behind a promise ends the session', async () => {
    const { device, client, session } = await open();
    const bugs: unknown[] = [];
    Object.assign(client, { failed: (error: unknown) => bugs.push(error) });
    const urb = control(device, 1, [0x80, 6, 0x0100, 0, 18]);
    Object.defineProperty(urb, 'shortNotOk', {
      get: () => {
        throw new TypeError('made by a test');
      },
    });
    session.submit(urb);
    for (let n = 0; n < 5; n++) await settle();
    assert.match(String(bugs), /made by a test/);
    assert.equal(session.hasFailed, true);
  });

  it('isochronous URBs are refused', async () => {
    const { device, client, session } = await open();
    session.submit(control(device, 1, SET_INTERFACE_1));
    await settle();
    const packet = { offset: 0, octets: 10, actualOctets: 0, status: 'ok' as const };
    const urb = Urb.isochronous(2, endpointOf(device, 0x83), 10, [packet]);
    session.submit(urb);
    assert.deepEqual(client.take(), ['1 ok 0', '2 invalid 0']);
    assert.equal(urb.errorCount, 1);
  });

  describe('control', () => {
    it('requests go to the device as they are', async () => {
      const { usb, device, client, session } = await open();
      const seen: unknown[] = [];
      usb.onControl = async (setup, data) => {
        seen.push(setup, data);
        return stamped(20);
      };
      const urb = control(device, 1, [0xa1, 0xfe, 2, 1, 16]);
      session.submit(urb);
      session.submit(control(device, 2, [0x42, 7, 3, 4, 3], stamped(3)));
      await settle();
      assert.deepEqual(client.take(), ['1 ok 16', '2 ok 3']);
      assert.deepEqual(urb.dataIn, stamped(16), 'more than was asked for is cut off');
      assert.deepEqual(seen, [
        { requestType: 'class', recipient: 'interface', request: 0xfe, value: 2, index: 1 },
        16,
        { requestType: 'vendor', recipient: 'endpoint', request: 7, value: 3, index: 4 },
        stamped(3),
      ]);
    });

    for (const [message, wanted, status] of [
      ['controlTransferIn error: endpoint stalled', false, 'stall'],
      ['controlTransferIn error: transfer was cancelled', false, 'timeout'],
      ['controlTransferIn error: transfer was cancelled', true, 'unlinked'],
      ['controlTransferIn error: unknown (errno 71)', false, 'protocol-error'],
      ['controlTransferIn error: invalid state', false, 'shutdown'],
    ] as const) {
      it(`${message}${wanted ? ', unlinked' : ''}: ${status}`, async () => {
        const { usb, device, client, session, clock } = await open();
        let fail = (_error: Error) => {};
        usb.onControl = () => new Promise((_, reject) => (fail = reject));
        session.submit(control(device, 1, [0xc0, 1, 0, 0, 8]));
        await settle();
        if (wanted) session.unlink(1);
        assert.deepEqual(client.take(), []);
        fail(new Error(message));
        await settle();
        clock.advance(100);
        assert.deepEqual(client.take(), [`1 ${status} 0`]);
      });
    }

    it('what the package cannot send is invalid, an address is the host’s to give', async () => {
      const { usb, device, client, session, clock } = await open();
      session.submit(control(device, 1, [0x60, 1, 0, 0, 0]));
      await settle();
      clock.advance(100);
      session.submit(control(device, 2, [0x00, 5, 9, 0, 0]));
      await settle();
      assert.deepEqual(client.take(), ['1 invalid 0', '2 stall 0']);
      assert.deepEqual(usb.takeCalls(), []);
    });
  });

  describe('requests that the host has to know of', () => {
    it('clear-halt: the package says it to the device, once', async () => {
      const { usb, device, client, session } = await open();
      session.submit(control(device, 1, CLEAR_HALT_IN));
      await settle();
      assert.deepEqual(usb.takeCalls(), ['clearHalt 81']);
      assert.deepEqual(client.take(), ['1 ok 0']);
    });

    it('clear-halt waits for a read that nobody wants, and forgets what it brought', async () => {
      const { usb, device, client, session } = await open();
      session.submit(read(device, 1, 512));
      session.unlink(1);
      session.submit(control(device, 2, CLEAR_HALT_IN));
      await settle();
      assert.deepEqual(client.take(), ['1 unlinked 0']);
      assert.deepEqual(usb.takeCalls(), []);
      await usb.only(IN).arrive(stamped(5));
      assert.deepEqual(usb.takeCalls(), ['clearHalt 81']);
      session.submit(read(device, 3, 512));
      await usb.only(IN).arrive(stamped(7));
      assert.deepEqual(client.take(), ['2 ok 0', '3 ok 7']);
    });

    it('clear-halt of what no pipe is goes to the device', async () => {
      const { usb, device, session } = await open();
      session.submit(control(device, 1, [0x02, 1, 0, 0x8a, 0]));
      await settle();
      assert.deepEqual(usb.takeCalls(), ['control standard endpoint 1']);
    });

    it('set-interface: endpoints follow', async () => {
      const { usb, device, client, session } = await open();
      assert.equal(device.endpoint(0x83), undefined);
      session.submit(control(device, 1, SET_INTERFACE_1));
      await settle();
      assert.deepEqual(usb.takeCalls(), ['alternate 1 1']);
      assert.deepEqual(client.take(), ['1 ok 0']);
      assert.equal(device.endpoint(0x83)?.type, 'isochronous');
    });

    it('set-interface, Linux: a read of another interface that waits is begun again', async () => {
      const { usb, device, client, session } = await open();
      session.submit(read(device, 1, 512));
      session.submit(control(device, 2, SET_INTERFACE_1));
      await settle();
      await settle();
      assert.deepEqual(usb.takeCalls(), ['detach 0', 'release 0', 'claim 0', 'alternate 1 1']);
      assert.deepEqual([...usb.claimed].sort(), [0, 1]);
      assert.deepEqual(client.take(), ['2 ok 0']);
      await usb.only(IN).arrive(stamped(9));
      assert.deepEqual(client.take(), ['1 ok 9']);
    });

    it('set-interface, Linux: a read in the middle of its data is waited for', async () => {
      const { usb, device, client, session } = await open();
      session.submit(read(device, 1, 2048));
      await usb.only(IN).arrive(stamped(512));
      session.submit(control(device, 2, SET_INTERFACE_1));
      await settle();
      assert.deepEqual(usb.takeCalls(), []);
      await usb.only(IN).arrive(stamped(1536));
      await settle();
      assert.deepEqual(client.take(), ['1 ok 2048', '2 ok 0']);
    });

    it('set-interface, Linux: an aborted interface has its setting again', async () => {
      const { usb, device, session } = await open();
      session.submit(control(device, 1, SET_INTERFACE_1));
      await settle();
      session.submit(Urb.read(2, endpointOf(device, 0x85), 64));
      usb.takeCalls();
      session.submit(control(device, 3, [0x01, 11, 0, 0, 0]));
      await settle();
      await settle();
      assert.deepEqual(usb.takeCalls(), [
        ...['detach 1', 'release 1', 'claim 1', 'alternate 1 1', 'alternate 0 0'],
      ]);
      assert.equal(usb.only(0x85).octets, 64);
    });

    it('set-interface elsewhere: waits for the deadline, and the read is begun again', async () => {
      const { usb, device, client, session } = await open('darwin');
      session.submit(read(device, 1, 512));
      session.submit(control(device, 2, SET_INTERFACE_1));
      await settle();
      assert.deepEqual(usb.takeCalls(), []);
      await usb.only(IN).fail('Cancelled');
      assert.deepEqual(usb.takeCalls(), ['alternate 1 1']);
      assert.deepEqual(client.take(), ['2 ok 0']);
      await usb.only(IN).arrive(stamped(9));
      assert.deepEqual(client.take(), ['1 ok 9']);
    });

    it('a setting that is refused is a stall, and changes nothing', async () => {
      const { usb, device, client, session, clock } = await open();
      usb.failures.set(
        'alternate 1 9',
        'selectAlternateInterface error: alternate setting not found (errno 22)',
      );
      session.submit(control(device, 1, [0x01, 11, 9, 1, 0]));
      await settle();
      clock.advance(100);
      assert.deepEqual(client.take(), ['1 stall 0']);
    });

    it('a URB whose endpoint a new setting takes away ends as shutdown', async () => {
      const { usb, device, client, session, clock } = await open();
      session.submit(read(device, 1, 512));
      session.submit(control(device, 2, [0x01, 11, 0, 0, 0]));
      await settle();
      await settle();
      clock.advance(10);
      assert.deepEqual(client.take().sort(), ['1 shutdown 0', '2 ok 0']);
      assert.equal(usb.transfers.length, 0);
    });

    it('set-configuration: no interface is claimed meanwhile, drivers that came are detached', async () => {
      const { usb, device, client, session } = await open();
      session.submit(control(device, 1, [0x00, 9, 1, 0, 0]));
      await settle();
      await settle();
      assert.deepEqual(usb.takeCalls(), [
        ...['release 0', 'release 1', 'selectConfiguration 1'],
        ...['detach 0', 'claim 0', 'detach 1', 'claim 1'],
      ]);
      assert.deepEqual([...usb.claimed], [0, 1]);
      assert.deepEqual(client.take(), ['1 ok 0']);
    });

    it('set-configuration that is refused: the interfaces are ours again', async () => {
      const { usb, device, client, session, clock } = await open();
      usb.failures.set('selectConfiguration 0', 'selectConfiguration error: invalid configuration');
      session.submit(control(device, 1, [0x00, 9, 0, 0, 0]));
      await settle();
      await settle();
      clock.advance(100);
      assert.deepEqual(client.take(), ['1 stall 0']);
      assert.deepEqual([...usb.claimed], [0, 1]);
    });

    it('WinUSB: the configuration that there is can be set, no other, and a reset is emulated', async () => {
      const { usb, device, client, session, clock } = await open('win32');
      session.submit(control(device, 1, SET_INTERFACE_1));
      await settle();
      session.submit(control(device, 2, [0x00, 9, 1, 0, 0]));
      await settle();
      assert.deepEqual(usb.takeCalls(), ['alternate 1 1', 'alternate 1 0']);
      session.submit(control(device, 3, [0x00, 9, 2, 0, 0]));
      await settle();
      clock.advance(100);
      assert.deepEqual(client.take(), ['1 ok 0', '2 ok 0', '3 stall 0']);
      await session.close();
      assert.deepEqual(usb.takeCalls(), ['clearHalt 2', 'clearHalt 81']);
    });
  });

  describe('ends', () => {
    it('a client that leaves: what is outstanding is ended, the device reset', async () => {
      const { usb, device, client, session } = await open();
      session.submit(read(device, 1, 512));
      await session.close();
      assert.deepEqual(client.take(), ['1 shutdown 0']);
      assert.equal(usb.transfers.length, 0);
      assert.deepEqual(usb.takeCalls(), [
        ...['detach 0', 'release 0', 'release 1', 'reset'],
        ...['detach 0', 'claim 0', 'detach 1', 'claim 1'],
      ]);
      const next = new NotingClient();
      const second = new DeviceSession(device, next, { clock: new FakeClock() });
      second.submit(read(device, 1, 512));
      await usb.only(IN).arrive(stamped(3));
      assert.deepEqual(next.take(), ['1 ok 3']);
    });

    it('a packet for one client is not the next one’s', async () => {
      const { usb, device, session } = await open();
      session.submit(read(device, 1, 512));
      session.unlink(1);
      await usb.only(IN).arrive(stamped(40));
      await session.close();
      const next = new NotingClient();
      const second = new DeviceSession(device, next, { clock: new FakeClock() });
      second.submit(read(device, 1, 512));
      await usb.only(IN).arrive(stamped(3));
      assert.deepEqual(next.take(), ['1 ok 3']);
    });

    it('elsewhere a client that leaves is waited for until the deadline', async () => {
      const { usb, device, session } = await open('darwin');
      session.submit(read(device, 1, 512));
      let closed = false;
      const closing = session.close().then(() => {
        closed = true;
      });
      await settle();
      assert.equal(closed, false);
      await usb.only(IN).fail('Cancelled');
      await closing;
      // A reset would make another device of it on macOS.
      assert.deepEqual(usb.takeCalls(), ['clearHalt 2', 'clearHalt 81']);
    });

    it('reset: what is submitted after it goes to the device after it', async () => {
      const { usb, device, client, session } = await open();
      device.reset();
      session.submit(read(device, 1, 512));
      assert.equal(usb.transfers.length, 0);
      await settle();
      await settle();
      assert(usb.takeCalls().includes('reset'));
      await usb.only(IN).arrive(stamped(3));
      assert.deepEqual(client.take(), ['1 ok 3']);
    });

    it('unplugged: every URB is given back once, then the client is told', async () => {
      const { usb, device, client, session, gone } = await open();
      usb.onControl = () => new Promise(() => {});
      session.submit(read(device, 1, 2048));
      await usb.only(IN).arrive(stamped(512));
      session.submit(read(device, 2, 512));
      session.submit(write(device, 3, stamped(10)));
      session.submit(control(device, 4, [0xc0, 1, 0, 0, 8]));
      session.submit(control(device, 5, [0xc0, 1, 0, 0, 8]));
      await settle();
      device.unplugged();
      device.unplugged();
      assert.deepEqual(client.log.slice(0, -1).sort(), [
        ...['1 shutdown 512', '2 shutdown 0', '3 shutdown 0', '4 shutdown 0', '5 shutdown 0'],
      ]);
      assert.equal(client.log.at(-1), 'removed');
      assert.equal(gone.count, 1);
      client.take();
      for (const one of [...usb.transfers]) await one.fail('Disconnected');
      assert.deepEqual(client.take(), []);
      assert.equal(usb.transfers.length, 0);
    });

    it('unplugged: it is let go of when the package has all its transfers back', async () => {
      const { usb, device, session } = await open();
      session.submit(read(device, 1, 512));
      device.unplugged();
      let disposed = false;
      const disposing = device.dispose().then(() => {
        disposed = true;
      });
      await settle();
      assert.equal(disposed, false);
      await usb.only(IN).fail('Disconnected');
      await disposing;
      assert.equal(usb.opened, false);
    });
  });

  it('every octet is in exactly one URB, in order, whatever is unlinked and whenever it times out', async () => {
    const steps = fc.array(
      fc.oneof(
        fc.record({
          do: fc.constant('submit' as const),
          octets: fc.integer({ min: 512, max: 3000 }),
        }),
        fc.record({ do: fc.constant('unlink' as const) }),
        fc.record({
          do: fc.constant('arrive' as const),
          octets: fc.integer({ min: 0, max: 4096 }),
        }),
        fc.record({ do: fc.constant('silent' as const) }),
        fc.record({ do: fc.constant('time' as const) }),
      ),
      { maxLength: 40 },
    );
    await fc.assert(
      fc.asyncProperty(steps, async (list) => {
        const { usb, device, session, client, clock } = await open();
        const received: Buffer[] = [];
        let sent = 0;
        let id = 0;
        client.onGaveBack = (urb) => received.push(Buffer.from(urb.dataIn));
        for (const step of list) {
          const [transfer] = usb.at(IN);
          if (step.do === 'submit')
            session.submit(read(device, ++id, step.octets - (step.octets % 512)));
          else if (step.do === 'unlink') session.unlink(Math.max(1, id - 1));
          else if (step.do === 'time') clock.advance(1500);
          else if (step.do === 'arrive' && transfer !== undefined) {
            const octets = Math.min(step.octets, transfer.octets);
            await transfer.arrive(stamped(octets, sent));
            sent += octets;
          } else if (step.do === 'silent' && transfer?.octets === 512) {
            await transfer.fail('Cancelled');
          }
        }
        // What is kept, or comes yet, is the next one's.
        for (let tries = 0; tries < 100 && (session.outstandingCount > 0 || tries === 0); tries++) {
          if (tries === 0) session.submit(read(device, ++id, 4096));
          clock.advance(5000);
          const [transfer] = usb.at(IN);
          if (transfer !== undefined) await transfer.arrive(Buffer.alloc(0));
        }
        assert.equal(client.log.length, id, 'each URB is given back once');
        assert.deepEqual(Buffer.concat(received), stamped(sent));
      }),
      { numRuns: 200 },
    );
  });
});
