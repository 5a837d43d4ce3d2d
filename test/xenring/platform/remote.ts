/** Starts `peer-process.ts` and asks it. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Commands } from './peer-process.ts';
import { until } from './until.ts';

interface Reply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { readonly kind: string; readonly message: string };
}

export class Remote {
  domain = -1;
  readonly #process: ChildProcess;
  readonly #open = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #lastId = 0;

  private constructor() {
    const own = fileURLToPath(import.meta.url);
    const script = own.replace(/remote\.[jt]s$/, `peer-process${extname(own)}`);
    this.#process = fork(script, { serialization: 'advanced' });
    this.#process.on('message', (message) => {
      const { id, result, error } = message as Reply;
      const open = this.#open.get(id);
      this.#open.delete(id);
      if (error === undefined) open?.resolve(result);
      else {
        open?.reject(Object.assign(new Error(error.message), { name: error.kind }));
      }
    });
    this.#process.on('exit', () => {
      for (const { reject } of this.#open.values()) reject(new Error('the peer has ended'));
    });
  }

  static async start(kind: 'shm' | 'xen', folder: string, domain: number): Promise<Remote> {
    const remote = new Remote();
    try {
      remote.domain = await remote.ask('open', kind, folder, domain);
    } catch (error) {
      await remote.kill();
      throw error;
    }
    return remote;
  }

  async ask<N extends keyof Commands>(
    name: N,
    ...values: Parameters<Commands[N]>
  ): Promise<Awaited<ReturnType<Commands[N]>>> {
    this.#lastId++;
    const id = this.#lastId;
    const result = await new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject });
      this.#process.send({ id, name, values });
    });
    return result as Awaited<ReturnType<Commands[N]>>;
  }

  /** Stops the process, as when no processor is free for it, until `goOn`. */
  async stop(): Promise<void> {
    this.#process.kill('SIGSTOP');
    const path = `/proc/${this.#process.pid}/stat`;
    const isStopped = () => / T /.test(readFileSync(path, 'utf8').replace(/^.*\)/s, ''));
    await until('it stands still', isStopped);
  }

  goOn(): void {
    this.#process.kill('SIGCONT');
  }

  /** Ends the process without a word, and waits until it has gone. */
  async kill(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await gone;
  }
}
