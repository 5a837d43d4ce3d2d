/**
 * The Debian packages that the interop tests need on the host.
 *
 * As root they are installed; otherwise {@link ensurePackages} fails with the line to type. Kernels
 * are only unpacked into the cache (kernel.ts), never installed.
 */

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { hostCommand } from './host-command.ts';
import { cached } from './paths.ts';

/** What is needed to boot a plain guest and drive stock tools in it. */
export const GUEST_PACKAGES: readonly string[] = [
  'alsa-utils',
  'busybox-static',
  'cpio',
  'e2fsprogs',
  'gcc',
  'iproute2',
  'kmod',
  'libc6-dev',
  'qemu-system-x86',
  'usbip',
  'util-linux',
  'xz-utils',
  'zstd',
];

/**
 * What a real Xen in QEMU needs. These are only unpacked, see xen-files.ts: to install them would
 * start Xen's services and put a hypervisor into the host's boot menu.
 */
export const XEN_PACKAGES: readonly string[] = [
  'libxencall1',
  'libxendevicemodel1',
  'libxenevtchn1',
  'libxenforeignmemory1',
  'libxengnttab1',
  'libxenhypfs1',
  'libxenmisc4.17',
  'libxenstore4',
  'libxentoolcore1',
  'libxentoollog1',
  'libyajl2',
  'qemu-system-xen',
  'xen-hypervisor-4.17-amd64',
  'xen-utils-4.17',
  'xen-utils-common',
  'xenstore-utils',
];

/**
 * Programs of other people that use USB devices past the kernel's drivers. They are only unpacked, see
 * guest-tools.ts: to install them would start services on the host.
 */
export const TOOL_PACKAGES: readonly string[] = [
  'libccid',
  'libmtp-common',
  'libmtp9',
  'mtp-tools',
  'opensc',
  'opensc-pkcs11',
  'pcscd',
  'usbutils',
];

/** Libraries of the host that they are linked with, besides those of {@link GUEST_PACKAGES}. */
export const TOOL_HOST_PACKAGES: readonly string[] = ['libpcsclite1', 'libusb-1.0-0'];

/**
 * What Xen needs on the host besides {@link GUEST_PACKAGES}: to compile a module, and libraries that
 * Xen's QEMU finds there.
 */
export const XEN_HOST_PACKAGES: readonly string[] = [
  'libelf1',
  'libspice-server1',
  'libusb-1.0-0',
  'make',
];

/** Which of the packages are not installed, in the order given. */
export async function missingPackages(
  packages: readonly string[] = GUEST_PACKAGES,
): Promise<string[]> {
  if (!existsSync('/usr/bin/dpkg-query')) {
    throw new Error('Cannot look for packages: dpkg-query is absent, a Debian system is wanted');
  }
  const format = `-f=\${db:Status-Status} \${Package}\n`;
  // It fails when one of the packages is unknown, but prints the others all the same.
  const printed = await hostCommand('sh', [
    '-c',
    'dpkg-query "$@" 2>/dev/null || true',
    'sh',
    '-W',
    format,
    ...packages,
  ]);
  const installed = new Set<string>();
  for (const line of printed.split('\n')) {
    const [status, name] = line.split(' ');
    if (status === 'installed' && name !== undefined) installed.add(name);
  }
  return packages.filter((name) => !installed.has(name));
}

/** The line that installs the packages, for a user who is not root. */
export function installLine(packages: readonly string[]): string {
  return `apt-get update && apt-get install -y --no-install-recommends ${packages.join(' ')}`;
}

/**
 * Installs what is missing.
 *
 * @throws Error that names the line to type if something is missing and this is not root
 */
export async function ensurePackages(packages: readonly string[] = GUEST_PACKAGES): Promise<void> {
  const missing = await missingPackages(packages);
  if (missing.length === 0) return;
  if (process.getuid?.() !== 0) {
    throw new Error(`Cannot install packages: this is not root, run: ${installLine(missing)}`);
  }
  await updatePackageLists();
  const args = [
    'install',
    '-y',
    '--no-install-recommends',
    '-o',
    'DPkg::Lock::Timeout=300',
    ...missing,
  ];
  await hostCommand('apt-get', args, {
    environment: { DEBIAN_FRONTEND: 'noninteractive' },
    timeoutSeconds: 1200,
  });
}

/** Options of apt that choose the package lists; none for the host's own (suites.ts has others). */
export type PackageLists = readonly string[];

const HOST_LISTS: PackageLists = [];

const updates = new Map<string, Promise<void>>();

/** `apt-get update`, at most once in a process. */
export function updatePackageLists(lists = HOST_LISTS): Promise<void> {
  const key = lists.join(' ');
  let updated = updates.get(key);
  if (updated === undefined) {
    const args = ['update', '-qq', '-o', 'DPkg::Lock::Timeout=300', ...lists];
    updated = hostCommand('apt-get', args, { timeoutSeconds: 300 }).then(() => undefined);
    updates.set(key, updated);
  }
  return updated;
}

/** The versions that a package depends on exactly, e.g. that of linux-image-amd64 on its kernel. */
export interface PackageVersion {
  name: string;
  version: string;
}

/**
 * What the package lists say about a package, without installing it.
 *
 * @param field - name of a control field, such as `Version` or `Depends`
 * @returns its value in the version that apt would choose, or undefined if it is not known
 */
export async function packageField(
  name: string,
  field: string,
  lists = HOST_LISTS,
): Promise<string | undefined> {
  const args = [...lists, 'show', '--no-all-versions', name];
  const read = () => hostCommand('apt-cache', args).catch(() => '');
  let shown = await read();
  if (shown === '' && process.getuid?.() === 0) {
    await updatePackageLists(lists);
    shown = await read();
  }
  const prefix = `${field}: `;
  return shown
    .split('\n')
    .find((line) => line.startsWith(prefix))
    ?.slice(prefix.length);
}

/**
 * The versions of packages that apt would choose.
 *
 * @returns undefined if one of them is not known
 */
export async function packageVersions(
  names: readonly string[],
  lists = HOST_LISTS,
): Promise<PackageVersion[] | undefined> {
  // Asked for the first, as that updates the lists if need be.
  if ((await packageField(names[0] ?? '', 'Version', lists)) === undefined) return undefined;
  const args = [...lists, 'show', '--no-all-versions', ...names];
  const shown = await hostCommand('apt-cache', args).catch(() => '');
  const versions = new Map<string, string>();
  for (const record of shown.split('\n\n')) {
    const name = /^Package: (\S+)/m.exec(record)?.[1];
    const version = /^Version: (\S+)/m.exec(record)?.[1];
    if (name !== undefined && version !== undefined) versions.set(name, version);
  }
  const found = names.map((name) => ({ name, version: versions.get(name) ?? '' }));
  return found.every(({ version }) => version !== '') ? found : undefined;
}

/**
 * Unpacks packages into one folder of the cache.
 *
 * @param finish - called with the folder when they are unpacked
 * @returns undefined if one of them is not in the package lists
 */
export async function unpackedSet(
  name: string,
  packages: readonly string[],
  finish: (folder: string) => Promise<void> = async () => {},
): Promise<string | undefined> {
  const wanted = await packageVersions(packages);
  if (wanted === undefined) return undefined;
  const versions = wanted.map(({ name, version }) => `${name} ${version}`).join('\n');
  const key = createHash('sha256').update(versions).digest('hex').slice(0, 12);
  return cached(`${name}${key}`, async (temporary) => {
    for (const one of wanted) await unpackPackage(one, temporary);
    await finish(temporary);
  });
}

/** Unpacks the files of a package into a folder, without installing it. */
export async function unpackPackage(
  wanted: PackageVersion,
  folder: string,
  lists = HOST_LISTS,
): Promise<void> {
  const download = `${folder}.download`;
  await hostCommand('mkdir', ['-p', download, folder]);
  const args = [
    ...lists,
    'download',
    '-qq',
    '-o',
    'APT::Sandbox::User=root',
    `${wanted.name}=${wanted.version}`,
  ];
  const fetch = () => hostCommand('apt-get', args, { folder: download, timeoutSeconds: 900 });
  try {
    await fetch().catch(async (error: unknown) => {
      // Debian removes old versions: lists that are some weeks old name files that are gone.
      if (process.getuid?.() !== 0) throw error;
      await updatePackageLists(lists);
      return fetch();
    });
    await hostCommand('sh', ['-c', 'dpkg -x "$1"/*.deb "$2"', 'sh', download, folder]);
  } finally {
    await hostCommand('rm', ['-rf', download]);
  }
}
