/**
 * A process for tests of the ring between processes; `shm-remote.ts` starts it.
 *
 *     gateway FOLDER SEED JSON...     serves source-sinks with these options as 1-1, 1-2, ...
 *     front FOLDER DOMAIN             once told to, keeps reads out at its device, for ever
 *     load FOLDER DOMAIN              the same at whatever device is there, and says how many are back
 *
 * A SEED of 0 means no faults of events. With DIE_AT_STEP the gateway is killed there (die-at-step.ts). The
 * store is served by somebody else.
 */
import { once } from 'node:events';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { Registry } from '../../src/core/registry.ts';
import { Backends } from '../../src/xenring/backends.ts';
import { Frontend } from '../../src/xenring/frontend.ts';
import { openShmPlatform } from '../../src/xenring/platform/shm.ts';
import type { RingDevice } from '../../src/xenring/ring-device.ts';
import { dieAtStep } from './die-at-step.ts';
import { FaultyEvents } from './faulty-events.ts';
import { control, plugged } from './front-driver.ts';

const READS = 12;
/** The test is told after so many that the load is on. */
const READS_TOLD = 200;

async function gateway(folder: string, seed: number, devices: readonly string[]): Promise<void> {
  const shm = await openShmPlatform({ folder, domain: 0, serveStore: false });
  const platform = seed === 0 ? shm : new FaultyEvents(shm, seed);
  const registry = new Registry();
  const warnings: string[] = [];
  const log = { info: () => {}, warn: (message: string) => warnings.push(message) };
  for (const [n, text] of devices.entries()) {
    const device = new VirtualDevice(sourceSink.define(JSON.parse(text)));
    registry.add(device, 'source-sink', `1-${n + 1}`);
  }
  const backends = new Backends({ platform, registry, log });
  await backends.start();
  process.on('message', () => {
    const held = registry.list().filter(({ holder }) => holder !== null).length;
    const { user, system } = process.cpuUsage();
    process.send?.({ ...platform.inUse, held, warnings, cpuMilliseconds: (user + system) / 1000 });
  });
  process.send?.('ready');
}

async function front(folder: string, domain: number): Promise<void> {
  const platform = await openShmPlatform({ folder, domain });
  const frontend = new Frontend(platform, `/local/domain/${domain}/device/vusb/0`);
  const told = once(process, 'message');
  process.send?.('ready');
  await told; // the controller is there
  await frontend.start();
  const device = await plugged(frontend);
  let count = 0;
  const read = () => {
    device.submit({ endpoint: 0x81, type: 'bulk', octets: 4096 }, () => {
      if (++count === READS_TOLD) process.send?.('loaded');
      read();
    });
  };
  for (let n = 0; n < READS; n++) read();
}

async function load(folder: string, domain: number): Promise<void> {
  const platform = await openShmPlatform({ folder, domain });
  const frontend = new Frontend(platform, `/local/domain/${domain}/device/vusb/0`);
  const counts = { sent: 0, back: 0, ok: 0, doubled: 0, plugged: 0, faults: [] as string[] };
  const read = (device: RingDevice) => {
    let isBack = false;
    counts.sent++;
    device.submit({ endpoint: 0x81, type: 'bulk', octets: 512 }, ({ status }) => {
      if (isBack) counts.doubled++;
      isBack = true;
      counts.back++;
      if (status === 'ok') counts.ok++;
      if (device.isOpen) read(device);
    });
  };
  frontend.on('fault', ({ message }) => counts.faults.push(message));
  frontend.on('plugged', async (device) => {
    counts.plugged++;
    const set = await device.transfer(control(0, 9, 1));
    if (set.status !== 'ok') return; // it has gone
    await device.transfer(control(1, 11, 1));
    for (let n = 0; n < READS && device.isOpen; n++) read(device);
  });
  process.on('message', () => process.send?.(counts));
  const told = once(process, 'message');
  process.send?.('ready');
  await told; // the controller is there
  await frontend.start();
}

const [role, folder = '', number, ...rest] = process.argv.slice(2);
process.on('disconnect', () => process.exit());
if (process.env.DIE_AT_STEP !== undefined) dieAtStep(Number(process.env.DIE_AT_STEP));
if (role === 'gateway') await gateway(folder, Number(number), rest);
else if (role === 'load') await load(folder, Number(number));
else await front(folder, Number(number));
