import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import fc from 'fast-check';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { UserError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import { BadReply, DeviceListReader, listDevices } from '../../src/usbip/list-client.ts';
import { deviceListReply } from '../../src/usbip/operations.ts';
import { DeviceRecord, OpCommon } from '../../src/usbip/protocol.ts';

/** What our server says of two devices. */
function replyOfTwo(): Buffer {
  const registry = new Registry();
  registry.add(new VirtualDevice(sourceSink.define({})), 'a');
  registry.add(new VirtualDevice(sourceSink.define({ speed: 'super' })), 'b', '3-1.2');
  return deviceListReply(registry.list());
}

/** Feeds chunks; undefined if the list is not whole after all of them. */
function readAll(...chunks: Buffer[]) {
  const reader = new DeviceListReader();
  for (const chunk of chunks) {
    const devices = reader.receive(chunk);
    if (devices !== null) return devices;
  }
  return undefined;
}

const HEAD_OCTETS = OpCommon.octets + 4;

describe('list of devices, read', () => {
  const reply = replyOfTwo();

  it('says what the server has written', () => {
    const [first, second] = readAll(reply) ?? [];
    assert.deepEqual(first, {
      path: '/sys/devices/urbgate/usb1/1-1',
      busId: '1-1',
      bus: 1,
      deviceNumber: 2,
      speed: 'high',
      vendorId: 0x0525,
      productId: 0xa4a0,
      deviceVersion: 0x0100,
      class: 0,
      subclass: 0,
      protocol: 0,
      configurationValue: 1,
      configurationCount: 1,
      interfaces: [{ class: 0xff, subclass: 0, protocol: 0 }],
    });
    assert.equal(second?.busId, '3-1.2');
    assert.equal(second?.speed, 'super');
  });

  it('is the same at every split, octet by octet, and with octets behind it', () => {
    const whole = readAll(reply);
    for (let at = 0; at <= reply.length; at++) {
      assert.deepEqual(readAll(reply.subarray(0, at), reply.subarray(at)), whole);
    }
    assert.deepEqual(readAll(...[...reply].map((octet) => Buffer.of(octet))), whole);
    assert.deepEqual(readAll(Buffer.concat([reply, Buffer.of(1)])), whole);
  });

  it('is not whole before its last octet', () => {
    for (let at = 0; at < reply.length; at++) {
      assert.equal(readAll(reply.subarray(0, at)), undefined);
    }
  });

  it('may be empty', () => {
    assert.deepEqual(readAll(deviceListReply([])), []);
  });

  it('ends a text at its first NUL, or with its field', () => {
    const old = Buffer.from(reply);
    old.write('1-1\0old', HEAD_OCTETS + DeviceRecord.offsets.busId);
    assert.equal(readAll(old)?.[0]?.busId, '1-1');
    old.fill('x', HEAD_OCTETS, HEAD_OCTETS + 256);
    assert.equal(readAll(old)?.[0]?.path, 'x'.repeat(256));
  });

  it('does not know every speed', () => {
    const odd = spoiled((octets) =>
      octets.writeUInt32BE(77, HEAD_OCTETS + DeviceRecord.offsets.speed),
    );
    assert.equal(readAll(odd)?.[0]?.speed, undefined);
  });

  for (const [what, spoil] of [
    ['version', (octets) => octets.writeUInt16BE(0x0106, 0)],
    ['reply', (octets) => octets.writeUInt16BE(0x0003, 2)],
    ['status', (octets) => octets.writeUInt32BE(1, 4)],
    ['devices', (octets) => octets.writeUInt32BE(0xffffffff, 8)],
  ] as readonly [string, (octets: Buffer) => void][]) {
    it(`is refused for its ${what}`, () => {
      assert.throws(
        () => readAll(spoiled(spoil)),
        (error) => error instanceof BadReply && error.message.includes(what),
      );
    });
  }

  it('of a device with 255 interfaces keeps 32, and the devices behind it', () => {
    const at = HEAD_OCTETS + DeviceRecord.octets;
    const more = Buffer.alloc(254 * 4, 7);
    const bytes = Buffer.concat([reply.subarray(0, at + 4), more, reply.subarray(at + 4)]);
    bytes.writeUInt8(255, at - 1);
    const [first, second] = readAll(bytes) ?? [];
    assert.equal(first?.interfaces.length, 32);
    assert.equal(second?.busId, '3-1.2');
  });

  it('is read or refused, whatever the octets', () => {
    const octets = fc.uint8Array({ maxLength: 800 });
    const head = fc.constantFrom(Buffer.alloc(0), reply.subarray(0, HEAD_OCTETS));
    fc.assert(
      fc.property(head, octets, (start, rest) => {
        try {
          readAll(start, Buffer.from(rest));
        } catch (error) {
          assert(error instanceof BadReply, String(error));
        }
      }),
    );
  });

  function spoiled(spoil: (octets: Buffer) => void): Buffer {
    const octets = Buffer.from(reply);
    spoil(octets);
    return octets;
  }
});

describe('list of devices, asked for', () => {
  let server: Server | undefined;
  const sockets: Socket[] = [];

  /** A server that does one thing with each connection. */
  async function serve(behave: (socket: Socket) => void) {
    server = createServer((socket) => {
      sockets.push(socket.on('error', () => {}));
      behave(socket);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    assert(address !== null && typeof address === 'object');
    return { host: '127.0.0.1', port: address.port };
  }

  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.destroy();
    server?.close();
    server = undefined;
  });

  it('is returned though the server leaves the connection open', async () => {
    const address = await serve((socket) => socket.write(replyOfTwo()));
    assert.equal((await listDevices(address)).length, 2);
  });

  for (const [what, behave] of [
    ['says nothing', () => {}],
    ['closes at once', (socket) => socket.end()],
    ['resets', (socket) => socket.resetAndDestroy()],
    ['closes in the middle', (socket) => socket.end(replyOfTwo().subarray(0, 100))],
    ['speaks HTTP', (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')],
  ] as readonly [string, (socket: Socket) => void][]) {
    it(`is a UserError if the server ${what}`, async () => {
      const address = await serve(behave);
      await assert.rejects(listDevices(address, 300), isSentence);
    });
  }

  it('is a UserError if nobody listens', async () => {
    const address = await serve(() => {});
    server?.close();
    await assert.rejects(listDevices(address), isSentence);
  });

  it('is a UserError if the host has no address', async () => {
    await assert.rejects(listDevices({ host: 'nowhere.invalid', port: 1 }), isSentence);
  });
});

function isSentence(error: unknown): boolean {
  return error instanceof UserError && /^Cannot list devices of .*: ./.test(error.message);
}
