import { strict as assert } from 'node:assert';
import type { EndpointInfo, Speed } from '../../src/core/device.ts';
import { Urb } from '../../src/core/urb.ts';
import { CommandWriter } from '../../src/usbip/command-writer.ts';
import { CmdSubmit } from '../../src/usbip/protocol.ts';
import { transferOf } from '../../src/usbip/remote-urbs.ts';
import { buildUrb, emptySubmitHeader, readSubmit } from '../../src/usbip/submit.ts';

/** bInterval 16 at high speed: the longest there is. */
const endpoint = (type: 'interrupt' | 'isochronous' | 'bulk'): EndpointInfo => ({
  address: 0x81,
  direction: 'in',
  type,
  interfaceNumber: 0,
  maxPacketOctets: 8,
  intervalOctets: 8,
  intervalMicroseconds: type === 'bulk' ? 0 : 32768 * 125,
});

/** The interval in the command to the other server, for one that a client's command has. */
function passedOn(interval: number, speed: Speed, of: EndpointInfo): number {
  const command = CmdSubmit.write({
    command: 1,
    seqnum: 7,
    deviceId: 0x10002,
    direction: 1,
    endpoint: 1,
    transferFlags: 0,
    transferBufferLength: 8,
    startFrame: 0,
    numberOfPackets: 0,
    interval,
    setup: Buffer.alloc(8),
  });
  const header = emptySubmitHeader();
  readSubmit(new DataView(command.buffer, command.byteOffset), 0, header);
  const urb = buildUrb(header, of, Buffer.alloc(0));
  assert(urb instanceof Urb);
  const writer = new CommandWriter(0x10002);
  writer.submit(1, transferOf(urb, speed, urb.dataOut), true, false);
  return CmdSubmit.read(Buffer.concat(writer.take())).interval;
}

describe('a URB on its way to another server', () => {
  for (const speed of ['low', 'full', 'high', 'super'] as const) {
    for (const type of ['interrupt', 'isochronous'] as const) {
      for (const interval of [1, 8, 1024, 32768]) {
        it(`keeps the interval that the driver asked for: ${speed} speed, ${type}, ${interval}`, () => {
          assert.equal(passedOn(interval, speed, endpoint(type)), interval);
        });
      }
    }
  }

  it("has the endpoint's interval if the client names none", () => {
    for (const interval of [0, -1]) {
      assert.equal(passedOn(interval, 'high', endpoint('interrupt')), 32768);
      assert.equal(passedOn(interval, 'full', endpoint('interrupt')), 4096);
    }
  });

  it('has none at a bulk endpoint, whatever the client says', () => {
    assert.equal(passedOn(10, 'high', endpoint('bulk')), 0);
  });
});
