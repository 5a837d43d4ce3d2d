/**
 * npm test: installs what is missing, builds, checks format, lint and types, runs the unit tests,
 * then the interop tests (real kernels in QEMU), and ends with the counts of all of them.
 *
 * Interop files run in lanes, one process each, the longest first: an emulated guest keeps little more
 * than one CPU busy. What compares times runs alone, before the others.
 *
 *   --unit      no interop tests            --interop    only those
 *   --soak      the long runs of interop/   --grep TEXT  only tests whose name has it
 *
 * With CI=true a skipped interop test is a failure.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build, install, run, runBin, runBinQuietly } from './tools.mjs';

const args = process.argv.slice(2);
const only = ['--unit', '--interop', '--soak'].find((flag) => args.includes(flag));
const grepAt = args.indexOf('--grep');
const grep = grepAt >= 0 ? ['--grep', args[grepAt + 1]] : [];
/** A whole run takes so long for hostile front ends; `npm run unit` is to take seconds. */
const FUZZ_SECONDS = '60';
/** Interop files that run side by side, and those that take minutes, in the order of their time. */
const LANES = 2;
const LONGEST = [
  'attach',
  'xen',
  'usbfs-hardware',
  'usbfs',
  'usbfs-devices',
  'xen-life',
  'attach-xen',
  'stall',
  'testusb',
  'webusb',
  'xen-usbfs',
  'robustness',
];
/** Skips interop tests that cannot run here. */
const HOOKS = 'dist/interop/hooks.test.js';
const counts = { passed: 0, failed: 0, skipped: 0 };

function count(name, passed) {
  counts[passed ? 'passed' : 'failed']++;
  console.log(`${passed ? 'ok' : 'FAILED'}: ${name}`);
  return passed;
}

/** Runs test files in one mocha process and adds its counts. `runner` is `runBin`, or alike. */
async function mocha(name, files, environment = {}, runner = runBin) {
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-test-'));
  const file = join(folder, 'counts.json');
  console.log(`\n== ${name}`);
  const passed = await runner(
    'mocha',
    ['--config', '.mocharc.json', '--reporter', 'scripts/count-reporter.cjs', ...grep, ...files],
    { COUNTS_FILE: file, ...environment },
  );
  const result = existsSync(file)
    ? JSON.parse(readFileSync(file, 'utf8'))
    : { passed: 0, failed: 1, skipped: 0 }; // it died before its end
  if (!passed && result.failed === 0) result.failed = 1;
  for (const key of Object.keys(counts)) counts[key] += result[key];
  rmSync(folder, { recursive: true });
  return result;
}

async function interop(name, files, runner) {
  const skip = prepared ? {} : { URBGATE_SKIP_INTEROP: '1' };
  const { skipped } = await mocha(name, [...files, HOOKS, '--timeout', '900000'], skip, runner);
  if (process.env.CI === 'true' && skipped > 0) {
    console.log(`FAILED: ${skipped} interop tests were skipped, which CI does not allow`);
    counts.failed++;
  }
}

async function interopInLanes() {
  const alone = ['attach-time'];
  const names = readdirSync('dist/interop')
    .filter((name) => name.endsWith('.test.js') && !HOOKS.endsWith(name))
    .map((name) => name.slice(0, -'.test.js'.length));
  const rank = (name) => LONGEST.indexOf(name) + 1 || LONGEST.length + 1;
  const waiting = names
    .filter((name) => !alone.includes(name))
    .toSorted((one, other) => rank(one) - rank(other));
  const title = (name) => `Interop tests, stock kernels and tools in QEMU: ${name}`;
  const file = (name) => `dist/interop/${name}.test.js`;
  for (const name of alone) await interop(title(name), [file(name)], runBin);
  const lane = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      await interop(title(name), [file(name)], runBinQuietly);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
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
  await mocha('Unit tests', ['dist/test/**/*.test.js'], { ...fuzz, ...environment });
}
if (only === undefined || only === '--interop') {
  await interopInLanes();
}
if (only === '--soak') await interop('Soak', ['dist/interop/**/*.soak.js'], runBin);
process.exit(finish());

function finish() {
  console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts.failed === 0 ? 0 : 1;
}
