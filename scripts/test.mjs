/**
 * npm test: installs what is missing, builds, checks format, lint and types, runs the unit tests,
 * then the interop tests (real kernels in QEMU), and ends with the counts of all of them. What runs side
 * by side: lanes.mjs.
 *
 *   --unit      no interop tests            --interop    only those
 *   --soak      the long runs of interop/   --grep TEXT  only tests whose name has it
 *   --soak --unit   the unit tests, ten times
 *   --busy      beside two endless loops, as on a machine that has other work
 *
 * With CI=true a skipped interop test is a failure.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inLanes, interopGroups, unitGroups } from './lanes.mjs';
import { build, install, run, runBin, runBinQuietly } from './tools.mjs';

const args = process.argv.slice(2);
const only = ['--unit', '--interop', '--soak'].find((flag) => args.includes(flag));
const UNIT_ROUNDS = only === '--unit' && args.includes('--soak') ? 10 : 1;
const BUSY_LOOPS = args.includes('--busy') ? 2 : 0;
const grepAt = args.indexOf('--grep');
const grep = grepAt >= 0 ? ['--grep', args[grepAt + 1]] : [];
/** A whole run takes so long for hostile front ends; `npm run unit` is to take seconds. */
const FUZZ_SECONDS = '60';
const counts = { passed: 0, failed: 0, skipped: 0 };

function count(name, passed) {
  counts[passed ? 'passed' : 'failed']++;
  console.log(`${passed ? 'ok' : 'FAILED'}: ${name}`);
  return passed;
}

/** Runs a group of test files in one mocha process and adds its counts. `runner`: `runBin`, or alike. */
async function mocha({ title, files }, environment, runner) {
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-test-'));
  const file = join(folder, 'counts.json');
  if (runner === runBin) console.log(`\n== ${title}`);
  const passed = await runner(
    'mocha',
    ['--config', '.mocharc.json', '--reporter', 'scripts/count-reporter.cjs', ...grep, ...files],
    { COUNTS_FILE: file, ...environment },
    `\n== ${title}\n`,
  );
  const result = existsSync(file)
    ? JSON.parse(readFileSync(file, 'utf8'))
    : { passed: 0, failed: 1, skipped: 0 }; // it died before its end
  if (!passed && result.failed === 0) result.failed = 1;
  for (const key of Object.keys(counts)) counts[key] += result[key];
  rmSync(folder, { recursive: true });
  return result;
}

async function interop({ title, files }, runner) {
  const skip = prepared ? {} : { URBGATE_SKIP_INTEROP: '1' };
  const group = { title, files: [...files, '--timeout', '900000'] };
  const { skipped } = await mocha(group, skip, runner);
  if (process.env.CI === 'true' && skipped > 0) {
    console.log(`FAILED: ${skipped} interop tests were skipped, which CI does not allow`);
    counts.failed++;
  }
}

/** The unit tests once; whether all passed. */
async function unit(environment, fuzz) {
  const failedBefore = counts.failed;
  await inLanes(unitGroups(), (group) => mocha(group, { ...fuzz, ...environment }, runBinQuietly));
  return counts.failed === failedBefore;
}

/** Keeps CPUs busy until this process ends: each loop ends when its standard input does. */
function beBusy() {
  const loop =
    'process.stdin.resume().on("end", () => process.exit()); (function spin() { const end = Date.now() + 50; while (Date.now() < end); setImmediate(spin); })()';
  for (let n = 0; n < BUSY_LOOPS; n++) {
    spawn(process.execPath, ['-e', loop], { stdio: ['pipe', 'ignore', 'ignore'] }).unref();
  }
}

if (!install()) process.exit(1);
beBusy();
if (only === undefined) count('format and lint', runBin('@biomejs/biome', ['check', '.']));
if (!count('build and types', build())) process.exit(finish());
// Installs packages and fetches kernels first: their time counts for no test, and unit tests that
// compare with a stock tool find it on a new machine too.
const prepared = only === '--unit' || run(process.execPath, ['dist/interop/prepare.js']);
if (only === undefined || only === '--unit') {
  const file = 'dist/environment.json'; // by prepare, now or earlier
  const environment = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  const fuzz = only === undefined ? { FUZZ_SECONDS } : {};
  for (let round = 1; round <= UNIT_ROUNDS; round++) {
    if (UNIT_ROUNDS > 1) console.log(`\n==== Round ${round} of ${UNIT_ROUNDS}`);
    if (!(await unit(environment, fuzz))) console.log(`Round ${round} has failures`);
  }
}
if (only === undefined || only === '--interop') {
  const { alone, others } = interopGroups();
  await interop(alone, runBin);
  await inLanes(others, (group) => interop(group, runBinQuietly));
}
if (only === '--soak') {
  await interop({ title: 'Soak', files: ['dist/interop/**/*.soak.js'] }, runBin);
}
process.exit(finish());

function finish() {
  console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts.failed === 0 ? 0 : 1;
}
