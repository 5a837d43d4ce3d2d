/**
 * Where the lab keeps things: the checkout that is tested, and the cache outside it.
 *
 * The cache holds what is slow to get or to make (kernels, compiled helpers, initramfs images) and
 * the logs of guests. Everything in it can be deleted at any time while no guest runs.
 */

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';

/** The folder with package.json, whether this file runs from the sources or from dist/. */
export function checkoutFolder(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) {
      throw new Error(`Cannot find the checkout of ${import.meta.filename}: no package.json above`);
    }
    folder = parent;
  }
  return folder;
}

/** The cache: URBGATE_CACHE, or urbgate/ in XDG_CACHE_HOME or ~/.cache. Created if absent. */
export function cacheFolder(): string {
  const { URBGATE_CACHE, XDG_CACHE_HOME } = process.env;
  const folder = URBGATE_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'urbgate');
  mkdirSync(folder, { recursive: true });
  return folder;
}

/**
 * Makes a file or folder of the cache unless it is there already.
 *
 * `make` writes to a temporary name, which is renamed when it is complete: a run that was killed
 * in the middle leaves nothing that a later one would take for whole, and two at once do no harm.
 *
 * @param name - name in the cache; it must change whenever the content would
 * @returns the absolute path of the finished entry
 */
export async function cached(
  name: string,
  make: (temporary: string) => Promise<void> | void,
): Promise<string> {
  const target = join(cacheFolder(), name);
  if (existsSync(target)) return target;
  removeLeftovers(name);
  const temporary = `${target}.${process.pid}.partial`;
  try {
    await make(temporary);
    if (!existsSync(target)) renameSync(temporary, target);
  } catch (error) {
    // Another process may have finished the same entry between the look and the rename.
    if (!existsSync(target)) throw error;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  return target;
}

/** Deletes what runs that no longer exist have left half-made. */
function removeLeftovers(name: string): void {
  const folder = dirname(join(cacheFolder(), name));
  mkdirSync(folder, { recursive: true });
  for (const entry of readdirSync(folder)) {
    const pid = /\.(\d+)\.partial$/.exec(entry)?.[1];
    if (pid === undefined || !entry.startsWith(basename(name))) continue;
    if (Number(pid) === process.pid || !existsSync(`/proc/${pid}`)) {
      rmSync(join(folder, entry), { recursive: true, force: true });
    }
  }
}
