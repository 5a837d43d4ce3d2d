/**
 * Bugs that nobody contains end the process, in good order; bugs of one device, one request, one
 * attachment do not.
 */
import { strict as assert } from 'node:assert';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Gateway } from '../../src/cli/gateway.ts';
import { createLog, peerLines } from '../../src/cli/log.ts';
import { Supervisor } from '../../src/cli/supervisor.ts';
import { Tries } from '../../src/cli/tries.ts';
import { UserError } from '../../src/core/errors.ts';
import { Vhci } from '../../src/usbip/vhci.ts';
import { FakeClock } from '../examples/rig.ts';
import { endAll, PATIENCE_MILLISECONDS, scratchFolder, Urbgate } from './urbgate.ts';

/** Has a bug at SIGUSR2, where nobody catches. */
function bugOnSignal(throwing: string): Record<string, string> {
  const path = join(scratchFolder(), 'bug.mjs');
  writeFileSync(path, `process.on('SIGUSR2', () => { ${throwing} });`);
  return { NODE_OPTIONS: `--import ${pathToFileURL(path)}` };
}

const BUGS = [
  ['a timer', "setTimeout(() => { throw new TypeError('made by a test'); }, 1);"],
  ['a promise', "void Promise.reject(new TypeError('made by a test'));"],
] as const;

describe('a bug that nobody contains', function () {
  this.timeout(4 * PATIENCE_MILLISECONDS);
  afterEach(endAll);

  for (const [where, throwing] of BUGS) {
    it(`in ${where} of a gateway: logged with its stack, clients are let go, exit code 1`, async () => {
      const control = join(scratchFolder(), 'control.sock');
      const gateway = new Urbgate(
        ['serve', '--listen', '127.0.0.1:0', '--control', control, '--export', 'virtual:serial'],
        bugOnSignal(throwing),
      );
      const [, port] = await gateway.says(/^Listening on 127\.0\.0\.1:(\d+)$/m);
      const client = connect(Number(port), '127.0.0.1');
      const closed = new Promise((resolve) => client.once('close', resolve));
      client.on('error', () => {});
      client.resume();
      await new Promise((resolve) => client.once('connect', resolve));
      gateway.kill('SIGUSR2');
      const { code, stderr } = await gateway.ended;
      assert.equal(code, 1);
      const lines = stderr.split('\n').filter((line) => /ERROR/.test(line));
      assert.equal(lines.length, 1, stderr);
      assert.match(lines[0] ?? '', /Ending by a bug: TypeError: made by a test\\n +at /);
      await closed;
    });
  }

  it('in a supervisor of attachments: the same', async () => {
    const control = join(scratchFolder(), 'control.sock');
    const supervisor = new Urbgate(
      ['attach', '--foreground', '--control', control],
      bugOnSignal(BUGS[0][1]),
    );
    await supervisor.says(/^Supervising attachments$/m);
    supervisor.kill('SIGUSR2');
    const { code, stderr } = await supervisor.ended;
    assert.equal(code, 1);
    assert.match(stderr, /ERROR Ending by a bug: TypeError: made by a test\\n +at /);
  });
});

/** A log and its lines. */
function logged() {
  const lines: string[] = [];
  const log = createLog(true, (line) => {
    lines.push(line);
    return true;
  });
  return { log, lines };
}

describe('a bug of one request or one attachment', () => {
  it('a control request: the answer is its message, the log has the stack', async () => {
    const { log, lines } = logged();
    const vhci = new Vhci('/nowhere', '/nowhere');
    const supervisor = new Supervisor(vhci, log);
    supervisor.detach = async () => {
      throw new TypeError('made by a test');
    };
    const answer = await supervisor.answer({ command: 'detach', target: 'all' });
    assert.deepEqual(answer, { ok: false, message: 'made by a test', user: false });
    assert.equal(lines.length, 1);
    assert.match(lines[0] ?? '', /ERROR A control request failed: TypeError: .*\\n +at /);
    assert.equal((await supervisor.answer({ command: 'nonsense' })).ok, false);
    assert.equal(lines.length, 1, 'a user’s mistake is none');
  });

  const tries = (more: { connect?: () => Promise<void>; letGo?: () => Promise<void> }) => {
    const { log, lines } = logged();
    const one = new Tries({
      wait: true,
      persist: true,
      text: 'the device',
      lines: peerLines(log),
      clock: new FakeClock(),
      connect: async () => {},
      letGo: async () => {},
      place: () => '',
      ...more,
    });
    one.begin();
    return { one, lines };
  };

  it('an attachment that cannot be let go of ends all the same', async () => {
    for (const [error, line] of [
      [new UserError('Cannot detach port 1: the kernel says no'), /WARN .*the kernel says no/],
      [new TypeError('made by a test'), /ERROR Cannot let go of the device: TypeError.*\\n +at /],
    ] as const) {
      const { one, lines } = tries({ letGo: () => Promise.reject(error) });
      await one.settled;
      await one.stop();
      assert(one.hasEnded);
      assert.equal(lines.filter((each) => line.test(each)).length, 1, lines.join(''));
    }
  });

  it('an attachment that is stopped while it connects is let go of, if that fails too', async () => {
    let connected = () => {};
    let letGo = 0;
    const { one } = tries({
      connect: () =>
        new Promise((resolve) => {
          connected = resolve;
        }),
      letGo: async () => {
        letGo++;
        throw new TypeError('made by a test');
      },
    });
    await one.stop();
    connected();
    while (letGo < 2) await new Promise((resolve) => setImmediate(resolve));
    assert(one.hasEnded);
  });

  it('an attachment that comes to a bug ends, with one line', async () => {
    let isBroken = false;
    let letGo = 0;
    const { log, lines } = logged();
    const one = new Tries({
      wait: true,
      persist: true,
      text: 'the device',
      lines: peerLines(log),
      clock: new FakeClock(),
      connect: async () => {},
      letGo: async () => {
        letGo++;
      },
      place: () => {
        if (isBroken) throw new TypeError('made by a test');
        return '';
      },
    });
    isBroken = true;
    one.begin();
    await one.ended;
    assert(one.hasEnded);
    assert.equal(letGo, 1);
    const errors = lines.filter((line) => /ERROR/.test(line));
    assert.equal(errors.length, 1);
    assert.match(errors[0] ?? '', /the device ended by a bug: TypeError: made by a test\\n +at /);
  });
});

describe('a gateway that ends', () => {
  it('takes no device any more, of which nobody would let go', async () => {
    const gateway = new Gateway(logged().log);
    const exporting = gateway.export('virtual:serial', '/');
    const refused = assert.rejects(
      exporting,
      /Cannot export virtual:serial: the gateway is stopping/,
    );
    await gateway.close();
    await refused;
    assert.deepEqual(gateway.status().exports, []);
  });
});
