import { strict as assert } from 'node:assert';
import { Registry } from '../../src/core/registry.ts';
import { EarlyUnlinks } from '../../src/usbip/early-unlinks.ts';
import { ManualDevice } from '../core/manual-device.ts';
import { OUT, ScriptedClient } from './scripted-client.ts';

const bulkOut = (seqnum: number) =>
  ({ seqnum, direction: OUT, endpoint: 2, data: Buffer.alloc(64, seqnum) }) as const;

/** A client that has submitted URB 10. */
function clientAt10() {
  const device = new ManualDevice();
  const registry = new Registry();
  registry.add(device, 'manual');
  const client = new ScriptedClient({ registry });
  client.import();
  client.submit(bulkOut(10));
  return { client, device, clock: client.clock };
}

describe('an unlink that overtakes its URB (vhci_tx_loop)', () => {
  it('waits for it, and the URB is never started', () => {
    const { client, device, clock } = clientAt10();
    client.send(client.wire.unlink(11, 12));
    assert.deepEqual(client.replies(), [], 'vhci would not find the URB yet');
    client.submit(bulkOut(11));
    client.submit(bulkOut(13));
    assert.deepEqual(client.replies(), [{ type: 'unlink', seqnum: 12, status: -104 }]);
    device.complete(device.atDevice[0], 'ok', 64);
    assert.deepEqual(device.atDevice, [], 'what is behind it waits for its handler');
    clock.advance(1000);
    assert.deepEqual(
      device.atDevice.map(({ id, dataOut }) => [id, dataOut[0]]),
      [[13, 13]],
      'the body of the URB that was passed over is still in the stream',
    );
  });

  it('what its driver had submitted before is held until it is unlinked too, or for the long hold', () => {
    const { client, device, clock } = clientAt10();
    client.send(client.wire.unlink(11, 13));
    client.submit(bulkOut(11));
    client.submit(bulkOut(12));
    device.complete(device.atDevice[0], 'ok', 64);
    clock.advance(999);
    assert.deepEqual(device.atDevice, []);
    clock.advance(10);
    assert.deepEqual(
      device.atDevice.map(({ id }) => id),
      [12],
    );
  });

  it('a URB that its driver submitted later starts after a moment', () => {
    const { client, device, clock } = clientAt10();
    client.send(client.wire.unlink(11, 12));
    client.submit(bulkOut(11));
    client.submit(bulkOut(13));
    device.complete(device.atDevice[0], 'ok', 64);
    clock.advance(10);
    assert.deepEqual(
      device.atDevice.map(({ id }) => id),
      [13],
    );
  });

  it('so is one that the unlink of another endpoint has overtaken; across the end of the numbers too', () => {
    const unlinks = new EarlyUnlinks(2);
    assert.equal(unlinks.isOlder(1), false, 'nothing was unlinked');
    unlinks.unlinked(0xffff_fffe);
    assert.equal(unlinks.isOlder(0xffff_fffd), true);
    assert.equal(unlinks.isOlder(0xffff_ffff), false);
    assert.equal(unlinks.isOlder(3), false);
    unlinks.unlinked(4);
    assert.equal(unlinks.isOlder(0xffff_ffff), true);
  });

  it('is answered as for an unknown URB when a later one comes instead', () => {
    const { client } = clientAt10();
    client.send(client.wire.unlink(11, 12));
    client.submit(bulkOut(13));
    assert.deepEqual(client.replies(), [{ type: 'unlink', seqnum: 12, status: 0 }]);
  });

  it('is answered at once when its URB cannot be on its way', () => {
    const { client } = clientAt10();
    client.send(client.wire.unlink(9, 12)); // an older one: it has ended
    client.send(client.wire.unlink(99, 13)); // nobody unlinks what is not submitted yet
    assert.deepEqual(
      client.replies().map(({ seqnum, status }) => [seqnum, status]),
      [
        [12, 0],
        [13, 0],
      ],
    );
  });

  it('is kept across the end of the numbers, and no more than there may be', () => {
    const unlinks = new EarlyUnlinks(2);
    assert(!unlinks.keep(1, 2), 'nothing was submitted');
    unlinks.arrived(0xffff_fffe);
    assert(unlinks.keep(0xffff_ffff, 3));
    assert(unlinks.keep(0, 4));
    assert(!unlinks.keep(1, 5), 'one more than the limit');
    assert.equal(unlinks.arrived(0xffff_ffff), 3);
    assert.equal(unlinks.arrived(1), undefined);
    assert.deepEqual(unlinks.takeMissed(), [4]);
    assert.deepEqual(unlinks.takeMissed(), []);
  });
});
