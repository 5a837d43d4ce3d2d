/**
 * Runs the `urbgate` command as a child process: from the sources under tsx, or as built.
 *
 * Each gateway gets a folder with a control socket of its own. `endAll` ends what a test has left
 * running; it also runs when the test process ends.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const EXTENSION = extname(import.meta.filename);
const MAIN = fileURLToPath(new URL(`../../src/cli/main${EXTENSION}`, import.meta.url));
const COMMAND_PROCESS = fileURLToPath(new URL(`command-process${EXTENSION}`, import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
export const FLAGS = EXTENSION === '.ts' ? ['--import', TSX] : [];

/** A machine that compiles the sources anew, with other tests beside, may need this. */
export const PATIENCE_MILLISECONDS = 240_000;

export interface Ended {
  /** Exit code, or the signal that ended it. */
  readonly code: number | NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

const running = new Set<ChildProcess>();
const folders: string[] = [];
process.on('exit', endAll);

export function endAll(): void {
  for (const child of running) child.kill('SIGKILL');
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** A folder that goes away with the test. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-cli-'));
  folders.push(folder);
  return folder;
}

export class Urbgate {
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Its code or signal, when it has ended; `ended` also waits for what it has said. */
  readonly exited: Promise<Ended['code']>;
  stdout = '';
  stderr = '';
  #onOutput = () => {};

  /** Another `main` than the command's is for what is to be tested in a process of its own. */
  constructor(
    args: readonly string[],
    environment: Record<string, string> = {},
    folder?: string,
    main = MAIN,
  ) {
    const child = spawn(process.execPath, [...FLAGS, main, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...environment },
      cwd: folder,
    });
    this.#child = child;
    running.add(child);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#onOutput();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#onOutput();
    });
    this.exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => resolve(code ?? signal));
    });
    this.ended = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        running.delete(child);
        resolve({ code: code ?? signal, stdout: this.stdout, stderr: this.stderr });
      });
    });
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Nobody reads what it logs any more. */
  stopReading(): void {
    this.#child.stderr?.pause();
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Resolves when stdout or stderr matches; rejects if the process ends before. */
  async says(wanted: RegExp): Promise<RegExpExecArray> {
    const match = () => wanted.exec(this.stdout) ?? wanted.exec(this.stderr);
    const said = new Promise<void>((resolve) => {
      this.#onOutput = () => match() && resolve();
      this.#onOutput();
    });
    await Promise.race([said, this.ended]);
    const found = match();
    if (found === null)
      throw new Error(`urbgate never said ${wanted}:\n${this.stdout}${this.stderr}`);
    return found;
  }

  /** Asks it to stop and waits until it has. */
  async stop(): Promise<Ended> {
    this.kill('SIGTERM');
    return await this.ended;
  }
}

/** Runs a command to its end. */
export async function run(
  args: readonly string[],
  environment?: Record<string, string>,
  folder?: string,
): Promise<Ended> {
  return await new Urbgate(args, environment, folder).ended;
}

export interface TestGateway {
  readonly process: Urbgate;
  readonly port: number;
  readonly folder: string;
  readonly control: string;
  /** Runs a command against its control socket. */
  command(...args: string[]): Promise<Ended>;
}

/** Starts a gateway on a free port of 127.0.0.1 and waits until it serves. */
export async function startGateway(
  specs: readonly string[],
  ...more: string[]
): Promise<TestGateway> {
  const folder = scratchFolder();
  const control = join(folder, 'control.sock');
  const exports = specs.flatMap((spec) => ['--export', spec]);
  const args = ['serve', '--listen', '127.0.0.1:0', '--control', control, ...exports, ...more];
  const process = new Urbgate(args);
  const [, port] = await process.says(/^Listening on 127\.0\.0\.1:(\d+)$/m);
  const command = (...each: string[]) => run([...each, '--control', control]);
  return { process, port: Number(port), folder, control, command };
}

/**
 * Runs many commands in one process. One that does not end within half of `PATIENCE_MILLISECONDS`,
 * whatever holds it, rejects; its process is killed and the next command gets another.
 */
export class CommandProcess {
  #child: ChildProcess | null = null;

  async run(words: readonly string[], environment: Record<string, string> = {}): Promise<Ended> {
    this.#child ??= await startCommands();
    const child = this.#child;
    child.send({ words, environment });
    try {
      const signal = AbortSignal.timeout(PATIENCE_MILLISECONDS / 2);
      const [ended] = await Promise.race([
        once(child, 'message', { signal }),
        once(child, 'exit', { signal }).then(([code]) => Promise.reject(new Error(`exit ${code}`))),
      ]);
      return ended as Ended;
    } catch (error) {
      this.kill();
      throw new Error(`urbgate ${words.join(' ')} does not end as it should`, { cause: error });
    }
  }

  kill(): void {
    this.#child?.kill('SIGKILL');
    this.#child = null;
  }
}

async function startCommands(): Promise<ChildProcess> {
  const child = fork(COMMAND_PROCESS, { execArgv: FLAGS, stdio: 'inherit' });
  running.add(child);
  child.setMaxListeners(0);
  child.once('exit', () => running.delete(child));
  await once(child, 'message');
  return child;
}
