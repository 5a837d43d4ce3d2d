/**
 * A client that vanishes without a word: its network cable is pulled, no FIN and no RST arrives.
 *
 * Gateway and client run in two network namespaces with a cable between them. Once the client is
 * idle, when TCP's keepalive has to notice; once it is in the middle of reading, when the
 * gateway's data is never acknowledged.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { type Gateway, startGateway } from './lab/gateway.ts';
import { hostCommand } from './lab/host-command.ts';
import { compiled } from './lab/kernel.ts';
import { checkoutFolder } from './lab/paths.ts';

const RELEASE_SECONDS = 30;
const GATEWAY_ADDRESS = '10.97.53.1';
const CLIENT_ADDRESS = '10.97.53.2';

describe('a client that vanishes from the network', function () {
  this.timeout(180_000);
  const name = `urbgate-${process.pid}`;
  const [server, client] = [`${name}-server`, `${name}-client`];
  let gateway: Gateway;
  let load: string;

  const inClient = (...command: string[]) => ['netns', 'exec', client, ...command];

  before(async function () {
    if (process.getuid?.() !== 0) this.skip(); // namespaces are root's
    load = await compiled(join(checkoutFolder(), 'bench', 'load', 'usbip-load.c'));
    for (const each of [server, client]) await hostCommand('ip', ['netns', 'add', each]);
    const [near, far] = ['urbgate0', 'urbgate1'];
    const link = ['link', 'add', near, 'netns', server, 'type', 'veth', 'peer', 'name', far];
    await hostCommand('ip', [...link, 'netns', client]);
    for (const [namespace, device, address] of [
      [server, near, GATEWAY_ADDRESS],
      [client, far, CLIENT_ADDRESS],
    ] as const) {
      await hostCommand('ip', ['-n', namespace, 'address', 'add', `${address}/24`, 'dev', device]);
      await hostCommand('ip', ['-n', namespace, 'link', 'set', device, 'up']);
    }
    await hostCommand('ip', ['-n', server, 'link', 'set', 'lo', 'up']);
    gateway = await startGateway({
      exports: ['virtual:source-sink'],
      command: [
        ...['ip', 'netns', 'exec', server, process.execPath],
        ...[join(checkoutFolder(), 'dist', 'src', 'cli', 'main.js'), 'serve'],
      ],
      arguments: ['--listen', `${GATEWAY_ADDRESS}:3240`, '--control', 'none'],
    });
  });

  after(async () => {
    await gateway?.kill();
    for (const each of [server, client]) {
      await hostCommand('ip', ['netns', 'delete', each]).catch(() => {});
    }
  });

  for (const [what, extra] of [
    ['idle', ['--hold']],
    ['in the middle of reading', ['--size', '16384', '--depth', '16', '--seconds', '120']],
  ] as const) {
    it(`frees its device within ${RELEASE_SECONDS} s when it was ${what}`, async () => {
      const from = gateway.log().length;
      const options = [
        '--host',
        GATEWAY_ADDRESS,
        '--port',
        '3240',
        '--busid',
        '1-1',
        '--type',
        'in',
      ];
      const lost = spawn('ip', inClient(load, ...options, ...extra), { stdio: 'pipe' });
      const ended = new Promise((resolve) => lost.once('close', resolve));
      try {
        await gateway.printed(/attached 1-1/, 10, from);
        await new Promise((resolve) => setTimeout(resolve, 500)); // data is flowing, or is not
        await hostCommand('ip', ['-n', client, 'link', 'set', 'urbgate1', 'down']);
        await gateway.printed(/released 1-1/, RELEASE_SECONDS, from);
      } finally {
        lost.kill('SIGKILL');
        await hostCommand('ip', ['-n', client, 'link', 'set', 'urbgate1', 'up']);
        await ended;
      }
    });
  }
});
