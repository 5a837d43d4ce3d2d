/**
 * The initramfs of a domain: all it has, as it sees no file system of anybody else.
 *
 * It holds busybox for a userland, modules with what modprobe needs to find them, and programs of
 * the host at the paths that they have there, with their libraries: so a test names them alike in
 * every kind of guest.
 */

import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { hostCommand } from './host-command.ts';
import { BUSYBOX, moduleFiles, packTree } from './initramfs.ts';
import type { Kernel } from './kernel.ts';
import { cached } from './paths.ts';

export interface DomainInitramfsOptions {
  kernel: Kernel;
  /** The compiled guest-agent.c. */
  agent: string;
  /** The compiled xen-hcd; without it the kernel has no front end for USB, as Debian's. */
  xenHcd?: string;
  /** Names of modules that can be loaded, besides xen-hcd. */
  modules: readonly string[];
  /** Absolute paths of programs of the host. */
  programs: readonly string[];
}

/** Where the agent of a domain talks, see xen-port.c. */
const AGENT_TERMINAL = '/dev/hvc1';

/** @returns the path of the image, in the cache. */
export async function domainInitramfs(options: DomainInitramfsOptions): Promise<string> {
  const { kernel, agent, xenHcd } = options;
  const modules = await moduleFiles(kernel, options.modules);
  const files = await withLibraries(options.programs);
  const hash = createHash('sha256').update([initText(), ...modules, ...files].join('\n'));
  for (const file of [BUSYBOX, agent, ...(xenHcd ? [xenHcd] : []), ...files]) {
    hash.update(readFileSync(file));
  }
  const name = `domain-${kernel.version}-${hash.digest('hex').slice(0, 12)}.cpio`;
  return cached(name, (temporary) =>
    packTree(temporary, async (folder) => {
      const put = (source: string, target: string) => {
        mkdirSync(dirname(join(folder, target)), { recursive: true });
        copyFileSync(source, join(folder, target)); // the file that a link points to
      };
      for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
        mkdirSync(join(folder, 'usr', name), { recursive: true });
        symlinkSync(join('usr', name), join(folder, name));
      }
      for (const name of ['proc', 'sys', 'dev', 'run', 'tmp', 'mnt', 'root', 'etc']) {
        mkdirSync(join(folder, name), { recursive: true });
      }
      put(BUSYBOX, 'usr/bin/busybox');
      put(agent, 'guest-agent');
      for (const file of files) put(file, file);
      const base = join('lib', 'modules', kernel.release);
      const lists = ['modules.builtin', 'modules.order'].map((name) => join(kernel.modules, name));
      for (const file of [...modules, ...lists]) {
        put(file, join(base, relative(kernel.modules, file)));
      }
      if (xenHcd) put(xenHcd, join(base, 'extra', 'xen-hcd.ko'));
      writeFileSync(join(folder, 'init'), initText());
      await hostCommand('/sbin/depmod', ['-b', folder, kernel.release]);
      const programs = ['init', 'guest-agent', 'usr/bin/busybox'];
      await hostCommand('chmod', ['755', ...programs.map((name) => join(folder, name))]);
    }),
  );
}

/** The files and the libraries that they are linked with, as absolute paths. */
async function withLibraries(programs: readonly string[]): Promise<string[]> {
  const files = new Set(programs);
  for (const program of programs) {
    // It fails for a program that is not linked with any.
    const linked = await hostCommand('ldd', [program]).catch(() => '');
    for (const match of linked.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)) files.add(match[1] ?? '');
  }
  return [...files].sort();
}

function initText(): string {
  return `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /dev/pts /dev/shm
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs shm /dev/shm
# Programs that are there already stay.
/bin/busybox --install -s /usr/bin 2> /dev/null
cd /proc/sys/kernel
echo 30 > hung_task_timeout_secs
echo 10 > hung_task_check_interval_secs
echo -1 > hung_task_warnings
echo 60 > watchdog_thresh
echo domain > hostname
echo 4 > printk
cd /
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
exec /guest-agent ${AGENT_TERMINAL}
`;
}
