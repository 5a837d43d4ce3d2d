/** Which binaries of packages a process has loaded. */
import { strict as assert } from 'node:assert';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, extname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { PATIENCE_MILLISECONDS } from './urbgate.ts';

const EXTENSION = extname(import.meta.filename);
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
const FLAGS = EXTENSION === '.ts' ? ['--import', TSX] : [];
const CLI = join(import.meta.dirname, '../../src/cli');

/** Names of the binaries after modules were loaded. */
async function binariesAfter(...files: string[]): Promise<string[]> {
  const imports = files.map((file) => `await import(${JSON.stringify(urlOf(file))});`);
  const tell = `process.report.excludeNetwork = true;
    console.log(JSON.stringify([process.report.getReport().sharedObjects, process.env]));`;
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...FLAGS,
    '--input-type=module',
    '--eval',
    [...imports, tell].join('\n'),
  ]);
  const [objects, environment] = JSON.parse(stdout);
  assert.equal(environment.MSGPACKR_NATIVE_ACCELERATION_DISABLED, undefined, 'for children');
  return objects
    .filter((path: string) => path.endsWith('.node'))
    .map((path: string) => basename(path));
}

const urlOf = (file: string) => pathToFileURL(join(CLI, `${file}${EXTENSION}`)).href;

describe('native code', function () {
  this.timeout(PATIENCE_MILLISECONDS);

  it('is not loaded for the control socket', async () => {
    assert.deepEqual(await binariesAfter('control-client', 'control-server'), []);
  });

  it('is that of koffi alone for the command', async () => {
    assert.deepEqual(await binariesAfter('program'), ['koffi.node']);
  });

  it('comes in with net-ipc unless that is loaded in its one place', () => {
    const sources = readdirSync(CLI).filter((name) => name.endsWith(EXTENSION));
    const users = sources.filter((name) =>
      /['"]net-ipc['"]/.test(readFileSync(join(CLI, name), 'utf8')),
    );
    assert.deepEqual(users, [`net-ipc${EXTENSION}`]);
  });
});
