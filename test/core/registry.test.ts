import { strict as assert } from 'node:assert';
import type { DeviceInfo } from '../../src/core/device.ts';
import { UserError } from '../../src/core/errors.ts';
import { LET_GO_MILLISECONDS, ORDERLY_REMOVAL_MILLISECONDS } from '../../src/core/limits.ts';
import { type Claim, Registry } from '../../src/core/registry.ts';
import { FakeClock } from '../examples/rig.ts';
import { ManualDevice, NotingClient, read } from './manual-device.ts';

const options = { clock: new FakeClock() };

function claimed(registry: Registry, busId: string, client = new NotingClient()): Claim {
  const claim = registry.claim(busId, 'peer', client, options);
  assert(typeof claim !== 'string', `refused: ${claim}`);
  return claim;
}

/** A promise and the call that resolves it. */
function gate(): { readonly passed: Promise<void>; readonly open: () => void } {
  let open = (): void => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { passed, open };
}

describe('Registry', () => {
  it('finds a free bus id below one that is taken', () => {
    const registry = new Registry();
    for (const wanted of ['1-1', '1-1.2', '1-1.3']) {
      const free = registry.freeBusIdBelow('1-1');
      assert.equal(free, wanted);
      registry.add(new ManualDevice(), 'a', free);
    }
    assert.equal(registry.freeBusIdBelow('2-1'), '2-1');
  });

  it('gives the first free bus id, and device numbers from 2', () => {
    const registry = new Registry();
    registry.add(new ManualDevice(), 'a', '1-2');
    const added = [1, 2, 3].map(() => registry.add(new ManualDevice(), 'b'));
    assert.deepEqual(
      added.map(({ busId, bus, deviceNumber }) => [busId, bus, deviceNumber]),
      [
        ['1-1', 1, 3],
        ['1-3', 1, 4],
        ['1-4', 1, 5],
      ],
    );
    const other = registry.add(new ManualDevice(), 'c', '7-1.4');
    assert.deepEqual([other.bus, other.deviceNumber], [7, 2]);
    assert.equal(registry.list().length, 5);
    assert.equal(registry.get('7-1.4'), other);
  });

  it('uses a device number again when its device has gone', async () => {
    const registry = new Registry();
    registry.add(new ManualDevice(), 'a');
    registry.add(new ManualDevice(), 'b');
    await registry.remove('1-1');
    assert.equal(registry.add(new ManualDevice(), 'c').deviceNumber, 2);
  });

  for (const busId of [
    '',
    '1',
    '1-',
    '-1',
    '1-1.',
    '1-1.2.3.4.5.6.7',
    '1000-1',
    'a-1',
    '1-1\n',
    ' 1-1',
    '1-1/..',
  ]) {
    it(`refuses the bus id ${JSON.stringify(busId)}`, () => {
      const registry = new Registry();
      assert.throws(() => registry.add(new ManualDevice(), 'a', busId), UserError);
      assert.deepEqual(registry.list(), []);
    });
  }

  it('refuses a bus id that is taken', () => {
    const registry = new Registry();
    registry.add(new ManualDevice(), 'a', '3-1');
    assert.throws(() => registry.add(new ManualDevice(), 'b', '3-1'), UserError);
    assert.throws(() => registry.checkBusId('3-1', 'b'), UserError);
  });

  describe('what a device says of itself', () => {
    const saying = (changes: Partial<DeviceInfo>) => {
      const device = new ManualDevice();
      return Object.assign(device, { info: { ...device.info, ...changes } });
    };
    const one = { class: 0, subclass: 0, protocol: 0 };
    const bad: Partial<Record<keyof DeviceInfo, unknown>>[] = [
      { speed: 'warp' },
      { vendorId: 65536 },
      { productId: -1 },
      { deviceVersion: Number.NaN },
      { class: 256 },
      { subclass: 0.5 },
      { protocol: undefined },
      { configurationValue: 256 },
      { configurationCount: '1' },
      { interfaces: Array(33).fill(one) },
      { interfaces: [{ ...one, class: 256 }] },
      { interfaces: null },
    ];
    for (const changes of bad) {
      it(`is refused: ${JSON.stringify(changes).slice(0, 60)}`, () => {
        const registry = new Registry();
        assert.throws(
          () => registry.add(saying(changes as Partial<DeviceInfo>), 'virtual:x'),
          (error) => error instanceof UserError && /^Cannot export virtual:x: /.test(error.message),
        );
        assert.deepEqual(registry.list(), []);
      });
    }

    it('may change; what cannot be changes nothing', () => {
      const registry = new Registry();
      const device = saying({ interfaces: Array(32).fill(one) });
      const added = registry.add(device, 'a');
      assert.equal(added.info.interfaces.length, 32);
      Object.assign(device, { info: { ...device.info, configurationValue: 2 } });
      assert.equal(added.info.configurationValue, 2);
      Object.assign(device, { info: { ...device.info, configurationValue: 300 } });
      assert.equal(added.info.configurationValue, 2);
      Object.defineProperty(device, 'info', { get: () => assert.fail('it was unplugged') });
      assert.equal(added.info.configurationValue, 2);
    });

    it('has a label of one line, cut where it is too long', () => {
      const { label } = new Registry().add(saying({ label: 'a\nb'.repeat(1000) }), 'a').info;
      assert.equal(label.length, 256);
      assert.doesNotMatch(label, /\n/);
    });
  });

  it('exports at most 1024 devices', () => {
    const registry = new Registry();
    for (let n = 0; n < 1024; n++)
      registry.add(new ManualDevice(), 'a', `${1 + (n >> 9)}-${n & 511}`);
    assert.throws(() => registry.add(new ManualDevice(), 'a', '9-1'), UserError);
  });

  it('a device is one client’s at a time', async () => {
    const registry = new Registry();
    registry.add(new ManualDevice(), 'a');
    const first = claimed(registry, '1-1');
    assert.equal(registry.get('1-1')?.holder?.peer, 'peer');
    assert.equal(registry.claim('1-1', 'other', new NotingClient(), options), 'busy');
    assert.equal(registry.claim('1-2', 'other', new NotingClient(), options), 'unknown');
    await first.release();
    assert.equal(registry.get('1-1')?.holder, null);
    await claimed(registry, '1-1').release();
  });

  it('a release that comes late does not take the device from the next client', async () => {
    const registry = new Registry();
    registry.add(new ManualDevice(), 'a');
    const first = claimed(registry, '1-1');
    await first.release();
    const second = claimed(registry, '1-1');
    await first.release();
    assert.equal(registry.get('1-1')?.holder?.session, second.session);
  });

  it('is busy until the device is closed', async () => {
    const registry = new Registry();
    const device = new ManualDevice();
    const { passed, open } = gate();
    device.closing = passed;
    registry.add(device, 'a');
    const claim = claimed(registry, '1-1');
    assert.equal(registry.freed('1-1'), null, 'nobody lets go of it');
    const released = claim.release();
    const freed = registry.freed('1-1');
    assert.equal(registry.claim('1-1', 'other', new NotingClient(), options), 'busy');
    open();
    await freed;
    claimed(registry, '1-1');
    assert.equal(registry.freed('1-1'), null);
    await released;
  });

  it('a device that cannot be opened stays free', () => {
    const registry = new Registry();
    const device = new ManualDevice();
    device.open = () => {
      throw new Error('in use');
    };
    registry.add(device, 'a');
    assert.throws(() => claimed(registry, '1-1'), { message: 'in use' });
    assert.equal(registry.get('1-1')?.holder, null);
  });

  it('a device that fails to close is free all the same', async () => {
    const registry = new Registry();
    const device = new ManualDevice();
    registry.add(device, 'a');
    const claim = claimed(registry, '1-1');
    const close = device.close.bind(device);
    device.close = async () => {
      await close();
      throw new Error('the cable was pulled');
    };
    await assert.rejects(claim.release(), { message: 'the cable was pulled' });
    assert.equal(registry.get('1-1')?.holder, null);
    device.close = close;
    await claimed(registry, '1-1').release();
  });

  describe('remove', () => {
    it('gives back URBs, tells the client, closes, disposes, in this order', async () => {
      const registry = new Registry();
      const device = new ManualDevice();
      const client = new NotingClient();
      registry.add(device, 'a');
      claimed(registry, '1-1', client).session.submit(read(1));
      await registry.remove('1-1');
      assert.deepEqual(client.take(), ['1 shutdown 0', 'removed']);
      assert.deepEqual(device.take(), [
        'open',
        'submit 1',
        'unlink 1',
        'close',
        'closed',
        'dispose',
      ]);
      assert.equal(registry.get('1-1'), undefined);
      assert.equal(registry.claim('1-1', 'late', client, options), 'unknown');
    });

    it('of what is not exported is the user’s mistake', async () => {
      await assert.rejects(new Registry().remove('1-1'), UserError);
    });

    it('while the client’s release is under way: disposes when the device is closed', async () => {
      const registry = new Registry();
      const device = new ManualDevice();
      const { passed, open } = gate();
      device.closing = passed;
      registry.add(device, 'a');
      const released = claimed(registry, '1-1').release();
      const removed = registry.remove('1-1');
      setImmediate(open);
      await Promise.all([released, removed]);
      assert.deepEqual(device.take(), ['open', 'close', 'closed', 'dispose']);
    });

    it('while it is under way, the client’s release waits for it', async () => {
      const registry = new Registry();
      const device = new ManualDevice();
      const { passed, open } = gate();
      device.closing = passed;
      registry.add(device, 'a');
      const claim = claimed(registry, '1-1');
      const removed = registry.remove('1-1');
      const released = claim.release().then(() => device.log.includes('closed'));
      setImmediate(open);
      await removed;
      assert.equal(await released, true);
      assert.deepEqual(device.take(), ['open', 'close', 'closed', 'dispose']);
    });

    it('the bus id can be used again at once', async () => {
      const registry = new Registry();
      const device = new ManualDevice();
      const { passed, open } = gate();
      device.closing = passed;
      registry.add(device, 'a');
      claimed(registry, '1-1');
      const removed = registry.remove('1-1');
      const next = registry.add(new ManualDevice(), 'b', '1-1');
      claimed(registry, '1-1');
      open();
      await removed;
      assert.equal(registry.get('1-1'), next);
      assert.notEqual(next.holder, null);
    });
  });

  describe('a device that does not let go', () => {
    const never = new Promise<void>(() => {});
    const turns = () => new Promise((resolve) => setImmediate(resolve));

    function stuck(how: 'urb' | 'close') {
      const clock = new FakeClock();
      const registry = new Registry(clock);
      const device = new ManualDevice();
      registry.add(device, 'a');
      const client = new NotingClient();
      const claim = registry.claim('1-1', 'peer', client, { clock });
      assert(typeof claim !== 'string');
      if (how === 'close') device.closing = never;
      else device.onUnlink = () => {};
      claim.session.submit(read(1));
      if (how === 'close') device.complete(device.atDevice[0]);
      const settled: string[] = [];
      const note = (work: Promise<void>) =>
        work.then(
          () => settled.push('done'),
          ({ name, message }: Error) => settled.push(`${name}: ${message}`),
        );
      return { clock, registry, device, client, claim, settled, note };
    }

    /** Timers of 50 ms each: a machine that stands still is not counted. */
    async function pass(clock: FakeClock, milliseconds: number): Promise<void> {
      await turns();
      for (let passed = 0; passed < milliseconds; passed += 50) clock.advance(50);
      await turns();
    }

    const KEPT = { urb: '1 of its URBs are not back', close: 'it is still closing' } as const;

    for (const how of ['urb', 'close'] as const) {
      it(`${how}: the release ends, and the device is busy until it does`, async () => {
        const { clock, registry, claim, settled, note } = stuck(how);
        note(claim.release());
        await pass(clock, LET_GO_MILLISECONDS - 1000);
        assert.deepEqual(settled, []);
        await pass(clock, 2000);
        const what = `Cannot let go of manual: ${KEPT[how]} after 30 s, wanted it to be free`;
        assert.deepEqual(settled, [`Error: ${what}`]);
        assert.equal(registry.claim('1-1', 'next', new NotingClient(), { clock }), 'busy');
      });

      it(`${how}: kick ends, says so, and the device stays exported and busy`, async () => {
        const { clock, registry, settled, note } = stuck(how);
        note(registry.kick('1-1').then(() => {}));
        await pass(clock, LET_GO_MILLISECONDS + 1000);
        const what = `Cannot let go of manual: ${KEPT[how]} after 30 s, wanted it to be free`;
        assert.deepEqual(settled, [`UserError: ${what}`]);
        assert.equal(registry.claim('1-1', 'next', new NotingClient(), { clock }), 'busy');
      });

      it(`${how}: unexport ends, says so, and the bus id is free`, async () => {
        const { clock, registry, device, settled, note } = stuck(how);
        note(registry.remove('1-1'));
        await pass(clock, LET_GO_MILLISECONDS + 1000);
        const what = `Cannot let go of manual: ${KEPT[how]} after 30 s, wanted it to be free`;
        assert.deepEqual(settled, [`UserError: ${what}; 1-1 is not exported any more`]);
        assert(!device.log.includes('dispose'), 'it was disposed of while it was open');
        registry.add(new ManualDevice(), 'b', '1-1');
      });
    }

    it('is free when it does, however late', async () => {
      const { clock, registry, device, claim, settled, note } = stuck('urb');
      note(claim.release());
      await pass(clock, LET_GO_MILLISECONDS + 1000);
      assert.equal(settled.length, 1);
      device.complete(device.atDevice[0], 'unlinked');
      await registry.freed('1-1');
      assert.notEqual(registry.claim('1-1', 'next', new NotingClient(), { clock }), 'busy');
    });

    it('is disposed of when it does, however late it was unexported', async () => {
      const { clock, registry, device, settled, note } = stuck('urb');
      note(registry.remove('1-1'));
      await pass(clock, LET_GO_MILLISECONDS + 1000);
      assert.equal(settled.length, 1);
      device.complete(device.atDevice[0], 'unlinked');
      await turns();
      assert.deepEqual(device.take().slice(-3), ['close', 'closed', 'dispose']);
    });

    it('is told once that nobody waits for it any longer, when it is unexported', async () => {
      const { clock, registry, device, client, settled, note } = stuck('urb');
      let told = 0;
      const giveUp = () => {
        told++;
        device.complete(device.atDevice[0], 'shutdown');
      };
      Object.assign(device, { giveUp });
      note(registry.remove('1-1'));
      await pass(clock, ORDERLY_REMOVAL_MILLISECONDS - 1000);
      assert.equal(told, 0);
      await pass(clock, 2000);
      assert.equal(told, 1);
      assert.deepEqual(settled, ['done']);
      assert.deepEqual(client.take(), ['1 shutdown 0', 'removed']);
      assert.equal(clock.timers, 0);
    });

    it('or cannot be disposed of: unexport ends', async () => {
      const clock = new FakeClock();
      const registry = new Registry(clock);
      const device = new ManualDevice();
      device.dispose = () => never;
      registry.add(device, 'a');
      const removed = assert.rejects(registry.remove('1-1'), {
        name: 'UserError',
        message: 'Cannot let go of manual; 1-1 is not exported any more',
      });
      await pass(clock, LET_GO_MILLISECONDS);
      await removed;
    });
  });

  it('tells of each change', async () => {
    const registry = new Registry();
    const events: string[] = [];
    for (const name of ['added', 'removed', 'claimed', 'released'] as const) {
      registry.on(name, (one) => events.push(`${name} ${one.busId}`));
    }
    registry.add(new ManualDevice(), 'a');
    await claimed(registry, '1-1').release();
    claimed(registry, '1-1');
    await registry.remove('1-1');
    assert.deepEqual(events, [
      'added 1-1',
      'claimed 1-1',
      'released 1-1',
      'claimed 1-1',
      'released 1-1',
      'removed 1-1',
    ]);
  });
});
