/** What a front end that means harm can do: lose its connection, and nothing else. */
import { strict as assert } from 'node:assert';
import { Controller } from '../../src/xenring/controller.ts';
import { PAGE_OCTETS } from '../../src/xenring/platform.ts';
import type { MemoryPlatform } from './memory-platform.ts';
import { enumerate, RingRig, turn, until } from './rig.ts';
import type { HcdResult, HcdUrb, XenHcd } from './xen-hcd.ts';

const read = (done: (result: HcdResult) => void = () => {}): HcdUrb => ({
  port: 1,
  endpoint: 1,
  type: 'bulk',
  in: true,
  buffer: Buffer.alloc(64),
  done,
});
const write = (): HcdUrb => ({ ...read(), endpoint: 2, in: false });

const bump = (page: Buffer, by: number) => page.writeUInt32LE((page.readUInt32LE(0) + by) >>> 0, 0);

/** Something that ends the connection, and the code in the log. */
const attacks: [what: string, attack: (hcd: XenHcd) => void, log: RegExp][] = [
  ['an index that runs ahead', (hcd) => bump(hcd.urbPage, 17), /bad-index/],
  ['an index that runs far ahead', (hcd) => bump(hcd.urbPage, 0x7fffffff), /bad-index/],
  ['an index that runs back', (hcd) => bump(hcd.urbPage, -1), /bad-index/],
  ['a conn index that runs ahead', (hcd) => bump(hcd.connPage, 513), /bad-index/],
  ['a conn index that runs back', (hcd) => bump(hcd.connPage, -520), /bad-index/],
  [
    'an id twice',
    (hcd) => {
      hcd.options = { spoil: (slot) => void slot.writeUInt16LE(77, 0) };
      hcd.submit(read());
      hcd.submit(read());
    },
    /duplicate-id/,
  ],
  [
    'an unlink under the id of a URB',
    (hcd) => {
      hcd.options = { spoil: (slot) => void slot.writeUInt16LE(77, 0) };
      hcd.unlink(hcd.submit(read()));
    },
    /duplicate-id/,
  ],
  ['17 segments', (hcd) => spoiled(hcd, (slot) => slot.writeUInt16LE(17, 2)), /bad-segments/],
  ['65535 segments', (hcd) => spoiled(hcd, (slot) => slot.writeUInt16LE(65535, 2)), /bad-segments/],
  [
    '16 data and 1 frame segments',
    (hcd) =>
      spoiled(hcd, (slot) => {
        slot.writeUInt32LE(slot.readUInt32LE(4) & 0x3fffffff, 4);
        slot.writeUInt16LE(16, 2);
        slot.writeUInt16LE(1, 18);
      }),
    /bad-segments/,
  ],
  [
    'a segment over its page',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt16LE(4096 - 63, 24)),
    /bad-segments/,
  ],
  [
    'a segment of 65535',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt16LE(65535, 26)),
    /bad-segments/,
  ],
  [
    'port 0',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt8(slot.readUInt8(4) & 0xe0, 4)),
    /bad-port/,
  ],
  [
    'port 32',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt8((slot.readUInt8(4) & 0x80) | 32, 4)),
    /bad-port/,
  ],
  [
    'port 5 of 4',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt8((slot.readUInt8(4) & 0x80) | 5, 4)),
    /bad-port/,
  ],
  [
    'a bad grant to read',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt32LE(0xffffffff, 20), write()),
    /not granted/,
  ],
  [
    'a bad grant to write',
    (hcd) => spoiled(hcd, (slot) => slot.writeUInt32LE(0xffffffff, 20)),
    /not granted/,
  ],
  [
    'a grant that is gone when the data comes',
    (hcd) => {
      hcd.submit(read());
      setImmediate(() => setImmediate(() => (hcd.platform as MemoryPlatform).grants.clear()));
    },
    /not granted/,
  ],
];

function spoiled(hcd: XenHcd, spoil: (slot: Buffer) => unknown, urb: HcdUrb = read()): void {
  hcd.options = { spoil: (slot) => void spoil(slot) };
  hcd.submit(urb);
  hcd.options = {};
}

describe('hostile front end', () => {
  let rig: RingRig;
  let bad: XenHcd;
  let good: XenHcd;
  beforeEach(async () => {
    rig = new RingRig();
    await rig.start();
    rig.export('1-1', { delay: 3 });
    rig.export('1-2', { pattern: 1 });
    bad = await rig.guest(5);
    good = await rig.guest(6);
    await rig.tools.attachDevice(5, 0, '1-1');
    await rig.tools.attachDevice(6, 0, '1-2');
    await enumerate(bad, 1);
    await enumerate(good, 1);
  });
  afterEach(() => rig.end());

  const goodGoesOn = async () => {
    const result = await good.transfer({ ...read(), buffer: Buffer.alloc(10_000) });
    assert.deepEqual([result.status, result.actual], [0, 10_000]);
    assert.equal(good.error, null);
  };

  for (const [what, attack, log] of attacks) {
    it(`${what}: closed, with one line; others go on`, async () => {
      const during = Promise.all([goodGoesOn(), goodGoesOn()]);
      attack(bad);
      bad.channel?.notify();
      await until(() => rig.log.warnings.length > 0, 'it is noticed');
      await until(() => rig.state(5) !== '4', 'the connection is closed');
      await until(() => rig.registry.get('1-1')?.holder === null, 'its device is free');
      await during;
      for (let n = 0; n < 5; n++) {
        bad.channel?.notify();
        await turn();
      }
      assert.equal(rig.log.warnings.length, 1, rig.log.warnings.join('\n'));
      assert.match(rig.log.warnings[0] ?? '', log);
      await goodGoesOn();
      assert.equal(rig.dom0.inUse.mappedPages, 2, 'only the other one is mapped');
    });
  }

  it('a slot that is changed after publishing changes nothing', async () => {
    const result = new Promise<HcdResult>((resolve) => {
      bad.submit(read(resolve));
    });
    await turn();
    await turn();
    const at = bad.urbPage.readUInt32LE(0) - 1;
    bad.urbPage.fill(0xff, 64 + (at & 15) * 148 + 16, 64 + (at & 15) * 148 + 148);
    const { status, actual } = await result;
    assert.deepEqual([status, actual], [0, 64]);
    assert.deepEqual(rig.log.warnings, []);
  });

  it('unlinks of foreign and unknown ids are answered, and do nothing', async () => {
    const results: HcdResult[] = [];
    bad.options = {
      spoil: (slot) => {
        if (slot.readUInt8(4) & 0x20) slot.writeUInt16LE(4711, 12);
      },
    };
    const urb = bad.submit(read((result) => results.push(result)));
    bad.unlink(urb);
    await until(() => results.length === 1, 'it ends by itself');
    assert.equal(results[0]?.actual, 64, 'it was not unlinked');
    assert.equal(bad.error, null);
    bad.options = {};
    for (let n = 0; n < 40; n++) {
      const result = await bad.transfer(read());
      assert.equal(result.status, 0);
    }
    assert.deepEqual(rig.log.warnings, []);
  });

  it('may write what it wants into responseEvent, requestEvent and the journal', async () => {
    for (const value of [0, 5, 0x7fffffff, 0xffffffff]) {
      bad.urbPage.writeUInt32LE(value, 12);
      bad.urbPage.writeUInt32LE(value, 4);
      bad.urbPage.fill(value & 0xff, 20, 64);
      bad.channel?.notify();
      await turn();
      bad.submit(read());
      await turn();
    }
    await goodGoesOn();
    assert.deepEqual(rig.log.warnings, []);
  });

  it('rings, ports and channels that are not there: one line, and it may try again', async () => {
    const { store } = rig.dom0;
    const front = '/local/domain/5/device/vusb/1';
    await rig.tools.addController(5, { controller: 1 });
    for (const [name, value] of [
      ['urb-ring-ref', 'x'],
      ['urb-ring-ref', '4294967295'],
      ['event-channel', '12345'],
      ['conn-ring-ref', '99999999999'],
    ] as const) {
      rig.log.warnings.length = 0;
      await store.write(`${front}/state`, '1');
      await until(() => rig.state(5, 1) === '2', 'the back end waits');
      const hcd = new (Object.getPrototypeOf(bad).constructor)(
        rig.world.domain(5),
        front,
      ) as XenHcd;
      const { urbRing, connRing, port } = hcd.makeRings(0);
      await store.write(`${front}/urb-ring-ref`, `${urbRing}`);
      await store.write(`${front}/conn-ring-ref`, `${connRing}`);
      await store.write(`${front}/event-channel`, `${port}`);
      await store.write(`${front}/${name}`, value);
      await store.write(`${front}/state`, '4');
      await until(() => rig.state(5, 1) === '5', 'it is refused');
      assert.equal(rig.log.warnings.length, 1, rig.log.warnings.join('\n'));
      await store.write(`${front}/state`, '6');
      await until(() => rig.state(5, 1) === '6', 'it is closed');
    }
    assert.equal(rig.dom0.inUse.mappedPages, 4);
    await goodGoesOn();
  });
});

describe('work per event is bounded', () => {
  it('a front end that makes a request for each answer', () => {
    const urbPage = Buffer.from(new ArrayBuffer(PAGE_OCTETS));
    const connPage = Buffer.from(new ArrayBuffer(PAGE_OCTETS));
    urbPage.writeUInt32LE(1, 12);
    let made = 0;
    const push = () => {
      const slot = Buffer.alloc(148);
      slot.writeUInt16LE(made & 0xffff, 0);
      slot.writeUInt32LE(0x80000001, 4); // control, port 1
      urbPage.set(slot, 64 + (made & 15) * 148);
      made++;
      urbPage.writeUInt32LE(made, 0);
    };
    let faults = 0;
    const controller = new Controller(urbPage, connPage, {
      ports: 1,
      stallProtocol: false,
      guest: { copyFrom: () => {}, copyTo: () => {} },
      notify: () => {},
      onAnswered: () => {},
      onFault: () => faults++,
    });
    // The requests are answered as soon as they are taken; the ring never runs dry.
    const { load } = Atomics;
    Atomics.load = ((array: Int32Array, index: number) => {
      if (index === 0) for (let n = 0; n < 16; n++) if (made - urbPage.readUInt32LE(8) < 16) push();
      return load(array, index);
    }) as typeof load;
    try {
      assert.equal(controller.work(), 'again');
      assert(made <= 8 * 16 + 16, `${made} requests in one go`);
    } finally {
      Atomics.load = load;
    }
    assert.equal(faults, 0);
  });
});
