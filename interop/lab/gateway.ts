/**
 * Starts `urbgate serve` for a test: on the host, where guests reach it through
 * {@link file://./guest.ts}'s `forward`, or inside a guest, on its loopback.
 *
 * On the host is the rule, as Node is some ten times slower under emulation. The process dies with
 * this one, whatever ends it.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { within } from './deadline.ts';
import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
import { checkoutFolder } from './paths.ts';

export interface GatewayOptions {
  /** Values of `--export`, one a device. */
  exports: readonly string[];
  /** More arguments to `serve`. */
  arguments?: readonly string[];
  /** Added to the environment. */
  environment?: Readonly<Record<string, string>>;
  /** What to run in place of `node dist/src/cli/main.js serve`. */
  command?: readonly string[];
  /** A command that runs it, e.g. `['ip', 'netns', 'exec', name]`. It must exec it. */
  within?: readonly string[];
  /** Where it listens; on the loopback by default, at a port of its own. */
  listen?: string;
  startTimeoutSeconds?: number;
}

/** A gateway in an emulated guest may take so long to give back its devices. */
const STOP_SECONDS = 20;
/** A line of the log, see src/cli/log.ts. */
const BUG = /^\S+Z ERROR /m;
const LISTENING = /Listening on [^\s]*:(\d+)/;

function commandLine(options: GatewayOptions): string[] {
  const program = join(checkoutFolder(), 'dist', 'src', 'cli', 'main.js');
  if (options.command === undefined && !existsSync(program)) {
    throw new Error(`Cannot start a gateway: ${program} is absent, run the build`);
  }
  const exports = options.exports.flatMap((spec) => ['--export', spec]);
  const command = options.command ?? [process.execPath, program, 'serve'];
  const listen = ['--listen', options.listen ?? '127.0.0.1:0'];
  return [
    ...(options.within ?? []),
    ...command,
    ...listen,
    ...exports,
    ...(options.arguments ?? []),
  ];
}

/** A gateway on the host. */
export class Gateway {
  /** Port on the host's loopback. */
  port = 0;
  readonly pid: number;
  /** Resolves when the process has ended, with its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals>;

  #process: ChildProcess;
  #log = '';
  #end: number | NodeJS.Signals | undefined;
  #watchers = new Set<() => void>();

  /** Use {@link startGateway}. */
  constructor(options: GatewayOptions) {
    this.#process = spawn('setpriv', ['--pdeathsig=KILL', ...commandLine(options)], {
      cwd: checkoutFolder(),
      env: { ...process.env, ...options.environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.pid = this.#process.pid ?? 0;
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#log += chunk.toString();
        for (const watcher of [...this.#watchers]) watcher();
      });
      (stream as unknown as { unref(): void } | null)?.unref();
    }
    this.ended = new Promise((resolve) => {
      this.#process.once('error', (error) => {
        this.#log += `${error}\n`;
        resolve(127);
      });
      this.#process.once('close', (code, signal) => resolve(code ?? signal ?? -1));
    });
    this.ended.then((end) => {
      this.#end = end;
      for (const watcher of [...this.#watchers]) watcher();
    });
    this.#process.unref();
  }

  /** Everything it has printed. */
  log(): string {
    return this.#log;
  }

  /** Its exit code or last signal once it has ended. */
  get end(): number | NodeJS.Signals | undefined {
    return this.#end;
  }

  /**
   * Waits until it has printed something.
   *
   * @param from - length of {@link log} at an earlier moment: look only at what came later
   */
  async printed(pattern: RegExp, timeoutSeconds = 10, from = 0): Promise<RegExpExecArray> {
    const found = await new Promise<RegExpExecArray | null>((resolve) => {
      const finish = (match: RegExpExecArray | null) => {
        clearTimeout(timer);
        this.#watchers.delete(look);
        resolve(match);
      };
      const look = () => {
        const match = pattern.exec(this.#log.slice(from));
        if (match !== null || this.#end !== undefined) finish(match);
      };
      const timer = setTimeout(finish, timeoutSeconds * 1000, null);
      this.#watchers.add(look);
      look();
    });
    if (found !== null) return found;
    const state = this.#end === undefined ? 'it runs' : `it ended with ${this.#end}`;
    throw new Error(
      `Cannot find ${pattern} in the gateway's log: ${state}, it is wanted within ` +
        `${timeoutSeconds} s\n${this.#log}`,
    );
  }

  /** Ends it with SIGTERM. @throws Error unless it exits with 0 in time and has told of no bug */
  async stop(timeoutSeconds = 10): Promise<void> {
    if (this.#end === undefined) this.#process.kill('SIGTERM');
    const late = () => `it runs on after ${timeoutSeconds} s`;
    const what = await within(timeoutSeconds, this.ended, late).then(
      (end) => `it ended with ${end}`,
      (error: Error) => error.message,
    );
    if (this.#end === 0) {
      // A bug that is contained ends one connection: tests of others would pass over it.
      if (!BUG.test(this.#log)) return;
      throw new Error(`The gateway has told of a bug, none is wanted\n${this.#log}`);
    }
    await this.kill();
    throw new Error(`Cannot stop the gateway: ${what}, exit code 0 is wanted\n${this.#log}`);
  }

  /** Kills it: to its clients the gateway dies in the middle of whatever it does. */
  async kill(): Promise<void> {
    this.#process.kill('SIGKILL');
    await within(20, this.ended, () => `Cannot kill the gateway: process ${this.pid} is there`);
  }

  /** Sends it any signal, e.g. SIGSTOP to let it hang. */
  signal(name: NodeJS.Signals): void {
    this.#process.kill(name);
  }
}

/** Starts a gateway on the host. @throws Error with its log if it does not come to listen */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const gateway = new Gateway(options);
  try {
    const match = await gateway.printed(LISTENING, options.startTimeoutSeconds ?? 60);
    gateway.port = Number(match[1]);
  } catch (error) {
    await gateway.kill();
    throw error;
  }
  return gateway;
}

/** A gateway in a guest. */
export interface GuestGateway {
  /** Port on the guest's loopback. */
  port: number;
  process: GuestProcess;
  /** Of the process, in the guest. */
  pid: number;
  /** Ends it with SIGTERM. @throws Error unless it exits with 0 in time */
  stop(): Promise<void>;
}

/** Gateways of guests, those included that have ended. */
const started = new WeakMap<Guest, GuestProcess[]>();

/** Starts a gateway inside a guest, where no network is between it and the client. */
export async function startGatewayInGuest(
  guest: Guest,
  options: GatewayOptions,
): Promise<GuestGateway> {
  const environment = Object.entries(options.environment ?? {}).map((pair) =>
    quote(pair.join('=')),
  );
  const command = ['exec', 'env', ...environment, ...commandLine(options).map(quote)].join(' ');
  const process = guest.start(`echo pid $$; cd ${quote(checkoutFolder())} && ${command} 2>&1`);
  started.set(guest, [...(started.get(guest) ?? []), process]);
  process.end();
  const match = await process.printed(LISTENING, options.startTimeoutSeconds ?? 180);
  const pid = Number(/^pid (\d+)$/m.exec(process.stdout)?.[1]);
  const stop = async () => {
    process.signal('SIGTERM');
    const { code, stdout } = await process.result(STOP_SECONDS);
    if (code === 0) return;
    throw new Error(`Cannot stop the gateway: it ended with ${code}, 0 is wanted\n${stdout}`);
  };
  return { port: Number(match[1]), process, pid, stop };
}

/** Ends the gateways that a test which failed has left in a guest, so that the next finds none. */
export async function endGateways(guest: Guest): Promise<void> {
  for (const process of started.get(guest) ?? []) {
    if (process.code !== undefined) continue;
    process.signal('SIGTERM');
    await process.result(STOP_SECONDS).catch(() => {}); // killed by then
  }
  started.delete(guest);
}

function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
