/** `urbgate attach`, `port` and `detach` on a machine without vhci: interop/ has one with it. */
import { strict as assert } from 'node:assert';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CommandProcess, endAll, PATIENCE_MILLISECONDS, run, scratchFolder } from './urbgate.ts';

describe('urbgate attach, port, detach without vhci', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  let environment: Record<string, string>;

  before(function () {
    if (existsSync('/sys/devices/platform/vhci_hcd.0')) this.skip();
  });

  beforeEach(() => {
    environment = { URBGATE_ATTACH_CONTROL: join(scratchFolder(), 'attach.sock') };
  });

  afterEach(endAll);

  it('say what is missing, and start nothing', async () => {
    for (const args of [['attach', '-r', 'nowhere', '-b', '1-1'], ['port'], ['detach', '0']]) {
      const { code, stderr } = await run(args, environment);
      assert.deepEqual([code, /modprobe vhci-hcd/.test(stderr)], [2, true], stderr);
      assert(!existsSync(environment.URBGATE_ATTACH_CONTROL as string), 'a supervisor was started');
    }
  });

  it('say in one sentence what is wrong with their arguments', async () => {
    const command = new CommandProcess();
    for (const [args, wanted] of [
      [['attach'], /^Cannot attach: no server given, wanted -r HOST and -b BUSID, or --xen\n$/],
      [['attach', '--xen', '-r', 'h'], /--xen with -r, -b or -d, wanted --xen alone/],
      [['attach', '--xen', '--port', '0'], /Wanted a number from 1 to 31/],
      [['attach', '-r', 'h', '--port', '1'], /--controller and --port are for --xen/],
      [['attach', '-r', 'h'], /^Cannot attach from h: wanted one of -b BUSID and -d VVVV:PPPP\n$/],
      [['attach', '-r', 'h', '-d', 'x'], /^Cannot attach x: wanted VVVV:PPPP/],
      [['detach', 'everything'], /^Cannot detach everything: wanted a port such as 0/],
    ] as const) {
      const { code, stderr } = await command.run(args, environment);
      assert.equal(code, 2);
      assert.match(stderr, wanted);
    }
  });

  it('know remote: exports, and refuse what is none', async () => {
    const control = ['--control', 'none', '--listen', '127.0.0.1:0'];
    const wrong = await run(['serve', ...control, '--export', 'remote:nowhere'], environment);
    assert.match(wrong.stderr, /"nowhere", wanted HOST\[:PORT\]\/BUSID/);
    const away = await run(
      ['serve', ...control, '--export', 'remote:127.0.0.1:1/1-1'],
      environment,
    );
    assert.equal(away.code, 2);
    assert.match(away.stderr, /Cannot import 1-1 from 127.0.0.1:1/);
  });
});
