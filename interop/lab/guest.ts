/**
 * A Linux guest that runs commands for a test: in QEMU (qemu.ts), or in a domain of a Xen that
 * itself runs there (xen-domain.ts).
 *
 * {@link bootGuest} takes a few seconds, so a guest is meant to serve many tests. It sees the
 * host's file system (initramfs.ts) and reaches ports on the host's loopback, and nothing else,
 * through user-mode networking: see {@link Guest.forward}.
 *
 * QEMU dies with this process whatever ends it, so a guest never outlives its test run.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeFrame, FrameReader, ToAgent, ToHost } from './agent-frames.ts';
import { within } from './deadline.ts';
import { type CommandResult, GuestProcess } from './guest-process.ts';
import { labImages } from './images.ts';
import { findComplaints } from './kernel-complaints.ts';
import { logFolder } from './logs.ts';
import type { Machine } from './machine.ts';
import { linuxBoot, QemuMachine } from './qemu.ts';

export { FORWARDED_PORTS, GATEWAY_ADDRESS } from './qemu.ts';

export interface GuestOptions {
  /** For log files and messages. */
  name?: string;
  memoryMebibytes?: number;
  processors?: number;
  /** QEMU's -accel; by default each processor is emulated by a thread of its own. */
  acceleration?: string;
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

/** It takes seconds; on a machine that is busy with others, minutes. */
const BOOT_TIMEOUT_SECONDS = 240;

/** Boots a guest. @throws Error with the end of its console if it does not come up in time */
export async function bootGuest(options: GuestOptions = {}): Promise<Guest> {
  const images = await labImages();
  const name = options.name ?? 'guest';
  const folder = logFolder(name);
  const machine = new QemuMachine(images, linuxBoot(images), { ...options, name, folder });
  const guest = new Guest(machine, name, folder, options.bootTimeoutSeconds);
  await guest.booted;
  return guest;
}

export class Guest {
  readonly name: string;
  /** console.log, kernel.log and qemu.log of this guest are here, and stay. */
  readonly folder: string;
  /** Seconds from the start of the machine to the agent's greeting, once booted. */
  bootSeconds = Number.NaN;
  /** Resolves when the agent has answered. */
  readonly booted: Promise<void>;
  /** Resolves when the machine has ended, for whatever reason. */
  readonly ended: Promise<void>;

  #machine: Machine;
  #alive = true;
  #nextId = 1;
  #processes = new Map<number, GuestProcess>();
  #kernelLog = '';
  #greet: () => void = () => {};

  /** Use {@link bootGuest}. */
  constructor(
    machine: Machine,
    name: string,
    folder: string,
    bootTimeoutSeconds = BOOT_TIMEOUT_SECONDS,
  ) {
    this.name = name;
    this.folder = folder;
    this.#machine = machine;
    const started = performance.now();
    this.ended = machine.ended;
    this.ended.then(() => this.#onEnd());
    const reader = new FrameReader();
    machine.onOctets = (chunk) => {
      for (const { id, kind, payload } of reader.push(chunk)) this.#onFrame(id, kind, payload);
    };
    this.booted = this.#boot(started, bootTimeoutSeconds);
    this.booted.catch(() => {});
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
    if (this.#machine.forward === undefined) {
      throw new Error(`Cannot forward a port to ${this.name}: it has no network`);
    }
    this.#machine.forward(hostPort, guestPort);
  }

  /** Kills the machine: to the rest of the world it dies in the middle of whatever it does. */
  async kill(): Promise<void> {
    this.#machine.kill();
    await within(20, this.ended, () => `Cannot kill ${this.name}: it is there after 20 s`);
  }

  /**
   * Stops the whole guest, as when its machine hangs: nothing answers any more. The host's end of a
   * forwarded connection is another process (forward.c), which still acknowledges what it is sent.
   */
  pause(): void {
    this.#machine.pause();
  }

  /** Lets a paused guest go on. */
  resume(): void {
    this.#machine.resume();
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
    return tail(this.#machine.console(), lines);
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
    if (this.#alive) this.#machine.write(encodeFrame(id, kind, payload));
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
      throw new Error('the machine has ended');
    });
    try {
      const late = () => `no answer within ${timeoutSeconds} s`;
      await within(timeoutSeconds, Promise.race([greeting, end]), late);
      this.bootSeconds = (performance.now() - started) / 1000;
    } catch (error) {
      await this.kill();
      const why = error instanceof Error ? error.message : String(error);
      const messages = this.#machine.messages();
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

function tail(text: string, lines: number): string {
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}
