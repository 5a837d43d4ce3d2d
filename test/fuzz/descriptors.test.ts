/**
 * Whatever a device, a server or a back end says: what reads it throws nothing but what it documents, asks a
 * bounded number of times, and makes a device that can be listed and imported.
 */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { AnswerWatch } from '../../src/core/answer-watch.ts';
import { systemClock } from '../../src/core/clock.ts';
import {
  type ConfigurationDescriptor,
  parseConfiguration,
  parseDeviceDescriptor,
} from '../../src/core/descriptors.ts';
import type { DeviceInfo, Speed, UsbDevice } from '../../src/core/device.ts';
import { ActiveConfiguration } from '../../src/core/devices/host/configuration.ts';
import { readDescriptors as readFromPackage } from '../../src/core/devices/webusb/control.ts';
import type { PackageDevice } from '../../src/core/devices/webusb/package.ts';
import { RemoteProtocolError, UserError } from '../../src/core/errors.ts';
import { type Export, Registry } from '../../src/core/registry.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { BufferPool } from '../../src/usbip/buffer-pool.ts';
import type { RemoteDevice } from '../../src/usbip/client.ts';
import { Framer } from '../../src/usbip/framer.ts';
import { FrontEnd } from '../../src/usbip/front-end.ts';
import { BadReply, DeviceListReader } from '../../src/usbip/list-client.ts';
import { deviceListReply, importReply } from '../../src/usbip/operations.ts';
import type { Pending } from '../../src/usbip/pending.ts';
import { RetSubmit } from '../../src/usbip/protocol.ts';
import { readDescriptors, readEndpoints } from '../../src/usbip/remote-descriptors.ts';
import { readFacts } from '../../src/usbip/webusb-descriptors.ts';
import { FrontUrbs, IDS } from '../../src/xenring/front-urbs.ts';
import { RingDevice } from '../../src/xenring/ring-device.ts';
import { RingError } from '../../src/xenring/ring-error.ts';
import { SEGMENTS_MAX, UrbResponse } from '../../src/xenring/usbif.ts';
import { configurationBytes, listReply, recordOf } from '../usbip/hostile-server.ts';
import { boundedShare, FUZZ_TIMEOUT_MILLISECONDS } from './bounded.ts';

const PROPERTIES = 8;
const CONFIGURATIONS_MAX = 8;
const INTERFACES_MAX = 32;
const SETTINGS_MAX = 128;
const ENDPOINTS_MAX = 30;
/** Descriptors, alternate settings, the active configuration. */
const REQUESTS_MAX = 1 + 2 * CONFIGURATIONS_MAX + 1 + INTERFACES_MAX;
const STRINGS_MAX = 64;
const PAGE_BYTES = 4096;

const SPEEDS: readonly Speed[] = ['low', 'full', 'high', 'super', 'super-plus'];
const speed = fc.constantFrom(...SPEEDS);
const bytes = (maxLength: number) =>
  fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

/** A descriptor of some kind, whose length may be a lie. */
const descriptor = fc
  .record({
    type: fc.constantFrom(4, 4, 4, 5, 5, 5, 2, 11, 48, 0x24),
    body: bytes(12),
    lie: fc.option(fc.nat(255), { freq: 20 }),
  })
  .map(({ type, body, lie }) => Buffer.concat([Buffer.from([lie ?? body.length + 2, type]), body]));
const interfaceLike = fc
  .tuple(fc.nat(255), fc.nat(255), fc.nat(255))
  .map(([number, alternate, name]) => Buffer.from([9, 4, number, alternate, 1, 255, 0, 0, name]));
const endpointLike = fc
  .tuple(fc.nat(255), fc.nat(255), fc.nat(0xffff), fc.nat(255))
  .map(([address, attributes, size, interval]) =>
    Buffer.from([7, 5, address, attributes, size & 255, size >> 8, interval]),
  );

/** A configuration: some descriptors, perhaps again and again with other numbers in them. */
const configuration = fc
  .record({
    parts: fc.array(fc.oneof(interfaceLike, endpointLike, descriptor), { maxLength: 40 }),
    times: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, fc.integer({ min: 2, max: 300 })),
    total: fc.option(fc.nat(0xffff), { freq: 5 }),
    value: fc.nat(3),
    spoilt: fc.option(fc.tuple(fc.nat(200), fc.nat(255)), { freq: 5 }),
  })
  .map(({ parts, times, total, value, spoilt }) => {
    const all: Buffer[] = [];
    for (let n = 0; n < times; n++) {
      for (const part of parts) {
        const other = Buffer.from(part);
        if (other.length > 2) other[2] = ((other[2] ?? 0) + n) & 255;
        all.push(other);
      }
    }
    const whole = configurationBytes(all, { value, ...(total !== null && { total }) });
    const cut = whole.subarray(0, 0xffff);
    if (spoilt !== null && spoilt[0] < cut.length) cut[spoilt[0]] = spoilt[1];
    return cut;
  });
const device = fc.oneof(
  bytes(20),
  bytes(18).map((rest) => Buffer.concat([Buffer.from([18, 1]), rest, Buffer.alloc(16)])),
);

function assertWithin({ alternates }: ConfigurationDescriptor): void {
  const numbers = new Set(alternates.map(({ number }) => number));
  assert(numbers.size <= INTERFACES_MAX, `${numbers.size} interfaces`);
  const owners = new Map<number, number>();
  for (const number of numbers) {
    const settings = alternates.filter((one) => one.number === number);
    assert(settings.length <= SETTINGS_MAX, `${settings.length} settings`);
    assert.equal(new Set(settings.map(({ alternate }) => alternate)).size, settings.length);
    for (const { endpoints } of settings) {
      assert(endpoints.length <= ENDPOINTS_MAX, `${endpoints.length} endpoints`);
      assert.equal(new Set(endpoints.map(({ address }) => address)).size, endpoints.length);
      for (const { address, maxPacketOctets, intervalOctets, intervalMicroseconds } of endpoints) {
        assert((address & 0x70) === 0 && (address & 15) !== 0, `endpoint ${address}`);
        assert.equal(owners.get(address) ?? number, number, 'an endpoint of two interfaces');
        owners.set(address, number);
        assert(maxPacketOctets <= 0x7ff && intervalOctets <= 0xffff);
        assert(intervalMicroseconds >= 0 && intervalMicroseconds <= 32_768_000);
      }
    }
  }
}

/** It can be listed beside another, and imported. */
function assertServable(info: DeviceInfo): void {
  const registry = new Registry();
  assert.doesNotThrow(() => registry.add({ info } as UsbDevice, 'fuzz', '1-1'));
  const added = registry.get('1-1') as Export;
  const other: DeviceInfo = { ...info, interfaces: [] };
  registry.add({ info: other } as UsbDevice, 'other', '1-2');
  assert.equal(importReply(added).length, 320);
  const listed = new DeviceListReader().receive(deviceListReply(registry.list()));
  assert.deepEqual(
    listed?.map(({ busId, interfaces }) => [busId, interfaces.length]),
    [
      ['1-1', info.interfaces.length],
      ['1-2', 0],
    ],
  );
}

function unless(kind: new (...args: never[]) => Error, call: () => void): void {
  try {
    call();
  } catch (error) {
    assert(error instanceof kind, `not what is documented: ${(error as Error).stack}`);
  }
}

/** A device that answers each request with the next of some answers, as a front end passes them on. */
class AnsweringPipe {
  readonly name = 'fuzz';
  readonly speed: Speed;
  requests = 0;
  readonly #answers: readonly Buffer[];

  constructor(answers: readonly Buffer[], pipeSpeed: Speed) {
    this.#answers = answers;
    this.speed = pipeSpeed;
  }

  async transferWithin({ octets = 0, setup }: Transfer): Promise<TransferResult> {
    this.requests++;
    const isConfiguration = setup?.[1] === 6 && setup[3] === 2;
    const isDevice = setup?.[1] === 6 && setup[3] === 1;
    const [first, ...others] = this.#answers;
    const answer = isDevice
      ? first
      : isConfiguration
        ? others[(setup?.[2] ?? 0) % others.length]
        : this.#answers[this.requests % this.#answers.length];
    if (answer === undefined) return { status: 'stall', actualOctets: 0, data: Buffer.alloc(0) };
    const data = answer.subarray(0, octets);
    return { status: 'ok', actualOctets: data.length, data };
  }
}

describe('what devices say, at random', function () {
  this.timeout(FUZZ_TIMEOUT_MILLISECONDS);

  it('descriptors: a device within bounds, or a RangeError', () => {
    fc.assert(
      fc.property(
        device,
        fc.array(configuration, { minLength: 1, maxLength: 12 }),
        speed,
        (first, all, at) => {
          unless(RangeError, () => parseDeviceDescriptor(first));
          for (const one of all)
            unless(RangeError, () => assertWithin(parseConfiguration(one, at)));
          unless(RangeError, () => {
            const octets = Buffer.concat([first, ...all]);
            const active = new ActiveConfiguration(octets, at, 1, 'label');
            assert(active.configurations.length <= CONFIGURATIONS_MAX);
            active.setInterface(3, 255);
            active.setConfiguration(255);
            assertServable(active.info);
            for (let address = 0; address < 256; address++) active.endpoint(address);
          });
        },
      ),
      boundedShare(PROPERTIES),
    );
  });

  const answers = fc.tuple(device, fc.array(fc.oneof(configuration, bytes(64)), { maxLength: 10 }));

  it('a device of another server: within bounds after some requests, or a UserError', async () => {
    await fc.assert(
      fc.asyncProperty(answers, speed, async ([first, others], at) => {
        const pipe = new AnsweringPipe([first, ...others], at);
        try {
          const read = await readDescriptors(pipe);
          for (const one of read.parsed) assertWithin(one);
          assert(read.parsed.length <= CONFIGURATIONS_MAX);
          const endpoints = await readEndpoints(pipe, read);
          endpoints.applied({ requestType: 1, request: 11, value: 1, index: 255, length: 0 });
          const { configurationValue, interfaces } = endpoints;
          const { vendorId, productId, deviceVersion, configurationCount } = read.device;
          const ids = { vendorId, productId, deviceVersion, configurationCount, label: '' };
          const classes = { class: 0, subclass: 0, protocol: 0 };
          assertServable({ ...ids, ...classes, speed: at, configurationValue, interfaces });
        } catch (error) {
          assert(error instanceof UserError, `${(error as Error).stack}`);
        }
        assert(pipe.requests <= REQUESTS_MAX, `${pipe.requests} requests`);
      }),
      boundedShare(PROPERTIES),
    );
  });

  it('the same for WebUSB', async () => {
    await fc.assert(
      fc.asyncProperty(answers, speed, async ([first, others], at) => {
        const pipe = new AnsweringPipe([first, ...others], at);
        try {
          await readFacts(pipe as unknown as RemoteDevice);
        } catch (error) {
          assert(error instanceof UserError, `${(error as Error).stack}`);
        }
        assert(pipe.requests <= REQUESTS_MAX + STRINGS_MAX, `${pipe.requests} requests`);
      }),
      boundedShare(PROPERTIES),
    );
  });

  it('a device of the usb package: within bounds after some requests, or an Error', async () => {
    await fc.assert(
      fc.asyncProperty(answers, speed, async ([first, others], at) => {
        const pipe = new AnsweringPipe([first, ...others], at);
        const controlTransferIn: PackageDevice['controlTransferIn'] = async (setup, octets) => {
          const packet = Buffer.from([0x80, setup.request, setup.value & 255, setup.value >> 8]);
          const rest = Buffer.alloc(4);
          const { data } = await pipe.transferWithin({
            ...{ endpoint: 0, type: 'control', octets: octets + 9 }, // it may say too much
            setup: Buffer.concat([packet, rest]),
          });
          return { data: new DataView(data.buffer, data.byteOffset, data.length) };
        };
        try {
          const octets = await readFromPackage({ controlTransferIn } as PackageDevice);
          const active = new ActiveConfiguration(octets, at, 1, 'label');
          for (const one of active.configurations) assertWithin(one);
          assertServable(active.info);
        } catch (error) {
          assert(error instanceof Error && error.name !== 'AssertionError', `${error}`);
        }
        assert(pipe.requests <= REQUESTS_MAX, `${pipe.requests} requests`);
      }),
      boundedShare(PROPERTIES),
    );
  });

  it('what a back end says of a device: refused at export, or it can be listed for good', () => {
    const number = fc.oneof(fc.nat(300), fc.constantFrom(-1, 0.5, 65536, Number.NaN, undefined));
    const classes = { class: number, subclass: number, protocol: number };
    const info = fc.record({
      ...classes,
      speed: fc.oneof(speed, fc.constantFrom('warp', undefined)),
      vendorId: number,
      productId: number,
      deviceVersion: number,
      configurationValue: number,
      configurationCount: number,
      interfaces: fc.array(fc.record(classes), { maxLength: 40 }),
      label: fc.string({
        unit: fc.constantFrom('a', '\n', '\u202e', '\ud800', '\u{1f600}'),
        maxLength: 300,
      }),
    }) as fc.Arbitrary<DeviceInfo>;
    const good = fc.constant<DeviceInfo>({
      ...{ speed: 'high', vendorId: 1, productId: 2, deviceVersion: 3, label: 'good' },
      ...{ class: 0, subclass: 0, protocol: 0, configurationValue: 1, configurationCount: 1 },
      interfaces: [{ class: 1, subclass: 2, protocol: 3 }],
    });
    fc.assert(
      fc.property(fc.oneof(info, good), info, (first, later) => {
        const registry = new Registry();
        const lying = { info: first };
        unless(UserError, () => registry.add(lying as UsbDevice, 'fuzz'));
        lying.info = later;
        for (const one of registry.list()) assertServable(one.info);
        Object.defineProperty(lying, 'info', { get: () => assert.fail('it does not tell') });
        for (const one of registry.list()) assertServable(one.info);
        deviceListReply(registry.list());
      }),
      boundedShare(PROPERTIES),
    );
  });

  it('a list of devices: within bounds, or a BadReply', () => {
    const record = fc.tuple(bytes(312), fc.nat(255)).map(([start, interfaces]) => {
      const whole = recordOf({ record: (one) => one.set(start.subarray(0, one.length)) });
      whole.writeUInt8(interfaces, 311);
      return Buffer.concat([whole, Buffer.alloc(4 * interfaces, 7)]);
    });
    const list = fc
      .tuple(fc.array(record, { maxLength: 8 }), fc.option(fc.nat(2000), { freq: 5 }), bytes(400))
      .map(([records, count, rest]) => listReply([...records, rest], count ?? records.length));
    fc.assert(
      fc.property(list, fc.integer({ min: 1, max: 700 }), (reply, size) => {
        const reader = new DeviceListReader();
        unless(BadReply, () => {
          for (let at = 0; at < reply.length; at += size) {
            const devices = reader.receive(reply.subarray(at, at + size));
            if (devices === null) continue;
            assert(devices.every(({ interfaces }) => interfaces.length <= INTERFACES_MAX));
            return;
          }
        });
      }),
      boundedShare(PROPERTIES),
    );
  });

  const packets = [0, 1, 2].map((n) => ({ offset: n * 100, octets: 64 }));
  const transfers: readonly Transfer[] = [
    { endpoint: 0x81, type: 'bulk', octets: 64, shortNotOk: true },
    { endpoint: 0x81, type: 'bulk', octets: 64, into: Buffer.alloc(64) },
    { endpoint: 0x02, type: 'bulk', data: Buffer.alloc(64) },
    { endpoint: 0x83, type: 'isochronous', octets: 300, packets },
    { endpoint: 0x83, type: 'isochronous', octets: 300, packets, into: Buffer.alloc(300) },
    { endpoint: 0x04, type: 'isochronous', data: Buffer.alloc(300), packets },
    { endpoint: 0, type: 'control', octets: 8, setup: Buffer.from([0x80, 0, 0, 0, 0, 0, 8, 0]) },
  ];
  const submission = fc.record({ which: fc.nat(transfers.length - 1), unlinks: fc.boolean() });
  const length = fc.oneof(fc.nat(70), fc.constantFrom(64, 300, 0xffff_ffff, 0x8000_0000));
  const status = fc.constantFrom(0, -104, -104, -104, -32, -121, -108, 7, -2_000_000_000);

  /** What handlers get stays within what was asked for. */
  function assertResult({ octets, data, packets: asked }: Transfer, result: TransferResult): void {
    const room = octets ?? data?.length ?? 0;
    assert(result.data.length <= room && result.actualOctets <= room);
    const got = result.packets ?? [];
    assert(got.every((one, n) => one.actualOctets <= (asked?.[n]?.octets ?? 0)));
  }

  it('replies of a server: each transfer ends once within bounds, or a RemoteProtocolError', () => {
    const reply = fc.record({
      command: fc.oneof({ weight: 20, arbitrary: fc.constantFrom(3, 3, 3, 4) }, fc.nat(6)),
      seqnum: fc.nat(30),
      status,
      length,
      count: fc.constantFrom(0, 3, 3, -1, 1024),
      body: bytes(400),
    });
    fc.assert(
      fc.property(
        fc.array(submission, { maxLength: 8 }),
        fc.array(reply, { maxLength: 60 }),
        fc.boolean(),
        (submissions, replies, stallProtocol) => {
          const frontEnd = new FrontEnd({
            deviceId: 1,
            stallProtocol,
            unlinks: new AnswerWatch({
              milliseconds: 1,
              clock: { now: () => 0, after: () => () => {} },
              onLate: () => {},
            }),
            onOutput: () => {},
          });
          const framer = new Framer(frontEnd, new BufferPool());
          let commands = 0;
          const ended = new Map<number, number>();
          const count = () => {
            for (const piece of frontEnd.take()) commands += Math.ceil(piece.length / 48);
          };
          const pendings: Pending[] = submissions.map(({ which }, n) => {
            const transfer = transfers[which] as Transfer;
            return frontEnd.submit(transfer, (result) => {
              assertResult(transfer, result);
              ended.set(n, (ended.get(n) ?? 0) + 1);
            });
          });
          for (const [n, { unlinks }] of submissions.entries()) {
            if (unlinks) frontEnd.unlink(pendings[n] as Pending);
          }
          unless(RemoteProtocolError, () => {
            for (const one of replies) {
              const header = Buffer.alloc(48);
              header.writeUInt32BE(one.command, 0);
              header.writeUInt32BE(one.seqnum, 4);
              header.writeInt32BE(one.status, RetSubmit.offsets.status);
              header.writeUInt32BE(one.length, RetSubmit.offsets.actualLength);
              header.writeInt32BE(one.count, RetSubmit.offsets.numberOfPackets);
              framer.receive(Buffer.concat([header, one.body]));
              count();
            }
          });
          const most = submissions.length * (replies.length + 20);
          assert(commands <= most, `${commands} commands`);
          frontEnd.lost();
          assert.equal(ended.size, submissions.length);
          assert([...ended.values()].every((times) => times === 1));
        },
      ),
      boundedShare(PROPERTIES),
    );
  });

  it('responses of a back end: each transfer ends once within bounds, or a RingError', () => {
    const response = fc.record({
      id: fc.oneof({ weight: 9, arbitrary: fc.nat(IDS - 1) }, fc.nat(0xffff)),
      status,
      length,
      frame: fc.constantFrom(0, 64, 64, 65, 0xffff_ffff),
      produced: fc.constantFrom(1, 1, 1, 1, 1, 0, 2, 17, -1),
    });
    const page = Buffer.from(new ArrayBuffer(PAGE_BYTES));
    const memory = Buffer.alloc(IDS * SEGMENTS_MAX * PAGE_BYTES);
    fc.assert(
      fc.property(
        fc.array(submission, { maxLength: 8 }),
        fc.array(response, { maxLength: 40 }),
        fc.boolean(),
        (submissions, responses, stallProtocol) => {
          const references = new Array(IDS * SEGMENTS_MAX).fill(1);
          const urbs = new FrontUrbs({ ringPage: page, memory, references, notify: () => {} });
          const ring = new RingDevice({
            port: 1,
            speed: 'high',
            stallProtocol,
            urbs,
            onGivenUp: () => {},
            clock: systemClock,
          });
          const ended = new Map<number, number>();
          const pendings = submissions.map(({ which }, n) => {
            const transfer = transfers[which] as Transfer;
            return ring.submit(transfer, (result) => {
              assertResult(transfer, result);
              ended.set(n, (ended.get(n) ?? 0) + 1);
            });
          });
          for (const [n, { unlinks }] of submissions.entries()) {
            if (unlinks) ring.unlink(pendings[n] as never);
          }
          let produced = 0;
          unless(RingError, () => {
            for (const one of responses) {
              const at = 64 + (produced & 15) * 148;
              page.writeUInt16LE(one.id, at + UrbResponse.offsets.id);
              page.writeInt32LE(one.status, at + UrbResponse.offsets.status);
              page.writeUInt32LE(one.length, at + UrbResponse.offsets.actualLength);
              for (let n = 0; n < 3 && one.id < IDS; n++) {
                const frames = (one.id * SEGMENTS_MAX + SEGMENTS_MAX - 1) * PAGE_BYTES;
                memory.writeUInt32LE(one.frame, frames + n * 16 + 8);
              }
              produced = (produced + one.produced) >>> 0;
              page.writeUInt32LE(produced, 8);
              urbs.work();
            }
          });
          ring.lost();
          assert.equal(ended.size, submissions.length);
          assert([...ended.values()].every((times) => times === 1));
        },
      ),
      boundedShare(PROPERTIES),
    );
  });
});
