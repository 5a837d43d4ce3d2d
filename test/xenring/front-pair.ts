/** Both ends wired together: urbgate's front end, and its back end with a virtual device. */
import { strict as assert } from 'node:assert';
import { type Clock, systemClock } from '../../src/core/clock.ts';
import { Frontend } from '../../src/xenring/frontend.ts';
import { plugged } from './front-driver.ts';
import type { WorldOptions } from './memory-platform.ts';
import { RingRig, until } from './rig.ts';

/** Guest 7 and its controller 0, with a source-sink plugged in; again at a rig that is there. */
export async function connect(
  options: WorldOptions = {},
  device: Record<string, unknown> = {},
  at?: { rig: RingRig },
  clock: Clock = systemClock,
) {
  const rig = at?.rig ?? (await newRig(options, device));
  const platform = rig.world.domain(7);
  const frontend = new Frontend(platform, '/local/domain/7/device/vusb/0', clock);
  await frontend.start();
  await until(() => rig.state(7) === '4', 'it connects');
  if (at === undefined) await rig.tools.attachDevice(7, 0, '1-1');
  const ring = await plugged(frontend);
  return { rig, platform, frontend, ring };
}

async function newRig(options: WorldOptions, device: Record<string, unknown>): Promise<RingRig> {
  const rig = new RingRig(options);
  await rig.start();
  rig.export('1-1', device);
  await rig.dom0.store.write('/local/domain/7', '');
  await rig.tools.addController(7);
  return rig;
}

/** Lets both go, and looks for what was left behind. */
export async function end({ rig, platform, frontend }: Awaited<ReturnType<typeof connect>>) {
  await frontend.close();
  await rig.end();
  const { grantedPages, channels, watches } = platform.inUse;
  assert.deepEqual(
    { grantedPages, channels, watches },
    { grantedPages: 0, channels: 0, watches: 0 },
  );
}
