import { strict as assert } from 'node:assert';
import type { EndpointInfo, TransferType, UsbDevice } from '../../src/core/device.ts';
import { type ProtocolErrorCode, RemoteProtocolError } from '../../src/core/errors.ts';
import { DEFAULT_LIMITS } from '../../src/core/limits.ts';
import { Urb } from '../../src/core/urb.ts';
import { IsoDescriptor } from '../../src/usbip/protocol.ts';
import {
  bodyOctets,
  buildUrb,
  emptySubmitHeader,
  endpointOf,
  refusal,
  type SubmitHeader,
} from '../../src/usbip/submit.ts';

const LIMITS = { ...DEFAULT_LIMITS, transferOctetsMax: 1000, isoPacketsMax: 8 };
const NO_OCTETS: Buffer = Buffer.alloc(0);

const endpoint = (type: TransferType, address: number): EndpointInfo => ({
  address,
  direction: (address & 0x80) !== 0 ? 'in' : 'out',
  type,
  interfaceNumber: 0,
  maxPacketOctets: 64,
  intervalOctets: 64,
  intervalMicroseconds: 1000,
});
const control = endpoint('control', 0);
const bulkIn = endpoint('bulk', 0x81);
const bulkOut = endpoint('bulk', 0x02);
const isoIn = endpoint('isochronous', 0x83);
const isoOut = endpoint('isochronous', 0x04);
const interruptIn = endpoint('interrupt', 0x85);

const header = (fields: Partial<SubmitHeader> = {}): SubmitHeader => ({
  ...emptySubmitHeader(),
  seqnum: 7,
  deviceId: 0x10002,
  ...fields,
});
const bulkRead = header({ direction: 1, endpoint: 1, octets: 512 });
const bulkWrite = header({ direction: 0, endpoint: 2, octets: 512 });
const stream = header({ direction: 0, endpoint: 4, octets: 300, packetCount: 3 });
const getDescriptor = header({
  direction: 1,
  octets: 18,
  setupType: 0x80,
  setupRequest: 6,
  setupValue: 0x100,
  setupLength: 18,
});
const setReport = header({
  direction: 0,
  octets: 4,
  setupType: 0x21,
  setupRequest: 9,
  setupLength: 4,
});

const device = {
  endpoint: (address: number) =>
    [control, bulkIn, bulkOut, isoIn, isoOut, interruptIn].find((one) => one.address === address),
} as UsbDevice;

function descriptors(...packets: [number, number][]): Buffer {
  return Buffer.concat(
    packets.map(([offset, length]) =>
      IsoDescriptor.write({ offset, length, actualLength: 0xdead, status: -1 }),
    ),
  );
}

function protocolError(code: ProtocolErrorCode, call: () => void): void {
  assert.throws(call, (error) => {
    assert(error instanceof RemoteProtocolError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, /^Cannot .*: .*[^.]$/);
    return true;
  });
}

describe('endpointOf', () => {
  it('joins number and direction', () => {
    assert.equal(endpointOf(header({ endpoint: 1, direction: 1 }), device), bulkIn);
    assert.equal(endpointOf(header({ endpoint: 1, direction: 0 }), device), undefined);
    assert.equal(endpointOf(header({ endpoint: 2, direction: 0 }), device), bulkOut);
    assert.equal(endpointOf(header({ endpoint: 2, direction: 1 }), device), undefined);
  });

  it('is the control endpoint for both directions', () => {
    assert.equal(endpointOf(header({ endpoint: 0, direction: 0 }), device), control);
    assert.equal(endpointOf(header({ endpoint: 0, direction: 1 }), device), control);
  });

  for (const number of [16, 17, 0x80, 0x81, 0x101, 0x10001, 0x7fffffff, 0x80000001, 0xffffffff]) {
    it(`CVE-2017-16912: knows no endpoint 0x${number.toString(16)}`, () => {
      const strict = {
        endpoint: () => assert.fail('the number was used as an index'),
      } as unknown as UsbDevice;
      assert.equal(endpointOf(header({ endpoint: number, direction: 0 }), strict), undefined);
      assert.equal(endpointOf(header({ endpoint: number, direction: 1 }), strict), undefined);
    });
  }
});

describe('bodyOctets', () => {
  it('is the data of an OUT transfer, nothing of an IN transfer', () => {
    assert.equal(bodyOctets(bulkWrite, bulkOut, LIMITS), 512);
    assert.equal(bodyOctets(bulkRead, bulkIn, LIMITS), 0);
    assert.equal(bodyOctets(getDescriptor, control, LIMITS), 0);
    assert.equal(bodyOctets(setReport, control, LIMITS), 4);
  });

  it('adds packet descriptors on isochronous endpoints, both ways', () => {
    assert.equal(bodyOctets(stream, isoOut, LIMITS), 300 + 3 * 16);
    assert.equal(bodyOctets({ ...stream, direction: 1 }, isoIn, LIMITS), 3 * 16);
    assert.equal(bodyOctets({ ...stream, packetCount: 0 }, isoOut, LIMITS), 300);
  });

  it('is right for an unknown endpoint too: the stream goes on', () => {
    assert.equal(bodyOctets({ ...bulkWrite, packetCount: 99 }, undefined, LIMITS), 512);
    assert.equal(bodyOctets({ ...bulkRead, packetCount: 99 }, undefined, LIMITS), 0);
  });

  for (const packetCount of [-1, 1, 0x7fffffff, -0x80000000]) {
    it(`raspberrypi/linux#7572: ${packetCount} packets on a bulk endpoint mean nothing`, () => {
      assert.equal(bodyOctets({ ...bulkWrite, packetCount }, bulkOut, LIMITS), 512);
      assert.equal(bodyOctets({ ...bulkRead, packetCount }, bulkIn, LIMITS), 0);
      assert.equal(bodyOctets({ ...getDescriptor, packetCount }, control, LIMITS), 0);
    });
  }

  for (const direction of [2, 3, 0x80, 0xffffffff]) {
    it(`bad-direction: ${direction}`, () => {
      protocolError('bad-direction', () => bodyOctets({ ...bulkRead, direction }, bulkIn, LIMITS));
      protocolError('bad-direction', () =>
        bodyOctets({ ...bulkRead, direction }, undefined, LIMITS),
      );
    });
  }

  for (const octets of [-1, -0x80000000]) {
    it(`CVE-2017-16913, bad-length: ${octets} octets`, () => {
      for (const [one, to] of [
        [bulkRead, bulkIn],
        [bulkWrite, bulkOut],
        [stream, isoOut],
        [getDescriptor, control],
        [bulkWrite, undefined],
      ] as const) {
        protocolError('bad-length', () => bodyOctets({ ...one, octets }, to, LIMITS));
      }
    });
  }

  for (const packetCount of [-1, 9, 1025, 0x7fffffff, -0x80000000]) {
    it(`CVE-2017-16913, bad-packet-count: ${packetCount} packets`, () => {
      protocolError('bad-packet-count', () =>
        bodyOctets({ ...stream, packetCount }, isoOut, LIMITS),
      );
    });
  }

  it('bad-length: an isochronous transfer beyond the limit, whose descriptors stand behind it', () => {
    assert.equal(bodyOctets({ ...stream, octets: 1000 }, isoOut, LIMITS), 1048);
    protocolError('bad-length', () => bodyOctets({ ...stream, octets: 1001 }, isoOut, LIMITS));
  });

  it('qubes-issues#3628: more packets than the data needs are no error', () => {
    assert.equal(bodyOctets({ ...stream, octets: 1, packetCount: 8 }, isoOut, LIMITS), 1 + 128);
    assert.equal(bodyOctets({ ...stream, octets: 0, packetCount: 8 }, isoOut, LIMITS), 128);
  });
});

describe('refusal', () => {
  it('lets valid headers pass', () => {
    assert.equal(refusal(bulkRead, bulkIn, LIMITS), 'ok');
    assert.equal(refusal(bulkWrite, bulkOut, LIMITS), 'ok');
    assert.equal(refusal(stream, isoOut, LIMITS), 'ok');
    assert.equal(refusal(getDescriptor, control, LIMITS), 'ok');
    assert.equal(refusal(setReport, control, LIMITS), 'ok');
    assert.equal(refusal({ ...bulkRead, octets: 0 }, bulkIn, LIMITS), 'ok');
  });

  it('shutdown: there is no such endpoint', () => {
    assert.equal(refusal(bulkRead, undefined, LIMITS), 'shutdown');
  });

  it('no-memory: longer than the limit, not at the limit', () => {
    assert.equal(refusal({ ...bulkRead, octets: 1000 }, bulkIn, LIMITS), 'ok');
    assert.equal(refusal({ ...bulkRead, octets: 1001 }, bulkIn, LIMITS), 'no-memory');
    assert.equal(refusal({ ...bulkWrite, octets: 0x7fffffff }, bulkOut, LIMITS), 'no-memory');
  });

  const controls: [string, Partial<SubmitHeader>, 'ok' | 'invalid'][] = [
    ['IN with more room than wLength', { octets: 64 }, 'ok'],
    ['IN with less room than wLength', { octets: 8 }, 'ok'],
    ['IN with no room', { octets: 0 }, 'ok'],
    ['an OUT request in an IN transfer', { setupType: 0 }, 'invalid'],
    [
      'an OUT request without data in an IN transfer',
      { setupType: 0, octets: 0, setupLength: 0 },
      'ok',
    ],
    ['an OUT request without data, but with room', { setupType: 0, setupLength: 0 }, 'invalid'],
    ['an IN request in an OUT transfer', { direction: 0 }, 'invalid'],
    [
      'an IN request without data in an OUT transfer',
      { direction: 0, octets: 0, setupLength: 0 },
      'ok',
    ],
    ['OUT with as much data as wLength', { direction: 0, setupType: 0 }, 'ok'],
    ['OUT with more data than wLength', { direction: 0, setupType: 0, octets: 19 }, 'invalid'],
    ['OUT with less data than wLength', { direction: 0, setupType: 0, octets: 17 }, 'invalid'],
    ['OUT with no data but a wLength', { direction: 0, setupType: 0, octets: 0 }, 'invalid'],
  ];
  for (const [name, fields, expected] of controls) {
    it(`${expected}: ${name}`, () => {
      const one = { ...getDescriptor, ...fields };
      assert.equal(refusal(one, control, LIMITS), expected);
      if (expected !== 'ok') return;
      const body = Buffer.alloc(bodyOctets(one, control, LIMITS));
      assert(buildUrb(one, control, body) instanceof Urb, 'what passes can be built');
    });
  }
});

describe('buildUrb', () => {
  const built = (one: SubmitHeader, to: EndpointInfo, body: Buffer = NO_OCTETS): Urb => {
    const urb = buildUrb(one, to, body);
    assert(urb instanceof Urb, `refused: ${urb}`);
    return urb;
  };

  it('bulk and interrupt IN', () => {
    for (const to of [bulkIn, interruptIn]) {
      const urb = built(bulkRead, to);
      assert.deepEqual([urb.id, urb.in, urb.octets, urb.shortNotOk], [7, true, 512, false]);
      assert.equal(built({ ...bulkRead, transferFlags: 0x201 }, to).shortNotOk, true);
    }
  });

  it('bulk OUT', () => {
    const body = Buffer.alloc(512, 1);
    const urb = built(bulkWrite, bulkOut, body);
    assert.deepEqual([urb.in, urb.octets, urb.zeroPacket], [false, 512, false]);
    assert.equal(urb.dataOut, body);
    assert.equal(built({ ...bulkWrite, transferFlags: 0x40 }, bulkOut, body).zeroPacket, true);
  });

  it('SUSE usbback: flags mean something only where they may, and unknown ones nothing', () => {
    const flags = { transferFlags: 0xffffffff };
    const body = Buffer.alloc(512);
    const read = built({ ...bulkRead, ...flags }, bulkIn);
    assert.deepEqual([read.shortNotOk, read.zeroPacket, read.clearStall], [true, false, false]);
    const write = built({ ...bulkWrite, ...flags }, bulkOut, body);
    assert.deepEqual([write.shortNotOk, write.zeroPacket], [false, true]);
    const interruptWrite = built({ ...bulkWrite, ...flags }, endpoint('interrupt', 2), body);
    assert.deepEqual([interruptWrite.shortNotOk, interruptWrite.zeroPacket], [false, false]);
    const report = built({ ...setReport, ...flags }, control, Buffer.alloc(4));
    assert.deepEqual([report.shortNotOk, report.zeroPacket], [false, false]);
    const packet = { ...stream, ...flags, packetCount: 1 };
    const iso = built(packet, isoOut, Buffer.concat([Buffer.alloc(300), descriptors([0, 300])]));
    assert.deepEqual([iso.shortNotOk, iso.zeroPacket], [false, false]);
  });

  it('CVE-2020-14364: a control IN gets no more than the client has room for', () => {
    assert.equal(built({ ...getDescriptor, setupLength: 0xffff }, control).octets, 18);
    assert.equal(built({ ...getDescriptor, setupLength: 0xffff }, control).setup?.length, 18);
    assert.equal(built({ ...getDescriptor, octets: 64 }, control).octets, 18);
    const none = built({ ...getDescriptor, octets: 0 }, control);
    assert.deepEqual([none.octets, none.in], [0, false]);
  });

  it('control OUT', () => {
    const body = Buffer.from([1, 2, 3, 4]);
    const urb = built(setReport, control, body);
    assert.deepEqual([urb.in, urb.octets], [false, 4]);
    assert.deepEqual(urb.setup, { requestType: 0x21, request: 9, value: 0, index: 0, length: 4 });
    assert.equal(urb.dataOut, body);
  });

  it('isochronous OUT: data and packets; what the client says of results is ignored', () => {
    const data = Buffer.alloc(300, 5);
    const urb = built(
      stream,
      isoOut,
      Buffer.concat([data, descriptors([0, 100], [100, 100], [200, 100])]),
    );
    assert.deepEqual(urb.dataOut, data);
    assert.deepEqual(
      urb.packets,
      [0, 100, 200].map((offset) => ({ offset, octets: 100, actualOctets: 0, status: 'ok' })),
    );
  });

  it('isochronous IN: packets alone', () => {
    const one = { ...stream, direction: 1, endpoint: 3, packetCount: 1 };
    const urb = built(one, isoIn, descriptors([40, 60]));
    assert.deepEqual(urb.packets, [{ offset: 40, octets: 60, actualOctets: 0, status: 'ok' }]);
    assert.equal(urb.dataOut.length, 0);
  });

  it('isochronous without packets is legal ("Bluetooth dongle")', () => {
    const urb = built({ ...stream, packetCount: 0 }, isoOut, Buffer.alloc(300));
    assert.deepEqual(urb.packets, []);
  });

  it('qubes-issues#3628: short packets, more than length over packet size, are legal', () => {
    const eight = Array.from({ length: 8 }, (_, n): [number, number] => [n, 1]);
    const one = { ...stream, direction: 1, octets: 8, packetCount: 8 };
    assert.equal(built(one, isoIn, descriptors(...eight)).packets?.length, 8);
    const none = Array.from({ length: 8 }, (): [number, number] => [0, 0]);
    assert.equal(built(one, isoIn, descriptors(...none)).packets?.length, 8);
  });

  const invalid: [string, [number, number][]][] = [
    ['a packet longer than the buffer', [[0, 301]]],
    ['a packet that ends behind the buffer', [[201, 100]]],
    ['a packet that begins behind the buffer', [[301, 0]]],
    ['offset and length that overflow 32 bits', [[0xffffffff, 1]]],
    ['a length of 0xffffffff', [[0, 0xffffffff]]],
    ['an offset of 0x80000000', [[0x80000000, 100]]],
    [
      'packets that sum up to more than the buffer',
      [
        [0, 200],
        [0, 101],
      ],
    ],
  ];
  for (const [name, packets] of invalid) {
    it(`invalid: ${name}`, () => {
      const count = { packetCount: packets.length };
      const body = Buffer.concat([Buffer.alloc(300), descriptors(...packets)]);
      assert.equal(buildUrb({ ...stream, ...count }, isoOut, body), 'invalid');
      const read = { ...stream, ...count, direction: 1, endpoint: 3 };
      assert.equal(buildUrb(read, isoIn, descriptors(...packets)), 'invalid');
    });
  }
});
