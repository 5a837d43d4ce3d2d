/**
 * A machine in QEMU, emulated, that boots a kernel from files of the host.
 *
 * It sees the host's file system over 9p, reaches forwarded ports of the host's loopback, and its
 * agent is at a virtio-serial port. The kernel may be Linux, or Xen with Linux as its first module.
 */

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LabImages } from './images.ts';
import type { Machine } from './machine.ts';

/** Where a guest finds the forwarded ports of the host. */
export const GATEWAY_ADDRESS = '10.0.2.100';

/** The ports at {@link GATEWAY_ADDRESS} that can be forwarded, USB/IP's own first. */
export const FORWARDED_PORTS: readonly number[] = [3240, 3241, 3242, 3243, 3244, 3245, 3246, 3247];

/** What is booted: QEMU's -kernel, -initrd, -append and -cpu. */
export interface Boot {
  kernel: string;
  initrd: string;
  commandLine: string;
  processor: string;
}

export interface QemuOptions {
  name: string;
  /** For console.log, qemu.log and the forwarded ports. */
  folder: string;
  memoryMebibytes?: number;
  /** Default: one, as tests run two at a time; several where a race is the point. */
  processors?: number;
  /** QEMU's -accel; by default each processor is emulated by a thread of its own. */
  acceleration?: string;
  qemuArguments?: readonly string[];
  within?: readonly string[];
}

export class QemuMachine implements Machine {
  readonly ended: Promise<void>;
  onOctets: (octets: Buffer) => void = () => {};
  #qemu: ChildProcessWithoutNullStreams;
  #folder: string;
  #gone = false;

  constructor(images: LabImages, boot: Boot, options: QemuOptions) {
    this.#folder = options.folder;
    mkdirSync(join(options.folder, 'forward'));
    this.#qemu = spawn(images.keeper, qemuCommand(images, boot, options), { stdio: 'pipe' });
    const log = createWriteStream(join(options.folder, 'qemu.log'));
    this.#qemu.stderr.pipe(log);
    this.ended = new Promise((resolve) => {
      const end = () => {
        this.#gone = true;
        resolve();
      };
      this.#qemu.once('error', end);
      this.#qemu.once('close', end);
    });
    this.#qemu.stdin.on('error', () => {}); // QEMU is gone: `ended` tells
    this.#qemu.stdout.on('data', (chunk: Buffer) => this.onOctets(chunk));
    // Only a command in progress keeps this process alive, and QEMU ends with it.
    this.#qemu.unref();
    for (const stream of [this.#qemu.stdin, this.#qemu.stdout, this.#qemu.stderr]) {
      (stream as unknown as { unref(): void }).unref();
    }
  }

  write(octets: Uint8Array): void {
    if (!this.#gone) this.#qemu.stdin.write(octets);
  }

  kill(): void {
    this.#qemu.kill('SIGTERM'); // keeper.c: SIGKILL to QEMU
  }

  pause(): void {
    this.#qemu.kill('SIGUSR1');
  }

  resume(): void {
    this.#qemu.kill('SIGUSR2');
  }

  forward(hostPort: number, guestPort: number): void {
    if (!FORWARDED_PORTS.includes(guestPort)) {
      throw new RangeError(
        `Cannot forward port ${guestPort}: it is not one of ${FORWARDED_PORTS.join(', ')}`,
      );
    }
    const file = forwardFile(this.#folder, guestPort);
    writeFileSync(`${file}.new`, `${hostPort}\n`);
    renameSync(`${file}.new`, file);
  }

  console(): string {
    return readLog(join(this.#folder, 'console.log'));
  }

  messages(): string {
    return readLog(join(this.#folder, 'qemu.log'));
  }
}

/** What suits Linux under emulation, on bare metal or as dom0. */
export const KERNEL_ARGUMENTS: readonly string[] = [
  'quiet',
  'panic=-1',
  'mitigations=off',
  'random.trust_cpu=on',
  // QEMU keeps translated code by virtual address: with fixed ones a process starts in a third of
  // the time.
  'norandmaps',
  // What is to find others' bugs, at a price for each system call and each page.
  'init_on_alloc=0',
  'hardened_usercopy=off',
];

/**
 * All that QEMU has, but for what emulation makes dear: SMAP and SMEP end a piece of translated code at each
 * access to user memory, and with "fast" string instructions the kernel copies by the octet, without them by
 * eight (through a pipe: four times as fast).
 */
export const PROCESSOR = 'max,-la57,-smap,-smep,-pku,-erms,-fsrm';

/** Boots Linux itself. */
export function linuxBoot(images: LabImages): Boot {
  return {
    kernel: images.kernel.elf,
    initrd: images.initramfs,
    // The alternative clock, HPET, costs an exit from translated code at each look.
    commandLine: ['console=ttyS0', ...KERNEL_ARGUMENTS, 'tsc=reliable', 'no_timer_check'].join(' '),
    processor: PROCESSOR,
  };
}

function qemuCommand(images: LabImages, boot: Boot, options: QemuOptions): string[] {
  const { folder } = options;
  const forwards = FORWARDED_PORTS.map(
    (port) =>
      `,guestfwd=tcp:${GATEWAY_ADDRESS}:${port}-cmd:${images.forward} ${forwardFile(folder, port)}`,
  );
  return [
    ...(options.within ?? []),
    'qemu-system-x86_64',
    ...['-name', options.name, '-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-machine', 'q35', '-accel', options.acceleration ?? 'tcg,thread=multi'],
    ...['-cpu', boot.processor, '-no-reboot'],
    ...['-smp', `${options.processors ?? 1}`, '-m', `${options.memoryMebibytes ?? 2048}`],
    ...['-kernel', boot.kernel, '-initrd', boot.initrd, '-append', boot.commandLine],
    ...['-serial', `file:${join(folder, 'console.log')}`],
    ...['-fsdev', 'local,id=host,path=/,security_model=none,readonly=on,multidevs=remap'],
    ...['-device', 'virtio-9p-pci,fsdev=host,mount_tag=host'],
    ...['-chardev', 'stdio,id=agent,signal=off', '-device', 'virtio-serial-pci'],
    ...['-device', 'virtserialport,chardev=agent,name=agent'],
    ...['-netdev', `user,id=net,restrict=on,ipv6=off${forwards.join('')}`],
    ...['-device', 'virtio-net-pci,netdev=net,romfile='],
    ...(options.qemuArguments ?? []),
  ];
}

function forwardFile(folder: string, guestPort: number): string {
  return join(folder, 'forward', `${guestPort}`);
}

function readLog(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
