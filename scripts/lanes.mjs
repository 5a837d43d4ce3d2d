/**
 * Which test files run together, and which at the same time.
 *
 * A group of files is one mocha process; two groups run side by side, the longest first, since a guest
 * with one processor keeps one CPU busy. What compares times runs alone.
 */
import { readdirSync } from 'node:fs';

const LANES = 2;

const UNIT_GROUPS = [
  ['dist/test/xenring/**/*.test.js', 'dist/test/model/**/*.test.js'],
  ['dist/test/!(xenring|model)/**/*.test.js', 'dist/test/*.test.js'],
];

/** Interop files by name; the first group runs before all others. Any other file is a group of its own. */
const ALONE = ['attach-time'];
const INTEROP_GROUPS = [
  ['usbfs-devices'],
  ['attach'],
  ['xen'],
  // These share a guest.
  ['audio', 'disk', 'keyboard', 'lab', 'recorded-exchange', 'robustness', 'serial'],
  ['xen-life'],
  ['testusb', 'attach-usbtest', 'webusb-usbtest'],
  ['attach-life'],
  ['xen-lab', 'attach-xen'],
  ['stall'],
  ['usbfs-hardware'],
  ['driver-delays'],
  ['usbfs'],
  ['webusb'],
  ['xen-usbfs', 'vanished-client', 'usbfs-sleep'],
];

/** Skips interop tests where they cannot run. */
const HOOKS = 'dist/interop/hooks.test.js';

/** Groups of unit tests, by title. */
export function unitGroups() {
  return UNIT_GROUPS.map((files, n) => ({ title: `Unit tests, part ${n + 1}`, files }));
}

/** Groups of interop tests: those that run alone, and the others. */
export function interopGroups() {
  const known = [ALONE, ...INTEROP_GROUPS].flat();
  const others = readdirSync('dist/interop')
    .filter((name) => name.endsWith('.test.js') && !HOOKS.endsWith(`/${name}`))
    .map((name) => name.slice(0, -'.test.js'.length))
    .filter((name) => !known.includes(name));
  const groupOf = (names) => ({
    title: `Interop tests, stock kernels and tools in QEMU: ${names.join(', ')}`,
    files: [HOOKS, ...names.map((name) => `dist/interop/${name}.test.js`)],
  });
  return {
    alone: groupOf(ALONE),
    others: [...INTEROP_GROUPS, ...others.map((name) => [name])].map(groupOf),
  };
}

/** Calls `run` with each group, in their order, for so many at a time as there are lanes. */
export async function inLanes(groups, run) {
  const waiting = [...groups];
  const lane = async () => {
    for (let group = waiting.shift(); group !== undefined; group = waiting.shift()) {
      await run(group);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
}
