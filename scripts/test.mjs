/**
 * npm test: installs what is missing, builds, checks format, lint and types, runs the unit tests,
 * then the interop tests (real kernels in QEMU), and ends with the counts of all of them. What runs side
 * by side: lanes.mjs.
 *
 *   --unit      no interop tests            --interop    only those
 *   --soak      the long runs of interop/   --grep TEXT  only tests whose name has it
 *
 * With CI=true a skipped interop test is a failure.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inLanes, interopGroups, unitGroups } from './lanes.mjs';
import { build, install, run, runBin, runBinQuietly } from './tools.mjs';

const args = process.argv.slice(2);
const only = ['--unit', '--interop', '--soak'].find((flag) => args.includes(flag));
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

if (!install()) process.exit(1);
if (only === undefined) count('format and lint', runBin('@biomejs/biome', ['check', '.']));
if (!count('build and types', build())) process.exit(finish());
// Installs packages and fetches kernels first: their time counts for no test, and unit tests that
// compare with a stock tool find it on a new machine too.
const prepared = only === '--unit' || run(process.execPath, ['dist/interop/prepare.js']);
if (only === undefined || only === '--unit') {
  const file = 'dist/environment.json'; // by prepare, now or earlier
  const environment = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  const fuzz = only === undefined ? { FUZZ_SECONDS } : {};
  await inLanes(unitGroups(), (group) => mocha(group, { ...fuzz, ...environment }, runBinQuietly));
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
