/**
 * The initramfs of a guest: busybox, a few modules and a script that turns the host's file system
 * into the guest's.
 *
 * The script mounts the host's / read-only over 9p, lays a tmpfs over it and starts the agent on
 * top. So node, usbip and the built checkout are at the same paths as on the host, there is no disk
 * image to build, and what a guest writes vanishes with it. The guest caches what it reads: a file
 * that changes on the host while the guest runs may be seen old, new, or torn.
 */

import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { hostCommand } from './host-command.ts';
import type { Kernel } from './kernel.ts';
import { cached } from './paths.ts';

/** The loopback-like address at which a guest finds what {@link file://./guest.ts} forwards. */
export const GUEST_ADDRESS = '10.0.2.15';

/** What the guest needs before it can load modules from its own /lib/modules. */
const EARLY_MODULES = [
  'virtio_pci',
  '9pnet_virtio',
  '9p',
  'overlay',
  'virtio_console',
  'virtio_net',
];

export interface InitramfsOptions {
  kernel: Kernel;
  /** The compiled guest-agent.c. */
  agent: string;
  /** The mount tag of a 9p share that lies over the host's root in the guest. */
  over?: string;
}

/** @returns the path of the image, in the cache. */
export async function initramfs(options: InitramfsOptions): Promise<string> {
  const busybox = BUSYBOX;
  const script = await initScript(options);
  const hash = createHash('sha256').update(script.text);
  for (const file of [busybox, options.agent]) hash.update(readFileSync(file));
  const name = `initramfs-${options.kernel.version}-${hash.digest('hex').slice(0, 12)}.cpio`;
  return cached(name, (temporary) =>
    packTree(temporary, async (folder) => {
      const put = (source: string, target: string) => {
        mkdirSync(dirname(join(folder, target)), { recursive: true });
        copyFileSync(source, join(folder, target));
      };
      for (const name of ['proc', 'sys', 'dev', 'host', 'over', 'upper', 'top']) {
        mkdirSync(join(folder, name), { recursive: true });
      }
      put(busybox, 'bin/busybox');
      put(options.agent, 'guest-agent');
      for (const module of script.modules) put(module, join('modules', basename(module)));
      writeFileSync(join(folder, 'init'), script.text, { mode: 0o755 });
      await hostCommand('chmod', ['755', join(folder, 'bin/busybox'), join(folder, 'guest-agent')]);
    }),
  );
}

export const BUSYBOX = '/usr/bin/busybox';

/** Packs what `fill` puts into a folder into an image. */
export async function packTree(
  image: string,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = `${image}.tree`;
  try {
    mkdirSync(folder, { recursive: true });
    await fill(folder);
    // Not compressed: to unpack it under emulation takes longer than to load it whole.
    const pack = 'cd "$1" && find . | cpio --quiet -o -H newc -R 0:0 > "$2"';
    await hostCommand('sh', ['-c', pack, 'sh', folder, image]);
  } finally {
    await hostCommand('rm', ['-rf', folder]);
  }
}

/** The modules in the order in which they must be loaded, and /init, which loads them. */
async function initScript(options: InitramfsOptions): Promise<{ text: string; modules: string[] }> {
  const modules = await moduleFiles(options.kernel, EARLY_MODULES);
  return { modules, text: initText(options, modules) };
}

/** The files of modules and of what they need, in the order in which they must be loaded. */
export async function moduleFiles(kernel: Kernel, names: readonly string[]): Promise<string[]> {
  const base = dirname(dirname(dirname(kernel.modules)));
  const args = ['-d', base, '-S', kernel.release, '--show-depends', '-a', ...names];
  const modules: string[] = [];
  for (const line of (await hostCommand('/sbin/modprobe', args)).split('\n')) {
    const path = /^insmod (\S+)/.exec(line)?.[1];
    if (path !== undefined && !modules.includes(path)) modules.push(path);
  }
  return modules;
}

function initText({ kernel, over }: InitramfsOptions, modules: readonly string[]): string {
  // A share of its own, as overlayfs refuses a folder that is below another of its layers.
  const lower = over === undefined ? '/host' : '/over:/host';
  const mountOver = over === undefined ? '' : `${mount9p(over, '/over')}\n`;
  const load = modules.map((path) => `busybox insmod /modules/${basename(path)}`).join('\n');
  return `#!/bin/busybox sh
busybox() { /bin/busybox "$@" || { echo "init: failed: $*" >&2; /bin/busybox poweroff -f; }; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
${load}
${mount9p('host', '/host')}
${mountOver}busybox mount -t tmpfs upper /upper
busybox mkdir /upper/files /upper/work
busybox mount -t overlay -o lowerdir=${lower},upperdir=/upper/files,workdir=/upper/work root /top
busybox mkdir -p '/top/lib/modules/${kernel.release}'
busybox mount -o bind '/top${kernel.modules}' '/top/lib/modules/${kernel.release}'
busybox mount -t tmpfs run /top/run
busybox cp /guest-agent /top/run/guest-agent
for folder in proc sys dev; do busybox mount -o move /$folder /top/$folder; done
busybox mkdir -p /top/dev/pts /top/dev/shm
busybox mount -t devpts devpts /top/dev/pts
busybox mount -t tmpfs shm /top/dev/shm
cd /top/proc/sys/kernel
# A stuck task must show within a test's patience, but a busy host must not look like a stuck guest.
echo 30 > hung_task_timeout_secs
echo 10 > hung_task_check_interval_secs
echo -1 > hung_task_warnings
echo 60 > watchdog_thresh
echo guest > hostname
echo 1 > printk
busybox ip link set lo up
if [ -e /top/sys/class/net/eth0 ]; then
  busybox ip address add ${GUEST_ADDRESS}/24 dev eth0
  busybox ip link set eth0 up
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
exec /bin/busybox switch_root /top /run/guest-agent
`;
}

function mount9p(tag: string, folder: string): string {
  const options = 'ro,trans=virtio,version=9p2000.L,msize=1048576,cache=loose';
  return `busybox mount -t 9p -o ${options} ${tag} ${folder}`;
}
