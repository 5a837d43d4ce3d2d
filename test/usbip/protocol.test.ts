import { strict as assert } from 'node:assert';
import { BufferPool } from '../../src/usbip/buffer-pool.ts';
import { Framer } from '../../src/usbip/framer.ts';
import {
  CmdSubmit,
  CmdUnlink,
  DeviceRecord,
  HEADER_OCTETS,
  ImportRequest,
  InterfaceRecord,
  IsoDescriptor,
  OpCommon,
  RetSubmit,
  RetUnlink,
} from '../../src/usbip/protocol.ts';
import { emptySubmitHeader, readSubmit } from '../../src/usbip/submit.ts';
import { getDeviceDescriptor, type Part, VECTORS, type Vector } from '../vectors/usbip.ts';

/** Reads a message part by part; the parts' layouts say how many octets each has. */
function readParts(octets: Buffer, parts: readonly Part[]): object[] {
  let at = 0;
  return parts.map(({ layout, value }) => {
    const length = layout?.octets ?? (value as Buffer).length;
    const read = layout === null ? octets.subarray(at, at + length) : layout.read(octets, at);
    at += length;
    return read;
  });
}

function writeParts(parts: readonly Part[]): Buffer {
  return Buffer.concat(
    parts.map(({ layout, value }) =>
      layout === null ? (value as Buffer) : layout.write(value as never),
    ),
  );
}

/** What a framer makes of chunks that hold the vector, once or more. */
function frames(vector: Vector, chunks: readonly Buffer[]): Buffer[] {
  const pool = new BufferPool();
  const bodyOctets = vector.octets.length - vector.headerOctets;
  const got: Buffer[] = [];
  const framer = new Framer(
    {
      headerOctets: vector.headerOctets,
      keepBody: true,
      header(view, at) {
        got.push(Buffer.from(Buffer.from(view.buffer, at, vector.headerOctets)));
        return bodyOctets;
      },
      body(octets, pooled) {
        got[got.length - 1] = Buffer.concat([got.at(-1) ?? Buffer.alloc(0), octets]);
        if (pooled) pool.give(octets);
      },
    },
    pool,
  );
  for (const chunk of chunks) {
    const memory = Buffer.from(chunk);
    framer.receive(memory);
    memory.fill(0xee); // a chunk's memory is used again
  }
  return got;
}

const values = (parts: readonly Part[]): object[] => parts.map((one) => one.value);

describe('USB/IP structures', () => {
  it('have the sizes of usbip_common.h and usbip_network.h', () => {
    assert.deepEqual(
      [CmdSubmit, CmdUnlink, RetSubmit, RetUnlink].map((one) => one.octets),
      [48, 48, 48, 48],
    );
    assert.equal(HEADER_OCTETS, 48);
    assert.equal(IsoDescriptor.octets, 16);
    assert.equal(OpCommon.octets, 8);
    assert.equal(DeviceRecord.octets, 312);
    assert.equal(InterfaceRecord.octets, 4);
    assert.equal(ImportRequest.octets, 32);
    assert.equal(OpCommon.octets + DeviceRecord.octets, 320); // OP_REP_IMPORT
  });

  it('have the offsets of the document', () => {
    const { path, busId, bus, deviceNumber, speed, vendorId, productId } = DeviceRecord.offsets;
    assert.deepEqual(
      [path, busId, bus, deviceNumber, speed, vendorId, productId].map((at) => 0x0c + at),
      [0x0c, 0x10c, 0x12c, 0x130, 0x134, 0x138, 0x13a],
    );
    const last = DeviceRecord.offsets;
    assert.deepEqual(
      [
        last.deviceVersion,
        last.class,
        last.subclass,
        last.protocol,
        last.configurationValue,
        last.configurationCount,
        last.interfaceCount,
      ].map((at) => 0x0c + at),
      [0x13c, 0x13e, 0x13f, 0x140, 0x141, 0x142, 0x143],
    );
    assert.equal(CmdSubmit.offsets.transferFlags, 0x14);
    assert.equal(CmdSubmit.offsets.setup, 0x28);
    assert.equal(RetSubmit.offsets.errorCount, 0x24);
    assert.equal(CmdUnlink.offsets.victim, 0x14);
    assert.equal(RetUnlink.offsets.status, 0x14);
  });

  for (const vector of VECTORS) {
    describe(`${vector.name}${vector.captured ? ' (captured)' : ''}`, () => {
      const { octets, parts } = vector;

      it('reads', () => {
        assert.deepEqual(readParts(octets, parts), values(parts));
      });

      it('writes', () => {
        assert.deepEqual(writeParts(parts), octets);
      });

      it('is the same message wherever a chunk ends', () => {
        for (let split = 0; split <= octets.length; split++) {
          const chunks = [octets.subarray(0, split), octets.subarray(split)];
          assert.deepEqual(frames(vector, chunks), [octets], `split at ${split}`);
        }
      });

      it('is the same message octet by octet', () => {
        assert.deepEqual(
          frames(
            vector,
            [...octets].map((octet) => Buffer.from([octet])),
          ),
          [octets],
        );
      });

      it('ends before a trailing octet, which begins the next', () => {
        const next = Buffer.concat([octets, octets]);
        for (let end = octets.length + 1; end < octets.length + vector.headerOctets; end++) {
          assert.deepEqual(frames(vector, [next.subarray(0, end)]), [octets]);
          assert.deepEqual(
            frames(vector, [next.subarray(0, end), next.subarray(end)]),
            [octets, octets],
            `cut at ${end}`,
          );
        }
      });

      it('does not read from fewer octets', () => {
        const layout = parts[0]?.layout;
        assert(layout);
        assert.throws(() => layout.read(octets.subarray(0, layout.octets - 1)), RangeError);
      });
    });
  }

  it('the fast reader of CMD_SUBMIT reads what the layout reads, at any place', () => {
    const commands = VECTORS.filter((one) => one.parts[0]?.layout?.name === CmdSubmit.name);
    assert(commands.length >= 4);
    for (const { octets } of commands) {
      for (const before of [0, 1, 7]) {
        const memory = Buffer.concat([Buffer.alloc(before, 0xee), octets]);
        const into = emptySubmitHeader();
        readSubmit(new DataView(memory.buffer), memory.byteOffset + before, into);
        const slow = CmdSubmit.read(octets);
        assert.equal(into.seqnum, slow.seqnum);
        assert.equal(into.deviceId, slow.deviceId);
        assert.equal(into.direction, slow.direction);
        assert.equal(into.endpoint, slow.endpoint);
        assert.equal(into.transferFlags, slow.transferFlags);
        assert.equal(into.octets, slow.transferBufferLength);
        assert.equal(into.packetCount, slow.numberOfPackets);
      }
    }
  });

  it('setup packets stay as they are on USB: little-endian', () => {
    const into = emptySubmitHeader();
    const { octets } = getDeviceDescriptor;
    readSubmit(new DataView(octets.buffer), octets.byteOffset, into);
    assert.equal(into.setupType, 0x80);
    assert.equal(into.setupRequest, 6);
    assert.equal(into.setupValue, 0x0100);
    assert.equal(into.setupIndex, 0);
    assert.equal(into.setupLength, 18);
  });
});
