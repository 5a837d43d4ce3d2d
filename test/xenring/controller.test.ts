/** The controller alone, a front end in the test's hands, and a device too. */
import { strict as assert } from 'node:assert';
import { DeviceSession } from '../../src/core/session.ts';
import { Controller } from '../../src/xenring/controller.ts';
import { UrbRing } from '../../src/xenring/urb-ring.ts';
import { ManualDevice } from '../core/manual-device.ts';

const BULK = 3;

/** Slots by hand, so that a test says exactly what is there and when. */
class Hands {
  readonly urbPage = Buffer.from(new ArrayBuffer(4096));
  readonly connPage = Buffer.from(new ArrayBuffer(4096));
  readonly device = new ManualDevice();
  readonly controller: Controller;
  readonly session: DeviceSession;
  notifyCount = 0;
  #produced = 0;

  constructor(stallProtocol = false) {
    this.urbPage.writeUInt32LE(1, 12);
    this.controller = new Controller(this.urbPage, this.connPage, {
      ports: 1,
      stallProtocol,
      guest: { copyFrom: () => {}, copyTo: () => {} },
      notify: () => this.notifyCount++,
      onAnswered: () => {},
      onFault: (error) => assert.fail(`${error}`),
    });
    const client = this.controller.client(() => {});
    this.session = new DeviceSession(this.device, client, { recovery: this.controller.recovery });
    client.session = this.session;
    this.controller.plug(1, this.session, 'high');
    this.device.take();
  }

  #put(fill: (slot: Buffer) => void): void {
    const at = 64 + (this.#produced & 15) * 148;
    const slot = this.urbPage.subarray(at, at + 148).fill(0);
    fill(slot);
    this.urbPage.writeUInt32LE(++this.#produced, 0);
  }

  /** A read of 64 octets, short-not-ok, from endpoint 1. */
  read(id: number, flags = 1, endpoint = 1): void {
    this.#put((slot) => {
      slot.writeUInt16LE(id, 0);
      slot.writeUInt16LE(1, 2);
      slot.writeUInt32LE(((BULK << 30) | (endpoint << 15) | 0x81) >>> 0, 4);
      slot.writeUInt16LE(flags, 8);
      slot.writeUInt16LE(64, 26);
    });
  }

  unlink(id: number, victim: number): void {
    this.#put((slot) => {
      slot.writeUInt16LE(id, 0);
      slot.writeUInt32LE(((BULK << 30) | 0xa1) >>> 0, 4);
      slot.writeUInt16LE(victim, 12);
    });
  }

  get answered(): number {
    return this.urbPage.readUInt32LE(8);
  }

  /** "id status octets" of a response. */
  response(index: number): string {
    const at = 64 + (index & 15) * 148;
    const page = this.urbPage;
    return `${page.readUInt16LE(at)} ${page.readInt32LE(at + 4)} ${page.readInt32LE(at + 8)}`;
  }

  /** The front end has handled all responses so far. */
  handled(): void {
    this.urbPage.writeUInt32LE(this.answered + 1, 12);
  }
}

describe('Controller', () => {
  it('has places for requests in the slots of answers that nobody has been told of', () => {
    const hands = new Hands();
    const { device, controller } = hands;
    for (let id = 0; id < 16; id++) hands.read(id, 1, (id % 15) + 1);
    controller.work();
    const before = controller.outstandingCount;
    for (const urb of device.atDevice.slice(0, 3)) device.complete(urb, 'ok', 64);
    for (let id = 20; id < 23; id++) hands.read(id, 1, 1);
    controller.work();
    assert.deepEqual([before, controller.outstandingCount], [16, 16]);
  });

  it('leaves a journal of what is not published, at any time', () => {
    const hands = new Hands();
    const { device, urbPage } = hands;
    /** What the next back end finds. */
    const owed = () => {
      const ring = new UrbRing(Buffer.from(new Uint8Array(urbPage).buffer));
      return { ids: ring.owed.map(({ id }) => id).sort(), taken: ring.taken };
    };
    const seen: unknown[] = [];
    device.onSubmit = (urb) => {
      seen.push(owed()); // in the middle of `work`
      if (urb.id !== 2) device.complete(urb, 'ok', 64);
    };
    for (const id of [1, 2, 3]) hands.read(id, 1, id);
    hands.controller.work();
    assert.deepEqual(seen, [
      { ids: [1], taken: 1 },
      { ids: [1, 2], taken: 2 },
      { ids: [1, 2, 3], taken: 3 },
    ]);
    assert.deepEqual([hands.answered, owed()], [2, { ids: [2], taken: 3 }]);
  });

  it('a short read: status 0, and nothing starts until responseEvent has moved', () => {
    const hands = new Hands();
    for (const id of [1, 2]) hands.read(id);
    hands.read(3, 1, 2);
    assert.equal(hands.controller.work(), 'nothing');
    assert.deepEqual(hands.device.take(), ['submit 1', 'submit 3']);
    hands.device.complete(hands.device.atDevice[0], 'short', 10);
    assert.equal(hands.response(0), '1 0 10');
    assert.equal(hands.controller.work(), 'fence');
    assert.equal(hands.controller.work(), 'fence');
    assert.deepEqual(hands.device.take(), []);
    hands.read(4, 1, 3);
    hands.controller.work();
    assert.deepEqual(hands.device.take(), ['submit 4'], 'other endpoints go on');
    hands.handled();
    assert.equal(hands.controller.work(), 'nothing');
    assert.deepEqual(hands.device.take(), ['submit 2']);
  });

  it('an arrival after the error is held too, and needs no look as long as there is none', () => {
    const hands = new Hands();
    hands.read(1);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[0], 'stall');
    assert.equal(hands.controller.work(), 'nothing');
    hands.read(2);
    assert.equal(hands.controller.work(), 'fence');
    assert.deepEqual(hands.device.take(), ['submit 1']);
    hands.handled();
    hands.controller.work();
    assert.deepEqual(hands.device.take(), ['submit 2']);
  });

  it('responseEvent must have passed the last report, not just moved', () => {
    const hands = new Hands();
    hands.read(1);
    hands.read(2, 1, 2);
    hands.read(3);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[1]); // endpoint 2, well
    hands.handled();
    hands.device.complete(hands.device.atDevice[0], 'babble');
    assert.equal(hands.controller.work(), 'fence');
    assert.deepEqual(hands.device.take(), ['submit 1', 'submit 2']);
    hands.handled();
    hands.controller.work();
    assert.deepEqual(hands.device.take(), ['submit 3']);
  });

  it('unlinks that come just as responseEvent is read are seen before the fence opens', () => {
    const hands = new Hands();
    for (const id of [1, 2]) hands.read(id);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[0], 'short', 10);
    hands.device.take();
    const { load } = Atomics;
    let once = true;
    // Another processor, at the worst moment: the front end runs its handler now.
    Atomics.load = ((array: Int32Array, index: number) => {
      if (index === 3 && once) {
        once = false;
        hands.unlink(5, 2);
        hands.handled();
      }
      return load(array, index);
    }) as typeof load;
    try {
      hands.controller.work();
    } finally {
      Atomics.load = load;
    }
    assert.equal(once, false);
    assert.deepEqual(hands.device.take(), [], 'the unlinked URB is not started');
    assert.deepEqual([hands.response(1), hands.response(2)], ['5 0 0', '2 -104 0']);
  });

  it('a URB that is unlinked too late: its handler is waited for all the same', () => {
    const hands = new Hands();
    for (const id of [1, 2]) hands.read(id);
    hands.controller.work();
    hands.device.onUnlink = () => {}; // it is on its way already
    hands.unlink(5, 1);
    hands.controller.work();
    hands.handled();
    hands.device.complete(hands.device.atDevice[0], 'ok', 64);
    assert.equal(hands.controller.work(), 'fence');
    assert.deepEqual(hands.device.take(), ['submit 1', 'unlink 1']);
    hands.handled();
    hands.controller.work();
    assert.deepEqual(hands.device.take(), ['submit 2']);
  });

  it('a waiting URB is unlinked: what is ahead goes on, what is behind waits', () => {
    const hands = new Hands();
    for (const id of [1, 2, 3]) hands.read(id);
    hands.controller.work();
    hands.unlink(5, 2);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[0], 'ok', 64);
    assert.equal(hands.controller.work(), 'fence');
    assert.deepEqual(hands.device.take(), ['submit 1']);
    hands.handled();
    hands.controller.work();
    assert.deepEqual(hands.device.take(), ['submit 3']);
  });

  it('the stall protocol: what is behind an error is returned, clear-stall starts again', () => {
    const hands = new Hands(true);
    for (const id of [1, 2]) hands.read(id);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[0], 'short', 10);
    hands.read(3);
    hands.controller.work();
    assert.deepEqual(
      [0, 1, 2].map((index) => hands.response(index)),
      ['1 0 10', '2 -104 0', '3 -104 0'],
    );
    hands.handled();
    hands.read(4);
    hands.controller.work();
    assert.equal(hands.response(3), '4 -104 0', 'no time and no index lets it go on');
    hands.read(6, 0x8001);
    hands.controller.work();
    assert.deepEqual(hands.device.take(), ['submit 1', 'submit 6']);
  });

  it('sends an event only for what the front end waits for', () => {
    const hands = new Hands();
    hands.controller.work();
    const before = hands.notifyCount;
    for (let n = 0; n < 3; n++) hands.controller.work();
    assert.equal(hands.notifyCount, before, 'nothing has happened');
    hands.read(1);
    hands.read(2, 1, 2);
    hands.controller.work();
    assert.equal(hands.notifyCount, before);
    for (const urb of [...hands.device.atDevice]) hands.device.complete(urb, 'ok', 64);
    hands.controller.work();
    assert.equal(hands.notifyCount, before + 1, 'one for both');
  });

  it('clear-stall means nothing to a stock front end’s connection', () => {
    const hands = new Hands();
    for (const id of [1, 2]) hands.read(id);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[0], 'stall');
    hands.read(3, 0x8001);
    assert.equal(hands.controller.work(), 'fence');
    assert.deepEqual(hands.device.take(), ['submit 1']);
  });

  it('while it stays awake it asks for no event, and before it sleeps it looks once more', () => {
    const hands = new Hands();
    hands.controller.work();
    const asked = hands.urbPage.readUInt32LE(4);
    hands.read(1);
    assert.equal(hands.controller.waiting, true);
    assert.equal(hands.controller.work(true), 'awake');
    assert.deepEqual(hands.device.take(), ['submit 1']);
    assert.equal(hands.controller.waiting, false);
    assert.equal(hands.urbPage.readUInt32LE(4), asked, 'the front end sends no event');
    hands.read(2);
    assert.equal(hands.controller.work(), 'nothing');
    assert.equal(hands.urbPage.readUInt32LE(4), 3, 'for the third it does');
  });

  it('while URBs are held it does not stay awake', () => {
    const hands = new Hands();
    for (const id of [1, 2]) hands.read(id);
    hands.controller.work();
    hands.device.complete(hands.device.atDevice[0], 'short', 10);
    assert.equal(hands.controller.work(true), 'fence');
    assert.equal(hands.urbPage.readUInt32LE(4), 3);
    hands.handled();
    assert.equal(hands.controller.work(true), 'awake');
    assert.deepEqual(hands.device.take(), ['submit 1', 'submit 2']);
  });
});
