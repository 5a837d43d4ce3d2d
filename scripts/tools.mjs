/**
 * What the npm scripts share: run a command, install and build when that is not done yet.
 * Plain JavaScript, because it runs before anything is installed.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
process.chdir(root);

/** Runs a command with this terminal; true if it ended with 0. */
export function run(command, args, environment = {}) {
  const { status, error } = spawnSync(command, args, {
    stdio: 'inherit',
    env: { ...process.env, ...environment },
  });
  if (error) console.error(`Cannot run ${command}: ${error.message}`);
  return status === 0;
}

/** Runs a program of node_modules/.bin. */
export function runBin(name, args, environment) {
  return run(process.execPath, [binPath(name), ...args], environment);
}

/**
 * The same beside others: all that it prints is shown when it has ended, behind `heading`. Resolves to
 * whether it ended with 0.
 */
export function runBinQuietly(name, args, environment, heading) {
  const child = spawn(process.execPath, [binPath(name), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const said = [Buffer.from(heading)];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => said.push(part));
  return new Promise((resolve) => {
    child.once('error', (error) =>
      said.push(Buffer.from(`Cannot run ${name}: ${error.message}\n`)),
    );
    child.once('close', (status) => {
      process.stdout.write(Buffer.concat(said));
      resolve(status === 0);
    });
  });
}

function binPath(name) {
  const file = join(
    'node_modules',
    name.startsWith('@') ? name : name.split('/')[0],
    'package.json',
  );
  const { bin } = JSON.parse(readFileSync(file, 'utf8'));
  const command = name.split('/').at(-1);
  return join(dirname(file), typeof bin === 'string' ? bin : (bin[command] ?? bin[name]));
}

/** Installs the locked dependencies if they are not there. */
export function install() {
  const stamp = 'node_modules/.urbgate-lock';
  const wanted = hashOf(['package-lock.json', 'package.json']);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return true;
  console.log('Installing dependencies ...');
  if (!run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])) return false;
  writeFileSync(stamp, wanted);
  return true;
}

/** Compiles everything to dist/ if a source is newer than the last build. */
export function build() {
  const stamp = 'dist/.built';
  const wanted = hashOf(['package.json', 'tsconfig.json', ...sources()]);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return true;
  rmSync('dist', { recursive: true, force: true });
  if (!runBin('typescript/tsc', ['-p', '.'])) return false;
  mkdirSync('dist', { recursive: true });
  writeFileSync(stamp, wanted);
  return true;
}

function sources() {
  return ['src', 'test', 'interop', 'bench', 'examples'].flatMap((folder) =>
    existsSync(folder)
      ? readdirSync(folder, { recursive: true })
          .map((name) => join(folder, name))
          .filter((file) => statSync(file).isFile() && file.endsWith('.ts'))
      : [],
  );
}

function hashOf(files) {
  const hash = createHash('sha256').update(process.version);
  for (const file of files.toSorted()) hash.update(file).update(readFileSync(file));
  return hash.digest('hex');
}
