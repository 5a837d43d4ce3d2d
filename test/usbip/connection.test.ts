import { strict as assert } from 'node:assert';
import { stall, took } from '../../src/core/devices/virtual/definition.ts';
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { type ProtocolErrorCode, RemoteProtocolError } from '../../src/core/errors.ts';
import { Registry } from '../../src/core/registry.ts';
import { ManualDevice } from '../core/manual-device.ts';
import {
  BULK_IN,
  BULK_OUT,
  INTERRUPT_IN,
  ISO_IN,
  ISO_OUT,
  OTHER_IN,
  type Script,
  scriptedDevice,
  VENDOR_IN,
  VENDOR_OUT,
} from '../core/scripted-device.ts';
import { FakeClock } from '../examples/rig.ts';
import { hex } from '../vectors/usbip.ts';
import {
  DEVICE_ID,
  IN,
  importRequest,
  listRequest,
  OUT,
  opCommon,
  type Reply,
  ScriptedClient,
  type ScriptedOptions,
  type SubmitReply,
  setupOctets,
} from './scripted-client.ts';

const SHORT_NOT_OK = 1;
const ZERO_PACKET = 0x40;
const number = (address: number): number => address & 15;

interface Scripted extends ScriptedClient {
  readonly script: Script;
  readonly device: VirtualDevice<Script>;
}

/** A client that has imported and configured a scripted device. */
function scripted(options: ScriptedOptions & { paced?: boolean } = {}): Scripted {
  const clock = options.clock ?? new FakeClock();
  const device = new VirtualDevice(scriptedDevice({ paced: options.paced ?? false }), {
    clock,
    onFault: (error) => assert.fail(`a fault of the device: ${error}`),
  });
  const registry = new Registry();
  registry.add(device, 'scripted');
  const client = new ScriptedClient({ ...options, clock, registry });
  client.import();
  client.configure();
  const { state: script } = device;
  script.take();
  return Object.assign(client, { script, device });
}

/** A client of gadget zero. */
function sourceSinkClient(options: Record<string, unknown> = {}, setting = 0): ScriptedClient {
  const registry = new Registry();
  registry.add(new VirtualDevice(sourceSink.define(options as never)), 'source-sink');
  const client = new ScriptedClient({ registry });
  client.import();
  client.configure();
  if (setting !== 0) client.select(0, setting);
  return client;
}

function protocolError(code: ProtocolErrorCode, call: () => void): void {
  assert.throws(call, (error) => {
    assert(error instanceof RemoteProtocolError, String(error));
    assert.equal(error.code, code);
    return true;
  });
}

/** Replies in short: seqnum, status and octets; unlinks have a "u". */
const brief = (replies: readonly Reply[]): string[] =>
  replies.map((reply) =>
    reply.type === 'unlink'
      ? `u${reply.seqnum} ${reply.status}`
      : `${reply.seqnum} ${reply.status} ${reply.actualLength}`,
  );

describe('Connection: operations', () => {
  it('answers a list, then ends', () => {
    const { registry } = scripted();
    const client = new ScriptedClient({ registry });
    client.send(listRequest());
    const list = client.output();
    assert.equal(list.length, 8 + 4 + 312 + 2 * 4);
    assert(client.connection.ending);
    assert.deepEqual(client.events, [{ type: 'listed' }]);
  });

  it('takes nothing after a list', () => {
    const client = new ScriptedClient();
    client.send(listRequest(), listRequest(), importRequest('1-1'), hex('ffff'));
    assert.equal(client.output().length, 12);
    client.send(listRequest());
    assert.equal(client.output().length, 0);
  });

  it('refuses an unknown bus id', () => {
    const client = new ScriptedClient();
    client.send(importRequest('4-2'));
    assert.deepEqual(client.output(), hex('0111 0003 00000004'));
    assert(client.connection.ending);
    assert.deepEqual(client.events, [{ type: 'refused', busId: '4-2', reason: 'unknown' }]);
  });

  it('refuses a second client while the first has the device; a release frees it', async () => {
    const first = scripted();
    const second = new ScriptedClient({ registry: first.registry });
    second.send(importRequest('1-1'));
    assert.deepEqual(second.output(), hex('0111 0003 00000002'));
    assert(second.connection.ending);
    await second.connection.close();
    assert.notEqual(first.registry.get('1-1')?.holder, null, 'the refused client frees nothing');
    await first.connection.close();
    const third = new ScriptedClient({ registry: first.registry });
    third.import();
    third.configure();
    assert.equal(third.connection.busId, '1-1');
  });

  it('a device that cannot be opened refuses the import, and can be imported later', () => {
    const device = new VirtualDevice(scriptedDevice());
    const registry = new Registry();
    registry.add(device, 'scripted');
    const open = device.open.bind(device);
    device.open = () => {
      throw new Error('held by the kernel');
    };
    const client = new ScriptedClient({ registry });
    client.send(importRequest('1-1'));
    assert.deepEqual(client.output(), hex('0111 0003 00000003'));
    assert.deepEqual(client.events, [
      { type: 'refused', busId: '1-1', reason: 'held by the kernel' },
    ]);
    device.open = open;
    new ScriptedClient({ registry }).import();
  });

  it('takes commands that arrive together with the import', () => {
    const { registry } = scripted({});
    const spare = registry.add(new VirtualDevice(scriptedDevice()), 'spare');
    const client = new ScriptedClient({ registry });
    const deviceId = (spare.bus << 16) | spare.deviceNumber;
    const setup = setupOctets(0x80, 6, 0x100, 0, 18);
    const command = { direction: IN, endpoint: 0, octets: 18, setup, deviceId };
    client.send(importRequest(spare.busId), client.wire.submit(command));
    const output = client.output();
    assert.equal(output.length, 320 + 48 + 18);
    assert.deepEqual(brief(client.wire.receive(output.subarray(320))), ['1 0 18']);
  });

  it('jiegec#36: a submit before an import is no operation', () => {
    const client = new ScriptedClient();
    const command = client.wire.submit({ direction: IN, endpoint: 1, octets: 64 });
    protocolError('bad-version', () => client.send(command));
  });

  for (const [code, octets] of [
    ['bad-version', opCommon(0x8005, 0x0110)],
    ['bad-operation', opCommon(0x8004)],
    ['bad-version', Buffer.from('GET / HTTP/1.1\r\n')],
    ['bad-version', Buffer.from('1603010200010001', 'hex')],
  ] as const) {
    it(`${code}: ${octets.toString('hex')}`, () => {
      protocolError(code, () => new ScriptedClient().send(octets));
    });
  }

  it('closes without an import, and twice', async () => {
    const client = new ScriptedClient();
    await client.connection.close();
    await client.connection.close();
    const other = scripted();
    await Promise.all([other.connection.close(), other.connection.close()]);
    await other.connection.close();
    assert.equal(other.script.take().filter((line) => line === 'release').length, 1);
  });
});

describe('Connection: an import while the device is let go of', () => {
  const BUSY = hex('0111 0003 00000002');

  /** A device whose client is leaving, until `ready` is called and `closed` has resolved. */
  function leaving() {
    const first = scripted();
    let ready = (): void => {};
    first.script.released = new Promise((resolve) => {
      ready = resolve;
    });
    const { registry } = first;
    return { registry, ready, closed: first.connection.close() };
  }

  /** A client that has asked for it. */
  function early(registry: Registry): ScriptedClient {
    const client = new ScriptedClient({ registry });
    client.send(importRequest('1-1'));
    return client;
  }

  it('waits, and is granted', async () => {
    const { registry, ready, closed } = leaving();
    const client = early(registry);
    assert.equal(client.output().length, 0);
    assert(!client.connection.ending);
    ready();
    await closed;
    assert.equal(client.announced, 1);
    assert.equal(client.output().length, 320);
    assert.equal(client.connection.busId, '1-1');
    assert.equal(client.clock.timers, 0);
    client.configure();
  });

  it('of two that wait, one is granted and one refused', async () => {
    const { registry, ready, closed } = leaving();
    const clients = [early(registry), early(registry)];
    ready();
    await closed;
    assert.deepEqual(
      clients.map(({ connection }) => connection.busId),
      ['1-1', undefined],
    );
    assert.deepEqual(clients[1]?.output(), BUSY);
    assert(clients[1]?.connection.ending);
  });

  it('is refused when that takes too long', async () => {
    const { registry, ready, closed } = leaving();
    const client = early(registry);
    client.clock.advance(4_999);
    assert.equal(client.output().length, 0);
    client.clock.advance(1);
    assert.equal(client.announced, 1);
    assert.deepEqual(client.output(), BUSY);
    assert.deepEqual(client.events, [{ type: 'refused', busId: '1-1', reason: 'busy' }]);
    ready();
    await closed;
    assert.equal(registry.get('1-1')?.holder, null, 'the refused client takes nothing');
  });

  it('takes nothing when the one that waits has gone', async () => {
    const { registry, ready, closed } = leaving();
    const client = early(registry);
    await client.connection.close();
    ready();
    await closed;
    assert.equal(registry.get('1-1')?.holder, null);
    assert.equal(client.output().length, 0);
  });

  it('is refused as unknown when the device was unexported meanwhile', async () => {
    const { registry, ready, closed } = leaving();
    const client = early(registry);
    const removed = registry.remove('1-1');
    ready();
    await Promise.all([closed, removed]);
    assert.deepEqual(client.output(), hex('0111 0003 00000004'));
  });

  it('is refused when commands come before the answer', async () => {
    const { registry, ready, closed } = leaving();
    const client = new ScriptedClient({ registry });
    const command = client.wire.submit({ direction: IN, endpoint: 0, setup: setupOctets(0x80, 0) });
    client.send(importRequest('1-1'), command);
    assert.deepEqual(client.output(), BUSY);
    client.send(command);
    ready();
    await closed;
    assert.equal(client.output().length, 0);
    assert.equal(registry.get('1-1')?.holder, null);
  });
});

describe('Connection: transfers', () => {
  it('each command gets one reply, in the order of its endpoint', () => {
    const client = scripted();
    const seqnums = [1, 2, 3].map(() =>
      client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 100 }),
    );
    client.submit({ direction: OUT, endpoint: number(BULK_OUT), data: Buffer.alloc(5) });
    const [out] = client.replies();
    assert.equal(out?.seqnum, (seqnums[2] ?? 0) + 1, 'endpoints do not wait for each other');
    for (const text of ['one', 'two', 'three']) {
      client.script.wakeWith(BULK_IN, Buffer.from(text));
    }
    const replies = client.replies() as SubmitReply[];
    assert.deepEqual(
      replies.map(({ seqnum, data }) => [seqnum, data.toString()]),
      seqnums.map((seqnum, n) => [seqnum, ['one', 'two', 'three'][n]]),
    );
    assert(client.announced >= 3);
    assert.deepEqual(client.replies(), []);
  });

  it('OUT: no data in the reply, but actual_length', () => {
    const client = scripted();
    const reply = client.write(number(BULK_OUT), Buffer.from('abc'));
    assert.deepEqual([reply.status, reply.actualLength, reply.data.length], [0, 3, 0]);
    assert.deepEqual(client.script.offered, [Buffer.from('abc')]);
  });

  it('OUT that is taken in part, then stalled, tells how much was taken', () => {
    const client = scripted();
    client.script.answer(BULK_OUT, took(64), stall);
    const reply = client.write(number(BULK_OUT), Buffer.alloc(200, 7));
    assert.deepEqual([reply.status, reply.actualLength], [-32, 64]);
  });

  it('OUT that waits keeps its own copy of the data', () => {
    const client = scripted();
    client.script.answer(BULK_OUT, { answer: 'nak' });
    const data = Buffer.from('must not change');
    client.submit({ direction: OUT, endpoint: number(BULK_OUT), data });
    client.submit({ direction: OUT, endpoint: number(BULK_OUT), data: Buffer.from('nor this') });
    assert.deepEqual(client.replies(), []);
    client.script.bus.wake(BULK_OUT);
    assert.deepEqual(client.script.offered.slice(1).map(String), ['must not change', 'nor this']);
    assert.equal(client.replies().length, 2);
  });

  it('control OUT that waits keeps its own copy of the data', () => {
    const client = scripted();
    client.script.answer(0x00, { answer: 'nak' });
    const data = Buffer.from('setup');
    client.submit({
      direction: OUT,
      endpoint: 0,
      data,
      setup: setupOctets(0x40, VENDOR_OUT, 0, 0, 5),
    });
    client.send(Buffer.alloc(0));
    client.script.bus.wake(0);
    assert.deepEqual(client.script.offered.map(String), ['setup', 'setup']);
    assert.equal(client.replies().length, 1);
  });

  it('a whole OUT transfer gets a zero packet if asked for', () => {
    const client = scripted();
    assert.equal(client.write(number(BULK_OUT), Buffer.alloc(128), ZERO_PACKET).actualLength, 128);
    assert.equal(client.write(number(BULK_OUT), Buffer.alloc(100), ZERO_PACKET).actualLength, 100);
    assert.equal(client.write(number(BULK_OUT), Buffer.alloc(128)).actualLength, 128);
    assert.deepEqual(client.script.take(), ['02 out 128', '02 out 0', '02 out 100', '02 out 128']);
  });

  it('IN short is no error', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.from('short'));
    const reply = client.read(number(BULK_IN), 4096);
    assert.deepEqual([reply.status, reply.actualLength], [0, 5]);
    assert.equal(reply.data.toString(), 'short');
  });

  it('IN short with SHORT_NOT_OK is -121, with its data', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.alloc(64, 1), Buffer.from('end'));
    const reply = client.read(number(BULK_IN), 4096, SHORT_NOT_OK);
    assert.deepEqual([reply.status, reply.actualLength], [-121, 67]);
    assert.equal(reply.data.toString('latin1', 64), 'end');
  });

  it('IN in full with SHORT_NOT_OK is no error', () => {
    const client = sourceSinkClient({ short: 512 });
    assert.equal(client.read(1, 512, SHORT_NOT_OK).status, 0);
    assert.equal(client.read(1, 1024, SHORT_NOT_OK).status, -121);
  });

  it('CVE-2017-16914: IN of no octets, and a device that has some', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.from('too much'));
    const reply = client.read(number(BULK_IN), 0);
    assert.deepEqual([reply.status, reply.actualLength, reply.data.length], [-75, 0, 0]);
  });

  it('Nitrokey#261: a device that returns more than asked for: what fits, and -75', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.from('0123456789'));
    const reply = client.read(number(BULK_IN), 4);
    assert.deepEqual([reply.status, reply.data.toString()], [-75, '0123']);
    client.script.answer(0x80, Buffer.from('0123456789'));
    const control = client.control(setupOctets(0xc0, VENDOR_IN, 0, 0, 4), { octets: 4 });
    assert.deepEqual([control.status, control.data.toString()], [0, '0123']);
  });

  it('control IN: wLength larger than the buffer gives what fits', () => {
    const client = scripted();
    const reply = client.control(setupOctets(0x80, 6, 0x100, 0, 0xffff), { octets: 8 });
    assert.deepEqual([reply.status, reply.actualLength], [0, 8]);
    const none = client.control(setupOctets(0x80, 6, 0x100, 0, 18), { octets: 0 });
    assert.deepEqual([none.status, none.actualLength], [0, 0]);
  });

  it('control IN: wLength smaller than the buffer gives wLength', () => {
    const client = scripted();
    const reply = client.control(setupOctets(0x80, 6, 0x100, 0, 8), { octets: 64 });
    assert.deepEqual([reply.status, reply.actualLength], [0, 8]);
  });

  it('control IN that ends short', () => {
    const client = scripted();
    const setup = setupOctets(0x80, 6, 0x100, 0, 64);
    assert.equal(client.control(setup, { octets: 64 }).actualLength, 18);
    const strict = client.transfer({ direction: IN, endpoint: 0, octets: 64, setup, flags: 1 });
    assert.deepEqual([strict.status, strict.actualLength], [-121, 18]);
  });

  it('control stall is -32 and ends with the request', () => {
    const client = scripted();
    assert.equal(client.control(setupOctets(0xc0, 0x99, 0, 0, 4), { octets: 4 }).status, -32);
    assert.equal(client.control(setupOctets(0x80, 6, 0x100, 0, 18), { octets: 18 }).status, 0);
  });

  it('a control request whose lengths contradict each other is -22; the stream goes on', () => {
    const client = scripted();
    const setup = setupOctets(0x40, VENDOR_OUT, 0, 0, 4);
    const reply = client.control(setup, { data: Buffer.alloc(5, 0xff) });
    assert.deepEqual([reply.status, reply.actualLength], [-22, 0]);
    assert.equal(client.control(setup, { data: Buffer.alloc(4) }).status, 0);
    assert.deepEqual(client.script.take(), ['vendor out 4']);
  });

  it('a device of source and sink moves much data both ways', () => {
    const client = sourceSinkClient({ pattern: 1 });
    for (const octets of [1, 511, 512, 513, 65536, 1 << 20]) {
      const { status, data } = client.read(1, octets);
      assert.equal(status, 0);
      assert.equal(data.length, octets);
      assert.equal(data[octets - 1], ((octets - 1) % 512) % 63);
      assert.deepEqual(brief([client.write(2, data)]).length, 1);
    }
    const wrong = client.write(2, Buffer.from([0, 1, 2, 9]));
    assert.equal(wrong.status, -32, 'the sink checks what it gets');
  });

  it('a stamped source loses and doubles nothing', () => {
    const client = sourceSinkClient({ stamp: true });
    const stamps: number[] = [];
    for (const octets of [512, 1024, 100, 5 * 512, 0, 3]) {
      const { data } = client.read(1, octets);
      for (let at = 0; at + 4 <= data.length; at += 512) stamps.push(data.readUInt32LE(at));
    }
    assert.deepEqual(stamps, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });
});

describe('Connection: stalls and settings', () => {
  it('a stall halts the endpoint until clear-halt', () => {
    const client = scripted();
    client.script.answer(BULK_IN, stall);
    assert.equal(client.read(number(BULK_IN), 64).status, -32);
    client.script.answer(BULK_IN, Buffer.from('not yet'));
    assert.equal(client.read(number(BULK_IN), 64).status, -32);
    assert.deepEqual(client.script.take(), ['81 in 64'], 'a halted endpoint asks no handler');
    const status = client.control(setupOctets(0x82, 0, 0, BULK_IN, 2), { octets: 2 });
    assert.deepEqual([...status.data], [1, 0]);
    client.clearHalt(BULK_IN);
    client.clock.advance(100);
    assert.equal(client.read(number(BULK_IN), 64).data.toString(), 'not yet');
    assert.deepEqual(client.script.take(), ['clear-halt 81', '81 in 64']);
  });

  it('the host can halt an endpoint; a URB that waits there ends', () => {
    const client = scripted();
    const waiting = client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
    client.submit({ direction: OUT, endpoint: 0, setup: setupOctets(2, 3, 0, BULK_IN) });
    client.clock.advance(100);
    assert.deepEqual(brief(client.replies()).sort(), [`${waiting} -32 0`, `${waiting + 1} 0 0`]);
  });

  it('set-interface ends the URBs of the old setting, those that wait too', () => {
    const client = scripted();
    const old = [1, 2, 3].map(() =>
      client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 }),
    );
    const elsewhere = client.submit({ direction: IN, endpoint: number(INTERRUPT_IN), octets: 8 });
    client.submit({ direction: OUT, endpoint: 0, setup: setupOctets(1, 11, 1, 0) });
    client.clock.advance(5000);
    const replies = client.replies();
    const statusOf = new Map(replies.map((reply) => [reply.seqnum, reply.status]));
    for (const seqnum of [...old, elsewhere]) assert.equal(statusOf.get(seqnum), -108);
    assert.equal(statusOf.get(elsewhere + 1), 0);
    assert.equal(replies.length, 5);
    client.script.answer(OTHER_IN, Buffer.from('new'));
    assert.equal(client.read(number(OTHER_IN), 64).data.toString(), 'new');
    assert.equal(client.read(number(INTERRUPT_IN), 64).status, -108);
  });

  it('an endpoint may change its type with the setting', () => {
    const client = scripted();
    client.select(0, 2);
    client.script.answer(ISO_IN, Buffer.from('bulk now'));
    const reply = client.transfer({
      direction: IN,
      endpoint: number(ISO_IN),
      octets: 64,
      packetCount: 5,
    });
    assert.equal(reply.data.toString(), 'bulk now');
  });

  it('set-configuration ends what is under way; 0 leaves endpoint 0 alone', () => {
    const client = scripted();
    const seqnum = client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 64 });
    client.submit({ direction: OUT, endpoint: 0, setup: setupOctets(0, 9, 0) });
    client.clock.advance(100);
    assert.deepEqual(brief(client.replies()).sort(), [`${seqnum} -108 0`, `${seqnum + 1} 0 0`]);
    assert.equal(client.read(number(BULK_IN), 64).status, -108);
    const configuration = client.control(setupOctets(0x80, 8, 0, 0, 1), { octets: 1 });
    assert.deepEqual([...configuration.data], [0]);
  });
});

describe('Connection: unlink', () => {
  const pending = (client: Scripted): number =>
    client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 200 });

  it('of a URB at the device: -104, and no RET_SUBMIT', () => {
    const client = scripted();
    const victim = pending(client);
    const unlink = client.unlink(victim);
    assert.deepEqual(brief(client.replies()), [`u${unlink} -104`]);
    client.script.wakeWith(BULK_IN, Buffer.from('late'));
    client.clock.advance(5000);
    assert.deepEqual(client.replies(), []);
  });

  it('of a URB that waits: -104; the others go on in order', () => {
    const client = scripted();
    const [first, second, third] = [pending(client), pending(client), pending(client)];
    const unlink = client.unlink(second);
    assert.deepEqual(brief(client.replies()), [`u${unlink} -104`]);
    client.script.wakeWith(BULK_IN, Buffer.from('1'));
    client.clock.advance(5000);
    client.script.wakeWith(BULK_IN, Buffer.from('22'));
    client.clock.advance(5000);
    assert.deepEqual(brief(client.replies()), [`${first} 0 1`, `${third} 0 2`]);
  });

  it('of a URB that is done: 0', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.from('1'));
    const victim = pending(client);
    const unlink = client.unlink(victim);
    assert.deepEqual(brief(client.replies()), [`${victim} 0 1`, `u${unlink} 0`]);
  });

  it('of a URB that nobody knows: 0', () => {
    const client = scripted();
    for (const victim of [0, 4711, 0xffffffff]) {
      const unlink = client.unlink(victim);
      assert.deepEqual(brief(client.replies()), [`u${unlink} 0`]);
    }
  });

  it('of another session’s seqnum touches nothing of it', () => {
    const first = scripted();
    const victim = pending(first);
    const spare = first.registry.add(new VirtualDevice(scriptedDevice()), 'spare', '2-1');
    const second = new ScriptedClient({ registry: first.registry });
    second.import(spare.busId);
    second.send(
      hex(`00000002 00000063 00020002 00000000 00000000
      ${victim.toString(16).padStart(8, '0')} ${'00'.repeat(24)}`),
    );
    assert.deepEqual(brief(second.replies()), ['u99 0']);
    first.script.wakeWith(BULK_IN, Buffer.from('1'));
    assert.deepEqual(brief(first.replies()), [`${victim} 0 1`]);
  });

  it('twice: each gets its reply', () => {
    const client = scripted();
    const victim = pending(client);
    const [first, second] = [client.unlink(victim), client.unlink(victim)];
    assert.deepEqual(brief(client.replies()), [`u${first} -104`, `u${second} 0`]);
  });

  it('of a URB with data: RET_SUBMIT with the data, then RET_UNLINK 0', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.alloc(64, 0xaa));
    const victim = pending(client);
    const unlink = client.unlink(victim);
    client.clock.advance(100);
    const [submit, ...rest] = client.replies();
    assert(submit?.type === 'submit');
    assert.deepEqual([submit.seqnum, submit.status, submit.actualLength], [victim, -104, 64]);
    assert.deepEqual(submit.data, Buffer.alloc(64, 0xaa));
    assert.deepEqual(brief(rest), [`u${unlink} 0`]);
    assert.deepEqual(client.script.take(), ['81 in 200', '81 in 136', 'unlink 81']);
  });

  it('of an OUT URB that was taken in part: the same', () => {
    const client = scripted();
    client.script.answer(BULK_OUT, took(64), { answer: 'nak' });
    const victim = client.submit({
      direction: OUT,
      endpoint: number(BULK_OUT),
      data: Buffer.alloc(100),
    });
    const unlink = client.unlink(victim);
    client.clock.advance(100);
    assert.deepEqual(brief(client.replies()), [`${victim} -104 64`, `u${unlink} 0`]);
  });

  it('of a control URB that waits', () => {
    const client = scripted();
    const setup = setupOctets(0xc0, VENDOR_IN, 0, 0, 4);
    const victim = client.submit({ direction: IN, endpoint: 0, octets: 4, setup });
    const unlink = client.unlink(victim);
    assert.deepEqual(brief(client.replies()), [`u${unlink} -104`]);
    client.clock.advance(5000);
    assert.equal(client.control(setupOctets(0x80, 6, 0x100, 0, 18), { octets: 18 }).status, 0);
  });

  it('of a paced isochronous URB', () => {
    const client = scripted({ paced: true });
    const packets = [[0, 10]] as const;
    const common = { direction: IN, endpoint: number(ISO_IN), octets: 10, packets };
    const victims = [client.submit(common), client.submit(common)];
    const unlinks = victims.map((victim) => client.unlink(victim));
    assert.deepEqual(
      brief(client.replies()).sort(),
      unlinks.map((seqnum) => `u${seqnum} -104`),
    );
    client.clock.advance(10_000);
    assert.deepEqual(client.replies(), []);
    assert.deepEqual(client.script.take(), []);
    assert.equal(client.clock.timers, 0);
  });

  it('a seqnum can be used again after its URB is back', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.from('1'), Buffer.from('22'));
    const common = { direction: IN, endpoint: number(BULK_IN), octets: 64, seqnum: 77 };
    client.submit(common);
    client.submit(common);
    assert.deepEqual(brief(client.replies()), ['77 0 1', '77 0 2']);
  });
});

describe('Connection: hostile and broken commands', () => {
  const read = { direction: IN, endpoint: number(BULK_IN), octets: 64 };

  it('duplicate-seqnum', () => {
    const client = scripted();
    client.submit({ ...read, seqnum: 50 });
    protocolError('duplicate-seqnum', () => client.submit({ ...read, seqnum: 50 }));
  });

  for (const deviceId of [DEVICE_ID + 1, DEVICE_ID + 0x10000, 2, 0xffffffff]) {
    it(`bad-device-id: ${deviceId}, in a submit and in an unlink`, () => {
      const submitting = scripted();
      protocolError('bad-device-id', () => submitting.submit({ ...read, deviceId }));
      const unlinking = scripted();
      const octets = unlinking.wire.unlink(1);
      octets.writeUInt32BE(deviceId, 8);
      protocolError('bad-device-id', () => unlinking.send(octets));
    });
  }

  it('device id 0 is taken, as some clients send it', () => {
    const client = scripted();
    client.script.answer(BULK_IN, Buffer.from('x'));
    assert.equal(client.transfer({ ...read, deviceId: 0 }).status, 0);
  });

  for (const command of [0, 3, 4, 5, 0x01000000, 0x0111_8005, 0xffffffff]) {
    it(`bad-command: ${command}`, () => {
      const client = scripted();
      const octets = client.wire.submit(read);
      octets.writeUInt32BE(command, 0);
      protocolError('bad-command', () => client.send(octets));
    });
  }

  for (const direction of [2, 0x100, 0xffffffff]) {
    it(`bad-direction: ${direction}`, () => {
      const client = scripted();
      protocolError('bad-direction', () => client.submit({ ...read, direction }));
    });
  }

  for (const octets of [-1, -0x80000000]) {
    it(`CVE-2017-16913, bad-length: ${octets} octets, IN, OUT, control and isochronous`, () => {
      for (const fields of [
        { ...read, octets },
        { direction: OUT, endpoint: number(BULK_OUT), octets },
        { direction: IN, endpoint: number(ISO_IN), octets },
        { direction: IN, endpoint: 0, octets, setup: setupOctets(0x80, 6, 0x100, 0, 18) },
        { direction: OUT, endpoint: 15, octets },
      ]) {
        const client = scripted();
        protocolError('bad-length', () => client.submit(fields));
      }
    });
  }

  for (const packetCount of [-1, 1025, 0x7fffffff, -0x80000000]) {
    it(`CVE-2017-16913, bad-packet-count: ${packetCount} packets`, () => {
      const client = scripted();
      const fields = { direction: IN, endpoint: number(ISO_IN), octets: 64, packetCount };
      protocolError('bad-packet-count', () => client.submit(fields));
    });
  }

  it('CVE-2017-16913, bad-length: a giant isochronous transfer', () => {
    const client = scripted();
    const fields = { direction: IN, endpoint: number(ISO_IN), octets: 0x7fffffff, packetCount: 1 };
    protocolError('bad-length', () => client.submit(fields));
  });

  for (const endpoint of [16, 17, 0x80, 0x81, 0xffffffff, 8, 15]) {
    it(`CVE-2017-16912: endpoint ${endpoint} is -108, IN and OUT, and the stream goes on`, () => {
      const client = scripted();
      assert.equal(client.transfer({ direction: IN, endpoint, octets: 64 }).status, -108);
      const data = Buffer.alloc(5000, 0xff);
      const reply = client.transfer({ direction: OUT, endpoint, data });
      assert.deepEqual([reply.status, reply.actualLength], [-108, 0]);
      client.script.answer(BULK_IN, Buffer.from('x'));
      assert.equal(client.transfer(read).status, 0);
    });
  }

  it('raspberrypi/linux#7572: packets on bulk, interrupt and control mean nothing', () => {
    const client = scripted();
    for (const packetCount of [-1, 1, 0x7fffffff, -0x80000000]) {
      client.script.answer(BULK_IN, Buffer.from('x'));
      assert.equal(client.transfer({ ...read, packetCount }).status, 0);
      const data = Buffer.from('y');
      const write = { direction: OUT, endpoint: number(BULK_OUT), data, packetCount };
      assert.equal(client.transfer(write).actualLength, 1);
      const setup = setupOctets(0x80, 6, 0x100, 0, 18);
      const control = { direction: IN, endpoint: 0, octets: 18, setup, packetCount };
      assert.equal(client.transfer(control).actualLength, 18);
    }
  });

  it('jiegec: giant OUT lengths take no memory, and end the URB, not the gateway', () => {
    const client = scripted({ limits: { transferOctetsMax: 1000 } });
    const before = process.memoryUsage().arrayBuffers;
    const head = client.wire.submit({
      direction: OUT,
      endpoint: number(BULK_OUT),
      octets: 0x7fffffff,
    });
    client.send(head);
    assert.deepEqual(brief(client.replies()), ['2 -12 0']);
    client.send(Buffer.alloc(100_000, 0xff)); // the first octets of the body
    assert.deepEqual(client.replies(), []);
    assert(process.memoryUsage().arrayBuffers - before < 64 << 20);
  });

  it('the body of a refused URB is passed over, in one chunk and in many', () => {
    for (const chunk of [1, 7, 48, 999, 100_000]) {
      const client = scripted({ limits: { transferOctetsMax: 1000 } });
      client.script.answer(BULK_IN, Buffer.from('x'));
      const [large, next] = [client.wire.nextSeqnum(), client.wire.nextSeqnum()];
      const data = Buffer.alloc(1001, 0xff);
      const stream = Buffer.concat([
        client.wire.submit({ direction: OUT, endpoint: number(BULK_OUT), data, seqnum: large }),
        client.wire.submit({ ...read, seqnum: next }),
      ]);
      for (let at = 0; at < stream.length; at += chunk) {
        client.send(stream.subarray(at, at + chunk));
      }
      assert.deepEqual(brief(client.replies()), [`${large} -12 0`, `${next} 0 1`]);
      assert.deepEqual(client.script.offered, []);
    }
  });

  it('urbsMax: one more is -12, and room again when one is back', () => {
    const client = scripted({ limits: { urbsMax: 3 } });
    const seqnums = [1, 2, 3, 4].map(() => client.submit(read));
    assert.deepEqual(brief(client.replies()), [`${seqnums[3]} -12 0`]);
    client.script.wakeWith(BULK_IN, Buffer.from('x'));
    assert.deepEqual(brief(client.replies()), [`${seqnums[0]} 0 1`]);
    client.submit(read);
    client.clock.advance(100);
    assert.deepEqual(client.replies(), []);
  });

  it('outstandingOctetsMax counts what is not given back', () => {
    const client = scripted({ limits: { outstandingOctetsMax: 1000 } });
    const first = client.submit({ ...read, octets: 600 });
    const second = client.submit({ ...read, octets: 401 });
    assert.deepEqual(brief(client.replies()), [`${second} -12 0`]);
    const third = client.submit({ ...read, octets: 400 });
    const data = Buffer.alloc(1);
    const fourth = client.submit({ direction: OUT, endpoint: number(BULK_OUT), data });
    assert.deepEqual(brief(client.replies()), [`${fourth} -12 0`]);
    client.unlink(third);
    client.unlink(first);
    client.clock.advance(5000);
    client.replies();
    client.submit({ ...read, octets: 1000 });
    assert.deepEqual(client.replies(), []);
  });

  it('outstandingOctetsMax counts replies that are not sent, here and at the socket', () => {
    const client = scripted({ limits: { outstandingOctetsMax: 1000 } });
    client.script.answer(BULK_IN, Buffer.alloc(500, 1));
    client.submit({ ...read, octets: 500 });
    const refused = client.submit({ ...read, octets: 500 }); // 548 wait to be taken
    assert.deepEqual(brief(client.replies()).slice(1), [`${refused} -12 0`]);
    client.unsentOctets = 900;
    const again = client.submit({ ...read, octets: 101 });
    assert.deepEqual(brief(client.replies()), [`${again} -12 0`]);
    client.unsentOctets = 0;
    client.submit({ ...read, octets: 101 });
    assert.deepEqual(client.replies(), []);
  });

  it('CVE-2021-3527: isochronous packets count as well', () => {
    const client = scripted({ paced: true, limits: { outstandingOctetsMax: 100_000 } });
    const packets = Array.from({ length: 1024 }, () => [0, 0] as const);
    const stream = { direction: IN, endpoint: number(ISO_IN), octets: 0, packets };
    for (let n = 0; n < 20; n++) client.submit(stream);
    const refused = client.replies();
    assert(refused.length > 0, 'twenty thousand packets were taken');
    assert(refused.every((reply) => reply.status === -12));
  });
});

describe('Connection: isochronous', () => {
  it('OUT: packets and data; the reply has descriptors and no data', () => {
    const client = scripted();
    const reply = client.transfer({
      direction: OUT,
      endpoint: number(ISO_OUT),
      data: Buffer.from('abcdef'),
      packets: [
        [0, 2],
        [4, 2],
      ],
    });
    assert.deepEqual([reply.status, reply.actualLength, reply.data.length], [0, 4, 0]);
    assert.deepEqual(client.script.offered.map(String), ['ab', 'ef']);
    assert.deepEqual(
      reply.packets.map((packet) => [packet.offset, packet.length, packet.actualLength]),
      [
        [0, 2, 2],
        [4, 2, 2],
      ],
    );
  });

  it('OUT that waits keeps its own copy of the data', () => {
    const client = scripted({ paced: true });
    client.submit({
      direction: OUT,
      endpoint: number(ISO_OUT),
      data: Buffer.from('abcdef'),
      packets: [[1, 4]],
    });
    client.send(Buffer.alloc(0));
    client.clock.advance(1);
    assert.deepEqual(client.script.offered.map(String), ['bcde']);
  });

  it('IN: short packets are joined without gaps, offsets stay', () => {
    const client = scripted();
    client.script.answer(ISO_IN, Buffer.from('a'), Buffer.alloc(0), Buffer.from('ccc'));
    const packets = [
      [0, 10],
      [10, 10],
      [20, 10],
    ] as const;
    const reply = client.transfer({ direction: IN, endpoint: number(ISO_IN), octets: 30, packets });
    assert.equal(reply.data.toString(), 'accc');
    assert.deepEqual(
      reply.packets.map((packet) => [packet.offset, packet.length, packet.actualLength]),
      [
        [0, 10, 1],
        [10, 10, 0],
        [20, 10, 3],
      ],
    );
  });

  it('np=0 is legal', () => {
    const client = scripted();
    const reply = client.transfer({ direction: IN, endpoint: number(ISO_IN), octets: 0 });
    assert.deepEqual([reply.status, reply.actualLength], [0, 0]);
    const data = Buffer.alloc(10);
    const out = client.transfer({ direction: OUT, endpoint: number(ISO_OUT), data });
    assert.deepEqual([out.status, out.actualLength], [0, 0]);
  });

  it('qubes-issues#3628: more packets than length over packet size', () => {
    const client = scripted();
    for (let n = 0; n < 20; n++) client.script.answer(ISO_IN, Buffer.from([n]));
    const packets = Array.from({ length: 20 }, (_, n) => [n, 1] as const);
    const reply = client.transfer({ direction: IN, endpoint: number(ISO_IN), octets: 20, packets });
    assert.deepEqual([reply.status, reply.actualLength], [0, 20]);
  });

  it('a packet that does not lie in the buffer is -22, with all descriptors', () => {
    const client = scripted();
    for (const packets of [
      [[0, 11]],
      [[0xffffffff, 1]],
      [
        [5, 5],
        [5, 6],
      ],
    ] as [number, number][][]) {
      const fields = { direction: IN, endpoint: number(ISO_IN), octets: 10, packets };
      const reply = client.transfer(fields);
      assert.deepEqual([reply.status, reply.errorCount], [-22, packets.length]);
      assert(reply.packets.every((packet) => packet.status === -22 && packet.actualLength === 0));
      const data = Buffer.alloc(10);
      const out = client.transfer({ direction: OUT, endpoint: number(ISO_OUT), data, packets });
      assert.equal(out.status, -22);
    }
    assert.deepEqual(client.script.take(), []);
  });

  it('a refusal for want of room has all descriptors too, also when they come in pieces', () => {
    const client = scripted({ paced: true, limits: { urbsMax: 1 } });
    client.submit({ direction: IN, endpoint: number(BULK_IN), octets: 1 });
    const packets = [
      [0, 5],
      [5, 5],
    ] as const;
    const data = Buffer.alloc(10, 0xff);
    const seqnum = client.wire.nextSeqnum();
    const octets = client.wire.submit({
      direction: OUT,
      endpoint: number(ISO_OUT),
      data,
      packets,
      seqnum,
    });
    for (const octet of octets) client.send(Buffer.from([octet]));
    const [reply] = client.replies();
    assert(reply?.type === 'submit');
    assert.deepEqual([reply.status, reply.packetCount], [-12, 2]);
  });

  it('qubes-issues#3628: a stream that goes on after its setting was left stays in step', () => {
    // An audio driver's URBs may be under way when SET_INTERFACE 0 takes their endpoint away. They
    // bring packet descriptors, although the endpoint is gone.
    const client = scripted();
    const packets = [
      [0, 5],
      [5, 5],
    ] as const;
    client.transfer({ direction: OUT, endpoint: number(ISO_OUT), data: Buffer.alloc(10), packets });
    client.select(0, 1);
    const late = {
      direction: OUT,
      endpoint: number(ISO_OUT),
      data: Buffer.alloc(10, 0xff),
      packets,
    };
    assert.equal(client.transfer(late).status, -108);
    client.script.answer(OTHER_IN, Buffer.from('x'));
    assert.equal(client.read(number(OTHER_IN), 64).status, 0);
  });

  it('Σ actual_length of the packets is the header’s, whatever the device does', () => {
    const faults: unknown[] = [];
    const device = new VirtualDevice(scriptedDevice(), { onFault: (error) => faults.push(error) });
    const registry = new Registry();
    registry.add(device, 'scripted');
    const client = new ScriptedClient({ registry });
    client.import();
    client.configure();
    const script = device.state;
    const packets = [
      [0, 4],
      [4, 4],
      [8, 4],
    ] as const;
    const answers = [
      [Buffer.alloc(4), { answer: 'fail', status: 'crc-error' } as const, Buffer.alloc(2)],
      [Buffer.alloc(9), Buffer.alloc(4), Buffer.alloc(4)],
      [Buffer.alloc(4), new Error('a bug in the device'), Buffer.alloc(4)],
    ];
    for (const three of answers) {
      script.answer(ISO_IN, ...three);
      const common = { octets: 12, packets };
      const reply = client.transfer({ direction: IN, endpoint: number(ISO_IN), ...common });
      const sum = reply.packets.reduce((total, packet) => total + packet.actualLength, 0);
      assert.equal(sum, reply.actualLength);
      assert.equal(reply.data.length, reply.actualLength);
      assert.equal(reply.errorCount, reply.packets.filter((packet) => packet.status !== 0).length);
    }
    script.answer(ISO_OUT, { answer: 'ack' }, new Error('a bug in the device'));
    const out = client.transfer({
      direction: OUT,
      endpoint: number(ISO_OUT),
      data: Buffer.alloc(12),
      packets,
    });
    assert.equal(
      out.packets.reduce((total, one) => total + one.actualLength, 0),
      out.actualLength,
    );
    assert.equal(faults.length, 2);
  });
});

describe('Connection: removal and closing', () => {
  const read = { direction: IN, endpoint: number(BULK_IN), octets: 64 };

  it('a device that is removed: each URB comes back as -108, then the connection ends', async () => {
    const client = scripted();
    const seqnums = [client.submit(read), client.submit(read), client.submit(read)];
    const control = {
      direction: IN,
      endpoint: 0,
      octets: 4,
      setup: setupOctets(0xc0, VENDOR_IN, 0, 0, 4),
    };
    seqnums.push(client.submit(control));
    await client.registry.remove('1-1');
    assert(client.connection.ending);
    assert(client.announced > 0);
    assert.deepEqual(
      brief(client.replies()).sort(),
      seqnums.map((seqnum) => `${seqnum} -108 0`),
    );
    assert.deepEqual(client.script.take().slice(-3), ['reset', 'release', 'dispose']);
    client.send(client.wire.submit(read));
    assert.deepEqual(client.replies(), []);
    await client.connection.close();
  });

  it('a device that goes away by itself, from inside a handler', async () => {
    const client = scripted();
    const waiting = [client.submit(read), client.submit(read)];
    client.script.inside.set(BULK_OUT, () => client.device.unplug());
    client.submit({ direction: OUT, endpoint: number(BULK_OUT), data: Buffer.from('x') });
    assert(client.connection.ending);
    const replies = client.replies();
    assert.equal(replies.length, 3);
    for (const seqnum of waiting) {
      assert.equal(replies.find((reply) => reply.seqnum === seqnum)?.status, -108);
    }
    await client.connection.close();
  });

  it('a device that goes away while the body of a command arrives', () => {
    const client = scripted();
    const command = client.wire.submit({
      direction: OUT,
      endpoint: number(BULK_OUT),
      data: Buffer.alloc(100),
    });
    client.send(command.subarray(0, 60));
    client.device.unplug();
    client.send(command.subarray(60));
    assert.deepEqual(client.replies(), []);
    assert.deepEqual(client.script.take(), []);
  });

  it('CVE-2021-29265: a drop at every octet of import and first command frees the device', async () => {
    const registry = new Registry();
    registry.add(new VirtualDevice(scriptedDevice()), 'scripted');
    const setup = setupOctets(0, 9, 1);
    for (let cut = 0; ; cut++) {
      const client = new ScriptedClient({ registry });
      const stream = Buffer.concat([
        importRequest('1-1'),
        client.wire.submit({ direction: OUT, endpoint: 0, setup }),
        client.wire.submit(read),
      ]);
      if (cut > stream.length) break;
      client.send(stream.subarray(0, cut));
      await client.connection.close();
      assert.equal(registry.get('1-1')?.holder, null, `after ${cut} octets`);
    }
  });

  it('CVE-2018-5814: exports and unexports around imports', async () => {
    const registry = new Registry();
    for (let round = 0; round < 20; round++) {
      registry.add(new VirtualDevice(scriptedDevice()), 'scripted', '1-1');
      const client = new ScriptedClient({ registry });
      const removedFirst = round % 2 === 0;
      const removed = removedFirst ? registry.remove('1-1') : undefined;
      client.send(importRequest('1-1'));
      assert.equal(client.output().length, removedFirst ? 8 : 320);
      const both = [removed ?? registry.remove('1-1'), client.connection.close()];
      if (round % 4 < 2) both.reverse();
      await Promise.all(both);
      assert.deepEqual(registry.list(), []);
    }
  });

  it('CVE-2021-3700: closing with many replies unsent and URBs outstanding', async () => {
    const client = scripted();
    for (let n = 0; n < 200; n++) {
      client.script.answer(BULK_IN, Buffer.alloc(5000, n));
      client.submit({ ...read, octets: 5001 });
    }
    for (let n = 0; n < 200; n++) client.submit(read);
    await client.connection.close();
    const replies = client.replies() as SubmitReply[];
    assert.equal(replies.length, 400);
    replies.slice(0, 200).forEach(({ data }, n) => {
      assert(data.equals(Buffer.alloc(5000, n)));
    });
    assert.equal(client.registry.get('1-1')?.holder, null);
    assert.equal(client.clock.timers, 0, 'a timer is left');
  });

  it('the next client finds the device as after a reset', async () => {
    const client = scripted();
    client.script.answer(BULK_IN, stall);
    assert.equal(client.read(number(BULK_IN), 64).status, -32);
    await client.connection.close();
    const next = new ScriptedClient({ registry: client.registry });
    next.import();
    const configuration = next.control(setupOctets(0x80, 8, 0, 0, 1), { octets: 1 });
    assert.deepEqual([...configuration.data], [0]);
    next.configure();
    client.script.answer(BULK_IN, Buffer.from('fresh'));
    assert.equal(next.read(number(BULK_IN), 64).data.toString(), 'fresh');
  });
});

describe('Connection: a device whose unlinks take a while', () => {
  const read = { direction: IN, endpoint: 1, octets: 64 };

  function slow() {
    const device = new ManualDevice();
    device.onUnlink = () => {};
    const registry = new Registry();
    registry.add(device, 'manual');
    const client = new ScriptedClient({ registry });
    client.import();
    return { device, client };
  }

  it('unlinked twice: each unlink gets one reply, the URB none', () => {
    const { device, client } = slow();
    const victim = client.submit(read);
    const [first, second] = [client.unlink(victim), client.unlink(victim)];
    device.complete(device.atDevice[0], 'unlinked');
    client.clock.advance(10_000);
    assert.deepEqual(brief(client.replies()).sort(), [`u${first} -104`, `u${second} 0`].sort());
  });

  it('unlinked, but it had ended: RET_SUBMIT, then RET_UNLINK 0', () => {
    const { device, client } = slow();
    const victim = client.submit(read);
    const unlink = client.unlink(victim);
    device.complete(device.atDevice[0], 'ok', 5);
    client.clock.advance(10_000);
    assert.deepEqual(brief(client.replies()), [`${victim} 0 5`, `u${unlink} 0`]);
  });

  it('removed: what comes before the last URB is back is refused, then the connection ends', () => {
    const { device, client } = slow();
    const waiting = client.submit(read);
    device.unplug();
    const late = client.submit({ direction: OUT, endpoint: 2, data: Buffer.alloc(10) });
    assert.deepEqual(brief(client.replies()), [`${late} -108 0`]);
    assert.equal(client.connection.ending, false);
    device.complete(device.atDevice[0], 'unlinked');
    assert.deepEqual(brief(client.replies()), [`${waiting} -108 0`]);
    assert(client.connection.ending);
  });

  it('closed: waits for the URB, and frees the device then', async () => {
    const { device, client } = slow();
    client.submit(read);
    const closed = client.connection.close();
    assert.notEqual(client.registry.get('1-1')?.holder, null);
    device.complete(device.atDevice[0], 'unlinked');
    await closed;
    assert.equal(client.registry.get('1-1')?.holder, null);
  });
});
