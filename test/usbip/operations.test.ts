import { strict as assert } from 'node:assert';
import type { DeviceInfo, Speed, UsbDevice } from '../../src/core/device.ts';
import { RemoteProtocolError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import {
  deviceIdOf,
  deviceListReply,
  importRefusal,
  importReply,
  parseOperation,
} from '../../src/usbip/operations.ts';
import { hex, padded, vectorNamed } from '../vectors/usbip.ts';

const info: DeviceInfo = {
  speed: 'high',
  vendorId: 0x0525,
  productId: 0xa4a0,
  deviceVersion: 0x0419,
  class: 0xef,
  subclass: 2,
  protocol: 1,
  configurationValue: 3,
  configurationCount: 1,
  interfaces: [
    { class: 2, subclass: 2, protocol: 1 },
    { class: 10, subclass: 0, protocol: 0 },
  ],
  label: 'nothing of this goes on the wire',
};

const deviceOf = (changes: Partial<DeviceInfo> = {}): UsbDevice =>
  ({ info: { ...info, ...changes } }) as UsbDevice;

const record = (busId: string, bus: number, number: number, speed = 3): Buffer =>
  Buffer.concat([
    padded(`/sys/devices/urbgate/usb${bus}/${busId}`, 256),
    padded(busId, 32),
    hex([bus, number, speed].map((value) => value.toString(16).padStart(8, '0')).join('')),
    hex('0525 a4a0 0419 ef 02 01 03 01 02'),
  ]);

describe('parseOperation', () => {
  it('knows the device list and the import', () => {
    assert.deepEqual(parseOperation(vectorNamed('OP_REQ_DEVLIST').octets), {
      code: 0x8005,
      bodyOctets: 0,
    });
    assert.deepEqual(parseOperation(vectorNamed('OP_REQ_IMPORT').octets), {
      code: 0x8003,
      bodyOctets: 32,
    });
  });

  it('does not look at the status of a request', () => {
    assert.equal(parseOperation(hex('0111 8005 ffffffff')).code, 0x8005);
  });

  const refused = (octets: Buffer, code: string) =>
    assert.throws(
      () => parseOperation(octets),
      (error) => error instanceof RemoteProtocolError && error.code === code,
    );

  for (const version of ['0000', '0100', '0106', '0110', '0112', '1101', 'ffff']) {
    it(`bad-version: ${version}`, () => refused(hex(`${version} 8005 00000000`), 'bad-version'));
  }

  for (const code of ['0000', '0003', '0005', '8002', '8004', '8006', '8007', '0580', 'ffff']) {
    it(`bad-operation: ${code}`, () => refused(hex(`0111 ${code} 00000000`), 'bad-operation'));
  }
});

describe('replies to operations', () => {
  it('no device: a list with the count alone', () => {
    assert.deepEqual(deviceListReply([]), hex('0111 0005 00000000 00000000'));
  });

  it('devices with their interfaces, each padded', () => {
    const registry = new Registry();
    registry.add(deviceOf(), 'a', '3-2');
    registry.add(deviceOf({ speed: 'super', interfaces: [] }), 'b', '12-1.4');
    const without = record('12-1.4', 12, 2, 5);
    without[311] = 0; // bNumInterfaces
    assert.deepEqual(
      deviceListReply(registry.list()),
      Buffer.concat([
        hex('0111 0005 00000000 00000002'),
        record('3-2', 3, 2),
        hex('02020100 0a000000'),
        without,
      ]),
    );
  });

  it('an import reply has 320 octets and no interfaces', () => {
    const granted = new Registry().add(deviceOf(), 'a', '3-2');
    const reply = importReply(granted);
    assert.equal(reply.length, 320);
    assert.deepEqual(reply, Buffer.concat([hex('0111 0003 00000000'), record('3-2', 3, 2)]));
  });

  it('a refusal has no body', () => {
    assert.deepEqual(importRefusal('busy'), hex('0111 0003 00000002'));
    assert.deepEqual(importRefusal('deviceError'), hex('0111 0003 00000003'));
    assert.deepEqual(importRefusal('noDevice'), hex('0111 0003 00000004'));
  });

  it('speeds have the kernel’s numbers', () => {
    const numbers: Record<Speed, number> = { low: 1, full: 2, high: 3, super: 5, 'super-plus': 6 };
    for (const [speed, number] of Object.entries(numbers)) {
      const granted = new Registry().add(deviceOf({ speed: speed as Speed }), 'a');
      assert.equal(importReply(granted).readUInt32BE(8 + 296), number);
    }
  });

  it('the longest bus id fits, and devid is bus and device number', () => {
    const registry = new Registry();
    const longest = registry.add(deviceOf(), 'a', '999-999.999.999.999.999.999');
    assert.equal(importReply(longest).length, 320);
    assert.equal(deviceIdOf(longest), 999 * 65536 + 2);
    assert.equal(deviceIdOf(registry.add(deviceOf(), 'b', '999-1')), 999 * 65536 + 3);
    assert.equal(deviceIdOf(registry.add(deviceOf(), 'c')), 0x10002);
  });

  it('CVE-2017-16911: a list tells nothing of the gateway’s own paths and names', () => {
    const registry = new Registry();
    registry.add(deviceOf(), 'virtual:disk,file=/home/user/secret.img');
    assert(!deviceListReply(registry.list()).includes('secret'));
  });
});
