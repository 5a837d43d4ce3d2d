/** The wire protocol: vectors, read at every split and written. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  checkPath,
  decodePermissions,
  decodeStrings,
  encodeMessage,
  encodePermissions,
  encodeStrings,
  MessageReader,
  PAYLOAD_OCTETS_MAX,
  STORE_TYPE,
  StoreError,
  type StoreMessage,
} from '../../src/xenring/xenstore-wire.ts';

/** As `xenstore-read /a` of the distribution sends it, and the answer to it. */
const VECTORS: [string, string, StoreMessage][] = [
  [
    'a read',
    '0200000001000000000000000300000'.concat('02f6100'),
    { type: 2, requestId: 1, transactionId: 0, payload: Buffer.from('/a\0') },
  ],
  [
    'an error',
    '10000000010000000500000007000000454e4f454e5400',
    { type: 16, requestId: 1, transactionId: 5, payload: Buffer.from('ENOENT\0') },
  ],
  [
    'nothing in it',
    '0200000009000000000000000'.concat('0000000'),
    { type: 2, requestId: 9, transactionId: 0, payload: Buffer.alloc(0) },
  ],
];

describe('xenstore wire', () => {
  for (const [name, hex, message] of VECTORS) {
    it(`${name} is written`, () => {
      const { type, requestId, transactionId, payload } = message;
      assert.equal(encodeMessage(type, requestId, transactionId, payload).toString('hex'), hex);
    });
  }

  it('all are read, wherever the stream is cut', () => {
    const stream = Buffer.concat(VECTORS.map(([, hex]) => Buffer.from(hex, 'hex')));
    const expected = VECTORS.map(([, , message]) => message);
    for (let cut = 0; cut <= stream.length; cut++) {
      const reader = new MessageReader();
      const got = [stream.subarray(0, cut), stream.subarray(cut)].flatMap((part) => [
        ...reader.receive(part),
      ]);
      assert.deepEqual(got, expected, `cut at ${cut}`);
    }
    const reader = new MessageReader();
    const got = [...stream].flatMap((octet) => [...reader.receive(Buffer.of(octet))]);
    assert.deepEqual(got, expected);
  });

  it('a payload that is too long is refused, both ways', () => {
    const longest = Buffer.alloc(PAYLOAD_OCTETS_MAX);
    const message = encodeMessage(STORE_TYPE.write, 1, 0, longest);
    assert.equal([...new MessageReader().receive(message)].length, 1);
    assert.throws(
      () => encodeMessage(STORE_TYPE.write, 1, 0, Buffer.alloc(PAYLOAD_OCTETS_MAX + 1)),
      { code: 'EMSGSIZE' },
    );
    message.writeUInt32LE(PAYLOAD_OCTETS_MAX + 1, 12);
    assert.throws(() => [...new MessageReader().receive(message)], { code: 'EPROTO' });
  });

  it('noise gives messages or an error', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 })), (chunks) => {
        const reader = new MessageReader();
        try {
          for (const chunk of chunks) for (const _ of reader.receive(Buffer.from(chunk)));
        } catch (error) {
          assert(error instanceof StoreError);
        }
      }),
    );
  });

  it('strings', () => {
    assert.equal(encodeStrings('a', 'b').toString(), 'a\0b\0');
    assert.deepEqual(decodeStrings(Buffer.from('a\0b\0')), ['a', 'b']);
    assert.deepEqual(decodeStrings(Buffer.from('a\0b')), ['a', 'b']);
    assert.deepEqual(decodeStrings(Buffer.alloc(0)), []);
  });

  it('permissions', () => {
    const permissions = {
      owner: 3,
      others: 'none',
      exceptions: [
        { domain: 0, access: 'both' },
        { domain: 12, access: 'write' },
      ],
    } as const;
    assert.deepEqual(encodePermissions(permissions), ['n3', 'b0', 'w12']);
    assert.deepEqual(decodePermissions(['n3', 'b0', 'w12']), permissions);
    for (const wrong of [[], ['x0'], ['r'], ['r-1'], ['r0 '], ['r0', '']])
      assert.throws(() => decodePermissions(wrong), { code: 'EINVAL' });
  });

  it('paths', () => {
    for (const path of ['/', '/a', '/a/b-c_d@e/0', 'domid', 'device/vusb/0']) checkPath(path);
    for (const path of ['', '/a/', '//', '/a//b', '/a b', '/a\0', '/ä', `/${'a'.repeat(3072)}`])
      assert.throws(() => checkPath(path), { code: 'EINVAL' });
    checkPath('@releaseDomain', 'watch');
  });
});
