import { strict as assert } from 'node:assert';
import { OPEN_MILLISECONDS, Openings } from '../../src/cli/openings.ts';
import type { Source } from '../../src/cli/schemes.ts';
import { ManualDevice } from '../core/manual-device.ts';
import { FakeClock } from '../examples/rig.ts';

const turns = () => new Promise((resolve) => setImmediate(resolve));

describe('exports that are coming about', () => {
  let clock: FakeClock;
  let openings: Openings;
  let device: ManualDevice;
  let stops: number;
  let come: () => void;

  beforeEach(() => {
    clock = new FakeClock();
    openings = new Openings(clock);
    device = new ManualDevice();
    stops = 0;
  });

  const open = () =>
    openings.run(() =>
      openings.open(
        'usb:1-1',
        () =>
          new Promise<Source>((resolve) => {
            come = () => resolve({ devices: [{ device }], stop: () => stops++ });
          }),
      ),
    );

  it('that come in time are taken', async () => {
    const opened = open();
    come();
    assert.equal((await opened).devices[0]?.device, device);
    assert.deepEqual([device.log, stops, clock.timers], [[], 0, 0]);
  });

  it('that take too long are refused, and let go of when they come', async () => {
    const refused = assert.rejects(open(), {
      name: 'UserError',
      message: 'Cannot export usb:1-1: it takes longer than 40 s',
    });
    clock.advance(OPEN_MILLISECONDS);
    await refused;
    assert.deepEqual([device.log, stops], [[], 0]);
    come();
    await turns();
    assert.deepEqual([device.log, stops], [['dispose'], 1]);
  });

  it('that come when the gateway has closed are let go of', async () => {
    const refused = assert.rejects(open(), {
      name: 'UserError',
      message: 'Cannot export usb:1-1: the gateway is stopping',
    });
    const closed = openings.close();
    come();
    await Promise.all([closed, refused]);
    assert.deepEqual([device.log, stops], [['dispose'], 1]);
    await assert.rejects(open(), /the gateway is stopping/);
  });

  it('are waited for a moment only when the gateway closes', async () => {
    open().catch(() => {});
    const closed = openings.close();
    clock.advance(1_000);
    await closed;
  });
});
