import { strict as assert } from 'node:assert';
import type { TransferResult } from '../../src/core/transfer.ts';
import type { RemoteDevice } from '../../src/usbip/client.ts';
import { OpenDevice } from '../../src/usbip/webusb-open.ts';
import { FakeClock } from '../examples/rig.ts';

const SHUTDOWN: TransferResult = { status: 'shutdown', actualOctets: 0, data: Buffer.alloc(0) };

/** An import whose server ends each transfer as of a device that has gone, and closes when `lose` is called. */
function shuttingDown() {
  let lose = () => {};
  const remote = {
    isOpen: true,
    closed: new Promise<void>((resolve) => {
      lose = () => {
        remote.isOpen = false;
        resolve();
      };
    }),
    submit: (_: unknown, end: (result: TransferResult) => void) => end(SHUTDOWN),
  };
  return { remote: remote as unknown as RemoteDevice, lose };
}

describe('a transfer of WebUSB that ends as of a device that has gone', () => {
  const clock = new FakeClock();
  const read = { endpoint: 0x81, type: 'bulk', octets: 512 } as const;
  const turns = () => new Promise((resolve) => setImmediate(resolve));

  it('waits for the end of the connection: NotFoundError', async () => {
    const { remote, lose } = shuttingDown();
    const refused = assert.rejects(new OpenDevice(remote, clock).transfer(read), {
      name: 'NotFoundError',
    });
    await turns();
    lose();
    await refused;
  });

  it('does not wait for long if it was an endpoint that has gone: NetworkError', async () => {
    const { remote } = shuttingDown();
    const refused = assert.rejects(new OpenDevice(remote, clock).transfer(read), {
      name: 'NetworkError',
    });
    await turns();
    clock.advance(1000);
    await refused;
  });
});
