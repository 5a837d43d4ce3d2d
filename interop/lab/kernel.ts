/**
 * The kernel that guests run, and the few files of its source that the lab compiles.
 *
 * Both come from Debian's packages, are unpacked into the cache once for each version, and leave
 * the host untouched. The version is resolved from linux-image-amd64 at each run, because older
 * ones vanish from the mirrors.
 */

import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { hostCommand } from './host-command.ts';
import { type PackageLists, type PackageVersion, packageField, unpackPackage } from './packages.ts';
import { cached, cacheFolder, checkoutFolder } from './paths.ts';
import { suiteLists } from './suites.ts';

/** An unpacked kernel. */
export interface Kernel {
  /** What `uname -r` prints, e.g. 6.1.0-56-amd64. */
  release: string;
  /** Package version, e.g. 6.1.192-2. */
  version: string;
  /** The boot image (bzImage) as the package has it. */
  image: string;
  /** The same as an ELF file: it boots 3 s sooner, as nothing is decompressed in emulation. */
  elf: string;
  /** The folder to bind to /lib/modules/<release> in a guest; depmod has been run in it. */
  modules: string;
}

/** Kernels that guests may run in place of the host's release's: `URBGATE_KERNEL` names one. */
const OTHER_KERNELS: Readonly<Record<string, { readonly suite: string; readonly name: string }>> = {
  '6.12': { suite: 'trixie', name: 'linux-image-amd64' },
  rt: { suite: 'trixie', name: 'linux-image-rt-amd64' },
  newest: { suite: 'sid', name: 'linux-image-amd64' },
};

/** Where the guests' kernel is from. */
export interface KernelOrigin {
  /** The package that stands for it. */
  readonly name: string;
  readonly lists: PackageLists;
  /** Undefined for the host's own release. */
  readonly suite?: string;
}

export async function kernelOrigin(): Promise<KernelOrigin> {
  const choice = process.env.URBGATE_KERNEL;
  if (!choice) return { name: 'linux-image-amd64', lists: [] };
  const other = OTHER_KERNELS[choice];
  if (other === undefined) {
    const known = Object.keys(OTHER_KERNELS).join(', ');
    throw new Error(`Cannot use the kernel "${choice}" of URBGATE_KERNEL: wanted ${known}`);
  }
  return { ...other, lists: await suiteLists(other.suite) };
}

/** The guests' kernel: what the package stands for now, or the newest in the cache. */
export async function guestKernel(): Promise<Kernel> {
  const { name, lists } = await kernelOrigin();
  const depends = await packageField(name, 'Depends', lists);
  const match = /(linux-image-\S+) \(= ([^)]+)\)/.exec(depends ?? '');
  if (match?.[1] === undefined || match[2] === undefined) return newestCachedKernel();
  const wanted = { name: match[1], version: match[2] };
  try {
    return openKernel(await unpackedKernel(wanted, lists), wanted);
  } catch (error) {
    // One of another release is what was asked for, and no other.
    if (lists.length > 0) throw error;
    try {
      return newestCachedKernel();
    } catch {
      throw error;
    }
  }
}

function unpackedKernel(wanted: PackageVersion, lists: PackageLists): Promise<string> {
  return cached(`${wanted.name}_${wanted.version}`, async (folder) => {
    for (const one of [wanted, ...(await partsOf(wanted, lists))]) {
      await unpackPackage(one, folder, lists);
    }
    if (!existsSync(join(folder, 'lib'))) symlinkSync('usr/lib', join(folder, 'lib'));
    mkdirSync(join(folder, 'boot'), { recursive: true });
    const release = releaseOf(wanted);
    await hostCommand('/sbin/depmod', ['-b', folder, release]);
    await extractElf(imageOf(folder, release), elfOf(folder, release));
  });
}

/** From Linux 7 on, the image, its modules and their lists are in packages of their own. */
async function partsOf(
  { name }: PackageVersion,
  lists: PackageLists,
): Promise<readonly PackageVersion[]> {
  const depends = (await packageField(name, 'Depends', lists)) ?? '';
  const parts = depends.matchAll(/(linux-(?:base|binary|modules)-\S+) \(= ([^)]+)\)/g);
  return [...parts].map(([, name = '', version = '']) => ({ name, version }));
}

const releaseOf = ({ name }: PackageVersion) => name.slice('linux-image-'.length);

function imageOf(folder: string, release: string): string {
  const image = join(folder, 'boot', `vmlinuz-${release}`);
  return existsSync(image) ? image : join(folder, 'lib', 'modules', release, 'vmlinuz');
}

const elfOf = (folder: string, release: string) => join(folder, 'boot', `vmlinux-${release}`);

/**
 * Takes the compressed ELF file out of a bzImage.
 *
 * Source: Documentation/x86/boot.rst, fields setup_sects (0x1f1), payload_offset (0x248) and
 * payload_length (0x24c).
 */
async function extractElf(image: string, elf: string): Promise<void> {
  const whole = readFileSync(image);
  const setupSectors = whole[0x1f1] || 4;
  const start = (setupSectors + 1) * 512 + whole.readUInt32LE(0x248);
  const payload = whole.subarray(start, start + whole.readUInt32LE(0x24c));
  const unpack = UNPACKERS.get(payload.readUInt32BE(0));
  if (unpack === undefined) {
    throw new Error(
      `Cannot extract the kernel of ${image}: its payload starts with ` +
        `${payload.subarray(0, 6).toString('hex')}, xz (fd377a58) or zstd (28b52ffd) is wanted`,
    );
  }
  const packed = `${elf}.packed`;
  // The stream is followed by its uncompressed size, which the programs take for a second stream.
  writeFileSync(packed, payload);
  await hostCommand('sh', ['-c', unpack, 'sh', packed, elf]);
  await hostCommand('rm', [packed]);
}

/** By the first four bytes of what they unpack: from $1 to $2. */
const UNPACKERS: ReadonlyMap<number, string> = new Map([
  [0xfd377a58, 'xz -dc --single-stream "$1" > "$2"'],
  [0x28b52ffd, 'head -c -4 "$1" | zstd -qdc > "$2"'],
]);

function openKernel(folder: string, wanted: PackageVersion): Kernel {
  const release = releaseOf(wanted);
  const { version } = wanted;
  const image = imageOf(folder, release);
  const modules = join(folder, 'lib', 'modules', release);
  const elf = elfOf(folder, release);
  for (const path of [image, elf, join(modules, 'modules.dep')]) {
    if (!existsSync(path)) {
      throw new Error(`Cannot use the kernel in ${folder}: ${path} is absent, delete the folder`);
    }
  }
  return { release, version, image, elf, modules };
}

function newestCachedKernel(): Kernel {
  const names = readdirSync(cacheFolder())
    // Those of other releases have a plus in their names.
    .filter((name) => /^linux-image-[^+]+_[^/]+$/.test(name) && !name.includes('.partial'))
    .map((name) => ({ name, time: statSync(join(cacheFolder(), name)).mtimeMs }))
    .sort((one, other) => other.time - one.time);
  const newest = names[0]?.name;
  if (newest === undefined) {
    throw new Error(
      'Cannot find a kernel: linux-image-amd64 is not in the package lists and none is in the ' +
        'cache, run apt-get update',
    );
  }
  const [name = '', version = ''] = newest.split('_');
  return openKernel(join(cacheFolder(), newest), { name, version });
}

/** The files of the kernel's source that anything in the lab compiles. */
const SOURCE_FILES = [
  'tools/usb/testusb.c',
  'drivers/usb/host/xen-hcd.c',
  'drivers/usb/misc/usbtest.c',
] as const;

/**
 * A file of the source of the guests' kernel, e.g. tools/usb/testusb.c, from Debian's linux-source-VERSION.
 *
 * @param path - one of {@link SOURCE_FILES}
 */
export async function kernelSourceFile(path: (typeof SOURCE_FILES)[number]): Promise<string> {
  const { lists } = await kernelOrigin();
  const [, series] = /^(\d+\.\d+)/.exec((await guestKernel()).version) ?? [];
  const name = `linux-source-${series}`;
  const version = (await packageField(name, 'Version', lists)) ?? 'unknown';
  const key = createHash('sha256').update(SOURCE_FILES.join('\n')).digest('hex').slice(0, 8);
  const folder = await cached(`${name}_${version}_${key}`, async (temporary) => {
    const unpacked = `${temporary}.deb.${process.pid}.partial`;
    try {
      await unpackPackage({ name, version }, unpacked, lists);
      await hostCommand('mkdir', ['-p', temporary]);
      const archive = join(unpacked, 'usr', 'src', `${name}.tar.xz`);
      const members = SOURCE_FILES.map((file) => `${name}/${file}`);
      const args = ['-xJf', archive, '-C', temporary, '--strip-components=1', ...members];
      await hostCommand('tar', args);
    } finally {
      await hostCommand('rm', ['-rf', unpacked]);
    }
  });
  return join(folder, path);
}

/** Compiles a single C file into the cache. @returns the path of the program */
export async function compiled(source: string, flags: readonly string[] = []): Promise<string> {
  const hash = createHash('sha256').update(readFileSync(source)).update(flags.join(' '));
  const name = `${basename(source, '.c')}-${hash.digest('hex').slice(0, 12)}`;
  return cached(join('programs', name), async (temporary) => {
    await hostCommand('gcc', ['-O2', '-o', temporary, source, ...flags]);
  });
}

/** A C file of this folder; it is not copied to dist/. */
export function labSource(name: string): string {
  return join(checkoutFolder(), 'interop', 'lab', name);
}

/** The kernel's own exerciser for the usbtest driver; Debian's usbip package does not have it. */
export async function testusbProgram(): Promise<string> {
  return compiled(await kernelSourceFile('tools/usb/testusb.c'), ['-pthread', '-static']);
}
