/**
 * Runs the xenstored of the distribution, without Xen, in a folder of its own.
 *
 * It is looked for in URBGATE_XEN, a folder into which the packages xen-utils-* and their libraries
 * are unpacked, and in this system's own places.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pause } from './platform/until.ts';

const START_MILLISECONDS = 45_000;

export interface StockXenstored {
  readonly socket: string;
  /** Runs one of the stock clients, such as xenstore-ls, and returns what it prints. */
  client(name: string, ...values: string[]): string;
  end(): Promise<void>;
}

function root(): string | undefined {
  const roots = [process.env.URBGATE_XEN, '/'].filter((one) => one !== undefined);
  return roots.find((one) => binaryIn(one) !== undefined);
}

function binaryIn(folder: string): string | undefined {
  const lib = join(folder, 'usr/lib');
  if (!existsSync(lib)) return undefined;
  return readdirSync(lib)
    .filter((name) => name.startsWith('xen-'))
    .map((name) => join(lib, name, 'bin/xenstored'))
    .find((path) => existsSync(path));
}

/** Undefined where there is no xenstored, or no compiler for what stands in for Xen. */
export async function startStockXenstored(): Promise<StockXenstored | undefined> {
  const from = root();
  const binary = from === undefined ? undefined : binaryIn(from);
  if (from === undefined || binary === undefined) return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-xenstored-'));
  const preload = join(folder, 'alone.so');
  try {
    const source = sourceFile();
    execFileSync('gcc', ['-shared', '-fPIC', '-w', '-o', preload, source, '-ldl']);
  } catch {
    rmSync(folder, { recursive: true });
    return undefined;
  }
  const socket = join(folder, 'socket');
  const libraries = join(from, 'usr/lib/x86_64-linux-gnu');
  const env = { ...process.env, LD_LIBRARY_PATH: libraries, XENSTORED_RUNDIR: folder };
  const daemon = spawn(binary, ['-N'], {
    env: { ...env, LD_PRELOAD: preload },
    stdio: 'ignore',
  });
  await waitFor(socket, daemon);
  return {
    socket,
    client: (name, ...values) =>
      execFileSync(join(from, 'usr/bin', name), values, {
        env: { ...env, XENSTORED_PATH: socket },
        encoding: 'utf8',
      }),
    async end() {
      const gone = once(daemon, 'exit');
      daemon.kill('SIGKILL');
      await gone;
      rmSync(folder, { recursive: true });
    },
  };
}

/** Beside this file, or beside its source if this was compiled to dist/. */
function sourceFile(): string {
  const own = fileURLToPath(new URL('./xenstored-alone.c', import.meta.url));
  return existsSync(own) ? own : own.replace('/dist/test/', '/test/');
}

async function waitFor(socket: string, daemon: ChildProcess): Promise<void> {
  const end = Date.now() + START_MILLISECONDS;
  while (!existsSync(socket)) {
    if (daemon.exitCode !== null || Date.now() > end)
      throw new Error(`xenstored does not start: exit code ${daemon.exitCode}`);
    await pause(10);
  }
}
