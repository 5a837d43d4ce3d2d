/**
 * A Linux guest in QEMU that runs commands for a test.
 *
 * {@link bootGuest} takes a few seconds, so a guest is meant to serve many tests. It sees the
 * host's file system (initramfs.ts) and reaches ports on the host's loopback, and nothing else,
 * through user-mode networking: see {@link Guest.forward}.
 *
 * QEMU dies with this process whatever ends it, so a guest never outlives its test run.
 */

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeFrame, FrameReader, ToAgent, ToHost } from './agent-frames.ts';
import { within } from './deadline.ts';
import { type CommandResult, GuestProcess } from './guest-process.ts';
import { type LabImages, labImages } from './images.ts';
import { findComplaints } from './kernel-complaints.ts';
import { logFolder } from './logs.ts';

/** Where a guest finds the forwarded ports of the host. */
export const GATEWAY_ADDRESS = '10.0.2.100';

/** The ports at {@link GATEWAY_ADDRESS} that can be forwarded, USB/IP's own first. */
export const FORWARDED_PORTS: readonly number[] = [3240, 3241, 3242, 3243, 3244, 3245, 3246, 3247];

export interface GuestOptions {
  /** For log files and messages. */
  name?: string;
  memoryMebibytes?: number;
  processors?: number;
  /** More arguments to QEMU, e.g. `['-device', 'qemu-xhci']`. */
  qemuArguments?: readonly string[];
  bootTimeoutSeconds?: number;
  /** A command that runs QEMU, e.g. `['ip', 'netns', 'exec', name]`. It must exec it. */
  within?: readonly string[];
}

export interface RunOptions {
  /** The command is killed, and the promise rejected, when it takes longer. */
  timeoutSeconds?: number;
  /** Standard input; it is empty otherwise. */
  input?: string | Uint8Array;
}

/** Boots a guest. @throws Error with the end of its console if it does not come up in time */
export async function bootGuest(options: GuestOptions = {}): Promise<Guest> {
  const guest = new Guest(await labImages(), options);
  await guest.booted;
  return guest;
}

export class Guest {
  readonly name: string;
  /** console.log, kernel.log and qemu.log of this guest are here, and stay. */
  readonly folder: string;
  /** Seconds from the start of QEMU to the agent's greeting, once booted. */
  bootSeconds = Number.NaN;
  /** Resolves when the agent has answered. */
  readonly booted: Promise<void>;
  /** Resolves when QEMU has ended, for whatever reason. */
  readonly ended: Promise<void>;

  #qemu: ChildProcessWithoutNullStreams;
  #alive = true;
  #nextId = 1;
  #processes = new Map<number, GuestProcess>();
  #kernelLog = '';
  #greet: () => void = () => {};

  /** Use {@link bootGuest}. */
  constructor(images: LabImages, options: GuestOptions) {
    this.name = options.name ?? 'guest';
    this.folder = logFolder(this.name);
    mkdirSync(join(this.folder, 'forward'));
    this.#qemu = spawn(images.keeper, qemuCommand(images, options, this.folder), { stdio: 'pipe' });
    const started = performance.now();
    const log = createWriteStream(join(this.folder, 'qemu.log'));
    this.#qemu.stderr.pipe(log);
    this.ended = new Promise((resolve) => {
      this.#qemu.once('error', () => resolve());
      this.#qemu.once('close', () => resolve());
    });
    this.ended.then(() => this.#onEnd());
    this.#qemu.stdin.on('error', () => {}); // QEMU is gone: `ended` tells
    const reader = new FrameReader();
    this.#qemu.stdout.on('data', (chunk: Buffer) => {
      for (const { id, kind, payload } of reader.push(chunk)) this.#onFrame(id, kind, payload);
    });
    this.booted = this.#boot(started, options.bootTimeoutSeconds ?? 60);
    this.booted.catch(() => {});
    // Only a command in progress keeps this process alive, and QEMU ends with it.
    this.#qemu.unref();
    for (const stream of [this.#qemu.stdin, this.#qemu.stdout, this.#qemu.stderr]) {
      (stream as unknown as { unref(): void }).unref();
    }
  }

  get alive(): boolean {
    return this.#alive;
  }

  /**
   * Runs a line of shell to its end, as root, at the same time as others if need be.
   *
   * @throws Error if the guest dies, or if the command takes longer than it may (30 s by default);
   * not if it merely fails
   */
  run(command: string, options: RunOptions = {}): Promise<CommandResult> {
    const process = this.start(command);
    process.end(options.input);
    return process.result(options.timeoutSeconds ?? 30);
  }

  /** Like {@link run}, but a failing command is an error. @returns its standard output */
  async succeed(command: string, options: RunOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(command, options);
    if (code === 0) return stdout;
    throw new Error(
      `Cannot run ${command} in ${this.name}: it ended with ${code}, 0 is wanted\n` +
        `${stdout}${stderr}`,
    );
  }

  /** Starts a line of shell and leaves it running, with its input open. */
  start(command: string): GuestProcess {
    if (!this.#alive) {
      throw new Error(`Cannot start ${command} in ${this.name}: the guest has ended`);
    }
    const id = this.#nextId++;
    const process = new GuestProcess(command, this, (kind, payload) =>
      this.#send(id, kind, payload),
    );
    this.#processes.set(id, process);
    this.#send(id, ToAgent.start, Buffer.from(command));
    return process;
  }

  /**
   * Lets the guest reach a port of the host's loopback as {@link GATEWAY_ADDRESS}:`guestPort`.
   *
   * It applies to connections made from now on, so a running guest can go from gateway to gateway.
   * When nothing listens on the host, the guest's connection is accepted and then closed at once.
   *
   * @param guestPort - one of {@link FORWARDED_PORTS}
   */
  forward(hostPort: number, guestPort = 3240): void {
    if (!FORWARDED_PORTS.includes(guestPort)) {
      throw new RangeError(
        `Cannot forward port ${guestPort}: it is not one of ${FORWARDED_PORTS.join(', ')}`,
      );
    }
    const file = forwardFile(this.folder, guestPort);
    writeFileSync(`${file}.new`, `${hostPort}\n`);
    renameSync(`${file}.new`, file);
  }

  /** Kills QEMU: to the rest of the world the guest dies in the middle of whatever it does. */
  async kill(): Promise<void> {
    this.#qemu.kill('SIGTERM'); // keeper.c: SIGKILL to QEMU
    await within(20, this.ended, () => `Cannot kill ${this.name}: QEMU is there after 20 s`);
  }

  /**
   * Stops the whole guest, as when its machine hangs: nothing answers any more. The host's end of a
   * forwarded connection is another process (forward.c), which still acknowledges what it is sent.
   */
  pause(): void {
    this.#qemu.kill('SIGUSR1');
  }

  /** Lets a paused guest go on. */
  resume(): void {
    this.#qemu.kill('SIGUSR2');
  }

  /** Ends the guest in order, or by force if it takes longer. */
  async powerOff(timeoutSeconds = 10): Promise<void> {
    if (this.#alive) this.#send(0, ToAgent.powerOff);
    await within(timeoutSeconds, this.ended, () => '').catch(() => this.kill());
  }

  /** The whole kernel log so far, also of a guest that has ended. */
  kernelLog(): string {
    return this.#kernelLog;
  }

  /** The last lines of the serial console, which has what a dying kernel prints. */
  consoleTail(lines = 30): string {
    return tail(readLog(join(this.folder, 'console.log')), lines);
  }

  /**
   * What in the kernel's log speaks of a defect: an oops, a warning, a task that hangs, ...
   *
   * @param since - length of {@link kernelLog} at an earlier moment: look only at what came later
   */
  kernelComplaints(since = 0): string[] {
    const found = findComplaints(this.#kernelLog.slice(since));
    // The console repeats the log, unless the kernel died before the agent could read it.
    return found.length > 0 || this.#alive ? found : findComplaints(this.consoleTail(1000));
  }

  /** A few lines for the message of an error: how the guest is, and where to read on. */
  describe(): string {
    const state = this.#alive ? 'is up' : 'has ended';
    const log = tail(this.#kernelLog, 15);
    return `${this.name} ${state}; its logs are in ${this.folder}\n${log}\n${this.consoleTail(15)}`;
  }

  #send(id: number, kind: number, payload?: Uint8Array): void {
    if (this.#alive) this.#qemu.stdin.write(encodeFrame(id, kind, payload));
  }

  #onFrame(id: number, kind: number, payload: Buffer): void {
    if (kind === ToHost.hello) this.#greet();
    else if (kind === ToHost.kernelLog) {
      this.#kernelLog += payload.toString('latin1');
      writeFileSync(join(this.folder, 'kernel.log'), payload, { flag: 'a' });
    } else {
      this.#processes.get(id)?.onFrame(kind, payload);
      if (kind === ToHost.exit) this.#processes.delete(id);
    }
  }

  async #boot(started: number, timeoutSeconds: number): Promise<void> {
    const greeting = new Promise<void>((resolve) => {
      this.#greet = resolve;
    });
    const end = this.ended.then(() => {
      throw new Error('QEMU has ended');
    });
    try {
      const late = () => `no answer within ${timeoutSeconds} s`;
      await within(timeoutSeconds, Promise.race([greeting, end]), late);
      this.bootSeconds = (performance.now() - started) / 1000;
    } catch (error) {
      await this.kill();
      const why = error instanceof Error ? error.message : String(error);
      const messages = readLog(join(this.folder, 'qemu.log'));
      throw new Error(
        `Cannot boot ${this.name}: ${why}, a running agent is wanted\n${messages}` +
          this.consoleTail(),
      );
    } finally {
      end.catch(() => {});
    }
  }

  #onEnd(): void {
    this.#alive = false;
    for (const process of this.#processes.values()) process.onGuestEnd();
    this.#processes.clear();
  }
}

const KERNEL_ARGUMENTS = [
  'console=ttyS0',
  'quiet',
  'panic=-1',
  'mitigations=off',
  'random.trust_cpu=on',
  // The alternative clock, HPET, costs an exit from translated code at each look.
  'tsc=reliable',
  'no_timer_check',
  // QEMU keeps translated code by virtual address: with fixed ones a process starts in a third of
  // the time.
  'norandmaps',
];

function qemuCommand(images: LabImages, options: GuestOptions, folder: string): string[] {
  const forwards = FORWARDED_PORTS.map(
    (port) =>
      `,guestfwd=tcp:${GATEWAY_ADDRESS}:${port}-cmd:${images.forward} ${forwardFile(folder, port)}`,
  );
  return [
    ...(options.within ?? []),
    'qemu-system-x86_64',
    ...['-name', options.name ?? 'guest', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-machine', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max,-la57', '-no-reboot'],
    ...['-smp', `${options.processors ?? 2}`, '-m', `${options.memoryMebibytes ?? 2048}`],
    ...['-kernel', images.kernel.elf, '-initrd', images.initramfs],
    ...['-append', KERNEL_ARGUMENTS.join(' ')],
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

function tail(text: string, lines: number): string {
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}
