/** What many cycles of the same leave behind: a gateway that takes and gives back devices. */
import { strict as assert } from 'node:assert';
import { join } from 'node:path';
import { type GuestGateway, startGatewayInGuest } from './gateway.ts';
import type { Guest } from './guest.ts';
import { findDevice } from './local-gadget.ts';
import { driversOf } from './own-devices.ts';
import { until } from './until.ts';
import type { RedirectedDevice } from './usbredir/redirected-device.ts';

/** In half of the cycles. */
const MAPPINGS_GROWTH_MAX = 10;
const WARM_UP_CYCLES = 2;
const CYCLE_SECONDS_MAX = 10;
const SAY_SECONDS = 60;

/** Runs cycles, and fails if the gateway in the guest has more files or memory open afterwards. */
async function withoutGrowth(
  guest: Guest,
  { pid }: GuestGateway,
  times: number,
  run: (times: number) => Promise<void>,
): Promise<void> {
  const usage = async () => {
    const counts = `ls /proc/${pid}/fd | wc -l; grep -c . /proc/${pid}/maps`;
    const [files = 0, mappings = 0] = (await guest.succeed(counts)).split('\n').map(Number);
    return { files, mappings };
  };
  await run(WARM_UP_CYCLES);
  const before = await usage();
  await run(Math.floor(times / 2));
  const between = await usage();
  await run(Math.ceil(times / 2));
  const after = await usage();
  assert.deepEqual([between.files, after.files], [before.files, before.files]);
  // The heap of Node grows by some thirty mappings at some moment; a leak grows in both halves.
  const growth = [between.mappings - before.mappings, after.mappings - between.mappings];
  assert(Math.min(...growth) < MAPPINGS_GROWTH_MAX, `mappings grew by ${growth}`);
}

/** Exports and unexports a device, given by its serial number: it is as before afterwards. */
export async function exportCycles(guest: Guest, serial: string, times: number): Promise<void> {
  const { sysfs } = await findDevice(guest, serial);
  const state = async () => [
    await driversOf(guest, sysfs),
    await guest.succeed(`sha256sum < ${sysfs}/descriptors`),
  ];
  const before = await state();
  const control = '/run/urbgate-cycles';
  const gateway = await startGatewayInGuest(guest, {
    exports: [],
    arguments: ['--control', control],
  });
  const client = join(import.meta.dirname, '..', '..', 'src', 'cli', 'control-client.js');
  const program = (count: number) => `
    import { callGateway } from '${client}';
    const control = { path: '${control}', chosen: true };
    const spec = 'usb:*:*:${serial},busid=9-1';
    for (let n = 0; n < ${count}; n++) {
      await callGateway(control, { command: 'export', spec, folder: '/' }, 20000);
      await callGateway(control, { command: 'unexport', busId: '9-1' }, 20000);
    }`;
  await withoutGrowth(guest, gateway, times, async (count) => {
    await guest.succeed('cat > /run/cycles.mjs && node /run/cycles.mjs', {
      input: program(count),
      timeoutSeconds: 60 + count * CYCLE_SECONDS_MAX,
    });
  });
  assert.deepEqual(await state(), before);
  await gateway.stop();
}

/** Plugs a device in and out while a gateway waits for it: it is exported each time. */
export async function plugCycles(
  guest: Guest,
  device: RedirectedDevice,
  ids: string,
  times: number,
): Promise<void> {
  const gateway = await startGatewayInGuest(guest, {
    exports: [`usb:${ids},wait`],
    arguments: ['--control', 'none'],
  });
  let done = 0;
  const said = (words: string) =>
    until(
      SAY_SECONDS,
      () => (gateway.process.stdout.split(words).length > done ? true : undefined),
      () => `the gateway has not said "${words}" ${done} times`,
    );
  await withoutGrowth(guest, gateway, times, async (count) => {
    for (let n = 0; n < count; n++) {
      done++;
      await device.plugIn();
      await said(' exporting ');
      await device.unplug();
      await said(' has gone');
    }
  });
  await gateway.stop();
}
