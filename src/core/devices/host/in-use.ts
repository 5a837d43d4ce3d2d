/**
 * Whether the machine itself needs a device: a file system on it is mounted, its network interface
 * is up, or it is the only keyboard. Taking it away then would hurt.
 *
 * All is read from sysfs and procfs. `roots` are those, or stand-ins of tests.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { entriesOf, readAttribute } from './sysfs.ts';

export interface Roots {
  /** /proc */
  readonly proc: string;
  /** /sys/class/input */
  readonly inputs: string;
}

export const HOST_ROOTS: Roots = { proc: '/proc', inputs: '/sys/class/input' };

/** Levels of folders below a device: interface, host, target, unit, block, disk, partition... */
const DEPTH_MAX = 9;
const FOLDERS_MAX = 4096;

const IFF_UP = 1;
/** Keys that a keyboard has and a power button or a headset has not: KEY_A, KEY_SPACE, KEY_ENTER. */
const KEYBOARD_KEYS = [30, 57, 28];

/** What uses a device, for people; empty if nothing does. */
export function usesOf(folder: string, roots: Roots = HOST_ROOTS): string[] {
  const uses: string[] = [];
  const inputs: string[] = [];
  for (const { parent, name, path } of descendants(folder)) {
    uses.push(...blockUses(path, name, roots));
    if (parent === 'net' && (Number(readAttribute(path, 'flags')) & IFF_UP) !== 0) {
      uses.push(`network interface ${name} is up`);
    }
    if (parent === 'input' && isKeyboard(path)) inputs.push(name);
  }
  if (inputs.length > 0 && !hasOtherKeyboard(inputs, roots)) uses.push('it is the only keyboard');
  return [...new Set(uses)];
}

interface Found {
  /** Name of the folder that it is in. */
  readonly parent: string;
  readonly name: string;
  readonly path: string;
}

/** Folders below one, not through links, and not those of other USB devices. */
function descendants(folder: string): Found[] {
  const found: Found[] = [];
  let level: Found[] = [{ parent: '', name: '', path: folder }];
  for (let depth = 0; depth < DEPTH_MAX && level.length > 0; depth++) {
    const next: Found[] = [];
    for (const { name: parent, path } of level) {
      for (const name of foldersIn(path)) next.push({ parent, name, path: join(path, name) });
    }
    found.push(...next.slice(0, FOLDERS_MAX - found.length));
    level = found.length < FOLDERS_MAX ? next : [];
  }
  return found;
}

function foldersIn(path: string): string[] {
  try {
    const entries = readdirSync(path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch {
    return [];
  }
}

/** Of a disk or a partition; nothing else has a size and a device number. */
function blockUses(path: string, name: string, { proc }: Roots): string[] {
  const number = readAttribute(path, 'dev');
  if (readAttribute(path, 'size') === '' || number === '') return [];
  const mounts = linesOf(join(proc, 'self/mountinfo')).map((line) => line.split(' '));
  const uses = mounts
    .filter((fields) => fields[2] === number || fields.includes(`/dev/${name}`))
    .map((fields) => `/dev/${name} is mounted on ${fields[4]}`);
  if (linesOf(join(proc, 'swaps')).some((line) => line.startsWith(`/dev/${name} `))) {
    uses.push(`/dev/${name} is swapped to`);
  }
  const holders = entriesOf(join(path, 'holders'));
  if (holders.length > 0) uses.push(`/dev/${name} belongs to ${holders.join(', ')}`);
  return uses;
}

function hasOtherKeyboard(own: readonly string[], { inputs }: Roots): boolean {
  return entriesOf(inputs).some(
    (name) => name.startsWith('input') && !own.includes(name) && isKeyboard(join(inputs, name)),
  );
}

/** capabilities/key: words of 64 bits in hexadecimal, the highest first. */
function isKeyboard(path: string): boolean {
  const words = readAttribute(join(path, 'capabilities'), 'key').split(' ').reverse();
  return KEYBOARD_KEYS.every((key) => {
    const word = words[Math.floor(key / 64)] ?? '0';
    return /^[0-9a-f]+$/.test(word) && ((BigInt(`0x${word}`) >> BigInt(key % 64)) & 1n) === 1n;
  });
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n');
  } catch {
    return [];
  }
}
