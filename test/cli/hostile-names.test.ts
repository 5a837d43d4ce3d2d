/** Names that come from a server or a client and would steer the terminal of whoever lists them. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { serveRequests } from '../../src/cli/control-server.ts';
import type { GatewayStatus } from '../../src/cli/gateway.ts';
import { createLog } from '../../src/cli/log.ts';
import { DeviceRecord, OPERATION, OpCommon, VERSION } from '../../src/usbip/protocol.ts';
import { endAll, PATIENCE_MILLISECONDS, run, scratchFolder } from './urbgate.ts';

/** CSI as one C1 character, a right-to-left override, a line separator, and an escape of C0. */
const STEERING = '\u009b2J\u202e\u2028\u001b[2J';
/** Behind the path of a device record (struct usbip_usb_device). */
const BUS_ID_AT = 256;
/** What a terminal may be given: printable characters and ends of lines. */
const HARMLESS = /^[^\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]*$/u;

function assertHarmless(output: string): void {
  for (const line of output.split('\n')) assert.match(line, HARMLESS);
}

describe('names that would steer a terminal', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  let listener: Server | undefined;
  afterEach(() => {
    listener?.close();
    endAll();
  });

  it('of a USB/IP server are escaped by urbgate list, with and without --json', async () => {
    const device = Buffer.alloc(DeviceRecord.octets);
    device.write(`/sys/${STEERING}`, 0);
    device.write(STEERING, BUS_ID_AT);
    const reply = Buffer.concat([
      OpCommon.write({ version: VERSION, code: OPERATION.replyDeviceList, status: 0 }),
      Buffer.of(0, 0, 0, 1),
      device,
    ]);
    listener = createServer((socket) => socket.on('error', () => {}).end(reply));
    await once(listener.listen(0, '127.0.0.1'), 'listening');
    const remote = `127.0.0.1:${(listener.address() as AddressInfo).port}`;
    const json = await run(['list', '-r', remote, '--json']);
    assert.equal(JSON.parse(json.stdout)[0].busId, STEERING, json.stderr);
    assertHarmless(json.stdout);
    const text = await run(['list', '-r', remote]);
    assert(text.stdout.includes('\\x9b2J\\u202e'), text.stdout);
    assertHarmless(text.stdout);
  });

  it('of a gateway are escaped by urbgate status, and in what it says of errors', async () => {
    const status: GatewayStatus = {
      pid: 1,
      listening: [STEERING],
      exports: [
        {
          busId: STEERING,
          spec: STEERING,
          deviceId: '0000:0000',
          speed: 'high',
          label: STEERING,
          fault: null,
          client: null,
          total: { urbs: 0, errors: 0 },
        },
      ],
    };
    const path = join(scratchFolder(), 'control.sock');
    const control = await serveRequests(
      { path, chosen: true },
      async (request) =>
        (request as { command: string }).command === 'status'
          ? { ok: true, result: status }
          : { ok: false, message: `Bug ${STEERING}`, user: false },
      createLog(false, () => true),
    );
    try {
      const json = await run(['status', '--json', '--control', path]);
      assert.deepEqual(JSON.parse(json.stdout), status);
      assertHarmless(json.stdout);
      assertHarmless((await run(['status', '--control', path])).stdout);
      const failed = await run(['unexport', '1-1', '--control', path]);
      assert.match(failed.stderr, /The gateway failed: Bug \\x9b2J/);
      assertHarmless(failed.stderr);
    } finally {
      control.close();
    }
  });
});
