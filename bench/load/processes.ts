/**
 * The processes of a benchmark: servers under test and the C load generator.
 *
 * Everything started here is ended by {@link stopAll}, at the latest when this process exits.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, extname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import type { ClientResult, ClientRow } from './node-client.ts';

const run = promisify(execFile);
const START_TIMEOUT_MILLISECONDS = 15_000;
const LOAD_SLACK_MILLISECONDS = 60_000;
const STDERR_CHARACTERS_KEPT = 2000;

/** The checkout, whether this file runs from bench/ or from dist/bench/. */
export const ROOT = findRoot(import.meta.dirname);

function findRoot(from: string): string {
  if (existsSync(join(from, 'package.json'))) return from;
  const parent = dirname(from);
  if (parent === from) throw new Error('Cannot find package.json above the benchmark');
  return findRoot(parent);
}

const children = new Set<ChildProcess>();
let buildFolder: string | undefined;

/** Ends every process started here and removes the built load generator. */
export function stopAll(): void {
  for (const child of children) child.kill('SIGKILL');
  children.clear();
  if (buildFolder !== undefined) rmSync(buildFolder, { recursive: true, force: true });
  buildFolder = undefined;
}

process.on('exit', stopAll);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1));

function track(child: ChildProcess): ChildProcess {
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

/**
 * Where client and server run: on two CPUs, both on one, or where the scheduler likes. It likes now
 * one, now the other, at five times the rate or a fifth; so rows that are compared choose.
 */
export type Placement = 'apart' | 'together' | 'free';

const CLIENT_CPU = String(Math.max(0, availableParallelism() - 2));
/** Also the CPU of both when together: the first CPU serves most interrupts. */
const SERVER_CPU = String(availableParallelism() - 1);

/** Prefixes a command with taskset(1), which replaces itself, so the process id is the command's. */
function bound(cpu: string | null, command: string[]): [string, string[]] {
  const [file = '', ...rest] = cpu === null ? command : ['taskset', '-c', cpu, ...command];
  return [file, rest];
}

/** Where taskset(1) or a second CPU is missing, everything runs free. */
export function canPlace(): boolean {
  if (availableParallelism() < 2) return false;
  try {
    execFileSync('taskset', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** A server under test. */
export interface ServerProcess {
  readonly port: number;
  readonly pid: number;
  /** Ends it and waits for that. */
  stop(): Promise<void>;
}

/**
 * Starts a Node program that prints `Listening on HOST:PORT`.
 *
 * @throws {Error} if it ends or stays silent for 15 seconds.
 */
export function startServer(
  script: string,
  args: string[],
  placement: Placement = 'free',
): Promise<ServerProcess> {
  // Under tsx, process.execArgv makes the child understand TypeScript too.
  const flags = extname(script) === '.ts' ? process.execArgv : [];
  return startCommand([process.execPath, ...flags, script, ...args], placement);
}

/** The same for any program. */
export function startCommand(
  command: string[],
  placement: Placement = 'free',
): Promise<ServerProcess> {
  const cpu = placement === 'together' ? SERVER_CPU : null;
  const [file, rest] = bound(cpu, command);
  const child = track(spawn(file, rest, { stdio: ['pipe', 'pipe', 'pipe'] }));
  let said = '';
  let complained = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    complained = (complained + text).slice(-STDERR_CHARACTERS_KEPT);
  });
  return new Promise((resolve, reject) => {
    const fail = (why: string) => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      reject(new Error(`Cannot start ${command.join(' ')}: ${why}\n${said}${complained}`));
    };
    const timer = setTimeout(() => fail('no "Listening on" line'), START_TIMEOUT_MILLISECONDS);
    child.once('error', (error) => fail(error.message));
    child.once('exit', (code, signal) => fail(`it ended with ${signal ?? code}`));
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-STDERR_CHARACTERS_KEPT);
      const port = /Listening on \S*:(\d+)/.exec(said)?.[1];
      if (port === undefined || child.pid === undefined) return;
      clearTimeout(timer);
      // Only the main thread: V8's helpers would compete with it on its one CPU.
      if (placement === 'apart') {
        execFileSync('taskset', ['-p', '-c', SERVER_CPU, String(child.pid)], { stdio: 'ignore' });
      }
      resolve({ port: Number(port), pid: child.pid, stop: () => stop(child) });
    });
  });
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 3000);
  await ended;
  clearTimeout(timer);
}

/** Starts the bare echo of node-echo.ts; see there for its options. */
export function startEcho(
  placement: Placement = 'free',
  options: string[] = [],
): Promise<ServerProcess> {
  const script = join(import.meta.dirname, `node-echo${extname(import.meta.filename)}`);
  return startServer(script, options, placement);
}

/** Starts `urbgate serve` with a source/sink device at each bus id. */
export function startGateway(
  script: string,
  busIds: string[],
  placement: Placement = 'free',
  extra: readonly string[] = [],
): Promise<ServerProcess> {
  if (!existsSync(script)) throw new Error(`Cannot start ${script}: no such file, build it first`);
  const exports = busIds.flatMap((id) => ['--export', `virtual:source-sink,busid=${id}`]);
  // No control socket: another gateway of this user may hold its default path.
  const args = ['serve', '--listen', '127.0.0.1:0', '--control', 'none', ...exports, ...extra];
  return startServer(script, args, placement);
}

/** Compiles usbip-load.c into a folder that goes away with this process; returns the program. */
export function buildLoad(): Promise<string> {
  return buildProgram('usbip-load');
}

/** The same for any program of bench/load/. */
async function buildProgram(name: string): Promise<string> {
  buildFolder ??= mkdtempSync(join(tmpdir(), 'urbgate-bench-'));
  const program = join(buildFolder, name);
  await run('cc', ['-O2', '-o', program, join(ROOT, `bench/load/${name}.c`)]);
  return program;
}

/** Runs a program's main, says why it failed without a stack, and ends what it left running. */
export async function runMain(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
    process.exitCode = 2;
  } finally {
    stopAll();
  }
}

/** What usbip-load prints. A run with `errors` has no rates. */
export interface LoadResult {
  readonly urbs: number;
  readonly seconds: number;
  readonly urbsPerSecond: number;
  readonly octetsPerSecond: number;
  readonly roundTripMicrosecondsP50: number;
  readonly roundTripMicrosecondsP99: number;
  readonly ownCpuSeconds: number;
  readonly serverCpuSeconds?: number;
  /** Of a run through the relay; the warm-up is in it. */
  readonly relayCpuSeconds?: number;
  /** CPU time of everything on the machine, stolen time included. */
  readonly machineCpuSeconds?: number;
  readonly errors: number;
  readonly firstError?: string;
}

/**
 * Runs usbip-load to its end.
 *
 * @throws {Error} if it finds a wrong reply, or does not end within a minute after `seconds`.
 */
export async function runLoad(
  program: string,
  args: string[],
  seconds: number,
  placement: Placement = 'free',
): Promise<LoadResult> {
  const cpu = { apart: CLIENT_CPU, together: SERVER_CPU, free: null }[placement];
  const [file, rest] = bound(cpu, [program, ...args]);
  const timeout = seconds * 1000 + LOAD_SLACK_MILLISECONDS;
  try {
    const { stdout } = await run(file, rest, { timeout, killSignal: 'SIGKILL' });
    return JSON.parse(stdout) as LoadResult;
  } catch (error) {
    const stdout = error instanceof Error && 'stdout' in error ? String(error.stdout) : '';
    const said = stdout.startsWith('{') ? (JSON.parse(stdout) as LoadResult).firstError : undefined;
    throw new Error(`Cannot finish usbip-load: ${said ?? error}`);
  }
}

/** A client that is attached to a device and idle. */
export interface IdleClient {
  release(): Promise<void>;
}

/**
 * Attaches one idle client.
 *
 * @throws {Error} if it cannot attach.
 */
export function attachIdle(program: string, port: number, busId: string): Promise<IdleClient> {
  const args = ['--hold', '--port', String(port), '--busid', busId];
  const child = track(spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] }));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.stdout?.setEncoding('utf8').once('data', (line: string) => {
      const { errors, firstError } = JSON.parse(line) as LoadResult;
      if (errors > 0) return reject(new Error(`Cannot attach ${busId}: ${firstError}`));
      const ended = new Promise<void>((done) => child.once('exit', () => done()));
      const release = () => {
        child.stdin?.end();
        return ended;
      };
      resolve({ release });
    });
  });
}

/** A program in Node that answers each line of JSON with another. */
export interface Answerer<Question, Answer> {
  readonly pid: number;
  ask(question: Question): Promise<Answer>;
  stop(): Promise<void>;
}

/** A client of node-client.ts that has its device; it runs rows. */
export type NodeClient = Answerer<ClientRow, ClientResult>;

/**
 * Starts a client in Node; see node-client.ts for its options.
 *
 * @throws {Error} if it ends before it has the device.
 */
export function startNodeClient(args: string[], placement: Placement): Promise<NodeClient> {
  return startAnswerer('node-client', args, placement);
}

/** A relay, which runs usbip-load with the options that it is given; see relay.ts. */
export type Relay = Answerer<readonly string[], LoadResult>;

/** `bare`: one that looks at nothing in its place, 'node', 'copy' or 'splice'; see bare-relay.ts. */
export async function startRelay(
  port: number,
  busId: string,
  placement: Placement,
  bare?: string,
): Promise<Relay> {
  const args = ['--tcp', `${port}`, '--busid', busId];
  if (bare === undefined) return startAnswerer('relay', args, placement);
  const how = bare === 'node' ? bare : `${bare}:${await buildProgram('bare-relay')}`;
  return startAnswerer('bare-relay', [...args, '--how', how], placement);
}

async function startAnswerer<Question, Answer>(
  name: string,
  args: string[],
  placement: Placement,
): Promise<Answerer<Question, Answer>> {
  const script = join(import.meta.dirname, `${name}${extname(import.meta.filename)}`);
  const flags = extname(script) === '.ts' ? process.execArgv : [];
  const command = [process.execPath, ...flags, script, ...args];
  const [file, rest] = bound(placement === 'together' ? SERVER_CPU : null, command);
  const child = track(spawn(file, rest, { stdio: ['pipe', 'pipe', 'inherit'] }));
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  const iterator = lines[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await iterator.next();
    if (done) throw new Error(`Cannot go on: ${name} ${args.join(' ')} has ended`);
    return value as string;
  };
  await next();
  const { pid = -1 } = child;
  if (placement === 'apart') {
    execFileSync('taskset', ['-p', '-c', CLIENT_CPU, `${pid}`], { stdio: 'ignore' });
  }
  const ask = async (question: Question) => {
    child.stdin?.write(`${JSON.stringify(question)}\n`);
    return JSON.parse(await next()) as Answer;
  };
  return { pid, ask, stop: () => stop(child) };
}

/** An attacker of attacker.ts. */
export interface Attacker {
  readonly hasEnded: boolean;
  stop(): Promise<void>;
}

/**
 * Starts an attacker; see attacker.ts for its options. Resolves when it has begun.
 *
 * @throws {Error} if it ends before.
 */
export function startAttacker(args: string[]): Promise<Attacker> {
  const script = join(import.meta.dirname, `attacker${extname(import.meta.filename)}`);
  const flags = extname(script) === '.ts' ? process.execArgv : [];
  const command = [...flags, script, ...args];
  const child = track(spawn(process.execPath, command, { stdio: ['pipe', 'pipe', 'inherit'] }));
  const attacker = {
    get hasEnded(): boolean {
      return child.exitCode !== null || child.signalCode !== null;
    },
    stop: () => stop(child),
  };
  return new Promise((resolve, reject) => {
    child.stdout?.once('data', () => resolve(attacker));
    child.once('exit', () => reject(new Error(`Cannot go on: attacker ${args.join(' ')} ended`)));
  });
}

/** Resident set of a process in KiB, now (VmRSS) and at its highest (VmHWM). */
export function residentKibibytes(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const field = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1]);
  return { now: field('VmRSS'), peak: field('VmHWM') };
}
