/**
 * The wire extension is invisible to those who do not know it. What a stock client sends, errors,
 * unlinks and all, is recorded and played to the gateway with the extension and to one without: the
 * replies are the same to the octet.
 */
import { strict as assert } from 'node:assert';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { openSource } from '../src/cli/schemes.ts';
import { Containment } from '../src/core/containment.ts';
import { parseExportSpec } from '../src/core/export-spec.ts';
import { DEFAULT_LIMITS } from '../src/core/limits.ts';
import { Registry } from '../src/core/registry.ts';
import { BufferPool } from '../src/usbip/buffer-pool.ts';
import { Connection } from '../src/usbip/connection.ts';
import { CAPABILITIES_KNOWN } from '../src/usbip/extension.ts';
import { ImportRequest, OpCommon } from '../src/usbip/protocol.ts';
import { FakeClock } from '../test/examples/rig.ts';
import { startGateway } from './lab/gateway.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { exportByKernel } from './lab/kernel-stub.ts';
import { checkoutFolder } from './lab/paths.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { runProbe } from './lab/stall-probe.ts';
import { attach, detachAll, loadVhci } from './lab/usbip.ts';
import { sourceSinkGadget } from './lab/usbtest-gadgets.ts';

const SPEC = 'virtual:source-sink,short=1000,stamp';
const ROUNDS = 20;
/** Longer than any hold. */
const PAUSE_MILLISECONDS = 2000;

/** Passes connections on to a port of the loopback, and keeps what the first client sends. */
async function recorder(port: number): Promise<{ server: Server; port: number; sent: Buffer[] }> {
  const sent: Buffer[] = [];
  const server = createServer((client) => {
    const gateway = connect({ host: '127.0.0.1', port, noDelay: true });
    client.setNoDelay(true);
    client.on('data', (octets) => {
      sent.push(octets);
      gateway.write(octets);
    });
    gateway.pipe(client);
    client.on('end', () => gateway.end());
    client.on('error', () => gateway.destroy());
    gateway.on('error', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, port: (server.address() as AddressInfo).port, sent };
}

/** What a gateway with these capabilities answers. */
async function replay(sent: readonly Buffer[], capabilities: number): Promise<Buffer> {
  const registry = new Registry();
  const spec = parseExportSpec(SPEC);
  const never = () => assert.fail();
  const source = await openSource(spec, {
    folder: '.',
    onFault: assert.ifError,
    onAdded: never,
    onGone: never,
    onRefused: never,
    onAwaited: never,
  });
  for (const { device } of source.devices) registry.add(device, SPEC);
  const clock = new FakeClock();
  const replies: Uint8Array[] = [];
  const connection = new Connection({
    registry,
    peer: 'recorded',
    limits: DEFAULT_LIMITS,
    pool: new BufferPool(),
    network: { unsentOctets: () => 0, ackedOctets: () => undefined },
    session: { clock },
    capabilities,
    containment: new Containment((error) => {
      throw error;
    }),
    onOutput: () => {},
    onEvent: () => {},
  });
  for (const chunk of sent) {
    connection.receive(Buffer.from(chunk));
    clock.advance(PAUSE_MILLISECONDS);
    await new Promise((resolve) => setImmediate(resolve));
    replies.push(...connection.takeOutput().map((octets) => Buffer.from(octets)));
  }
  await connection.close();
  return Buffer.concat(replies);
}

describe('the wire extension, towards a stock client', function () {
  this.timeout(120_000);
  let guest: Guest;

  before(async () => {
    guest = await sharedGuest();
    await loadVhci(guest);
  });

  it('changes no octet of a recorded exchange', async () => {
    const gateway = await startGateway({ exports: [SPEC], arguments: ['--control', 'none'] });
    const { server, port, sent } = await recorder(gateway.port);
    try {
      guest.forward(port);
      const { node } = await attach(guest, '1-1');
      const result = await runProbe(guest, node, { rounds: ROUNDS, stamps: true }, 60);
      assert.equal(result.failed, ROUNDS);
      await detachAll(guest);
    } finally {
      server.close();
      await gateway.kill();
    }
    const request = Buffer.concat(sent);
    const busId = request.subarray(OpCommon.octets, OpCommon.octets + ImportRequest.octets);
    assert.deepEqual(
      busId,
      Buffer.concat([Buffer.from('1-1'), Buffer.alloc(ImportRequest.octets - 3)]),
      'a stock client leaves the octets behind the bus id empty',
    );
    const [with_, without] = [await replay(sent, CAPABILITIES_KNOWN), await replay(sent, 0)];
    assert(without.length > 320 + 48 * 2 * ROUNDS, 'the replay has stopped early');
    assert(with_.equals(without));
    console.log(`      ${request.length} octets in, ${with_.length} octets out`);
  });
});

describe('the wire extension, towards the kernel’s own server', function () {
  this.timeout(120_000);

  it('is ignored: the import is granted, the device works, nothing is agreed upon', async () => {
    const guest = await bootGuest({ name: 'usbipd' });
    try {
      const gadget = await sourceSinkGadget(guest);
      const { address, port } = await exportByKernel(guest, gadget);
      const program = `
import { importDevice } from '${checkoutFolder()}/dist/src/index.js';
const device = await importDevice({ host: '${address}', port: ${port} }, '${gadget.busid}');
const setup = Buffer.from('8006000100001200', 'hex');
device.submit({ endpoint: 0, type: 'control', octets: 18, setup }, ({ status, data }) => {
  console.log(device.stallProtocol, status, Buffer.from(data).toString('hex', 8, 12));
  device.close();
});
`;
      const printed = await guest.succeed('exec node --input-type=module', { input: program });
      assert.equal(printed.trim(), 'false ok 2505a0a4');
    } finally {
      await guest.kill();
    }
  });
});
