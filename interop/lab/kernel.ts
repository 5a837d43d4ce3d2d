/**
 * The kernel that guests run, and the few files of its source that the lab compiles.
 *
 * Both come from Debian's packages, are unpacked into the cache once for each version, and leave
 * the host untouched. The version is resolved from linux-image-amd64 at each run, because older
 * ones vanish from the mirrors.
 */

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { hostCommand } from './host-command.ts';
import { type PackageVersion, packageField, unpackPackage } from './packages.ts';
import { cached, cacheFolder, checkoutFolder } from './paths.ts';

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

/** The guests' kernel: what linux-image-amd64 stands for now, or the newest in the cache. */
export async function guestKernel(): Promise<Kernel> {
  const depends = await packageField('linux-image-amd64', 'Depends');
  const match = /(linux-image-\S+) \(= ([^)]+)\)/.exec(depends ?? '');
  if (match?.[1] === undefined || match[2] === undefined) return newestCachedKernel();
  const wanted = { name: match[1], version: match[2] };
  try {
    return openKernel(await unpackedKernel(wanted), wanted);
  } catch (error) {
    try {
      return newestCachedKernel();
    } catch {
      throw error;
    }
  }
}

function unpackedKernel(wanted: PackageVersion): Promise<string> {
  return cached(`${wanted.name}_${wanted.version}`, async (folder) => {
    await unpackPackage(wanted, folder);
    const release = wanted.name.slice('linux-image-'.length);
    await hostCommand('/sbin/depmod', ['-b', folder, release]);
    const boot = join(folder, 'boot');
    await extractElf(join(boot, `vmlinuz-${release}`), join(boot, `vmlinux-${release}`));
  });
}

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
  if (payload.readUInt32BE(0) !== XZ_MAGIC) {
    throw new Error(
      `Cannot extract the kernel of ${image}: its payload starts with ` +
        `${payload.subarray(0, 6).toString('hex')}, xz (fd377a585a00) is wanted`,
    );
  }
  writeFileSync(`${elf}.xz`, payload);
  // The stream is followed by its uncompressed size, which xz would take for a second stream.
  await hostCommand('sh', ['-c', 'xz -dc --single-stream "$1.xz" > "$1"', 'sh', elf]);
  await hostCommand('rm', [`${elf}.xz`]);
}

const XZ_MAGIC = 0xfd377a58;

function openKernel(folder: string, { name, version }: PackageVersion): Kernel {
  const release = name.slice('linux-image-'.length);
  const image = join(folder, 'boot', `vmlinuz-${release}`);
  const modules = join(folder, 'lib', 'modules', release);
  const elf = join(folder, 'boot', `vmlinux-${release}`);
  for (const path of [image, elf, join(modules, 'modules.dep')]) {
    if (!existsSync(path)) {
      throw new Error(`Cannot use the kernel in ${folder}: ${path} is absent, delete the folder`);
    }
  }
  return { release, version, image, elf, modules };
}

function newestCachedKernel(): Kernel {
  const names = readdirSync(cacheFolder())
    .filter((name) => /^linux-image-.+_[^/]+$/.test(name) && !name.includes('.partial'))
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
 * A file of the kernel's source, e.g. tools/usb/testusb.c, from Debian's linux-source-6.1.
 *
 * @param path - one of {@link SOURCE_FILES}
 */
export async function kernelSourceFile(path: (typeof SOURCE_FILES)[number]): Promise<string> {
  const name = 'linux-source-6.1';
  const version = (await packageField(name, 'Version')) ?? 'unknown';
  const key = createHash('sha256').update(SOURCE_FILES.join('\n')).digest('hex').slice(0, 8);
  const folder = await cached(`${name}_${version}_${key}`, async (temporary) => {
    const unpacked = `${temporary}.deb.${process.pid}.partial`;
    try {
      await unpackPackage({ name, version }, unpacked);
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
