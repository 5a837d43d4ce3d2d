import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import type { EndpointInfo, TransferType } from '../../src/core/device.ts';
import { type IsoPacket, Urb, type UrbStatus } from '../../src/core/urb.ts';
import { IsoDescriptor, RetSubmit } from '../../src/usbip/protocol.ts';
import { ReplyWriter } from '../../src/usbip/reply-writer.ts';
import { ERRNO_BY_STATUS } from '../../src/usbip/status.ts';
import { HID_IN, HID_OUT, vectorNamed } from '../vectors/usbip.ts';

const endpoint = (type: TransferType, direction: 'in' | 'out'): EndpointInfo => ({
  address: direction === 'in' ? 0x81 : 0x01,
  direction,
  type,
  interfaceNumber: 0,
  maxPacketOctets: 64,
  intervalOctets: 64,
  intervalMicroseconds: 1000,
});

function endedRead(id: number, data: Uint8Array, octets = data.length, status: UrbStatus = 'ok') {
  const urb = Urb.read(id, endpoint('bulk', 'in'), octets);
  urb.dataIn = data;
  urb.actualOctets = data.length;
  urb.status = status;
  return urb;
}

function endedWrite(id: number, data: Buffer, actualOctets = data.length): Urb {
  const urb = Urb.write(id, endpoint('bulk', 'out'), data);
  urb.actualOctets = actualOctets;
  return urb;
}

const written = (writer: ReplyWriter): Buffer => Buffer.concat(writer.take());

/** A payload whose octets tell where they belong. */
const payload = (octets: number, seed = 1): Buffer =>
  Buffer.from(Array.from({ length: octets }, (_, n) => (n * 7 + seed * 13) & 0xff));

const header = (urb: Urb, extra: Partial<ReturnType<typeof RetSubmit.read>> = {}): Buffer =>
  RetSubmit.write({
    command: 3,
    seqnum: urb.id,
    deviceId: 0,
    direction: 0,
    endpoint: 0,
    status: ERRNO_BY_STATUS[urb.status],
    actualLength: urb.actualOctets,
    startFrame: 0,
    numberOfPackets: 0,
    errorCount: 0,
    padding: Buffer.alloc(8),
    ...extra,
  });

describe('ReplyWriter', () => {
  it('writes the captured replies, but for start_frame, where the kernel echoes -1', () => {
    const writer = new ReplyWriter();
    writer.submitReply(endedWrite(0xd06, HID_OUT));
    writer.submitReply(endedRead(0xd05, HID_IN));
    const captured = [vectorNamed('RetIntrOut'), vectorNamed('RetIntrIn')].map(({ octets }) => {
      const copy = Buffer.from(octets);
      copy.writeInt32BE(0, RetSubmit.offsets.startFrame);
      return copy;
    });
    assert.deepEqual(written(writer), Buffer.concat(captured));
  });

  it('writes the unlink reply', () => {
    const writer = new ReplyWriter();
    writer.unlinkReply(0xd07, 'unlinked');
    assert.deepEqual(written(writer), vectorNamed('RetUnlink that came in time').octets);
    writer.unlinkReply(0xffffffff, 'ok');
    assert.equal(written(writer).toString('hex', 0, 24), `00000004ffffffff${'0'.repeat(32)}`);
  });

  it('jiegec#61, VIIPER#37: an OUT reply tells the octets written, and has no data', () => {
    const writer = new ReplyWriter();
    const urb = endedWrite(5, Buffer.alloc(100, 0xdd), 64);
    urb.status = 'stall';
    writer.submitReply(urb);
    const octets = written(writer);
    assert.equal(octets.length, 48);
    assert.equal(RetSubmit.read(octets).actualLength, 64);
    assert.equal(RetSubmit.read(octets).status, -32);
  });

  it('what was read before an error goes back with it', () => {
    const writer = new ReplyWriter();
    const urb = endedRead(5, payload(64), 512, 'stall');
    writer.submitReply(urb);
    assert.deepEqual(written(writer), Buffer.concat([header(urb), payload(64)]));
  });

  it('Nitrokey#261: does not send more or less data than the header says', () => {
    const urb = endedRead(5, payload(64));
    urb.actualOctets = 63;
    assert.throws(() => new ReplyWriter().submitReply(urb), /AssertionError|ERR_ASSERTION/);
  });

  it('has a number for each status, those of Linux, whatever the system', () => {
    assert.deepEqual(ERRNO_BY_STATUS, {
      ok: 0,
      short: -121,
      stall: -32,
      babble: -75,
      'protocol-error': -71,
      'crc-error': -84,
      timeout: -62,
      missed: -18,
      unlinked: -104,
      returned: -104,
      shutdown: -108,
      invalid: -22,
      'no-memory': -12,
    });
  });

  for (const octets of [0, 1, 4047, 4048, 4095, 4096, 4097, 8192, 65488, 65536, 65537, 300_000]) {
    it(`a payload of ${octets} octets, before and behind others`, () => {
      const writer = new ReplyWriter();
      const urbs = [
        endedRead(1, payload(10, 1)),
        endedRead(2, payload(octets, 2)),
        endedRead(3, payload(10, 3)),
      ];
      for (const urb of urbs) writer.submitReply(urb);
      const expected = Buffer.concat(urbs.flatMap((urb) => [header(urb), urb.dataIn]));
      assert.equal(writer.pendingOctets, expected.length);
      assert.deepEqual(written(writer), expected);
      assert.equal(writer.pendingOctets, 0);
      assert.equal(writer.position, expected.length);
    });
  }

  it('does not copy a payload of more than 4096 octets', () => {
    const writer = new ReplyWriter();
    const large = payload(4097);
    writer.submitReply(endedRead(1, large));
    assert(writer.take().includes(large));
    const small = payload(4096);
    writer.submitReply(endedRead(2, small));
    assert.equal(writer.take().length, 1);
  });

  it('crosses its slab anywhere: every size of filler before a reply', () => {
    // The slab is 64 KiB; these replies straddle its end, header and payload and descriptors.
    for (let filler = 65536 - 48 * 4; filler <= 65536 + 16; filler += 8) {
      const writer = new ReplyWriter();
      const expected: Buffer[] = [];
      for (let rest = filler; rest > 0; ) {
        const piece = payload(Math.min(4096, rest), rest);
        writer.append(piece);
        expected.push(piece);
        rest -= piece.length;
      }
      for (let n = 0; n < 3; n++) {
        const urb = endedRead(n, payload(100, n));
        writer.submitReply(urb);
        expected.push(header(urb), payload(100, n));
      }
      const descriptors = IsoDescriptor.write({ offset: 1, length: 2, actualLength: 3, status: 4 });
      writer.refusedReply(9, 'invalid', descriptors);
      const refused = {
        seqnum: 9,
        status: -22,
        actualLength: 0,
        numberOfPackets: 1,
        errorCount: 1,
      };
      expected.push(header(endedRead(9, Buffer.alloc(0)), refused));
      expected.push(IsoDescriptor.write({ offset: 1, length: 2, actualLength: 0, status: -22 }));
      const all = Buffer.concat(expected);
      assert.equal(writer.pendingOctets, all.length);
      assert(written(writer).equals(all), `${filler} octets before`);
    }
  });

  it('never changes octets that were taken', () => {
    const writer = new ReplyWriter();
    const taken: { pieces: Uint8Array[]; copy: Buffer }[] = [];
    for (let n = 0; n < 4000; n++) {
      writer.submitReply(endedRead(n, payload(n % 90, n)));
      if (n % 7 !== 0) continue;
      const pieces = writer.take();
      taken.push({ pieces, copy: Buffer.concat(pieces) });
    }
    for (const { pieces, copy } of taken) assert(Buffer.concat(pieces).equals(copy));
  });

  it('any sequence of replies comes out in order and whole', () => {
    const one = fc.record({
      octets: fc.oneof(fc.nat(200), fc.nat(9000), fc.integer({ min: 4090, max: 4100 })),
      take: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(one, { maxLength: 40 }), (steps) => {
        const writer = new ReplyWriter();
        const expected: Uint8Array[] = [];
        const got: Uint8Array[] = [];
        steps.forEach(({ octets, take }, n) => {
          const urb = endedRead(n, payload(octets, n));
          writer.submitReply(urb);
          expected.push(header(urb), urb.dataIn);
          if (take) got.push(...writer.take());
        });
        got.push(...writer.take());
        assert(Buffer.concat(got).equals(Buffer.concat(expected)));
        assert.equal(writer.position, Buffer.concat(expected).length);
        assert.deepEqual(writer.take(), []);
      }),
      { numRuns: 60 },
    );
  });

  describe('isochronous', () => {
    const packet = (
      offset: number,
      octets: number,
      actualOctets: number,
      status: UrbStatus,
    ): IsoPacket => ({
      offset,
      octets,
      actualOctets,
      status,
    });
    const packets = [
      packet(0, 100, 10, 'ok'),
      packet(100, 100, 0, 'missed'),
      packet(200, 100, 30, 'ok'),
    ];
    const wire = [
      { offset: 0, length: 100, actualLength: 10, status: 0 },
      { offset: 100, length: 100, actualLength: 0, status: -18 },
      { offset: 200, length: 100, actualLength: 30, status: 0 },
    ];

    it('IN: data without gaps, then descriptors with the offsets of the request', () => {
      const urb = Urb.isochronous(4, endpoint('isochronous', 'in'), 300, packets);
      urb.dataIn = payload(40);
      urb.actualOctets = 40;
      urb.startFrame = 0x123;
      const writer = new ReplyWriter();
      writer.submitReply(urb);
      const octets = written(writer);
      assert.equal(octets.length, 48 + 40 + 3 * 16);
      const expected = header(urb, { numberOfPackets: 3, errorCount: 1, startFrame: 0x123 });
      assert.deepEqual(octets.subarray(0, 48), expected);
      assert.deepEqual(octets.subarray(48, 88), payload(40));
      for (const n of [0, 1, 2]) assert.deepEqual(IsoDescriptor.read(octets, 88 + 16 * n), wire[n]);
    });

    it('OUT: descriptors alone', () => {
      const urb = Urb.isochronous(
        4,
        endpoint('isochronous', 'out'),
        300,
        packets,
        Buffer.alloc(300),
      );
      urb.actualOctets = 40;
      const writer = new ReplyWriter();
      writer.submitReply(urb);
      const octets = written(writer);
      assert.equal(octets.length, 48 + 3 * 16);
      assert.equal(RetSubmit.read(octets).actualLength, 40);
      for (const n of [0, 1, 2]) assert.deepEqual(IsoDescriptor.read(octets, 48 + 16 * n), wire[n]);
    });

    it('refused: as many descriptors as the request, nothing moved', () => {
      const request = wire.map((one) =>
        IsoDescriptor.write({ ...one, actualLength: 0xffff, status: 7 }),
      );
      const writer = new ReplyWriter();
      writer.refusedReply(4, 'shutdown', Buffer.concat(request));
      const octets = written(writer);
      assert.equal(octets.length, 48 + 3 * 16);
      const { status, actualLength, numberOfPackets, errorCount } = RetSubmit.read(octets);
      assert.deepEqual([status, actualLength, numberOfPackets, errorCount], [-108, 0, 3, 3]);
      wire.forEach((one, n) => {
        const read = IsoDescriptor.read(octets, 48 + 16 * n);
        assert.deepEqual(read, { ...one, actualLength: 0, status: -108 });
      });
    });

    it('CVE-2026-31607: the reply has as many packets as the URB, none if it has none', () => {
      const urb = Urb.isochronous(4, endpoint('isochronous', 'in'), 0, []);
      const writer = new ReplyWriter();
      writer.submitReply(urb);
      assert.deepEqual(written(writer), header(urb));
    });

    it('1024 packets cross the slab', () => {
      const many = Array.from({ length: 1024 }, (_, n) => packet(n, 1, 1, 'ok'));
      const writer = new ReplyWriter();
      const expected: Buffer[] = [];
      for (let id = 0; id < 6; id++) {
        const urb = Urb.isochronous(id, endpoint('isochronous', 'in'), 1024, many);
        urb.dataIn = payload(1024, id);
        urb.actualOctets = 1024;
        writer.submitReply(urb);
        expected.push(header(urb, { numberOfPackets: 1024 }), payload(1024, id));
        for (let n = 0; n < 1024; n++) {
          expected.push(IsoDescriptor.write({ offset: n, length: 1, actualLength: 1, status: 0 }));
        }
      }
      assert(written(writer).equals(Buffer.concat(expected)));
    });
  });

  describe('payloads that are lent', () => {
    const lent = (id: number, octets: number, log: number[]): Urb => {
      const urb = endedRead(id, payload(octets));
      urb.loan = { giveBack: () => log.push(id) };
      return urb;
    };

    it('a short one is given back at once, a long one by whoever sends it', () => {
      const writer = new ReplyWriter();
      const back: number[] = [];
      writer.submitReply(lent(1, 4096, back));
      writer.submitReply(lent(2, 4097, back));
      writer.submitReply(lent(3, 65536, back));
      assert.deepEqual(back, [1]);
      assert.equal(written(writer).length, 3 * 48 + 4096 + 4097 + 65536);
      const loans = writer.takeLoans();
      assert.deepEqual(back, [1]);
      for (const loan of loans) loan.giveBack();
      assert.deepEqual(back, [1, 2, 3]);
      assert.deepEqual(writer.takeLoans(), []);
    });
  });
});
