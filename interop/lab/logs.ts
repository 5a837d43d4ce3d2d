/** Folders for the logs of guests and gateways, in the cache; old ones are deleted. */

import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from './paths.ts';

const FOLDERS_KEPT = 60;

/** Makes an empty folder whose name begins with `name`. */
export function logFolder(name: string): string {
  const parent = join(cacheFolder(), 'logs');
  mkdirSync(parent, { recursive: true });
  const folders = readdirSync(parent).map((entry) => join(parent, entry));
  const byAge = folders
    .map((path) => ({ path, time: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .sort((one, other) => other.time - one.time);
  for (const { path } of byAge.slice(FOLDERS_KEPT)) rmSync(path, { recursive: true, force: true });
  return mkdtempSync(join(parent, `${name.replace(/[^\w.-]/g, '-')}-`));
}
