import { strict as assert } from 'node:assert';
import { UserError } from '../../src/core/errors.ts';
import { Toolstack } from '../../src/xenring/toolstack.ts';
import { FakeClock } from '../examples/rig.ts';
import { World } from './memory-platform.ts';

describe('toolstack', () => {
  const BACK = '/local/domain/0/backend/vusb/5/0';
  const FRONT = '/local/domain/5/device/vusb/0';
  let world: World;
  let tools: Toolstack;
  const clock = new FakeClock();
  beforeEach(async () => {
    world = new World();
    const { store } = world.domain(0);
    await store.write('/local/domain/5', '');
    tools = new Toolstack(store, 0, clock);
  });
  const below = (path: string) =>
    Object.fromEntries(
      [...world.store]
        .filter(([one]) => one.startsWith(`${path}/`))
        .map(([one, value]) => [one.slice(path.length + 1), value]),
    );

  it('a controller: the nodes that libxl writes for type=vusb', async () => {
    assert.equal(await tools.addController(5, { ports: 2 }), 0);
    assert.deepEqual(below(BACK), {
      frontend: FRONT,
      'frontend-id': '5',
      online: '1',
      state: '1',
      type: 'vusb',
      'usb-ver': '2',
      'num-ports': '2',
      port: '',
      'port/1': '',
      'port/2': '',
    });
    assert.deepEqual(below(FRONT), { backend: BACK, 'backend-id': '0', state: '1' });
    assert.equal(world.store.get('/libxl/5/device/vusb/0/backend'), BACK);
    assert.deepEqual(world.permissions.get(`${FRONT}/state`), {
      owner: 5,
      others: 'none',
      exceptions: [{ domain: 0, access: 'read' }],
    });
    assert.deepEqual(world.permissions.get(`${BACK}/state`), {
      owner: 0,
      others: 'none',
      exceptions: [{ domain: 5, access: 'read' }],
    });
    assert.equal(await tools.addController(5), 1);
  });

  it('devices at ports', async () => {
    await tools.addController(5, { ports: 2, usbVersion: 1 });
    assert.equal(await tools.attachDevice(5, 0, '1-1'), 1);
    assert.equal(await tools.attachDevice(5, 0, '1-2'), 2);
    await tools.detachDevice(5, 0, 1);
    assert.equal(await tools.attachDevice(5, 0, '1-3', 1), 1);
    assert.deepEqual(await tools.list(), [
      {
        domain: 5,
        controller: 0,
        usbVersion: 1,
        backState: 1,
        frontState: 1,
        ports: ['1-3', '1-2'],
      },
    ]);
  });

  it('says what is wrong', async () => {
    await tools.addController(5, { ports: 1 });
    await tools.attachDevice(5, 0, '1-1');
    const before = new Map(world.store);
    const cases: [() => unknown, RegExp][] = [
      [() => tools.addController(6), /domain 6: there is no such domain/],
      [() => tools.addController(5, { ports: 32 }), /32 ports, wanted 1 to 31/],
      [() => tools.addController(5, { usbVersion: 3 }), /USB version 3, wanted 1 or 2/],
      [() => tools.addController(5, { controller: 0 }), /has a controller 0, wanted a free number/],
      [() => tools.attachDevice(5, 1, '1-2'), /domain 5 has no controller 1/],
      [() => tools.attachDevice(5, 0, '1-2'), /its 1 ports are taken/],
      [() => tools.attachDevice(5, 0, '1-2', 1), /1-1 is there/],
      [() => tools.attachDevice(5, 0, '1-2', 2), /no such port/],
      [() => tools.detachDevice(5, 0, 2), /nothing is there/],
      [() => tools.removeController(5, 3), /no controller 3/],
    ];
    for (const [wrong, message] of cases) {
      await assert.rejects(
        async () => wrong(),
        (error: Error) => {
          assert(error instanceof UserError);
          assert.match(error.message, message);
          return true;
        },
      );
    }
    assert.deepEqual(new Map(world.store), before);
  });

  it('takes a controller away when the back end has closed, or takes too long', async () => {
    for (const answer of [true, false]) {
      await tools.addController(5);
      const removed = tools.removeController(5, 0);
      await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal(world.store.get(`${BACK}/state`), '5');
      assert.equal(world.store.get(`${BACK}/online`), '0');
      if (answer) await world.domain(0).store.write(`${BACK}/state`, '6');
      else clock.advance(10_000);
      await removed;
      assert.deepEqual([below(BACK), below(FRONT), below('/libxl/5')], [{}, {}, below('/libxl/5')]);
      assert.equal(world.store.has('/libxl/5/device/vusb/0'), false);
      assert.equal(world.watches.size, 0);
    }
  });
});
