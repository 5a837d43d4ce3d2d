/** Servers that break the protocol end their connection, and nothing else. */
import { strict as assert } from 'node:assert';
import { createServer, type Server, type Socket } from 'node:net';
import type { Transfer } from '../../src/core/transfer.ts';
import { importDevice, type RemoteDevice } from '../../src/usbip/client.ts';
import { openRemote } from '../../src/usbip/remote-device.ts';
import type { ListenAddress } from '../../src/usbip/server.ts';
import { RemoteUsb } from '../../src/usbip/webusb.ts';

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
