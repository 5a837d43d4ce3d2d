/** What a back end that means harm can do to a front end: lose its connection, and nothing else. */
import { strict as assert } from 'node:assert';
import { systemClock } from '../../src/core/clock.ts';
import type { Transfer, TransferResult } from '../../src/core/transfer.ts';
import { RESTARTS_MAX } from '../../src/stall/retry-queue.ts';
import { FrontUrbs, IDS } from '../../src/xenring/front-urbs.ts';
import { RingDevice } from '../../src/xenring/ring-device.ts';
import { RingError } from '../../src/xenring/ring-error.ts';
import { BackRing } from '../../src/xenring/shared-ring.ts';
import { FrameDescriptor, SEGMENTS_MAX, UrbRequest, UrbResponse } from '../../src/xenring/usbif.ts';

const PAGE_BYTES = 4096;
/** More than any of these should take. */
const ROUNDS_MAX = 1000;
const RETURNED = -104;

interface Response {
  readonly status?: number;
  readonly actualLength?: number;
  /** Of each isochronous packet. */
  readonly actualLengths?: readonly number[];
}

/** The front end's rings and a device behind them, and a back end in the test's hands. */
class Hands {
  readonly page = Buffer.from(new ArrayBuffer(PAGE_BYTES));
  readonly memory = Buffer.alloc(IDS * SEGMENTS_MAX * PAGE_BYTES);
  readonly urbs = new FrontUrbs({
    ringPage: this.page,
    memory: this.memory,
    references: Array.from({ length: IDS * SEGMENTS_MAX }, (_, at) => at),
    notify: () => {},
  });
  readonly device = new RingDevice({
    port: 1,
    speed: 'high',
    stallProtocol: true,
    urbs: this.urbs,
    onGivenUp: () => {},
    clock: systemClock,
  });
  readonly back = new BackRing(this.page, {
    requestOctets: UrbRequest.octets,
    responseOctets: UrbResponse.octets,
  });
  /** Requests that the back end has answered. */
  answered = 0;

  submit(transfer: Transfer): { result: TransferResult | undefined } {
    const seen: { result: TransferResult | undefined } = { result: undefined };
    this.device.submit(transfer, (result) => {
      seen.result = result;
    });
    return seen;
  }

  /** Answers each request that is there; false if there is none. */
  answer({ status = 0, actualLength = 0, actualLengths = [] }: Response): boolean {
    const ids: number[] = [];
    const { view } = this.back;
    for (let left = this.back.available(); left > 0; left--) {
      ids.push(view.getUint16(this.back.take() + UrbRequest.offsets.id, true));
    }
    for (const id of ids) {
      const at = this.back.make();
      view.setUint16(at + UrbResponse.offsets.id, id, true);
      view.setInt32(at + UrbResponse.offsets.status, status, true);
      view.setInt32(at + UrbResponse.offsets.actualLength, actualLength, true);
      const frames = (id * SEGMENTS_MAX + SEGMENTS_MAX - 1) * PAGE_BYTES;
      for (const [n, length] of actualLengths.entries()) {
        const field = frames + n * FrameDescriptor.octets + FrameDescriptor.offsets.actualLength;
        this.memory.writeUInt32LE(length, field);
      }
    }
    this.back.publish();
    this.answered += ids.length;
    return ids.length > 0;
  }
}

const packets = [0, 1].map((n) => ({ offset: n * 64, octets: 64 }));
const STREAM: Transfer = { endpoint: 0x83, type: 'isochronous', octets: 128, packets };
const READ: Transfer = { endpoint: 0x81, type: 'bulk', octets: 64 };

describe('hostile back end', () => {
  const answers: [what: string, transfer: Transfer, response: Response][] = [
    ['more bytes than were asked for', READ, { actualLength: 65 }],
    ['fewer bytes than none', READ, { actualLength: -1 }],
    ['a packet of one byte too many', STREAM, { actualLengths: [65, 0] }],
    ['packets of 4 GiB', STREAM, { actualLengths: [0xffff_ffff, 0xffff_ffff] }],
    [
      'packets of 4 GiB into memory of the program’s',
      { ...STREAM, into: Buffer.alloc(128) },
      { actualLength: 128, actualLengths: [0xffff_ffff, 0xffff_ffff] },
    ],
  ];
  for (const [what, transfer, response] of answers) {
    it(`${what}: the connection ends`, () => {
      const hands = new Hands();
      hands.submit(transfer);
      hands.answer(response);
      assert.throws(
        () => hands.urbs.work(),
        (error) => error instanceof RingError && error.code === 'bad-response',
      );
    });
  }

  it('good packets are taken', () => {
    const hands = new Hands();
    const seen = hands.submit(STREAM);
    hands.answer({ actualLength: 96, actualLengths: [64, 32] });
    hands.urbs.work();
    assert.equal(seen.result?.data.length, 96);
  });

  it('URBs that are returned for ever end as protocol errors', () => {
    const hands = new Hands();
    for (const wanted of [RESTARTS_MAX + 1, RESTARTS_MAX + 2]) {
      const seen = hands.submit(READ);
      for (let round = 0; round < ROUNDS_MAX && seen.result === undefined; round++) {
        assert(hands.answer({ status: RETURNED }), 'nothing is sent, and nothing comes back');
        hands.urbs.work();
      }
      assert.equal(seen.result?.status, 'protocol-error');
      assert.equal(hands.answered, wanted);
    }
    const seen = hands.submit(READ);
    hands.answer({ actualLength: 64 });
    hands.urbs.work();
    assert.equal(seen.result?.status, 'ok', 'it may come to its senses');
  });
});
