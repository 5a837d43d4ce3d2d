/** What the package's root offers, as a program uses it. */
import { strict as assert } from 'node:assert';
import oneKey from '../../examples/one-key.ts';
import * as urbgate from '../../src/index.ts';

describe('library', () => {
  it('serves a device and uses it', async () => {
    const device = new urbgate.VirtualDevice(oneKey);
    const serving = await urbgate.serve([device], { port: 0 });
    const server = urbgate.connect(serving.address);
    const [listed] = await server.listDevices();
    assert.deepEqual([listed?.busId, listed?.vendorId], ['1-1', 0x1209]);
    const remote = await server.importDevice('1209:0001');
    assert.equal(remote.record.busId, '1-1');
    await remote.close();
    const [first] = await server.usb().getDevices();
    assert.equal(first?.productName, 'One key');
    await serving.close();
    await assert.rejects(server.listDevices(), { name: 'UserError' });
  });

  it('connects to the usual port if none is named', () => {
    assert.deepEqual(urbgate.connect({ host: 'h' }).address, { host: 'h', port: 3240 });
  });
});
