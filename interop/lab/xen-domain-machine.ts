/** A domain as the machine of a guest: reached through dom0, and managed by `xl` there. */

import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
import { compiled, labSource } from './kernel.ts';
import { logFolder } from './logs.ts';
import type { Machine } from './machine.ts';
import { until } from './until.ts';

/** Device number of the agent's console. */
const AGENT_CONSOLE = 1;
const CONNECT_TIMEOUT_SECONDS = 20;
/** The last words of a domain are on the way when it is gone already. */
const LAST_WORDS_MILLISECONDS = 5000;

export class DomainMachine implements Machine {
  readonly ended: Promise<void>;
  /** console.log and kernel.log of the domain. */
  readonly folder: string;
  onOctets: (octets: Buffer) => void = () => {};
  #dom0: Guest;
  #name: string;
  #id = Number.NaN;
  #port: GuestProcess | undefined;
  #console = '';
  /** What waits for the agent to say that it has opened its terminal. */
  #held: Uint8Array[] | undefined;
  #end: () => void = () => {};

  constructor(dom0: Guest, name: string) {
    this.#dom0 = dom0;
    this.#name = name;
    this.folder = logFolder(name);
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /** Number of the domain. */
  get id(): number {
    return this.#id;
  }

  /** Makes the agent's console in a domain that is there and paused. */
  async connect(id: number): Promise<void> {
    const program = await compiled(labSource('xen-port.c'), ['-static']);
    this.#id = id;
    const port = this.#dom0.start(`exec ${program} ${id} ${AGENT_CONSOLE}`);
    const words = this.#followConsole();
    this.#held = [];
    port.onOutput = (octets) => {
      const held = this.#held ?? [];
      this.#held = undefined;
      for (const one of held) port.write(one);
      this.onOctets(octets);
    };
    port.onEnd = () => {
      setTimeout(() => words.signal('SIGKILL'), LAST_WORDS_MILLISECONDS).unref();
      if (this.#port === port) this.#end();
    };
    this.#port = port;
    const ready = () => (port.stderr.includes('ready') ? true : undefined);
    const describe = () => `Cannot make a console for domain ${id}: ${port.stderr || 'no answer'}`;
    await until(CONNECT_TIMEOUT_SECONDS, ready, describe);
  }

  /** Lets the domain go without an end of this machine: it will be back. */
  release(): void {
    this.#port = undefined;
    this.#held = [];
  }

  write(octets: Uint8Array): void {
    if (this.#held !== undefined) this.#held.push(octets);
    else this.#port?.write(octets);
  }

  kill(): void {
    this.#tell('destroy');
  }

  pause(): void {
    this.#tell('pause');
  }

  resume(): void {
    this.#tell('unpause');
  }

  console(): string {
    return this.#console;
  }

  messages(): string {
    return this.#port?.stderr ?? '';
  }

  #tell(command: string): void {
    if (!this.#dom0.alive) this.#end();
    else this.#dom0.run(`xl ${command} ${this.#id}`).catch(() => {});
  }

  /** What xenconsoled writes from now on; the file outlives domains, and is theirs by name. */
  #followConsole(): GuestProcess {
    const file = `/var/log/xen/console/guest-${this.#name}.log`;
    const words = this.#dom0.start(`touch ${file}; exec tail -n 0 -F ${file}`);
    words.end();
    words.onOutput = (octets) => {
      this.#console += octets.toString('latin1');
      appendFileSync(join(this.folder, 'console.log'), octets);
    };
    return words;
  }
}
