/** Talks to a guest's QEMU: plugs devices in and out, presses keys. */
import { mkdtempSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { within } from './deadline.ts';

const ANSWER_SECONDS = 20;

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** The monitor of one guest; give `qemuArguments` to it, then `open`. */
export class QemuMonitor {
  readonly folder = mkdtempSync(join(tmpdir(), 'urbgate-qemu-'));
  readonly #path = join(this.folder, 'monitor');
  #socket: Socket | undefined;
  readonly #waiting: Waiting[] = [];

  get qemuArguments(): string[] {
    const chardev = `socket,id=monitor,path=${this.#path},server=on,wait=off`;
    return ['-chardev', chardev, '-mon', 'chardev=monitor,mode=control'];
  }

  async open(): Promise<void> {
    const socket = connect(this.#path);
    this.#socket = socket;
    socket.unref();
    socket.on('error', () => {});
    createInterface(socket).on('line', (line) => {
      const message = JSON.parse(line);
      if ('return' in message) this.#waiting.shift()?.resolve(message.return);
      else if ('error' in message) this.#waiting.shift()?.reject(new Error(message.error.desc));
    });
    await this.command('qmp_capabilities');
  }

  /** A command of QMP. @throws Error with what QEMU says */
  command(execute: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const answer = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#socket?.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    return within(ANSWER_SECONDS, answer, () => `Cannot ${execute}: QEMU does not answer`);
  }

  /** A command as people type it. */
  say(line: string): Promise<unknown> {
    return this.command('human-monitor-command', { 'command-line': line });
  }

  close(): void {
    this.#socket?.destroy();
  }
}
