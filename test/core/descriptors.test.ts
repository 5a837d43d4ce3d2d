import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  interfacesOf,
  intervalMicroseconds,
  parseConfiguration,
  parseDeviceDescriptor,
} from '../../src/core/descriptors.ts';
import type { Speed, TransferType } from '../../src/core/device.ts';
import type {
  ConfigurationDefinition,
  DeviceDefinition,
  EndpointDefinition,
} from '../../src/core/devices/virtual/definition.ts';
import { ack, nak } from '../../src/core/devices/virtual/definition.ts';
import {
  bosDescriptor,
  configurationDescriptor,
  deviceDescriptor,
  qualifierDescriptor,
  StringTable,
} from '../../src/core/devices/virtual/descriptors.ts';
import { split } from '../examples/rig.ts';
import { hex } from '../vectors/usbip.ts';

const SPEEDS: readonly Speed[] = ['low', 'full', 'high', 'super', 'super-plus'];

const bulkIn: EndpointDefinition<null> = {
  address: 0x81,
  type: 'bulk',
  maxPacketOctets: 512,
  onIn: () => nak,
};
const isoOut: EndpointDefinition<null> = {
  address: 0x02,
  type: 'isochronous',
  maxPacketOctets: 192,
  interval: 4,
  synchronisation: 'adaptive',
  audio: true,
  descriptors: [hex('07250101000000')],
  onPacketOut: () => ack,
};
const interruptIn: EndpointDefinition<null> = {
  address: 0x8f,
  type: 'interrupt',
  maxPacketOctets: 8,
  interval: 10,
  onIn: () => nak,
};

const configuration: ConfigurationDefinition<null> = {
  maxPowerMilliamps: 500,
  selfPowered: true,
  remoteWakeup: true,
  interfaces: [
    { class: 1, subclass: 1, protocol: 0, endpoints: [], preamble: [hex('080b000201000000')] },
    { class: 1, subclass: 2, label: 'off', endpoints: [] },
    {
      class: 1,
      subclass: 2,
      alternate: 1,
      descriptors: [hex('072401010101 00')],
      endpoints: [isoOut],
    },
    { class: 3, protocol: 1, endpoints: [interruptIn, bulkIn] },
  ],
};

const device: DeviceDefinition<null> = {
  vendorId: 0x1234,
  productId: 0xabcd,
  deviceVersion: 0x0321,
  class: 0xef,
  subclass: 2,
  protocol: 1,
  speed: 'high',
  strings: { manufacturer: 'Maker', product: 'Thing', serialNumber: 'Maker' },
  state: () => null,
  configurations: [configuration, configuration],
};

describe('device descriptor', () => {
  for (const speed of SPEEDS) {
    it(`${speed}: is read as it was written`, () => {
      const octets = deviceDescriptor({ ...device, speed }, new StringTable());
      assert.equal(octets.length, 18);
      const { usbVersion, maxPacketSize0, ...rest } = parseDeviceDescriptor(octets);
      const expected = {
        low: [0x0200, 8],
        full: [0x0200, 64],
        high: [0x0200, 64],
        super: [0x0300, 9],
        'super-plus': [0x0310, 9],
      };
      assert.deepEqual([usbVersion, maxPacketSize0], expected[speed]);
      const { class: deviceClass, subclass, protocol, vendorId, productId, deviceVersion } = rest;
      assert.deepEqual(
        [deviceClass, subclass, protocol, vendorId, productId, deviceVersion],
        [0xef, 2, 1, 0x1234, 0xabcd, 0x0321],
      );
      const { manufacturer, product, serialNumber, configurationCount } = rest;
      assert.deepEqual([manufacturer, product, serialNumber], [1, 2, 1], 'equal strings are one');
      assert.equal(configurationCount, 2);
    });
  }

  it('has no strings if there are none', () => {
    const { strings, ...without } = device;
    assert(strings);
    const read = parseDeviceDescriptor(deviceDescriptor(without, new StringTable()));
    assert.deepEqual([read.manufacturer, read.product, read.serialNumber], [0, 0, 0]);
  });

  it('refuses what is none', () => {
    const octets = deviceDescriptor(device, new StringTable());
    for (const bad of [
      octets.subarray(0, 17),
      Buffer.alloc(0),
      Buffer.concat([hex('1202'), octets.subarray(2)]),
      Buffer.concat([hex('1101'), octets.subarray(2)]),
    ]) {
      assert.throws(() => parseDeviceDescriptor(bad), RangeError);
    }
    assert.equal(parseDeviceDescriptor(Buffer.concat([octets, hex('ff')])).vendorId, 0x1234);
  });

  it('the qualifier is what it would be at full speed', () => {
    const octets = qualifierDescriptor(deviceDescriptor(device, new StringTable()));
    assert.deepEqual(octets, hex('0a06 0002 ef 02 01 40 02 00'));
  });
});

describe('configuration', () => {
  for (const speed of SPEEDS) {
    it(`${speed}: is read as it was written`, () => {
      const octets = configurationDescriptor(configuration, 3, speed, new StringTable());
      assert.equal(octets.readUInt16LE(2), octets.length);
      const read = parseConfiguration(octets, speed);
      assert.equal(read.value, 3);
      assert.equal(read.attributes, 0xe0);
      assert.deepEqual(
        read.alternates.map((one) => [
          one.number,
          one.alternate,
          one.class,
          one.subclass,
          one.protocol,
        ]),
        [
          [0, 0, 1, 1, 0],
          [1, 0, 1, 2, 0],
          [1, 1, 1, 2, 0],
          [2, 0, 3, 0, 1],
        ],
      );
      const endpoints = read.alternates.flatMap((one) => one.endpoints);
      assert.deepEqual(
        endpoints.map((one) => [
          one.address,
          one.direction,
          one.type,
          one.maxPacketOctets,
          one.interfaceNumber,
        ]),
        [
          [0x02, 'out', 'isochronous', 192, 1],
          [0x8f, 'in', 'interrupt', 8, 2],
          [0x81, 'in', 'bulk', 512, 2],
        ],
      );
      assert.deepEqual(
        endpoints.map((one) => one.intervalOctets),
        [192, 8, 512],
      );
      const frames = speed === 'low' || speed === 'full';
      assert.deepEqual(
        endpoints.map((one) => one.intervalMicroseconds),
        frames ? [8000, 10_000, 0] : [1000, 64_000, 0],
      );
    });
  }

  it('counts interfaces, not settings, and rounds power up', () => {
    const strings = new StringTable();
    assert.equal(configurationDescriptor(configuration, 1, 'high', strings)[4], 3);
    assert.equal(configurationDescriptor(configuration, 1, 'high', strings)[8], 250);
    assert.equal(configurationDescriptor(configuration, 1, 'super', strings)[8], 63);
    const small = {
      ...configuration,
      maxPowerMilliamps: 1,
      selfPowered: false,
      remoteWakeup: false,
    };
    const octets = configurationDescriptor(small, 1, 'high', strings);
    assert.deepEqual([octets[7], octets[8]], [0x80, 1]);
  });

  it('puts each descriptor in its place', () => {
    const parts = split(configurationDescriptor(configuration, 1, 'super', new StringTable()));
    assert.deepEqual(
      parts.map((part) => `${part[0]?.toString(16)}/${part[1]?.toString(16)}`),
      // iad, interface, interface, interface, class, endpoint, companion, class, ...
      '9/2 8/b 9/4 9/4 9/4 7/24 9/5 6/30 7/25 9/4 7/5 6/30 7/5 6/30'.split(' '),
    );
    assert.equal(parts[6]?.[3], 0x09, 'isochronous, adaptive');
    assert.equal(parts[7]?.readUInt16LE(4), 192, 'wBytesPerInterval');
    assert.equal(parts.at(-1)?.readUInt16LE(4), 0, 'of a bulk endpoint');
  });

  it('high-bandwidth endpoints move up to three packets an interval', () => {
    for (const [packets, bits] of [
      [1, 0x0400],
      [2, 0x0c00],
      [3, 0x1400],
    ] as const) {
      const endpoint = Buffer.from([7, 5, 0x81, 1, bits & 0xff, bits >> 8, 1]);
      const octets = Buffer.concat([hex('0902190001010080 32 0904000001ff000000'), endpoint]);
      const [info] = parseConfiguration(octets, 'high').alternates[0]?.endpoints ?? [];
      assert.deepEqual([info?.maxPacketOctets, info?.intervalOctets], [1024, 1024 * packets]);
    }
  });

  const head = '09021900010100 80 32';
  const face = '0904000001ff000000';
  const endpoint = '07058102000200';
  it('passes over unknown descriptors and stops where the octets make no sense', () => {
    const endpoints = (text: string): number =>
      parseConfiguration(hex(text), 'high').alternates.flatMap((one) => one.endpoints).length;
    assert.equal(endpoints(`${head} 03ff00 ${face} 05aabbccdd ${endpoint}`), 1);
    assert.equal(endpoints(`${head} ${face} 00 ${endpoint}`), 0);
    assert.equal(endpoints(`${head} ${face} 01 ${endpoint}`), 0);
    assert.equal(endpoints(`${head} ${face} ff ${endpoint}`), 0);
    assert.equal(endpoints(`${head} ${face} ${endpoint} 0705820200`), 1);
    assert.equal(endpoints(`${head} ${endpoint} ${face}`), 0, 'an endpoint of no interface');
    assert.equal(endpoints(`${head} 0804000001ff0000 ${endpoint}`), 0, 'an interface too short');
    assert.equal(endpoints(`${head} ${face} 060581020002`), 0, 'an endpoint too short');
  });

  it('refuses what does not begin with a configuration', () => {
    for (const text of [
      '',
      '0902',
      '0901190001010080',
      face,
      '0802190001010080 32',
      '00 02 00 00 00 00 00 00 00',
    ]) {
      assert.throws(() => parseConfiguration(hex(text), 'high'), RangeError, text);
    }
  });

  it('CVE-2020-27661: an endpoint with no packet size, or an interval out of range, is no trap', () => {
    const octets = hex(`${head} ${face} 0705810300 00 00`);
    const [info] = parseConfiguration(octets, 'high').alternates[0]?.endpoints ?? [];
    assert.deepEqual([info?.maxPacketOctets, info?.intervalMicroseconds], [0, 125]);
  });

  describe('bounds, as in Linux (drivers/usb/core/config.c)', () => {
    const interfaceOf = (number: number, alternate = 0) =>
      Buffer.from([9, 4, number, alternate, 1, number, alternate, 0, 7]);
    const endpointOf = (address: number, attributes = 2) =>
      Buffer.from([7, 5, address, attributes, 0, 2, 1]);
    const parse = (...parts: Buffer[]) =>
      parseConfiguration(Buffer.concat([hex(head), ...parts]), 'high');
    const endpoints = (...parts: Buffer[]) =>
      parse(...parts).alternates.map((one) => one.endpoints.map(({ address }) => address));
    const upTo = (count: number) => Array.from({ length: count }, (_, at) => at);

    it('the first 32 interface numbers, whatever numbers they are, with all their settings', () => {
      const parts = upTo(256).flatMap((at) => [interfaceOf(255 - at), interfaceOf(255 - at, 1)]);
      const read = parse(...parts, interfaceOf(255, 2));
      assert.deepEqual(
        [...new Set(read.alternates.map(({ number }) => number))],
        upTo(32).map((at) => 255 - at),
      );
      assert.equal(read.alternates.length, 65);
      assert.equal(interfacesOf(read).length, 32);
    });

    it('the first 128 settings of an interface, each once', () => {
      const parts = upTo(256).map((at) => interfaceOf(0, at));
      const read = parse(...parts.slice(0, 64), ...parts, interfaceOf(1));
      assert.deepEqual(
        read.alternates.map(({ number, alternate }) => [number, alternate]),
        [...upTo(128).map((at) => [0, at]), [1, 0]],
      );
    });

    it('endpoints of a setting that is passed over are of no other setting', () => {
      const found = endpoints(
        ...[interfaceOf(0), endpointOf(0x81), interfaceOf(0), endpointOf(0x82)],
        ...[hex('0804010001ff0000'), endpointOf(0x83), interfaceOf(1), endpointOf(0x84)],
      );
      assert.deepEqual(found, [[0x81], [0x84]]);
    });

    it('30 endpoints of a setting, each once and in one interface', () => {
      const all = upTo(256).map((address) => endpointOf(address));
      const found = endpoints(
        ...[interfaceOf(0), ...all, interfaceOf(0, 1), ...all, interfaceOf(1), ...all],
      );
      const addresses = upTo(256).filter((at) => (at & 15) !== 0 && (at & 0x70) === 0);
      assert.deepEqual(found, [addresses, addresses, []]);
    });

    it('a control endpoint takes both directions of its number', () => {
      const found = endpoints(
        ...[interfaceOf(0), endpointOf(0x81, 0), endpointOf(0x01)],
        ...[interfaceOf(1), endpointOf(0x01), endpointOf(0x82), endpointOf(0x02, 0)],
      );
      assert.deepEqual(found, [[0x81], [0x82]]);
    });

    it('65535 octets of the shortest descriptors', () => {
      assert.equal(parse(Buffer.alloc(65_000, 2)).alternates.length, 0);
      const many = upTo(7000).map((at) => interfaceOf(at >> 8, at & 255));
      assert.equal(parse(...many).alternates.length, 27 * 128 + 88);
    });

    it('an interface is shown with the class of its setting 0, or of its first', () => {
      const read = parse(
        interfaceOf(3, 2),
        interfaceOf(3, 0),
        interfaceOf(1, 4),
        interfaceOf(1, 5),
      );
      assert.deepEqual(
        interfacesOf(read).map(({ class: of, subclass }) => [of, subclass]),
        [
          [3, 0],
          [1, 4],
        ],
      );
      assert.deepEqual([read.nameIndex, read.alternates[0]?.nameIndex], [0, 7]);
    });
  });

  it('garbage never throws anything but RangeError', () => {
    const octets = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.uint8Array({ maxLength: 200 }).map((rest) => Buffer.concat([hex(head), hex(face), rest])),
      fc
        .array(
          fc.tuple(
            fc.nat(12),
            fc.constantFrom(2, 4, 5, 11, 0x24, 48),
            fc.uint8Array({ maxLength: 12 }),
          ),
        )
        .map((list) =>
          Buffer.concat([hex(head), ...list.map(([l, t, rest]) => Buffer.from([l, t, ...rest]))]),
        ),
    );
    fc.assert(
      fc.property(octets, fc.constantFrom(...SPEEDS), (any, speed) => {
        for (const parse of [
          parseDeviceDescriptor,
          (one: Uint8Array) => parseConfiguration(one, speed),
        ]) {
          try {
            parse(any);
          } catch (error) {
            assert(error instanceof RangeError, String(error));
          }
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('any definition is read as it was written', () => {
    const endpointOf = fc.record({
      number: fc.integer({ min: 1, max: 15 }),
      isIn: fc.boolean(),
      type: fc.constantFrom('bulk', 'interrupt', 'isochronous'),
      maxPacketOctets: fc.integer({ min: 1, max: 1024 }),
      interval: fc.integer({ min: 1, max: 16 }),
    });
    const interfaceOf = fc.record({
      class: fc.nat(255),
      subclass: fc.nat(255),
      protocol: fc.nat(255),
      endpoints: fc.array(endpointOf, { maxLength: 4 }),
      more: fc.array(fc.uint8Array({ minLength: 0, maxLength: 20 }), { maxLength: 2 }),
    });
    fc.assert(
      fc.property(
        fc.array(interfaceOf, { maxLength: 5 }),
        fc.constantFrom(...SPEEDS),
        (list, speed) => {
          const taken = new Set<number>();
          const interfaces = list.map(({ endpoints, more, ...rest }) => ({
            ...rest,
            descriptors: more.map((octets) => Buffer.from([octets.length + 2, 0x24, ...octets])),
            endpoints: endpoints.flatMap(({ number, isIn, ...other }) => {
              const address = number | (isIn ? 0x80 : 0);
              if (taken.has(address)) return []; // no device has one twice
              taken.add(address);
              return { ...other, address, onIn: () => nak } as unknown as EndpointDefinition<null>;
            }),
          }));
          const octets = configurationDescriptor({ interfaces }, 1, speed, new StringTable());
          const read = parseConfiguration(octets, speed);
          assert.deepEqual(
            read.alternates.map((one) => [
              one.number,
              one.class,
              one.subclass,
              one.protocol,
              one.endpoints.map((each) => [each.address, each.type, each.maxPacketOctets]),
            ]),
            interfaces.map((one, place) => [
              place,
              one.class,
              one.subclass,
              one.protocol,
              one.endpoints.map((each) => [each.address, each.type, each.maxPacketOctets]),
            ]),
          );
        },
      ),
    );
  });
});

describe('intervals', () => {
  const table: [Speed, TransferType, number, number][] = [
    ['low', 'interrupt', 10, 10_000],
    ['full', 'interrupt', 1, 1000],
    ['full', 'interrupt', 255, 255_000],
    ['full', 'interrupt', 0, 1000],
    ['full', 'isochronous', 1, 1000],
    ['full', 'isochronous', 4, 8000],
    ['high', 'interrupt', 1, 125],
    ['high', 'interrupt', 4, 1000],
    ['high', 'interrupt', 16, 4_096_000],
    ['high', 'interrupt', 255, 4_096_000],
    ['high', 'isochronous', 0, 125],
    ['super', 'isochronous', 4, 1000],
    ['super-plus', 'interrupt', 8, 16_000],
  ];
  for (const [speed, type, interval, expected] of table) {
    it(`${speed} ${type} ${interval}: ${expected} microseconds`, () => {
      assert.equal(intervalMicroseconds(interval, type, speed), expected);
    });
  }
});

describe('other descriptors', () => {
  it('strings', () => {
    const strings = new StringTable();
    assert.equal(strings.index(undefined), 0);
    assert.equal(strings.index(''), 0);
    assert.equal(strings.index('Gerät'), 1);
    assert.equal(strings.index('x'.repeat(300)), 2);
    assert.equal(strings.index('Gerät'), 1);
    assert.deepEqual(strings.descriptor(0), hex('04030904'));
    assert.deepEqual(strings.descriptor(1), hex('0c03 4700 6500 7200 e400 7400'));
    assert.equal(strings.descriptor(2)?.length, 254);
    assert.equal(strings.descriptor(2)?.[0], 254);
    assert.equal(strings.descriptor(3), undefined);
  });

  for (const speed of ['super', 'super-plus'] as const) {
    it(`BOS of ${speed} has the lengths it says`, () => {
      const octets = bosDescriptor(speed);
      assert.equal(octets.readUInt16LE(2), octets.length);
      const [head, ...capabilities] = split(octets);
      assert.equal(head?.[4], capabilities.length);
      assert.deepEqual(
        capabilities.map((one) => [one[1], one[2]]),
        speed === 'super'
          ? [
              [16, 2],
              [16, 3],
            ]
          : [
              [16, 2],
              [16, 3],
              [16, 10],
            ],
      );
    });
  }
});
