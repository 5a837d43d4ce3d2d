/** `remote:` exports with `wait`, as processes: the other server is killed and comes back. */
import { strict as assert } from 'node:assert';
import { importDevice } from '../../src/usbip/client.ts';
import { listDevices } from '../../src/usbip/list-client.ts';
import {
  endAll,
  PATIENCE_MILLISECONDS,
  startGateway,
  type TestGateway,
  Urbgate,
} from './urbgate.ts';

const HOST = '127.0.0.1';
const SPEC = 'virtual:source-sink,busid=3-7';
const GET_DESCRIPTOR = Buffer.from([0x80, 6, 0, 1, 0, 0, 18, 0]);

describe('urbgate serve --export remote:', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  afterEach(endAll);

  async function restart(port: number): Promise<Urbgate> {
    const listen = ['--listen', `127.0.0.1:${port}`, '--control', 'none'];
    const process = new Urbgate(['serve', ...listen, '--export', SPEC]);
    await process.says(/^Listening/m);
    return process;
  }

  async function exportsOf({ port }: TestGateway): Promise<string[]> {
    return (await listDevices({ host: HOST, port })).map(({ busId }) => busId);
  }

  async function descriptorOctets(port: number): Promise<number> {
    const device = await importDevice({ host: HOST, port }, '1-1');
    const setup = GET_DESCRIPTOR;
    const { data } = await device.transfer({ endpoint: 0, type: 'control', octets: 18, setup });
    await device.close();
    return data.length;
  }

  it('comes back under its bus id when the other server was killed and restarted', async () => {
    const other = await startGateway([SPEC]);
    const gateway = await startGateway([`remote:${HOST}:${other.port}/3-7,wait`]);
    await gateway.process.says(/Exporting 1-1 remote:/);
    assert.equal(await descriptorOctets(gateway.port), 18);
    await gateway.process.says(/released 1-1 /);
    const client = await importDevice({ host: HOST, port: gateway.port }, '1-1');
    other.process.kill('SIGKILL');
    await client.closed;
    assert.deepEqual(await exportsOf(gateway), []);
    // What is exported meanwhile does not get its place.
    const made = await gateway.command('export', 'virtual:source-sink');
    assert.match(made.stdout, /Exporting 1-2 /);
    await restart(other.port);
    await gateway.process.says(/exporting 1-1 remote:/);
    assert.equal(await descriptorOctets(gateway.port), 18);
  });

  it('is there as soon as the other server is, and can be taken back before', async () => {
    const other = await startGateway([SPEC]);
    await other.process.stop();
    const spec = `remote:127.0.0.1:${other.port}/0525:a4a0,wait`;
    const gateway = await startGateway([spec, spec]);
    await gateway.process.says(/Waiting for remote:.*\n.*Waiting for remote:/);
    const taken = await gateway.command('unexport', '1-1');
    assert.equal(taken.stdout, 'Unexported 1-1\n', taken.stderr);
    await restart(other.port);
    await gateway.process.says(/exporting 1-2 remote:/);
    assert.deepEqual(await exportsOf(gateway), ['1-2']);
    assert.equal((await gateway.command('unexport', '1-2')).code, 0);
    assert.deepEqual(await exportsOf(gateway), []);
  });
});
