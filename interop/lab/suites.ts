/**
 * Package lists of other Debian releases than the host's, from the same mirror, in folders of the cache:
 * the host's own lists stay as they are. Nothing of another release is installed, only unpacked.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hostCommand } from './host-command.ts';
import { ensurePackages, type PackageLists, updatePackageLists } from './packages.ts';
import { cacheFolder } from './paths.ts';

/** What the host's mirror has of another release; its lists are brought up to date. */
export async function suiteLists(suite: string): Promise<PackageLists> {
  const folder = join(cacheFolder(), `lists-${suite}`);
  const [parts, lists, cache] = ['parts', 'lists', 'archives'].map((name) => join(folder, name));
  for (const path of [parts, join(lists ?? '', 'partial'), join(cache ?? '', 'archives/partial')]) {
    mkdirSync(path ?? '', { recursive: true });
  }
  const source = [
    'Types: deb',
    `URIs: ${await debianMirror()}`,
    `Suites: ${suite}`,
    'Components: main',
    'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg',
  ];
  writeFileSync(join(parts ?? '', 'debian.sources'), `${source.join('\n')}\n`);
  const options = {
    'Dir::Etc::sourcelist': '/dev/null',
    'Dir::Etc::sourceparts': parts,
    'Dir::State::Lists': lists,
    'Dir::Cache': cache,
  };
  const chosen = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  await updatePackageLists(chosen);
  return chosen;
}

/**
 * A root of another release, for what only its own compiler and libraries can make, filled by mmdebstrap.
 * It is deleted when `use` has ended.
 */
export async function inSuiteRoot(
  suite: string,
  packages: readonly string[],
  folder: string,
  use: (root: string) => Promise<void>,
): Promise<void> {
  await ensurePackages(['mmdebstrap']);
  const include = `--include=${packages.join(',')}`;
  const args = ['--quiet', '--variant=essential', '--skip=check/qemu', include];
  try {
    await hostCommand('mmdebstrap', [...args, suite, folder, await debianMirror()], {
      timeoutSeconds: 1800,
    });
    await use(folder);
  } finally {
    await hostCommand('rm', ['-rf', folder]);
  }
}

/** Where the host has its own release from. */
async function debianMirror(): Promise<string> {
  const format = '$(LABEL) $(REPO_URI)';
  const args = ['indextargets', '--format', format, 'Created-By: Packages'];
  const printed = await hostCommand('apt-get', args);
  const mirror = /^Debian (\S+)$/m.exec(printed)?.[1];
  if (mirror !== undefined) return mirror;
  throw new Error("Cannot find a mirror: none of apt's sources has the label Debian");
}
