/** WebUSB against the steps of its specification, over TCP, with virtual devices. */
import { strict as assert } from 'node:assert';
import { SerialPort } from 'web-serial-polyfill';
import { serialKind } from '../../src/core/devices/virtual/serial/kind.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { importDevice } from '../../src/usbip/client.ts';
import { type ListenAddress, UsbipServer } from '../../src/usbip/server.ts';
import { RemoteUsb } from '../../src/usbip/webusb.ts';
import type { WebUsbDevice } from '../../src/usbip/webusb-device.ts';

describe('WebUSB', () => {
  let registry: Registry;
  let server: UsbipServer;
  let address: ListenAddress;
  let usb: RemoteUsb;
  let device: WebUsbDevice;

  beforeEach(async () => {
    registry = new Registry();
    server = new UsbipServer({ registry, log: { info: () => {}, warn: () => {} } });
    address = await server.listen({ host: '127.0.0.1', port: 0 });
    usb = new RemoteUsb(address);
  });

  afterEach(async () => {
    usb.stop();
    if (device?.opened) await device.close();
    await server.close();
  });

  async function give(options: object = {}): Promise<WebUsbDevice> {
    registry.add(new VirtualDevice(sourceSink.define(options as never)), 'source-sink');
    [device] = (await usb.getDevices()) as [WebUsbDevice];
    return device;
  }

  async function ready(options: object = {}, alternate = 0): Promise<WebUsbDevice> {
    await give(options);
    await device.open();
    await device.selectConfiguration(1);
    await device.claimInterface(0);
    if (alternate > 0) await device.selectAlternateInterface(0, alternate);
    return device;
  }

  const named = (name: string) => (error: unknown) => {
    assert(error instanceof DOMException, String(error));
    assert.equal(error.name, name);
    return true;
  };
  const rejects = (promise: Promise<unknown>, name: string) => assert.rejects(promise, named(name));
  const standard = { requestType: 'standard', recipient: 'device' } as const;
  const getDescriptor = { ...standard, request: 6, value: 0x0100, index: 0 };

  it('shows devices as their descriptors have them', async () => {
    await give();
    assert.deepEqual([device.vendorId, device.productId], [0x0525, 0xa4a0]);
    assert.deepEqual([device.usbVersionMajor, device.usbVersionMinor], [2, 0]);
    assert.equal(device.manufacturerName, 'urbgate');
    assert.equal(device.productName, 'Source and sink');
    assert.equal(device.opened, false);
    const [configuration] = device.configurations;
    const [first] = configuration?.interfaces ?? [];
    assert.equal(configuration?.configurationValue, 1);
    assert.deepEqual(
      first?.alternates.map(({ endpoints }) => endpoints.map(({ type }) => type)),
      [
        ['bulk', 'bulk'],
        ['bulk', 'bulk', 'isochronous', 'isochronous', 'interrupt', 'interrupt'],
      ],
    );
    const [bulk] = first?.alternate.endpoints ?? [];
    assert.deepEqual(bulk, {
      endpointNumber: 1,
      direction: 'in',
      type: 'bulk',
      packetSize: 512,
    });
  });

  it('gives the same object for the same device', async () => {
    await give();
    assert.equal((await usb.getDevices())[0], device);
  });

  it('imports by open, and gives back by close', async () => {
    await give();
    await device.open();
    assert(registry.get('1-1')?.holder);
    await device.open();
    await assert.rejects(importDevice(address, '1-1'), /another client has it/);
    const released = new Promise((resolve) => registry.once('released', resolve));
    await device.close();
    await released;
    await device.close();
    assert.equal(device.opened, false);
    await device.open();
  });

  it('has its configuration again when it is opened again', async () => {
    await ready();
    await device.close();
    await device.open();
    assert.equal(device.configuration?.configurationValue, 1);
    await device.claimInterface(0);
    assert.equal((await device.transferIn(1, 512)).status, 'ok');
  });

  it('is imported once by two calls of open at a time, and a close waits for them', async () => {
    await give();
    await Promise.all([device.open(), device.open()]);
    await device.controlTransferIn(getDescriptor, 18);
    await device.close();
    const open = device.open();
    await device.close();
    await open;
    assert.equal(device.opened, false);
    const other = await importDevice(address, '1-1');
    await other.close();
  });

  it('says in its own words when another has the device', async () => {
    await give();
    const other = await importDevice(address, '1-1');
    await rejects(device.open(), 'NetworkError');
    await other.close();
  });

  describe('errors, by name and in the order of the steps', () => {
    it('of a device that is not open', async () => {
      await give();
      await rejects(device.selectConfiguration(9), 'NotFoundError');
      await rejects(device.selectConfiguration(1), 'InvalidStateError');
      await rejects(device.claimInterface(9), 'NotFoundError');
      await rejects(device.controlTransferIn(getDescriptor, 18), 'InvalidStateError');
      await rejects(device.reset(), 'InvalidStateError');
    });

    it('of interfaces', async () => {
      await ready();
      await rejects(device.claimInterface(7), 'NotFoundError');
      await rejects(device.releaseInterface(7), 'NotFoundError');
      await rejects(device.selectAlternateInterface(0, 9), 'NotFoundError');
      await device.releaseInterface(0);
      await device.releaseInterface(0);
      await rejects(device.selectAlternateInterface(0, 1), 'InvalidStateError');
      const to = {
        requestType: 'standard',
        recipient: 'interface',
        request: 10,
        value: 0,
      } as const;
      await rejects(device.controlTransferIn({ ...to, index: 0 }, 1), 'InvalidStateError');
      await rejects(device.controlTransferIn({ ...to, index: 5 }, 1), 'NotFoundError');
      const endpoint = { ...to, recipient: 'endpoint', request: 0 } as const;
      await rejects(device.controlTransferIn({ ...endpoint, index: 0x81 }, 2), 'InvalidStateError');
      await rejects(device.controlTransferIn({ ...endpoint, index: 0x8e }, 2), 'NotFoundError');
    });

    it('of endpoints', async () => {
      await ready();
      await rejects(device.transferIn(9, 64), 'NotFoundError');
      await rejects(device.transferIn(2, 64), 'NotFoundError');
      await rejects(device.transferOut(1, new Uint8Array(1)), 'NotFoundError');
      await rejects(device.isochronousTransferIn(1, [512]), 'InvalidAccessError');
      await rejects(device.clearHalt('in', 9), 'NotFoundError');
      await device.releaseInterface(0);
      await rejects(device.transferIn(1, 64), 'InvalidStateError');
      await rejects(device.clearHalt('in', 1), 'InvalidStateError');
    });

    it('of a transfer that fails on the bus', async () => {
      await ready({ short: 1024, end: 'protocol-error' });
      await rejects(device.transferIn(1, 4096), 'NetworkError');
    });

    it('of numbers that fit no field', async () => {
      await ready();
      const wrong = { ...getDescriptor, value: 0x10000 };
      await assert.rejects(device.controlTransferIn(wrong, 18), TypeError);
      const nobody = { ...getDescriptor, recipient: 'nobody' as never };
      await assert.rejects(device.controlTransferIn(nobody, 18), TypeError);
      await assert.rejects(device.controlTransferIn(getDescriptor, 0x10000), TypeError);
      for (const length of [-1, 1.5, Number.NaN, 2 ** 32]) {
        await assert.rejects(device.transferIn(1, length), TypeError);
        await assert.rejects(device.isochronousTransferIn(3, [8, length]), TypeError);
        await assert.rejects(
          device.isochronousTransferOut(4, new Uint8Array(8), [length]),
          TypeError,
        );
      }
      assert.equal(device.opened, true);
    });

    it('of filters that no device can be meant by', async () => {
      await give();
      for (const filter of [
        { productId: 1 },
        { subclassCode: 1 },
        { classCode: 1, protocolCode: 1 },
      ]) {
        const excluded = { filters: [], exclusionFilters: [filter] };
        await assert.rejects(usb.requestDevice({ filters: [filter] }), TypeError);
        await assert.rejects(usb.requestDevice(excluded), TypeError);
      }
    });

    it('where two would do, of the step that comes first', async () => {
      await give(); // not open
      await rejects(device.selectConfiguration(9), 'NotFoundError');
      await rejects(device.selectConfiguration(1), 'InvalidStateError');
      await ready();
      await device.releaseInterface(0);
      await rejects(device.selectAlternateInterface(0, 9), 'InvalidStateError');
      await rejects(device.isochronousTransferIn(1, [512]), 'InvalidAccessError');
      await rejects(device.isochronousTransferOut(9, new Uint8Array(), []), 'NotFoundError');
      await rejects(device.isochronousTransferOut(2, new Uint8Array(), []), 'InvalidAccessError');
      await rejects(device.transferOut(2, new Uint8Array(1)), 'InvalidStateError');
      await registry.remove('1-1');
      await usb.getDevices();
      for (const call of [
        () => device.close(),
        () => device.selectConfiguration(9),
        () => device.claimInterface(9),
        () => device.releaseInterface(9),
        () => device.selectAlternateInterface(9, 9),
        () => device.controlTransferOut(getDescriptor),
        () => device.clearHalt('in', 9),
        () => device.transferOut(9, new Uint8Array(1)),
        () => device.reset(),
      ]) {
        await rejects(call(), 'NotFoundError');
      }
    });
  });

  it('control transfers, and a request that the device refuses', async () => {
    await ready();
    const { data, status } = await device.controlTransferIn(getDescriptor, 18);
    assert.equal(status, 'ok');
    assert.equal(data?.getUint16(8, true), 0x0525);
    const vendor = { requestType: 'vendor', recipient: 'device', value: 0, index: 0 } as const;
    const out = await device.controlTransferOut(
      { ...vendor, request: 0x5b },
      new Uint8Array([7, 8]),
    );
    assert.deepEqual(out, { bytesWritten: 2, status: 'ok' });
    const back = await device.controlTransferIn({ ...vendor, request: 0x5c }, 2);
    assert.deepEqual([back.data?.getUint8(0), back.data?.getUint8(1)], [7, 8]);
    const refused = await device.controlTransferIn({ ...vendor, request: 0x01 }, 2);
    assert.equal(refused.status, 'stall');
    assert.equal((await device.controlTransferOut({ ...vendor, request: 1 })).status, 'stall');
  });

  it('bulk transfers, short ones too', async () => {
    await ready({ short: 1000 });
    const { data, status } = await device.transferIn(1, 4096);
    assert.deepEqual([data?.byteLength, status], [1000, 'ok']);
    assert.equal(data?.buffer.byteLength, 1000, 'memory that others have too');
    const source = new Uint16Array(1024);
    assert.deepEqual(await device.transferOut(2, source), { bytesWritten: 2048, status: 'ok' });
    assert.deepEqual(await device.transferOut(2, new ArrayBuffer(3)), {
      bytesWritten: 3,
      status: 'ok',
    });
  });

  it('a stall is a result, and stays until clearHalt', async () => {
    await ready({ short: 1024, end: 'stall' });
    const first = await device.transferIn(1, 4096);
    assert.deepEqual([first.status, first.data?.byteLength], ['stall', 1024]);
    assert.equal((await device.transferIn(1, 512)).status, 'stall');
    await device.clearHalt('in', 1);
    assert.equal((await device.transferIn(1, 512)).status, 'ok');
  });

  it('a stall of what is written is a result, with what was taken', async () => {
    await ready({ take: 512 });
    const { bytesWritten, status } = await device.transferOut(2, new Uint8Array(2048));
    assert.deepEqual([bytesWritten, status], [512, 'stall']);
    await device.clearHalt('out', 2);
    assert.equal((await device.transferOut(2, new Uint8Array(256))).status, 'ok');
  });

  it('a babble is a result', async () => {
    await ready({ short: 1024, end: 'babble' });
    assert.equal((await device.transferIn(1, 4096)).status, 'babble');
    assert.equal((await device.transferIn(1, 512)).status, 'ok');
  });

  it('interrupt and isochronous transfers', async () => {
    await ready({}, 1);
    assert.equal((await device.transferIn(5, 1024)).status, 'ok');
    const lengths = [1024, 512, 1024];
    const { data, packets } = await device.isochronousTransferIn(3, lengths);
    assert.equal(data?.byteLength, 2560);
    assert.deepEqual(
      packets.map(({ status }) => status),
      ['ok', 'ok', 'ok'],
    );
    assert.equal(packets[2]?.data?.byteOffset, 1536);
    const written = await device.isochronousTransferOut(4, new Uint8Array(2560), lengths);
    assert.deepEqual(
      written.packets.map(({ bytesWritten }) => bytesWritten),
      lengths,
    );
    const wrong = device.isochronousTransferOut(4, new Uint8Array(10), lengths);
    await rejects(wrong, 'DataError');
  });

  it('what is under way is taken back by close, release and a new setting', async () => {
    await ready({ delay: 60_000 });
    const first = device.transferIn(1, 512);
    const second = device.transferIn(1, 512);
    await Promise.all([
      rejects(first, 'AbortError'),
      rejects(second, 'AbortError'),
      device.selectAlternateInterface(0, 1),
    ]);
    const third = device.transferIn(1, 512);
    await Promise.all([rejects(third, 'AbortError'), device.releaseInterface(0)]);
    await device.claimInterface(0);
    const fourth = device.transferIn(1, 512);
    await Promise.all([rejects(fourth, 'AbortError'), device.close()]);
  });

  it('reset keeps the device open', async () => {
    await ready();
    await device.reset();
    assert.equal((await device.controlTransferIn(getDescriptor, 18)).status, 'ok');
  });

  it('says when devices come and go', async () => {
    const events: string[] = [];
    usb.onconnect = ({ device: { productName } }) => events.push(`on ${productName}`);
    usb.addEventListener('disconnect', (event) => {
      events.push(`off ${(event as Event & { device: WebUsbDevice }).device.productName}`);
    });
    await give();
    await registry.remove('1-1');
    assert.deepEqual(await usb.getDevices(), []);
    assert.deepEqual(events, ['on Source and sink', 'off Source and sink']);
    await rejects(device.open(), 'NotFoundError');
  });

  it('an open device that goes ends what is under way, and tells', async () => {
    await ready({ delay: 60_000 });
    const told = new Promise((resolve) => usb.addEventListener('disconnect', resolve));
    const read = device.transferIn(1, 512);
    await Promise.all([rejects(read, 'NotFoundError'), registry.remove('1-1'), told]);
    assert.equal(device.opened, false);
    await rejects(device.transferIn(1, 512), 'NotFoundError');
  });

  it('finds devices by filters', async () => {
    registry.add(new VirtualDevice(serialKind.define({})), 'serial');
    await give();
    const serial = await usb.requestDevice({ filters: [{ classCode: 2 }] });
    assert.match(serial.productName ?? '', /serial/i);
    const other = await usb.requestDevice({ filters: [], exclusionFilters: [{ classCode: 2 }] });
    assert.equal(other.vendorId, 0x0525);
    await rejects(usb.requestDevice({ filters: [{ vendorId: 0xffff }] }), 'NotFoundError');
    device = other;
  });

  /** web-serial-polyfill drives serial ports through WebUSB; it knows nothing of urbgate. */
  it('a library written for WebUSB drives a device', async () => {
    registry.add(new VirtualDevice(serialKind.define({})), 'serial');
    const found = await usb.requestDevice({ filters: [{ classCode: 2 }] });
    device = found;
    const port = new SerialPort(found as never);
    await port.open({ baudRate: 115_200 });
    const writer = port.writable?.getWriter();
    const reader = port.readable?.getReader();
    const sent = Buffer.from('hello over WebUSB, 0123456789'.repeat(40));
    await writer?.write(sent);
    let received = Buffer.alloc(0);
    while (received.length < sent.length) {
      const { value, done } = (await reader?.read()) ?? { done: true };
      assert(!done && value !== undefined);
      received = Buffer.concat([received, value]);
    }
    assert.deepEqual(received, sent);
    writer?.releaseLock();
    reader?.releaseLock();
    await port.close();
    assert.equal(found.opened, false);
  });
});
