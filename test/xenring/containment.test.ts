/**
 * Bugs while rings are served: one of a device ends its use at that port, one of the connection
 * ends that connection. Other ports and other guests go on.
 */
import { strict as assert } from 'node:assert';
import { type Fault, FaultyDevice, MadeBug } from '../core/faulty-device.ts';
import { enumerate, RingRig, turn, until } from './rig.ts';
import type { HcdUrb, XenHcd } from './xen-hcd.ts';

const read = (port: number, octets = 64): Omit<HcdUrb, 'done'> => ({
  port,
  endpoint: 1,
  type: 'bulk',
  in: true,
  buffer: Buffer.alloc(octets),
});
/** -ENODEV, which xen-hcd makes of a device that has gone. */
const GONE = -19;

describe('a bug while rings are served', () => {
  let rig: RingRig;
  let hcd: XenHcd;
  let good: XenHcd;
  let device: FaultyDevice;

  beforeEach(async () => {
    rig = new RingRig();
    device = new FaultyDevice();
    rig.registry.add(device, 'faulty', '1-1');
    rig.export('1-2');
    rig.export('1-3');
    await rig.start();
    hcd = await rig.guest(5);
    good = await rig.guest(6);
    await rig.tools.attachDevice(5, 0, '1-1', 1);
    await rig.tools.attachDevice(5, 0, '1-2', 2);
    await rig.tools.attachDevice(6, 0, '1-3', 1);
    await until(() => hcd.speeds[1] !== 0, 'the faulty device is there');
    await enumerate(hcd, 2);
    await enumerate(good, 1);
  });

  afterEach(async () => {
    await rig.end();
  });

  const goesOn = async (front: XenHcd, port: number) => {
    for (let n = 0; n < 20; n++) assert.equal((await front.transfer(read(port))).status, 0);
  };

  const oneLine = (what: RegExp) => {
    const { warnings } = rig.log;
    assert.equal(warnings.length, 1, warnings.join('\n'));
    assert.match(warnings[0] ?? '', what);
    assert.match(warnings[0] ?? '', /\n +at /, 'with its stack');
  };

  const CASES: readonly Fault[] = [
    'submit throws',
    'completes twice',
    'completes what it does not have',
    'finds a bug of its own',
  ];

  for (const fault of CASES) {
    it(`${fault}: the port is empty, others go on, the device can be attached again`, async () => {
      device.fault = fault;
      const during = Promise.all([goesOn(hcd, 2), goesOn(good, 1)]);
      const { status } = await hcd.transfer(read(1, 0));
      assert(status === GONE || fault === 'completes twice', `status ${status}`);
      await until(() => hcd.speeds[1] === 0, 'it is unplugged');
      await until(() => rig.registry.get('1-1')?.holder === null, 'it is free');
      await during;
      device.fault = null;
      // A guest would bring about the same bug again at once: whoever plugs in says when.
      rig.export('1-9');
      for (let n = 0; n < 5; n++) await turn();
      assert.equal(hcd.speeds[1], 0);
      const lines = rig.log.warnings.splice(1);
      assert(lines.every((one) => /cannot plug in 1-1: a bug has ended its use here/.test(one)));
      oneLine(/^dom5 vusb 0: port 1: 1-1 unplugged by a bug: /);
      assert.deepEqual([rig.state(5), rig.state(6)], ['4', '4']);
      while (hcd.speeds[1] === 0) {
        // What is detached and attached between two looks of the back end has not changed.
        await rig.tools.detachDevice(5, 0, 1);
        for (let n = 0; n < 10; n++) await turn();
        await rig.tools.attachDevice(5, 0, '1-1', 1);
        for (let n = 0; n < 10; n++) await turn();
      }
      assert.equal((await hcd.transfer(read(1, 0))).status, 0);
      await Promise.all([goesOn(hcd, 2), goesOn(good, 1)]);
    });
  }

  it('the controller comes to a bug: its connection is closed, with one line; others go on', async () => {
    const { copyTo } = rig.dom0;
    rig.dom0.copyTo = (domain, segments, source) => {
      if (domain === 5) throw new MadeBug('the platform is used wrongly');
      copyTo.call(rig.dom0, domain, segments, source);
    };
    const during = goesOn(good, 1);
    hcd.submit({ ...read(2), done: () => {} });
    await until(() => rig.state(5) === '5', 'the connection is closed');
    await until(() => rig.registry.get('1-2')?.holder === null, 'its devices are free');
    assert.equal(rig.registry.get('1-1')?.holder, null);
    await during;
    oneLine(/vusb\/5\/0: connection closed by a bug: MadeBug: the platform is used wrongly/);
    rig.dom0.copyTo = copyTo;
    assert.equal(rig.dom0.inUse.mappedPages, 2, 'only the other one is mapped');
    await goesOn(good, 1);
  });

  it('what the registry tells comes to a bug: whoever told it does not notice', async () => {
    rig.registry.add(new FaultyDevice(), 'another', '1-8');
    await rig.tools.attachDevice(5, 0, '1-7', 3);
    await turn();
    const { get } = rig.registry;
    rig.registry.get = (busId) => {
      if (busId === '1-7') throw new MadeBug('the registry is used wrongly');
      return get.call(rig.registry, busId);
    };
    rig.registry.add(new FaultyDevice(), 'another', '1-6');
    await until(() => rig.state(5) === '5', 'the connection is closed');
    rig.log.warnings.splice(0, rig.log.warnings.length - 1);
    oneLine(/vusb\/5\/0: connection closed by a bug: MadeBug: the registry/);
    await goesOn(good, 1);
    rig.registry.get = get;
  });
});
