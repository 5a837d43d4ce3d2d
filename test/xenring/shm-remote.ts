/** Starts `shm-process.ts`, stops it, and ends it. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What a gateway holds. */
export interface GatewayUse {
  readonly grantedPages: number;
  readonly mappedPages: number;
  readonly channels: number;
  readonly watches: number;
  /** Devices that a client has. */
  readonly held: number;
  readonly warnings: readonly string[];
  /** CPU time that it has used. */
  readonly cpuMilliseconds: number;
}

/** What a `load` counts. */
export interface LoadCounts {
  readonly sent: number;
  readonly back: number;
  readonly ok: number;
  readonly doubled: number;
  readonly plugged: number;
  readonly faults: readonly string[];
}

const running = new Set<ShmRemote>();

export class ShmRemote {
  readonly #process: ChildProcess;

  /** Resolves when it has ended, however. */
  readonly ended: Promise<unknown>;

  private constructor(args: readonly string[], environment: Record<string, string>) {
    const own = fileURLToPath(import.meta.url);
    const script = own.replace(/shm-remote\.[jt]s$/, `shm-process${extname(own)}`);
    this.#process = fork(script, args, { env: { ...process.env, ...environment } });
    this.ended = once(this.#process, 'exit');
    running.add(this);
  }

  /** Resolves when it is ready. */
  static async start(...args: readonly (string | number)[]): Promise<ShmRemote> {
    const remote = new ShmRemote(args.map(String), {});
    await remote.says();
    return remote;
  }

  static gateway(
    folder: string,
    devices: readonly Record<string, unknown>[],
    seed = 0,
  ): Promise<ShmRemote> {
    const texts = devices.map((each) => JSON.stringify(each));
    return ShmRemote.start('gateway', folder, seed, ...texts);
  }

  /** A gateway that is killed at a step, 0 for none. Nobody has waited until it is ready. */
  static dyingGateway(folder: string, device: Record<string, unknown>, step: number): ShmRemote {
    const args = ['gateway', folder, '0', JSON.stringify(device)];
    return new ShmRemote(args, step === 0 ? {} : { DIE_AT_STEP: `${step}` });
  }

  /** Its next word. */
  async says(): Promise<unknown> {
    const gone = new AbortController();
    const exit = once(this.#process, 'exit', { signal: gone.signal }).then(() => {
      throw new Error('the process has ended');
    });
    exit.catch(() => {});
    const [word] = await Promise.race([once(this.#process, 'message', gone), exit]);
    gone.abort();
    return word;
  }

  tell(): void {
    this.#process.send('go');
  }

  async use(): Promise<GatewayUse> {
    const answer = this.says();
    this.tell();
    return (await answer) as GatewayUse;
  }

  async counts(): Promise<LoadCounts> {
    const answer = this.says();
    this.tell();
    return (await answer) as LoadCounts;
  }

  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#process.kill(name);
  }

  /** Ends it without a word, and waits until it has gone. */
  async kill(): Promise<void> {
    running.delete(this);
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await gone;
  }

  static async killAll(): Promise<void> {
    await Promise.all([...running].map((one) => one.kill()));
  }
}
