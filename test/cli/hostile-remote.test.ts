/** A gateway, as a process, whose `remote:` exports are of a server that means harm. */
import { strict as assert } from 'node:assert';
import { callGateway } from '../../src/cli/control-client.ts';
import { UserError } from '../../src/core/errors.ts';
import { importDevice } from '../../src/usbip/client.ts';
import { listDevices } from '../../src/usbip/list-client.ts';
import { HOSTILE_DEVICES } from '../usbip/hostile-devices.ts';
import { HostileServer } from '../usbip/hostile-server.ts';
import { endAll, PATIENCE_MILLISECONDS, startGateway, type TestGateway } from './urbgate.ts';

const INTERFACES_MAX = 32;
const GET_DEVICE = Buffer.from([0x80, 6, 0, 1, 0, 0, 18, 0]);

describe('a gateway with a hostile server behind a remote: export', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  let gateway: TestGateway;
  let server: HostileServer;
  let ended: unknown;

  before(async () => {
    server = await HostileServer.start();
    await start();
  });

  /** One gateway for all, but for those behind a test that has ended it. */
  beforeEach(async () => {
    if (ended !== undefined) await start();
  });

  async function start(): Promise<void> {
    ended = undefined;
    gateway = await startGateway(['virtual:source-sink,busid=9-1']);
    void gateway.process.ended.then((how) => {
      ended = how;
    });
  }

  after(async () => {
    await server.close();
    endAll();
  });

  const where = () => ({ path: gateway.control, chosen: true });
  const control = async (request: { command: 'export'; spec: string; folder: string }) =>
    await callGateway<'export'>(where(), request, PATIENCE_MILLISECONDS);

  /** What another client sees and can use, whatever the hostile server says. */
  async function assertServes(): Promise<number[]> {
    const address = { host: '127.0.0.1', port: gateway.port };
    const devices = await listDevices(address);
    assert(
      devices.some(({ busId }) => busId === '9-1'),
      'the other device is gone',
    );
    const other = await importDevice(address, '9-1');
    const setup = GET_DEVICE;
    const { status } = await other.transfer({ endpoint: 0, type: 'control', octets: 18, setup });
    await other.close();
    assert.equal(status, 'ok');
    assert.equal(ended, undefined, 'the gateway has ended');
    return devices.filter(({ busId }) => busId !== '9-1').map((one) => one.interfaces.length);
  }

  for (const { name, hostile, refused } of HOSTILE_DEVICES) {
    it(`${name}: ${refused ? 'the export is refused' : 'the device is exported'}`, async () => {
      server.hostile = hostile;
      const spec = `remote:127.0.0.1:${server.address.port}/1-1`;
      const exported = await control({ command: 'export', spec, folder: '/' }).catch((error) => {
        assert(error instanceof UserError, `${error}`);
        assert.match(error.message, /^Cannot \w+ .+: .+/s);
        return [];
      });
      const counts = await assertServes();
      assert.equal(exported.length, refused ? 0 : 1);
      assert(
        counts.every((count) => count <= INTERFACES_MAX),
        `${counts} interfaces`,
      );
      for (const { busId } of exported) {
        await callGateway<'unexport'>(
          where(),
          { command: 'unexport', busId },
          PATIENCE_MILLISECONDS,
        );
      }
      await assertServes();
    });
  }
});
