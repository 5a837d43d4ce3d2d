/**
 * The USB/IP connection under any octets: what comes is replies, or `RemoteProtocolError` and
 * nothing else, and what is held is bounded.
 */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { RemoteProtocolError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import { scriptedDevice } from '../core/scripted-device.ts';
import {
  DEVICE_ID,
  IN,
  importRequest,
  OUT,
  ScriptedClient,
  type Submit,
  setupOctets,
  Wire,
} from '../usbip/scripted-client.ts';
import { VECTORS } from '../vectors/usbip.ts';
import { bounded, FUZZ_TIMEOUT_MILLISECONDS } from './bounded.ts';

const HELD_OCTETS_MAX = 200_000;
const LIMITS = { transferOctetsMax: 100_000, outstandingOctetsMax: HELD_OCTETS_MAX, urbsMax: 64 };

/** A client of gadget zero, not attached yet; with `attached`, in its setting 1 with all types. */
function clientOf(attached: boolean): ScriptedClient {
  const registry = new Registry();
  registry.add(new VirtualDevice(sourceSink.define({})), 'source-sink');
  const client = new ScriptedClient({ registry, limits: LIMITS });
  if (attached) {
    client.import();
    client.configure();
    client.select(0, 1);
  }
  return client;
}

/** Sends chunks until the server has enough; checks what it holds. */
function feed(client: ScriptedClient, chunks: readonly Uint8Array[]): Buffer {
  const output: Buffer[] = [];
  for (const chunk of chunks) {
    try {
      client.send(chunk);
    } catch (error) {
      assert(error instanceof RemoteProtocolError, `not the peer's fault: ${error}`);
      break;
    }
    const came = client.output();
    // A refusal is as long as its command; data counts, and the reply to an import is 320.
    assert(came.length <= HELD_OCTETS_MAX + chunk.length + 512, `${came.length} octets at once`);
    output.push(came);
  }
  return Buffer.concat(output);
}

async function end(client: ScriptedClient): Promise<void> {
  await client.connection.close();
  assert.equal(client.registry.get('1-1')?.holder, null, 'the device is not free');
  assert.equal(client.clock.timers, 0, 'a timer is left');
}

/** Commands as a client would send them, to endpoints of all types, some of them wrong. */
const command: fc.Arbitrary<Submit> = fc
  .record({
    endpoint: fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 0xffffffff),
    direction: fc.constantFrom(IN, OUT),
    flags: fc.constantFrom(0, 1, 2, 0x40, 0x201, 0xffffffff),
    length: fc.oneof(fc.nat(100), fc.constantFrom(512, 1024, 5000)),
    packetCount: fc.nat(4),
    setup: fc.constantFrom(
      setupOctets(0x80, 6, 0x0100, 0, 18),
      setupOctets(0x80, 6, 0x0200, 0, 255),
      setupOctets(0x80, 0, 0, 0, 2),
      setupOctets(0x02, 1, 0, 0x81),
      setupOctets(0x02, 3, 0, 0x02),
      setupOctets(0x01, 11, 0, 0),
      setupOctets(0x01, 11, 1, 0),
      setupOctets(0x00, 9, 1, 0),
      setupOctets(0x40, 0x5b, 0, 0, 20),
      setupOctets(0xc0, 0x5c, 0, 0, 20),
    ),
  })
  .map(({ endpoint, direction, flags, length, packetCount, setup }): Submit => {
    const isochronous =
      (endpoint === 3 && direction === IN) || (endpoint === 4 && direction === OUT);
    const packetOctets = Math.floor(length / Math.max(1, packetCount));
    const packets = Array.from(
      { length: isochronous ? packetCount : 0 },
      (_, n): [number, number] => [n * packetOctets, packetOctets],
    );
    const octets = endpoint === 0 ? setup.readUInt16LE(6) : length;
    return {
      endpoint,
      direction,
      flags,
      packets,
      ...(endpoint === 0 && { setup }),
      ...(direction === IN ? { octets } : { data: Buffer.alloc(octets) }),
    };
  });

const step = fc.oneof(
  { arbitrary: command.map((submit) => ({ submit })), weight: 5 },
  { arbitrary: fc.nat(30).map((unlink) => ({ unlink })), weight: 1 },
);

/** A conversation from its import on. */
const conversation = fc.array(step, { minLength: 1, maxLength: 25 }).map((steps) => {
  const wire = new Wire();
  const parts = steps.map((one) =>
    'submit' in one ? wire.submit(one.submit) : wire.unlink(one.unlink),
  );
  const configure = wire.submit({ direction: OUT, endpoint: 0, setup: setupOctets(0, 9, 1) });
  const select = wire.submit({ direction: OUT, endpoint: 0, setup: setupOctets(1, 11, 1, 0) });
  return Buffer.concat([importRequest('1-1'), configure, select, ...parts]);
});

/** Cuts octets at the given places, taken modulo the length. */
function cut(octets: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...places.map((at) => at % octets.length), octets.length].sort((a, b) => a - b);
  return ends.map((at, n) => octets.subarray(n === 0 ? 0 : ends[n - 1], at));
}

const places = fc.array(fc.nat(100_000), { maxLength: 20 });

/** A header whose fields are each right, or on an edge, or anything. */
const field = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 4, 15, 16, 18, 64, 0x80, 0x200, 1024, DEVICE_ID, 0x7fffffff),
  fc.constantFrom(0x80000000, 0xffffffff),
  fc.nat(0xffffffff),
);
const header = fc
  .array(field, { minLength: 12, maxLength: 12 })
  .chain((fields) =>
    fc.record({
      fields: fc.constant(fields),
      command: fc.constantFrom(1, 1, 1, 2, 3),
      deviceId: fc.constantFrom(DEVICE_ID, DEVICE_ID, DEVICE_ID, 0, 1),
      direction: fc.constantFrom(0, 1, 0, 1, 0, 1, 2),
      endpoint: fc.constantFrom(0, 1, 2, 3, 4, 5, 6),
    }),
  )
  .map(({ fields, command: first, deviceId, direction, endpoint }) => {
    const octets = Buffer.alloc(48);
    fields.forEach((value, n) => {
      octets.writeUInt32BE(value >>> 0, 4 * n);
    });
    octets.writeUInt32BE(first, 0);
    octets.writeUInt32BE(deviceId, 8);
    octets.writeUInt32BE(direction, 12);
    octets.writeUInt32BE(endpoint, 16);
    return octets;
  });

describe('fuzz: Connection', function () {
  this.timeout(FUZZ_TIMEOUT_MILLISECONDS);

  it('any octets before an import', async () => {
    const octets = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc
        .tuple(fc.constantFrom(...VECTORS), fc.uint8Array({ maxLength: 100 }))
        .map(([one, rest]) => Buffer.concat([one.octets, rest])),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(octets, { maxLength: 6 }), async (chunks) => {
        const client = clientOf(false);
        feed(client, chunks);
        await end(client);
      }),
      bounded(1000),
    );
  });

  it('any octets, and any headers, after an import', async () => {
    const chunk = fc.oneof(
      { arbitrary: header, weight: 4 },
      { arbitrary: fc.uint8Array({ maxLength: 200 }), weight: 1 },
      { arbitrary: fc.nat(5000).map((length) => Buffer.alloc(length)), weight: 1 },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(chunk, { minLength: 1, maxLength: 12 }), async (chunks) => {
        const client = clientOf(true);
        feed(client, chunks);
        await end(client);
      }),
      bounded(),
    );
  });

  it('a valid conversation with octets spoiled', async () => {
    const spoils = fc.array(fc.tuple(fc.nat(100_000), fc.nat(255)), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(conversation, spoils, places, async (stream, list, at) => {
        for (const [place, value] of list) stream[place % stream.length] = value;
        const client = clientOf(false);
        feed(client, cut(stream, at));
        client.clock.advance(10_000);
        await end(client);
      }),
      bounded(),
    );
  });

  it('the same conversation gives the same output, whatever the chunks', async () => {
    await fc.assert(
      fc.asyncProperty(conversation, places, async (stream, at) => {
        const outputs = await Promise.all(
          [[stream], cut(stream, at)].map(async (chunks) => {
            const client = clientOf(false);
            const output = [feed(client, chunks)];
            client.clock.advance(10_000);
            output.push(client.output());
            await end(client);
            output.push(client.output());
            return Buffer.concat(output);
          }),
        );
        assert.deepEqual(outputs[1], outputs[0]);
        assert((outputs[0]?.length ?? 0) > 320);
      }),
      bounded(),
    );
  });

  it('a device that is unplugged at any moment', async () => {
    await fc.assert(
      fc.asyncProperty(conversation, places, fc.nat(20), async (stream, at, moment) => {
        const device = new VirtualDevice(scriptedDevice());
        const registry = new Registry();
        registry.add(device, 'scripted');
        const client = new ScriptedClient({ registry, limits: LIMITS });
        const chunks = cut(stream, at);
        feed(client, chunks.slice(0, moment));
        device.unplug();
        feed(client, chunks.slice(moment));
        await end(client);
      }),
      bounded(1000),
    );
  });
});
