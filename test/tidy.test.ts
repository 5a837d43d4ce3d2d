/** The rules of style that a program can check. Biome looks after the form of lines. */
import { strict as assert } from 'node:assert';
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix, relative, sep } from 'node:path';
import { checkoutFolder } from '../interop/lab/paths.ts';

const LINES_MAX = 300;
/** Debt: to be split. A name leaves the list when its file is short enough. */
const TOO_LONG: readonly string[] = [
  'src/cli/gateway.ts',
  'src/core/devices/usbfs/usbfs-device.ts',
  'src/core/devices/virtual/control-pipe.ts',
  'src/core/session.ts',
  'src/stall/endpoint-queue.ts',
  'src/stall/retry-queue.ts',
  'src/usbip/connection.ts',
  'src/usbip/front-end.ts',
  'src/usbip/server.ts',
  'src/usbip/urb-phase.ts',
  'src/xenring/ring-device.ts',
];

/** Files that take octets, events and `now`, and do no I/O. */
const PURE: readonly RegExp[] = [
  /^src\/stall\//,
  /^src\/core\/(answer-watch|transfer-within)\.ts$/,
  /^src\/core\/(urb|layout|descriptors|session|limits|device|errors|control-effect|within)\.ts$/,
  /^src\/usbip\/(framer|submit|reply-writer|operations|urb-phase|connection|protocol|status)\.ts$/,
  /^src\/usbip\/(buffer-pool|admission|client-memory|lifetime)\.ts$/,
  /^src\/core\/(peer-log|memory-budget)\.ts$/,
  /^src\/usbip\/(attachment|commands|front-end-packets|remote-endpoints|remote-urbs|vhci-fence)\.ts$/,
  /^src\/core\/devices\/virtual\/(definition|descriptors|control-pipe|isochronous|packets)\.ts$/,
  /^src\/core\/devices\/virtual\/disk\/(bot|scsi[a-z-]*)\.ts$/,
  /^src\/xenring\/(usbif|shared-ring|urb-ring|urb-request|transfer-memory|journal|fences|port)\.ts$/,
  /^src\/xenring\/(controller|hot-plug|spin|xenbus-state|front-urbs|xenstore-(wire|requests))\.ts$/,
  /^src\/xenring\/(long-transfer|slot-shares|request-fields)\.ts$/,
  /^src\/xenring\/platform\/(store-(tree|parts|service)|xen-ioctls)\.ts$/,
];

/** What pure files must not use, and what to use instead. */
const IMPURE: readonly [RegExp, string][] = [
  [/\bDate\.now\b|\bnew Date\(\)/, 'take `now` as an argument, or a Clock'],
  [/\bperformance\b/, 'take `now` as an argument, or a Clock'],
  [/\bMath\.random\b/, 'take a seed as an argument'],
  [/\bset(Timeout|Interval|Immediate)\b/, 'take a Clock, or return a deadline'],
  [/\bqueueMicrotask\b|\bnextTick\b/, 'do it now, or return an action'],
  [/\bprocess\b/, 'take what you need as an argument'],
  [
    /['"](node:)?(net|fs|fs\/promises|dgram|child_process|os|timers|worker_threads)['"]/,
    'leave I/O to a thin driver',
  ],
  [/['"]koffi['"]/, 'leave foreign functions to a thin driver'],
];

/** What a folder may import from the repository. Each may import from itself. */
const LAYERS: readonly [folder: string, from: readonly string[]][] = [
  ['src/stall', []],
  ['src/core', ['src/stall']],
  ['src/usbip', ['src/core', 'src/stall']],
  ['src/xenring', ['src/core', 'src/stall']],
];

interface Complaint {
  readonly path: string;
  readonly line: number;
  readonly what: string;
}

/** The source without its comments; lines keep their places. */
function withoutComments(source: string): string {
  return source
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|\s)\/\/.*$/gm, '$1');
}

/** Looks at one source file. */
function complaints(path: string, source: string): Complaint[] {
  const found: Complaint[] = [];
  const lines = source.replace(/\n$/, '').split('\n');
  const code = withoutComments(source).split('\n');
  const complain = (line: number, what: string) => found.push({ path, line: line + 1, what });

  if (path.startsWith('src/')) {
    const tooLong = lines.length > LINES_MAX;
    if (tooLong && !TOO_LONG.includes(path))
      complain(0, `${lines.length} lines, at most ${LINES_MAX}`);
    if (!tooLong && TOO_LONG.includes(path)) complain(0, 'short enough: take it off TOO_LONG');
  }
  const pure = PURE.some((pattern) => pattern.test(path));
  const layer = LAYERS.find(([folder]) => path.startsWith(`${folder}/`));
  lines.forEach((line, at) => {
    if (/\b(TODO|FIXME|XXX)\b/.test(line)) complain(at, 'left to do: do it, or open an issue');
    const text = code[at] ?? '';
    if (/\b(describe|it|context|suite|test)\.only\(/.test(text)) complain(at, 'hides other tests');
    if (pure) {
      for (const [pattern, instead] of IMPURE) {
        const use = pattern.exec(text)?.[0];
        if (use !== undefined) complain(at, `${use} in a pure file: ${instead}`);
      }
    }
    const target = /(?:\bfrom|\bimport|\bimport\()\s*['"]([^'"]+)['"]/.exec(text)?.[1];
    if (target === undefined || layer === undefined) return;
    const [folder, from] = layer;
    if (!target.startsWith('.')) {
      if (folder === 'src/stall') complain(at, `imports ${target}: src/stall imports nothing`);
      return;
    }
    const imported = posix.join(posix.dirname(path), target);
    const allowed = [folder, ...from].some((one) => imported.startsWith(`${one}/`));
    if (!allowed)
      complain(at, `imports ${imported}: ${folder} may import ${from.join(', ') || 'nothing'}`);
  });
  return found;
}

const ROOT = checkoutFolder();

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => posix.join(folder, name.split(sep).join('/')));
}

describe('tidy', () => {
  const paths = ['src', 'test'].flatMap(sources);
  // The samples below would be found in this very file.
  const own = 'test/tidy.test.ts';

  it('finds the sources', () => {
    assert(paths.includes(own));
    assert(paths.includes('src/usbip/server.ts'));
    assert.equal(relative(ROOT, join(ROOT, 'src')), 'src');
    for (const path of TOO_LONG)
      assert(paths.includes(path), `${path} is gone: take it off TOO_LONG`);
    for (const pattern of PURE)
      assert(
        paths.some((path) => pattern.test(path)),
        `${pattern}`,
      );
  });

  it('the sources keep the rules', () => {
    const all = paths
      .filter((path) => path !== own)
      .flatMap((path) => complaints(path, readFileSync(join(ROOT, path), 'utf8')));
    assert.deepEqual(
      all.map(({ path, line, what }) => `${path}:${line}: ${what}`),
      [],
    );
  });

  describe('finds what is wrong', () => {
    const whats = (path: string, source: string): string[] =>
      complaints(path, source).map(({ line, what }) => `${line}: ${what.replace(/: .*/, '')}`);

    const impure: [string, string][] = [
      ['const now = Date.now();', 'Date.now'],
      ['const since = new Date();', 'new Date()'],
      ['performance.now();', 'performance'],
      ['const n = Math.random();', 'Math.random'],
      ['setTimeout(() => {}, 1);', 'setTimeout'],
      ['setInterval(call, 1);', 'setInterval'],
      ['setImmediate(call);', 'setImmediate'],
      ['queueMicrotask(call);', 'queueMicrotask'],
      ["import { connect } from 'node:net';", "'node:net'"],
      ["import { readFileSync } from 'fs';", "'fs'"],
      ["import koffi from 'koffi';", "'koffi'"],
      ['process.exit(1);', 'process'],
    ];
    for (const [line, use] of impure) {
      it(`in a pure file: ${line}`, () => {
        assert.deepEqual(whats('src/usbip/framer.ts', `// a\n${line}\n`), [
          `2: ${use} in a pure file`,
        ]);
        assert.deepEqual(whats('src/usbip/sockets.ts', line), [], 'it may be elsewhere');
      });
    }

    it('but not in comments, nor in other words', () => {
      const source = [
        '/** Not `Date.now()`, and no setTimeout. */',
        'const processed = 1; // process.exit(1)',
        '/*',
        " * import x from 'node:net';",
        ' */',
      ].join('\n');
      assert.deepEqual(whats('src/stall/endpoint-queue-2.ts', source), []);
    });

    it('imports across layers', () => {
      const cases: [string, string, boolean][] = [
        ['src/stall/a.ts', './b.ts', true],
        ['src/stall/a.ts', '../core/urb.ts', false],
        ['src/stall/a.ts', 'fast-check', false],
        ['src/stall/a.ts', 'node:assert', false],
        ['src/core/a.ts', '../stall/b.ts', true],
        ['src/core/a.ts', 'binary-parser', true],
        ['src/core/a.ts', '../usbip/server.ts', false],
        ['src/core/devices/virtual/a.ts', '../../urb.ts', true],
        ['src/core/devices/virtual/a.ts', '../../../usbip/submit.ts', false],
        ['src/usbip/a.ts', '../core/urb.ts', true],
        ['src/usbip/a.ts', '../stall/b.ts', true],
        ['src/usbip/a.ts', '../xenring/b.ts', false],
        ['src/usbip/a.ts', '../cli/main.ts', false],
        ['src/xenring/a.ts', '../usbip/protocol.ts', false],
        ['src/cli/a.ts', '../usbip/server.ts', true],
      ];
      for (const [path, target, allowed] of cases) {
        for (const line of [
          `import { x } from '${target}';`,
          `import type { x } from '${target}';`,
          `} from '${target}';`,
          `export * from '${target}';`,
          `import '${target}';`,
          `const x = await import('${target}');`,
        ]) {
          assert.equal(complaints(path, line).length, allowed ? 0 : 1, `${path}: ${line}`);
        }
      }
    });

    it('what is left to do, and tests that hide others', () => {
      for (const word of ['TODO', 'FIXME', 'XXX']) {
        assert.equal(complaints('src/cli/a.ts', `// ${word}: later`).length, 1);
      }
      assert.equal(complaints('test/a.test.ts', "describe.only('x', () => {});").length, 1);
      assert.equal(complaints('test/a.test.ts', "  it.only('x', () => {});").length, 1);
    });

    it('files that are too long', () => {
      assert.equal(complaints('src/cli/a.ts', 'x;\n'.repeat(LINES_MAX)).length, 0);
      assert.equal(complaints('src/cli/a.ts', 'x;\n'.repeat(LINES_MAX + 1)).length, 1);
      assert.equal(complaints('test/a.ts', 'x;\n'.repeat(LINES_MAX + 1)).length, 0);
      for (const path of TOO_LONG) assert.equal(complaints(path, 'x;\n').length, 1);
    });
  });
});
