/**
 * What a real Xen is started from: the hypervisor, its tools, and the front end's driver.
 *
 * Nothing is installed on the host. The packages are unpacked into one folder of the cache, which
 * lies over the host's root in dom0, so that xl and its libraries are in their usual places there.
 * Debian leaves xen-hcd out of its kernel: it is compiled from the same version's source.
 */

import { copyFileSync, existsSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hostCommand } from './host-command.ts';
import { type Kernel, kernelOrigin, kernelSourceFile } from './kernel.ts';
import {
  ensurePackages,
  GUEST_PACKAGES,
  packageField,
  packageVersions,
  unpackedSet,
  unpackPackage,
  XEN_HOST_PACKAGES,
  XEN_PACKAGES,
} from './packages.ts';
import { cached, cacheFolder } from './paths.ts';
import { inSuiteRoot } from './suites.ts';

/** Where Debian keeps the tools of this version, which the commands in /usr/sbin only choose. */
export const XEN_TOOLS = '/usr/lib/xen-4.17/bin';

/** The device model of Xen's own, for comparison: it has a back end for USB, "qusb". */
export const XEN_QEMU = '/usr/libexec/xen-qemu-system-i386';

const CACHE_NAME = 'xen-4.17_';

export interface XenFiles {
  /** The hypervisor as an ELF file, which is what QEMU's multiboot loader takes. */
  hypervisor: string;
  /** To lie over the host's root in dom0. */
  folder: string;
}

/** Unpacks Xen and what belongs to it, unless that has been done. */
export async function xenFiles(): Promise<XenFiles> {
  await ensurePackages([...GUEST_PACKAGES, ...XEN_HOST_PACKAGES]);
  const folder = await unpackedSet(CACHE_NAME, XEN_PACKAGES, async (temporary) => {
    const boot = join(temporary, 'boot');
    const unzip = 'gunzip -c "$1"/xen-4.17-amd64.gz > "$1"/xen.elf';
    await hostCommand('sh', ['-c', unzip, 'sh', boot]);
    await checkLibraries(temporary);
  });
  return openXen(folder ?? newestCachedXen());
}

/** The programs are linked with libraries of the host too: better to know now than in dom0. */
async function checkLibraries(folder: string): Promise<void> {
  const programs = ['xl', 'xenstored', 'xenconsoled'].map((name) => join(XEN_TOOLS, name));
  for (const program of [...programs, XEN_QEMU]) {
    const linked = await hostCommand('ldd', [join(folder, program)], {
      environment: { LD_LIBRARY_PATH: join(folder, 'usr/lib/x86_64-linux-gnu') },
    });
    const absent = linked.split('\n').filter((line) => line.includes('not found'));
    if (absent.length > 0) {
      throw new Error(
        `Cannot use ${program} of Xen: the host lacks ${absent.map((line) => line.trim())}`,
      );
    }
  }
}

function openXen(folder: string): XenFiles {
  const hypervisor = join(folder, 'boot', 'xen.elf');
  if (!existsSync(hypervisor)) {
    throw new Error(`Cannot use Xen in ${folder}: ${hypervisor} is absent, delete the folder`);
  }
  return { hypervisor, folder };
}

function newestCachedXen(): string {
  const newest = readdirSync(cacheFolder())
    .filter((name) => name.startsWith(CACHE_NAME) && !name.includes('.partial'))
    .map((name) => join(cacheFolder(), name))
    .sort((one, other) => statSync(other).mtimeMs - statSync(one).mtimeMs)[0];
  if (newest !== undefined) return newest;
  throw new Error(
    'Cannot find Xen: its packages are not in the package lists and none is in the cache, ' +
      'Debian 12 and apt-get update are wanted',
  );
}

/** Compiles xen-hcd for the guests' kernel. @returns the path of the module */
export async function xenHcdModule(kernel: Kernel): Promise<string> {
  const source = await kernelSourceFile('drivers/usb/host/xen-hcd.c');
  const { suite } = await kernelOrigin();
  const folder = await cached(`xen-hcd_${kernel.release}_${kernel.version}`, async (temporary) => {
    await hostCommand('mkdir', ['-p', temporary]);
    copyFileSync(source, join(temporary, 'xen-hcd.c'));
    writeFileSync(join(temporary, 'Makefile'), 'obj-m := xen-hcd.o\n');
    if (suite === undefined) await makeModule(kernel, temporary);
    else await makeModuleIn(suite, kernel, temporary);
    await hostCommand('strip', ['--strip-debug', join(temporary, 'xen-hcd.ko')]);
  });
  return join(folder, 'xen-hcd.ko');
}

/** Compiles the module in a folder with the host's compiler. */
async function makeModule(kernel: Kernel, folder: string): Promise<void> {
  const headers = `${folder}.headers.${process.pid}.partial`;
  try {
    const tree = await unpackedHeaders(kernel, headers);
    await hostCommand('make', ['-C', tree, `M=${folder}`, 'modules']);
  } finally {
    await hostCommand('rm', ['-rf', headers]);
  }
}

/** The same with the compiler and the libraries of the kernel's own release. */
async function makeModuleIn(suite: string, kernel: Kernel, folder: string): Promise<void> {
  const headers = `linux-headers-${kernel.release}`;
  const root = `${folder}.root.${process.pid}.partial`;
  await inSuiteRoot(suite, [headers, 'make'], root, async () => {
    await hostCommand('cp', ['-r', folder, join(root, 'module')]);
    const make = ['make', '-C', `/usr/src/${headers}`, 'M=/module', 'modules'];
    await hostCommand('chroot', [root, ...make]);
    copyFileSync(join(root, 'module', 'xen-hcd.ko'), join(folder, 'xen-hcd.ko'));
  });
}

/** Unpacks what modules are compiled against. @returns the folder to run make in */
async function unpackedHeaders(kernel: Kernel, folder: string): Promise<string> {
  const name = `linux-headers-${kernel.release}`;
  const depends = (await packageField(name, 'Depends')) ?? '';
  const others = depends
    .split(', ')
    .map((dependency) => dependency.split(' ')[0] ?? '')
    .filter((other) => /^linux-(headers|kbuild)-/.test(other));
  const wanted = await packageVersions([name, ...others]);
  if (wanted === undefined || others.length === 0) {
    throw new Error(`Cannot compile a module: ${name} is not in the package lists`);
  }
  for (const one of wanted) await unpackPackage(one, folder);
  const tree = join(folder, 'usr', 'src', name);
  // The only absolute path in it.
  const common = `include ${join(folder, 'usr', 'src', others.find(isCommon) ?? '', 'Makefile')}\n`;
  writeFileSync(join(tree, 'Makefile'), common);
  return tree;
}

function isCommon(name: string): boolean {
  return name.startsWith('linux-headers-') && name.includes('common');
}
