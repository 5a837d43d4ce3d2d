/** A command that runs in a guest: its output so far, its input, its end. */

import { constants } from 'node:os';
import { PAYLOAD_OCTETS_MAX, ToAgent, ToHost } from './agent-frames.ts';

export interface CommandResult {
  /** Exit code; 128 and the number of the signal if one ended the command. */
  code: number;
  stdout: string;
  stderr: string;
}

/** What a process needs to know of its guest: how to describe it in a message. */
interface Place {
  readonly name: string;
  describe(): string;
}

/** How long a killed command may take to go before it counts as stuck in the kernel. */
const KILL_GRACE_SECONDS = 5;

export class GuestProcess {
  readonly command: string;
  /** Takes its standard output, which is not kept then. */
  onOutput: ((octets: Buffer) => void) | undefined;
  /** Called once when it has ended, or its guest. */
  onEnd: (() => void) | undefined;
  #guest: Place;
  #send: (kind: number, payload?: Uint8Array) => void;
  #stdout: Buffer[] = [];
  #stderr: Buffer[] = [];
  #code: number | undefined;
  #lost = false;
  #watchers = new Set<() => void>();

  constructor(command: string, guest: Place, send: (kind: number, payload?: Uint8Array) => void) {
    this.command = command;
    this.#guest = guest;
    this.#send = send;
  }

  /** What it has written to standard output so far. */
  get stdout(): string {
    return Buffer.concat(this.#stdout).toString();
  }

  /** What it has written to standard error so far. */
  get stderr(): string {
    return Buffer.concat(this.#stderr).toString();
  }

  /** Its exit code once it has ended. */
  get code(): number | undefined {
    return this.#code;
  }

  /** Writes to its standard input. */
  write(data: string | Uint8Array): void {
    const octets = Buffer.from(data);
    for (let at = 0; at < octets.length; at += PAYLOAD_OCTETS_MAX) {
      this.#send(ToAgent.input, octets.subarray(at, at + PAYLOAD_OCTETS_MAX));
    }
  }

  /** Ends its standard input, after some last data. */
  end(data?: string | Uint8Array): void {
    if (data !== undefined) this.write(data);
    this.#send(ToAgent.inputEnd);
  }

  /** Sends a signal to the command and its children, SIGTERM by default. */
  signal(name: NodeJS.Signals = 'SIGTERM'): void {
    const number = Buffer.alloc(4);
    number.writeInt32LE(constants.signals[name]);
    this.#send(ToAgent.signal, number);
  }

  /**
   * Waits for its end.
   *
   * @throws Error if the guest ends first, or if it takes longer: then it is killed
   */
  async result(timeoutSeconds: number): Promise<CommandResult> {
    const inTime = await this.#wait(() => this.#code !== undefined, timeoutSeconds);
    if (!inTime) {
      this.signal('SIGKILL');
      const gone = await this.#wait(() => this.#code !== undefined, KILL_GRACE_SECONDS);
      const stuck = gone ? '' : ' and it does not even react to SIGKILL';
      this.#fail(`no end within ${timeoutSeconds} s${stuck}`);
    }
    return { code: this.#code ?? -1, stdout: this.stdout, stderr: this.stderr };
  }

  /**
   * Waits until its output matches, e.g. for a line that says that a server listens.
   *
   * @throws Error if it ends first, or does not print that in time
   */
  async printed(pattern: RegExp, timeoutSeconds = 30): Promise<RegExpExecArray> {
    let match: RegExpExecArray | null = null;
    const look = () => {
      match = pattern.exec(this.stdout);
      return match !== null || this.#code !== undefined;
    };
    await this.#wait(look, timeoutSeconds);
    if (match === null) this.#fail(`it has not printed ${pattern} within ${timeoutSeconds} s`);
    return match;
  }

  /** Takes a frame of the agent; for the guest only. */
  onFrame(kind: number, payload: Buffer): void {
    if (kind === ToHost.output) {
      if (this.onOutput === undefined) this.#stdout.push(payload);
      else this.onOutput(payload);
    }
    if (kind === ToHost.errorOutput) this.#stderr.push(payload);
    if (kind === ToHost.exit) {
      this.#code = payload.readInt32LE();
      this.onEnd?.();
    }
    for (const watcher of [...this.#watchers]) watcher();
  }

  /** The guest has ended; for the guest only. */
  onGuestEnd(): void {
    this.#lost = true;
    this.onEnd?.();
    for (const watcher of [...this.#watchers]) watcher();
  }

  /** @returns whether the condition came true in time */
  async #wait(condition: () => boolean, timeoutSeconds: number): Promise<boolean> {
    if (condition()) return true;
    const reached = await new Promise<boolean>((resolve) => {
      const finish = (value: boolean) => {
        clearTimeout(timer);
        this.#watchers.delete(watcher);
        resolve(value);
      };
      const watcher = () => {
        if (condition()) finish(true);
        else if (this.#lost) finish(false);
      };
      const timer = setTimeout(finish, timeoutSeconds * 1000, false);
      this.#watchers.add(watcher);
      watcher();
    });
    if (!reached && this.#lost) this.#fail('the guest has ended');
    return reached;
  }

  #fail(why: string): never {
    const printed = `${this.stdout}${this.stderr}`.slice(-2000);
    throw new Error(
      `Cannot run ${this.command} in ${this.#guest.name}: ${why}\n${printed}\n` +
        this.#guest.describe(),
    );
  }
}
