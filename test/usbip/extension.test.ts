import { strict as assert } from 'node:assert';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import {
  CAPABILITIES_KNOWN,
  CLEAR_STALL_FLAG,
  readCapabilities,
  writeCapabilities,
} from '../../src/usbip/extension.ts';
import { DeviceRecord, ImportRequest } from '../../src/usbip/protocol.ts';
import { ManualDevice } from '../core/manual-device.ts';
import { scriptedDevice } from '../core/scripted-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { IN, importRequest, opCommon, ScriptedClient, setupOctets } from './scripted-client.ts';

const BULK_IN = 1;
const ECONNRESET = -104;
const EPROTO = -71;
/** From the first octet of OP_REP_IMPORT. */
const PATH_OFFSET = 8;

function offering(busId: string, bits = CAPABILITIES_KNOWN): Buffer {
  const body = ImportRequest.write({ busId });
  assert(writeCapabilities(body, bits), 'there is no room for the block');
  return Buffer.concat([opCommon(0x8003), body]);
}

/** A client of a device whose URBs end when the test says so. */
function clientOf(request: Buffer): {
  client: ScriptedClient;
  device: ManualDevice;
  reply: Buffer;
} {
  const device = new ManualDevice();
  const registry = new Registry();
  registry.add(device, 'manual');
  const client = new ScriptedClient({ registry, clock: new FakeClock() });
  client.send(request);
  return { client, device, reply: client.output() };
}

/** Ends what the device works on with a bus error. */
function fail(device: ManualDevice): void {
  const [urb] = device.atDevice;
  assert(urb !== undefined, 'nothing is at the device');
  device.complete(urb, 'protocol-error');
}

const read = (client: ScriptedClient, flags = 0): number =>
  client.submit({ direction: IN, endpoint: BULK_IN, octets: 64, flags: flags >>> 0 });

describe('USB/IP extension: capability block', () => {
  it('stands behind the NUL of a text and leaves the text alone', () => {
    const field = Buffer.alloc(32);
    field.write('3-1.4');
    assert(writeCapabilities(field, 0x8000_0001));
    assert.equal(field.toString('hex', 0, 14), '332d312e34005552420180000001');
    assert.equal(readCapabilities(field), 0x8000_0001);
    assert.equal(ImportRequest.read(field).busId, '3-1.4');
  });

  it('fits behind 23 octets of text and no more', () => {
    for (const [octets, fits] of [
      [23, true],
      [24, false],
      [31, false],
    ] as const) {
      const field = Buffer.alloc(32);
      field.write('x'.repeat(octets));
      const before = Buffer.from(field);
      assert.equal(writeCapabilities(field, 1), fits);
      if (!fits) assert.deepEqual(field, before);
      assert.equal(readCapabilities(field), fits ? 1 : undefined);
    }
  });

  it('is not seen where it is not, or spoiled', () => {
    assert.equal(readCapabilities(Buffer.alloc(32)), undefined);
    assert.equal(readCapabilities(Buffer.alloc(32, 0x41)), undefined);
    const field = Buffer.alloc(32);
    writeCapabilities(field, 1);
    for (let at = 1; at < 5; at++) {
      const spoiled = Buffer.from(field);
      spoiled.writeUInt8(spoiled.readUInt8(at) ^ 1, at);
      assert.equal(readCapabilities(spoiled), undefined);
    }
  });

  it('is answered only when it was offered, and changes nothing else', () => {
    const plain = clientOf(importRequest('1-1')).reply;
    const answered = clientOf(offering('1-1')).reply;
    const path = DeviceRecord.read(plain, PATH_OFFSET).path;
    const end = PATH_OFFSET + path.length + 1;
    assert.deepEqual(plain.subarray(end, PATH_OFFSET + 256), Buffer.alloc(256 - path.length - 1));
    assert.equal(readCapabilities(answered.subarray(PATH_OFFSET, PATH_OFFSET + 256)), 1);
    answered.fill(0, end, end + 8);
    assert.deepEqual(answered, plain);
  });

  it('accepts no bit that this server does not know', () => {
    const { reply } = clientOf(offering('1-1', 0xffff_ffff));
    assert.equal(readCapabilities(reply.subarray(PATH_OFFSET, PATH_OFFSET + 256)), 1);
    const none = clientOf(offering('1-1', 0xffff_fffe));
    assert.equal(readCapabilities(none.reply.subarray(PATH_OFFSET, PATH_OFFSET + 256)), 0);
  });
});

describe('USB/IP extension: stall protocol', () => {
  it('returns what is queued and what arrives, until clear-stall', () => {
    const { client, device } = clientOf(offering('1-1'));
    const failing = read(client);
    const queued = [read(client), read(client)];
    fail(device);
    assert.deepEqual(
      client.replies().map(({ seqnum, status }) => [seqnum, status]),
      [[failing, EPROTO], ...queued.map((seqnum) => [seqnum, ECONNRESET])],
    );
    const late = read(client);
    assert.deepEqual(
      client.replies().map(({ seqnum, status }) => [seqnum, status]),
      [[late, ECONNRESET]],
    );
    assert.equal(device.atDevice.length, 0);
    read(client, CLEAR_STALL_FLAG);
    read(client);
    assert.equal(device.atDevice.length, 1, 'the queue did not start again');
    assert.deepEqual(client.replies(), []);
  });

  it('does not take the flag from a client that has not offered it', () => {
    const { client, device } = clientOf(importRequest('1-1'));
    read(client);
    fail(device);
    client.clock.advance(10); // the error settles and is reported
    assert.equal(client.replies().length, 1);
    read(client);
    read(client, CLEAR_STALL_FLAG);
    assert.equal(device.atDevice.length, 0, 'a flag that nobody agreed upon opened the fence');
  });

  it('leaves a whole conversation as it is, octet for octet, when it is not offered', () => {
    const converse = (request: Buffer): Buffer[] => {
      const registry = new Registry();
      registry.add(new VirtualDevice(scriptedDevice({ paced: false })), 'scripted');
      const client = new ScriptedClient({ registry });
      client.send(request);
      const replies = [client.output()];
      for (const setup of [
        setupOctets(0x80, 6, 0x0100, 0, 18),
        setupOctets(0, 9, 1),
        setupOctets(0x80, 6, 0x0200, 0, 255),
        setupOctets(0x80, 6, 0x7700, 0, 255),
      ]) {
        const isIn = (setup[0] ?? 0) >= 0x80;
        client.submit({ direction: isIn ? 1 : 0, endpoint: 0, setup, octets: isIn ? 255 : 0 });
        replies.push(client.output());
      }
      return replies;
    };
    const [plainImport, ...plain] = converse(importRequest('1-1'));
    const [offeredImport, ...offered] = converse(offering('1-1'));
    assert.notDeepEqual(plainImport, offeredImport);
    assert.deepEqual(plain, offered);
  });
});
