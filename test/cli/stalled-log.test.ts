/** Whoever reads a log may stop reading: the process neither waits for them nor grows. */
import { strict as assert } from 'node:assert';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FLAGS, PATIENCE_MILLISECONDS } from './urbgate.ts';

const PROGRAM = fileURLToPath(
  new URL(`./chatty-log${extname(import.meta.filename)}`, import.meta.url),
);
/** A log without a bound grew by 53 MB, by 135 MB in a whole gateway; with one by 12 to 18 MB. */
const GROWN_BYTES_MAX = 36e6;

describe('a log whose reader has stopped', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  let child: ChildProcess;

  beforeEach(() => {
    child = spawn(process.execPath, [...FLAGS, PROGRAM], { stdio: ['pipe', 'pipe', 'pipe'] });
  });

  afterEach(() => child.kill('SIGKILL'));

  const report = async () => {
    const text = once(child.stdout as NodeJS.ReadableStream, 'data');
    const [said] = await Promise.race([text, once(child, 'exit')]);
    assert(said instanceof Buffer, `the process has ended: ${said}`);
    return JSON.parse(said.toString()) as { said: number; grownBytes: number };
  };

  it('does not block the process, nor grow it; how many lines are lost is said later', async () => {
    const { said, grownBytes } = await report();
    assert.equal(said, 90_000);
    assert(grownBytes < GROWN_BYTES_MAX, `${said} lines took ${grownBytes} bytes`);
    let text = '';
    for await (const chunk of child.stderr as NodeJS.ReadableStream) {
      text += chunk;
      if (/still here/.test(text)) break;
    }
    const lost = Number(/WARN {2}([\d,]+) lines are lost/.exec(text)?.[1]?.replaceAll(',', ''));
    const kept = text.match(/attached 1-1/g)?.length ?? 0;
    assert(lost > 0, text.slice(-500));
    // Lines that were said between the report and the first read are lost too.
    assert(kept + lost >= said, `${kept} lines came, ${lost} are said to be lost`);
    assert(text.endsWith('\n') && !/attached 1-1[^\n]*attached/.test(text), 'lines are whole');
  });

  it('that goes away does not end the process', async () => {
    child.stderr?.destroy();
    await report();
    const ended = once(child, 'exit');
    child.stdin?.end();
    assert.deepEqual(await ended, [0, null]);
  });
});
