/**
 * A real Xen in QEMU, with Debian as dom0.
 *
 * {@link bootXen} returns dom0 as a {@link Guest} like any other: it sees the host's file system,
 * has the agent, and reaches forwarded ports. xenstored and xenconsoled run in it, the devices of
 * Xen are there (/dev/xen/gntdev, evtchn, gntalloc, privcmd, xenbus), and `xl` creates domains;
 * xen-domain.ts does that for a test.
 */

import { Guest } from './guest.ts';
import { type LabImages, labImages } from './images.ts';
import { initramfs } from './initramfs.ts';
import { logFolder } from './logs.ts';
import { type Boot, KERNEL_ARGUMENTS, PROCESSOR, QemuMachine } from './qemu.ts';
import { XEN_TOOLS, type XenFiles, xenFiles } from './xen-files.ts';

export interface XenOptions {
  /** For log files and messages. */
  name?: string;
  /** Of the whole machine; what dom0 does not have is for other domains. */
  memoryMebibytes?: number;
  dom0MemoryMebibytes?: number;
  processors?: number;
  bootTimeoutSeconds?: number;
  /** More arguments to QEMU. */
  qemuArguments?: readonly string[];
  /** A command that runs QEMU. It must exec it. */
  within?: readonly string[];
}

/** xenstored and the rest may take so long on a busy host; it is two seconds on an idle one. */
const SETUP_TIMEOUT_SECONDS = 90;

/** Boots Xen and dom0. @throws Error with the end of the console if that does not come up in time */
export async function bootXen(options: XenOptions = {}): Promise<Guest> {
  const images = await labImages();
  const files = await xenFiles();
  const { kernel, agent } = images;
  const dom0Images = { ...images, initramfs: await initramfs({ kernel, agent, over: XEN_SHARE }) };
  const name = options.name ?? 'dom0';
  const folder = logFolder(name);
  const machine = new QemuMachine(dom0Images, xenBoot(dom0Images, files, options), {
    ...options,
    memoryMebibytes: options.memoryMebibytes ?? 4096,
    qemuArguments: [...xenShare(files), ...(options.qemuArguments ?? [])],
    name,
    folder,
  });
  const dom0 = new Guest(machine, name, folder, options.bootTimeoutSeconds ?? 240);
  await dom0.booted;
  try {
    await dom0.succeed(SETUP, { timeoutSeconds: SETUP_TIMEOUT_SECONDS });
  } catch (error) {
    await dom0.kill();
    throw error;
  }
  return dom0;
}

/** Mount tag of the folder with Xen's tools. */
const XEN_SHARE = 'xen';

function xenShare({ folder }: XenFiles): string[] {
  return [
    ...['-fsdev', `local,id=xen,path=${folder},security_model=none,readonly=on,multidevs=remap`],
    ...['-device', `virtio-9p-pci,fsdev=xen,mount_tag=${XEN_SHARE}`],
  ];
}

function xenBoot(images: LabImages, files: XenFiles, options: XenOptions): Boot {
  const memory = options.dom0MemoryMebibytes ?? 2048;
  const processors = options.processors ?? 1;
  const dom0 = [images.kernel.elf, 'console=hvc0', 'earlyprintk=xen', ...KERNEL_ARGUMENTS];
  return {
    kernel: files.hypervisor,
    // Modules are separated by commas, and their command lines from them by spaces.
    initrd: `${dom0.join(' ')},${images.initramfs}`,
    commandLine: [
      'com1=115200,8n1',
      'console=com1',
      `dom0_mem=${memory}M,max:${memory}M`,
      `dom0_max_vcpus=${processors}`,
      // Emulation has no use for them, and they cost seconds. Without the second part Xen would
      // leave floating-point registers to a trap at their first use.
      'spec-ctrl=no,eager-fpu=1',
      'bootscrub=0',
      'guest_loglvl=all',
    ].join(' '),
    // With SMAP dom0 would die at once.
    processor: PROCESSOR,
  };
}

/** The commands of Xen by their names alone, without the wrapper that looks for a version. */
const COMMANDS = ['xl', 'lsevtchn', 'xenstored', 'xenconsoled', 'xenconsole', 'xen-init-dom0'];

const SETUP = `set -e
for module in xenfs xen-gntdev xen-evtchn xen-privcmd xen-gntalloc; do modprobe $module; done
mount -t xenfs xenfs /proc/xen
cd /usr/local/sbin
for name in ${COMMANDS.join(' ')}; do ln -sf ${XEN_TOOLS}/$name $name; done
mkdir -p /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/log/xen/console /run/lock
for device in gntdev evtchn gntalloc privcmd xenbus; do
  [ -e /dev/xen/$device ] || { echo "Cannot use Xen: /dev/xen/$device is absent" >&2; exit 1; }
done
xenstored --pid-file /run/xen/xenstored.pid < /dev/null > /var/log/xen/xenstored.log 2>&1
tries=0
until xenstore-exists / 2> /dev/null; do
  tries=$((tries + 1))
  [ $tries -lt 200 ] || { cat /var/log/xen/xenstored.log >&2; exit 1; }
  sleep 0.05
done
xen-init-dom0
xenconsoled --log=all --pid-file=/run/xen/xenconsoled.pid < /dev/null > /dev/null 2>&1`;
