/** Servers that break the protocol end their connection, and nothing else. */
import { strict as assert } from 'node:assert';
import { createServer, type Server, type Socket } from 'node:net';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { UserError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import type { Transfer } from '../../src/core/transfer.ts';
import { Urb } from '../../src/core/urb.ts';
import { RESTARTS_MAX } from '../../src/stall/retry-queue.ts';
import { importDevice, type RemoteDevice } from '../../src/usbip/client.ts';
import { findBusId } from '../../src/usbip/find-device.ts';
import { DeviceListReader } from '../../src/usbip/list-client.ts';
import { deviceListReply, importReply } from '../../src/usbip/operations.ts';
import { openRemote, type RemoteUsbDevice } from '../../src/usbip/remote-device.ts';
import type { ListenAddress } from '../../src/usbip/server.ts';
import { RemoteUsb } from '../../src/usbip/webusb.ts';
import { HOSTILE_DEVICES } from './hostile-devices.ts';
import {
  configurationBytes,
  deviceBytes,
  HostileServer,
  interfaceBytes,
  listReply,
  many,
  recordOf,
  stringBytes,
  submitReply,
} from './hostile-server.ts';

const HEADER = 48;
const GRANTED = (() => {
  const reply = Buffer.alloc(320);
  reply.writeUInt16BE(0x0111, 0);
  reply.writeUInt16BE(3, 2);
  reply.write('1-1', 8 + 256);
  reply.fill(0xff, 8 + 288, 8 + 300); // bus, device number and speed that nobody has
  return reply;
})();

const packets = [0, 1].map((n) => ({ offset: n * 64, octets: 64 }));
const STREAM: Transfer = { endpoint: 0x83, type: 'isochronous', octets: 128, packets };
const READ: Transfer = { endpoint: 0x81, type: 'bulk', octets: 64 };

/** RET_SUBMIT. */
function reply(seqnum: number, octets: number, count: number, body?: Buffer): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt32BE(3, 0);
  header.writeUInt32BE(seqnum, 4);
  header.writeUInt32BE(octets, 24);
  header.writeInt32BE(count, 32);
  return Buffer.concat([header, body ?? Buffer.alloc(0)]);
}

/** Packet descriptors and the data before them. */
function packetBody(dataOctets: number, ...actual: number[]): Buffer {
  const descriptors = actual.map((length) => {
    const descriptor = Buffer.alloc(16);
    descriptor.writeUInt32BE(length, 8);
    return descriptor;
  });
  return Buffer.concat([Buffer.alloc(dataOctets), ...descriptors]);
}

describe('hostile servers', () => {
  let server: Server;
  let address: ListenAddress;
  let onCommand: (seqnum: number, socket: Socket) => void = () => {};

  before((done) => {
    server = createServer((socket) => {
      let isImported = false;
      socket.on('error', () => {});
      socket.on('data', (chunk) => {
        if (isImported) onCommand(chunk.readUInt32BE(4), socket);
        else socket.write(GRANTED);
        isImported = true;
      });
    });
    server.listen(0, '127.0.0.1', () => {
      address = { host: '127.0.0.1', port: (server.address() as { port: number }).port };
      done();
    });
  });

  after(() => server.close());

  const answers: [string, Transfer, (seqnum: number) => Buffer][] = [
    ['an unknown seqnum', READ, (seqnum) => reply(seqnum + 1, 0, 0)],
    ['more octets than were asked for', READ, (seqnum) => reply(seqnum, 65, 0)],
    ['a negative length', READ, (seqnum) => reply(seqnum, 0xffffffff, 0)],
    ['a command', READ, () => Buffer.alloc(HEADER, 1)],
    ['fewer packets', STREAM, (seqnum) => reply(seqnum, 0, 1, packetBody(0, 0))],
    ['more packets', STREAM, (seqnum) => reply(seqnum, 0, 3, packetBody(0, 0, 0, 0))],
    ['a negative count of packets', STREAM, (seqnum) => reply(seqnum, 0, -2)],
    [
      'a packet of too many octets',
      STREAM,
      (seqnum) => reply(seqnum, 65, 2, packetBody(65, 65, 0)),
    ],
    ['packets of another sum', STREAM, (seqnum) => reply(seqnum, 64, 2, packetBody(64, 32, 16))],
  ];

  for (const [name, transfer, answer] of answers) {
    it(`${name}: the transfer ends as shutdown`, async () => {
      onCommand = (seqnum, socket) => socket.write(answer(seqnum));
      const device: RemoteDevice = await importDevice(address, '1-1');
      const { status } = await device.transfer(transfer);
      assert.equal(status, 'shutdown');
      await device.closed;
    });
  }

  it('good packets are taken, and the count of packets of other transfers means nothing', async () => {
    onCommand = (seqnum, socket) => socket.write(reply(seqnum, 48, 2, packetBody(48, 32, 16)));
    const device = await importDevice(address, '1-1');
    const { status, data, packets: got } = await device.transfer(STREAM);
    assert.deepEqual(
      [status, data.length, got?.map((one) => one.actualOctets)],
      ['ok', 48, [32, 16]],
    );
    onCommand = (seqnum, socket) => socket.write(reply(seqnum, 0, 0x7fffffff));
    assert.equal((await device.transfer(READ)).status, 'ok');
    await device.close();
  });

  it('descriptors that make no sense are one sentence to the user', async () => {
    onCommand = (seqnum, socket) => socket.write(reply(seqnum, 18, 0, Buffer.alloc(18, 7)));
    await assert.rejects(openRemote(address, '1-1'), { name: 'UserError' });
    await assert.rejects(new RemoteUsb(address).getDevices(), { name: 'UserError' });
  });
});

/** What reading a device takes at most: descriptors, alternate settings and two strings. */
const REQUESTS_MAX = 1 + 8 * 2 + 1 + 32 + 2;
/** WebUSB asks for the names of settings too. */
const STRINGS_MAX = 64;
const IDENTITY = { vendorId: 0x1234, productId: 0x5678 };
const EVERY_ADDRESS = Array.from({ length: 256 }, (_, at) => at);

describe('servers whose devices are not what they should be', () => {
  let server: HostileServer;
  before(async () => {
    server = await HostileServer.start();
  });
  after(() => server.close());

  for (const { name, hostile, refused, interfaces } of HOSTILE_DEVICES) {
    it(`${name}: ${refused ? 'refused in one sentence' : 'a device within bounds'}`, async () => {
      server.hostile = hostile;
      server.requests = 0;
      const device = await openRemote(server.address, '1-1').catch((error) => {
        assert(error instanceof UserError, `${error}`);
        assert.match(error.message, /^Cannot use .+: .+/s);
        return null;
      });
      assert(server.requests <= REQUESTS_MAX, `${server.requests} requests`);
      assert.equal(device === null, refused === true);
      if (device === null) return;
      assert.equal(listedWith(device), interfaces);
      const endpoints = EVERY_ADDRESS.filter((address) => device.endpoint(address) !== undefined);
      assert(endpoints.every((address) => (address & 0x70) === 0));
      await device.dispose();
    });

    it(`${name}: WebUSB has it or has it not`, async () => {
      server.hostile = hostile;
      server.requests = 0;
      const devices = await new RemoteUsb(server.address).getDevices();
      assert(server.requests <= REQUESTS_MAX + STRINGS_MAX, `${server.requests} requests`);
      assert.equal(devices.length, refused ? 0 : 1);
      for (const { configurations } of devices) {
        assert(configurations.length <= 8);
        assert(configurations.every((one) => one.interfaces.length <= 32));
      }
    });
  }

  it('a name for each of 8000 settings: the first 64 are asked for, the device has its own', async () => {
    const one = configurationBytes(many(1000, (at) => interfaceBytes(at >> 7, at & 127, at)));
    const strings = Object.fromEntries(EVERY_ADDRESS.map((at) => [at, stringBytes(`name ${at}`)]));
    server.hostile = { device: deviceBytes(8), configurations: [one], strings };
    server.requests = 0;
    const [device] = await new RemoteUsb(server.address).getDevices();
    assert.equal(device?.productName, 'name 2');
    assert(server.requests <= REQUESTS_MAX + STRINGS_MAX, `${server.requests} requests`);
    const [first] = device.configurations[0]?.interfaces[0]?.alternates.slice(50) ?? [];
    assert.equal(first?.interfaceName, 'name 50');
  });

  it('a name that steers terminals is shown without that', async () => {
    const strange = 'a\r\n\u001b[2J\u202e\u0000\u0085\ud800b';
    server.hostile = { strings: { 1: stringBytes(strange) } };
    const device = await openRemote(server.address, '1-1');
    const { label } = new Registry().add(device, 'remote').info;
    assert.equal(label, 'a\ufffd\ufffd\ufffd[2J\ufffd\ufffd\ufffd\ufffdb');
    await device.dispose();
  });

  it('1000 devices of one identity: the message names a few', async () => {
    const records = many(1000, (at) => recordOf({}, `1-${at}`));
    server.hostile = { list: listReply(records) };
    await assert.rejects(findBusId(server.address, IDENTITY), (error) => {
      assert(error instanceof UserError && error.message.length < 200, `${error}`);
      return /1-0, 1-1, 1-2, 1-3, 996 more are all such devices/.test(error.message);
    });
  });

  it('a bus id that is none is not taken for the device that is meant', async () => {
    const odd = ['', '1-1 evil', '1-1\n2 x', '1-\u202e1', 'x'.repeat(32)];
    server.hostile = { list: listReply([...odd, '1-7'].map((busId) => recordOf({}, busId))) };
    assert.equal(await findBusId(server.address, IDENTITY), '1-7');
  });

  /** How many interfaces a list shows of it, beside another device. */
  function listedWith(device: RemoteUsbDevice): number | undefined {
    const registry = new Registry();
    registry.add(new VirtualDevice(sourceSink.define({})), 'other', '1-1');
    const added = registry.add(device, 'remote', '1-2');
    assert.equal(importReply(added).length, 320);
    const listed = new DeviceListReader().receive(deviceListReply(registry.list()));
    assert.deepEqual(
      listed?.map(({ busId }) => busId),
      ['1-1', '1-2'],
    );
    return listed[1]?.interfaces.length;
  }
});

describe('servers that return URBs for ever', () => {
  const UNLINKED = -104;
  const NOTHING = Buffer.alloc(0);
  let server: HostileServer;
  let submits: number;

  beforeEach(async () => {
    server = await HostileServer.start();
    submits = 0;
  });
  afterEach(() => server.close());

  function answerWith(status: (submit: number) => number): void {
    server.onCommand = (header, socket) => {
      const seqnum = header.readUInt32BE(4);
      if (header.readUInt32BE(0) === 1)
        socket.write(submitReply(seqnum, status(submits++), NOTHING));
    };
  }

  it('are sent each a bounded number of times, which ends as a protocol error', async () => {
    server.stallProtocol = true;
    answerWith(() => UNLINKED);
    const device = await importDevice(server.address, '1-1');
    assert.equal(device.stallProtocol, true);
    assert.equal((await device.transfer(READ)).status, 'protocol-error');
    assert.equal(submits, 1 + RESTARTS_MAX);
    submits = 0;
    for (let n = 0; n < 10; n++)
      assert.equal((await device.transfer(READ)).status, 'protocol-error');
    assert.equal(submits, 10);
    const together = Array.from({ length: 10 }, () => device.transfer(READ));
    for (const { status } of await Promise.all(together)) assert.equal(status, 'protocol-error');
    assert(submits <= 30, `${submits} commands for 20 transfers`);
    answerWith(() => 0);
    assert.equal((await device.transfer(READ)).status, 'ok');
    await device.close();
  });

  it('but a return now and then is retried', async () => {
    server.stallProtocol = true;
    answerWith((submit) => (submit % (RESTARTS_MAX + 1) === RESTARTS_MAX ? 0 : UNLINKED));
    const device = await importDevice(server.address, '1-1');
    for (let n = 0; n < 5; n++) assert.equal((await device.transfer(READ)).status, 'ok');
    await device.close();
  });

  for (const stallProtocol of [true, false]) {
    it(`a remote: device has failed then (stall protocol: ${stallProtocol})`, async () => {
      server.stallProtocol = stallProtocol;
      const device = await openRemote(server.address, '1-1');
      const endpoint = device.endpoint(0x81);
      assert(endpoint !== undefined);
      answerWith(() => UNLINKED);
      const urb = Urb.read(1, endpoint, 64);
      await new Promise<void>((resolve, reject) => {
        device.open({ completed: () => resolve(), removed: () => {}, failed: reject });
        device.submit(urb);
      });
      assert.equal(urb.status, 'protocol-error');
      await device.dispose();
    });
  }
});
