/**
 * A paravirtual domain of a real Xen, with an agent in it.
 *
 * {@link createDomain} returns a {@link Guest} whose machine is the domain. Its agent talks over a
 * second console (/dev/hvc1), which xen-port.c in dom0 joins to the frames of a command there, so
 * that everything a plain guest can do, `run` with its exit code, binary input and output and
 * several commands at once, works in the same way; only `forward` does not, as a domain has no
 * network. The first console is the kernel's: {@link Guest.consoleTail} has it.
 */

import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { domainInitramfs } from './domain-initramfs.ts';
import { Guest } from './guest.ts';
import { hostCommand } from './host-command.ts';
import { labImages } from './images.ts';
import { testusbProgram } from './kernel.ts';
import { logFolder } from './logs.ts';
import { KERNEL_ARGUMENTS } from './qemu.ts';
import { stallProbeProgram } from './stall-probe.ts';
import { DomainMachine } from './xen-domain-machine.ts';
import { xenFiles, xenHcdModule } from './xen-files.ts';

export interface DomainOptions {
  /** Its name in `xl list`, and that of its log folder. */
  name: string;
  memoryMebibytes?: number;
  processors?: number;
  /** Lines of xl's configuration file, e.g. `usbctrl=['type=vusb,version=2,ports=4']`. */
  configuration?: readonly string[];
  /** Modules that it can load besides {@link DOMAIN_MODULES}. */
  modules?: readonly string[];
  /** Whether it can load xen-hcd, which Debian's kernel has not. Default true. */
  xenHcd?: boolean;
  /** Programs of the host that it has besides those of {@link domainPrograms}, absolute paths. */
  programs?: readonly string[];
  /** `xl` starts it again when it reboots, see {@link Domain.rebooted}. Otherwise it is gone then. */
  restarts?: boolean;
  /** Files and folders of the host that it has at the same paths; read when it is created. */
  files?: readonly string[];
  /** Called when the domain is there and has not run yet: for nodes in xenstore. */
  prepare?: (id: number) => Promise<void>;
  /** For `xl create`, which waits for back ends. */
  createTimeoutSeconds?: number;
  bootTimeoutSeconds?: number;
}

/** Modules that a domain can load, besides xen-hcd. */
export const DOMAIN_MODULES: readonly string[] = [
  'usbcore',
  'usb-storage',
  'uas',
  'usbhid',
  'hid-generic',
  'evdev',
  'sd_mod',
  'ext4',
  'crc32c_generic',
  'cdc-acm',
  'snd-usb-audio',
  'usbtest',
];

/** Programs that a domain has besides busybox: those that tests use in plain guests. */
export async function domainPrograms(): Promise<string[]> {
  return ['/sbin/mkfs.ext4', '/sbin/e2fsck', await stallProbeProgram(), await testusbProgram()];
}

const CREATE_TIMEOUT_SECONDS = 120;
/** It is 5 s on an idle host. */
const BOOT_TIMEOUT_SECONDS = 180;
const DESTROY_TIMEOUT_SECONDS = 30;
const SAVE_TIMEOUT_SECONDS = 120;
const REBOOT_TIMEOUT_SECONDS = 60;

/** Creates a domain and waits for its agent. @throws Error with its console if that fails */
export async function createDomain(dom0: Guest, options: DomainOptions): Promise<Domain> {
  const file = `/run/xen/${options.name}.cfg`;
  const image = await imageWithFiles(options);
  await dom0.succeed(`cat > ${file}`, { input: await configurationText(options, image) });
  const createSeconds = options.createTimeoutSeconds ?? CREATE_TIMEOUT_SECONDS;
  try {
    await dom0
      .succeed(`xl create -p ${file} < /dev/null`, { timeoutSeconds: createSeconds })
      .finally(() => options.files && rmSync(image)); // it is in the domain's memory, or nowhere
    const id = await domainId(dom0, options.name);
    const machine = new DomainMachine(dom0, options.name);
    await machine.connect(id);
    await options.prepare?.(id);
    const timeoutSeconds = options.bootTimeoutSeconds ?? BOOT_TIMEOUT_SECONDS;
    const guest = new Guest(machine, options.name, machine.folder, timeoutSeconds);
    await dom0.succeed(`xl unpause ${id}`);
    await guest.booted;
    return new Domain(dom0, guest, machine);
  } catch (error) {
    await dom0.run(`xl destroy ${options.name}`).catch(() => {});
    throw error;
  }
}

async function domainId(dom0: Guest, name: string): Promise<number> {
  return Number(await dom0.succeed(`xl domid ${name}`));
}

/** A domain that was created. */
export class Domain {
  readonly dom0: Guest;
  readonly guest: Guest;
  #machine: DomainMachine;

  /** Use {@link createDomain}. */
  constructor(dom0: Guest, guest: Guest, machine: DomainMachine) {
    this.dom0 = dom0;
    this.guest = guest;
    this.#machine = machine;
  }

  /** Its number, which is another one after {@link restore}. */
  get id(): number {
    return this.#machine.id;
  }

  get name(): string {
    return this.guest.name;
  }

  /** Destroys it, if it has not ended yet, and waits until Xen and xenstore know nothing of it. */
  async destroy(): Promise<void> {
    if (this.guest.alive) await this.guest.kill();
    await this.gone();
  }

  /** Waits until Xen and xenstore know nothing of it, when it ends by itself. */
  async gone(timeoutSeconds = DESTROY_TIMEOUT_SECONDS): Promise<void> {
    const { code, stdout } = await this.dom0.run(
      `end=$(( $(date +%s) + ${timeoutSeconds} ))
while [ $(date +%s) -lt $end ]; do
  if ! xl list ${this.id} > /dev/null 2>&1 && ! xenstore-exists /local/domain/${this.id}; then
    exit 0
  fi
  sleep 0.1
done
xl list
exit 1`,
      { timeoutSeconds: timeoutSeconds + 10 },
    );
    if (code === 0) return;
    throw new Error(
      `Cannot see the end of ${this.name}: domain ${this.id} is there after ` +
        `${timeoutSeconds} s\n${stdout}`,
    );
  }

  /**
   * Waits for what `xl` makes of it when it reboots: another domain of the same name, and of the same
   * uuid, but with a number and a guest of its own.
   */
  async rebooted(): Promise<Domain> {
    const { dom0, name } = this;
    await this.guest.ended;
    const machine = new DomainMachine(dom0, name);
    // xl makes its directory anew before it has a console, and removes what is in there.
    const printed = await dom0.succeed(
      `for try in $(seq ${10 * REBOOT_TIMEOUT_SECONDS}); do
  id=$(xl domid ${name} 2> /dev/null) && [ $id != ${this.id} ] &&
    xenstore-exists /local/domain/$id/console/ring-ref && echo $id && exit
  sleep 0.1
done
xl list
exit 1`,
      { timeoutSeconds: REBOOT_TIMEOUT_SECONDS + 10 },
    );
    await machine.connect(Number(printed));
    const guest = new Guest(machine, name, machine.folder, BOOT_TIMEOUT_SECONDS);
    await dom0.run(`xl unpause ${machine.id}`);
    await guest.booted;
    return new Domain(dom0, guest, machine);
  }

  /**
   * Writes its memory to a file in dom0, ends it, and makes a domain of the file. No command may be
   * running in it: what is on the way to or from the agent is lost.
   *
   * @param prepare - called before it runs again, with its new number: for nodes in xenstore
   * @returns where {@link Guest.kernelComplaints} is to begin: the kernel's driver for the agent's
   * console puts away an event channel that is gone, which it complains of
   */
  async saveAndRestore(prepare?: (id: number) => Promise<void>): Promise<number> {
    const { dom0, name } = this;
    const file = `/run/xen/${name}.save`;
    const timeoutSeconds = SAVE_TIMEOUT_SECONDS;
    this.#machine.release();
    await dom0.succeed(`xl save ${this.id} ${file} < /dev/null`, { timeoutSeconds });
    await this.gone();
    await dom0.succeed(`xl restore -p ${file} < /dev/null`, { timeoutSeconds });
    const id = await domainId(dom0, name);
    await this.#machine.connect(id);
    await prepare?.(id);
    await dom0.succeed(`rm ${file}; xl unpause ${id}`);
    await this.guest.succeed('true'); // the agent sends what is in the log before
    return this.guest.kernelLog().length;
  }
}

/** Gets and makes ahead what Xen and a domain with the usual options need, so that tests start. */
export async function prepareXen(): Promise<void> {
  await xenFiles();
  await domainImage({ name: '' });
}

async function domainImage(options: DomainOptions): Promise<string> {
  const { kernel, agent } = await labImages();
  return domainInitramfs({
    kernel,
    agent,
    ...(options.xenHcd !== false && { xenHcd: await xenHcdModule(kernel) }),
    modules: [...DOMAIN_MODULES, ...(options.modules ?? [])],
    programs: [...(await domainPrograms()), ...(options.programs ?? [])],
  });
}

/**
 * The domain's initramfs, with its files in a second archive behind the first, as the kernel allows.
 * They change with every build, so this is not kept: whoever asks removes it.
 */
async function imageWithFiles(options: DomainOptions): Promise<string> {
  const { files } = options;
  const image = await domainImage(options);
  if (files === undefined) return image;
  const whole = join(logFolder(options.name), 'initramfs.cpio');
  const above = [...new Set(files.flatMap(foldersAbove))].map((folder) => folder.slice(1));
  const script = `set -e
cp "$1" "$2"
cd /
{ echo "$3"; echo "$4" | xargs -I{} find {} ! -name '*.map' ! -name '*.ts'; } |
  cpio --quiet -o -H newc -R 0:0 >> "$2"`;
  const names = [above, files.map((file) => file.slice(1))].map((list) => list.join('\n'));
  await hostCommand('sh', ['-c', script, 'sh', image, whole, ...names]);
  return whole;
}

/** From the outermost on. */
function foldersAbove(path: string): string[] {
  const above = dirname(path);
  return above === '/' ? [] : [...foldersAbove(above), above];
}

async function configurationText(options: DomainOptions, image: string): Promise<string> {
  const { kernel } = await labImages();
  return [
    `name="${options.name}"`,
    'type="pv"',
    `kernel="${kernel.elf}"`,
    `ramdisk="${image}"`,
    `extra="${['console=hvc0', ...KERNEL_ARGUMENTS].join(' ')}"`,
    `memory=${options.memoryMebibytes ?? 256}`,
    `vcpus=${options.processors ?? 1}`,
    ...['poweroff', 'crash'].map((event) => `on_${event}="destroy"`),
    `on_reboot="${options.restarts ? 'restart' : 'destroy'}"`,
    ...(options.configuration ?? []),
    '',
  ].join('\n');
}
