/**
 * `urbgate attach --xen` without Xen: both ends of a ring in memory, and a vhci that the test leads by
 * the hand. interop/attach-xen.test.ts has the real ones.
 */
import { strict as assert } from 'node:assert';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pino } from 'pino';
import { requestOf } from '../../src/cli/attach.ts';
import { save, savedLines } from '../../src/cli/attach-file.ts';
import { parseSupervisorRequest, type RingRequest } from '../../src/cli/attach-protocol.ts';
import { type GuestRings, XenGuestRings } from '../../src/cli/guest-rings.ts';
import { portLines, portsInUse } from '../../src/cli/port.ts';
import { RingSource } from '../../src/cli/ring-source.ts';
import { Supervisor } from '../../src/cli/supervisor.ts';
import { systemClock } from '../../src/core/clock.ts';
import type { RingDevice } from '../../src/xenring/ring-device.ts';
import { type FakeKernel, FakeVhci } from '../usbip/fake-vhci.ts';
import { IN, OUT, type SubmitReply, setupOctets } from '../usbip/scripted-client.ts';
import { connect, end } from '../xenring/front-pair.ts';
import { RingRig, until } from '../xenring/rig.ts';
import { scratchFolder } from './urbgate.ts';

const SHORT_NOT_OK = 1;
const GUEST = 7;

const REQUEST: RingRequest = {
  command: 'attach',
  controller: 0,
  ports: [],
  wait: false,
  persist: false,
};

describe('a controller of this guest, attached', function () {
  this.timeout(60_000);
  let rig: RingRig;
  let vhci: FakeVhci;
  let supervisor: Supervisor;
  let claims: number;

  beforeEach(async () => {
    rig = new RingRig();
    await rig.start();
    for (const busId of ['1-1', '1-2']) rig.export(busId, { pattern: 1 });
    await rig.dom0.store.write(`/local/domain/${GUEST}`, '');
    await rig.tools.addController(GUEST, { ports: 4 });
    vhci = new FakeVhci();
    claims = 0;
    const rings: GuestRings = {
      open: async () => rig.world.domain(GUEST),
      claim: async () => {
        claims++;
        return () => claims--;
      },
    };
    supervisor = new Supervisor(vhci, pino({ level: 'silent' }), rings);
  });

  /** Nothing is left, in the guest and in the store. */
  afterEach(async () => {
    await supervisor.close();
    const { grantedPages, channels, watches } = rig.world.domain(GUEST).inUse;
    assert.deepEqual([grantedPages, channels, watches, claims], [0, 0, 0, 0]);
    const nodes = [...rig.world.store.keys()].filter((path) => /device\/vusb\/0\/.*-/.test(path));
    assert.deepEqual(
      nodes.filter((path) => path.startsWith('/local')).map((path) => path.split('/').at(-1)),
      nodes.length === 0 ? [] : ['backend-id'],
    );
    await rig.end();
    vhci.remove();
  });

  const plug = (busId: string, port: number) => rig.tools.attachDevice(GUEST, 0, busId, port);
  const unplug = (port: number) => rig.tools.detachDevice(GUEST, 0, port);
  const devices = () => supervisor.status().attachments.filter(({ busId }) => busId !== null);
  /** Ports of the controller whose devices vhci has, and the ports of vhci. */
  const places = () => devices().map(({ busId, port }) => [Number(busId), port]);
  const holds = (wanted: unknown) =>
    until(() => JSON.stringify(places()) === JSON.stringify(wanted), `devices at ${wanted}`);

  it('follows what is plugged in, and is shown and detached like any other', async () => {
    await plug('1-1', 2);
    const status = await supervisor.attach(REQUEST);
    assert.deepEqual(
      [status.id, status.server, status.phase, status.port],
      ['a1', 'xen:0', 'attached', null],
    );
    await holds([[2, 0]]);
    await plug('1-2', 4);
    await holds([
      [2, 0],
      [4, 1],
    ]);
    assert.deepEqual(vhci.recorded(1), { host: 'xen', service: '0', busId: '4' });
    const lines = portLines({ ...supervisor.status(), ports: portsInUse(vhci) });
    assert.match(lines.join('\n'), /^ {2}0 {2}3-1 {2}xen:0\/2\n {5}a2, stall protocol, since/);
    assert.match(lines.join('\n'), /\n a1 {2}attached {2}xen:0$/);
    await unplug(2);
    await holds([[4, 1]]);
    await plug('1-1', 2);
    await holds([
      [4, 1],
      [2, 0],
    ]);
    assert.deepEqual(await supervisor.detach('a1'), ['a1']);
    assert.deepEqual([supervisor.attachmentCount, vhci.attached.size], [0, 0]);
  });

  it('attaches what is in the ports that were asked for', async () => {
    await plug('1-1', 1);
    await plug('1-2', 2);
    await supervisor.attach({ ...REQUEST, ports: [2] });
    await holds([[2, 0]]);
    assert.equal((await supervisor.attach({ ...REQUEST, ports: [1] })).id, 'a1');
    await holds([
      [2, 0],
      [1, 1],
    ]);
  });

  it('leaves a device alone that was detached here, until it is asked for again', async () => {
    await plug('1-1', 1);
    await supervisor.attach(REQUEST);
    for (const detach of [() => supervisor.detach('0'), async () => vhci.detach(0)]) {
      await holds([[1, 0]]);
      await detach();
      await holds([]);
      await until(() => vhci.port(0)?.state === 'free', 'the port is free');
      await plug('1-2', 2);
      await until(() => places()[0]?.[0] === 2 && places()[0]?.[1] !== null, 'the other is there');
      await unplug(2);
      await holds([]);
      await supervisor.attach(REQUEST);
    }
    await holds([[1, 0]]);
  });

  it('has its devices again when the gateway was killed and started anew', async () => {
    await plug('1-1', 1);
    await supervisor.attach(REQUEST);
    await holds([[1, 0]]);
    for (let round = 0; round < 3; round++) {
      const kernel = vhci.attached.get(0) as FakeKernel;
      rig.kill();
      await rig.restart(true);
      await kernel.closed;
      await holds([[1, 0]]);
    }
    assert.equal(supervisor.status().attachments[0]?.attachedCount, 1);
  });

  it('ends when its controller is taken away, unless it is to persist', async () => {
    await plug('1-1', 1);
    await supervisor.attach(REQUEST);
    await holds([[1, 0]]);
    await rig.tools.removeController(GUEST, 0);
    await until(() => supervisor.attachmentCount === 0, 'it ends');
    await rig.tools.addController(GUEST, { ports: 4 });
    await plug('1-1', 1);
    await supervisor.attach({ ...REQUEST, persist: true });
    await holds([[1, 0]]);
    await rig.tools.removeController(GUEST, 0);
    const phase = () => supervisor.status().attachments[0]?.phase;
    await until(() => phase() === 'waiting', 'it waits');
    await rig.tools.addController(GUEST, { ports: 4 });
    await plug('1-1', 3);
    await holds([[3, 0]]);
  });

  it('waits for a controller, or says what is missing', async () => {
    const other = { ...REQUEST, controller: 1 };
    await assert.rejects(
      supervisor.attach(other),
      /Cannot attach controller 1: this guest has none/,
    );
    const status = await supervisor.attach({ ...other, wait: true });
    assert.match(status.why ?? '', /this guest has none of that number/);
    await rig.tools.addController(GUEST);
    await until(() => supervisor.status().attachments[0]?.phase === 'attached', 'it attaches');
    await supervisor.detach('all');
    await rig.tools.removeController(GUEST, 1);
  });

  it('goes on when vhci has no port left', async () => {
    vhci.attach = () => {
      throw new Error('no port');
    };
    await plug('1-1', 1);
    await supervisor.attach(REQUEST);
    await until(() => devices()[0]?.phase === 'waiting', 'it waits');
    await unplug(1);
    await until(() => devices().length === 0, 'it is not tried any more');
  });
});

describe('a device behind a ring, relayed to vhci', function () {
  this.timeout(60_000);
  let busy = false;
  const threads = { receiverSleeps: () => true, senderSleeps: () => !busy, close: () => {} };

  async function attached(ring: RingDevice, vhci: FakeVhci) {
    const source = new RingSource(ring, 0, { clock: systemClock, threads });
    const link = await source.attach(vhci);
    const kernel = vhci.attached.get(link.port) as FakeKernel;
    const submit = (fields: Parameters<typeof kernel.wire.submit>[0]) => {
      const seqnum = kernel.wire.nextSeqnum();
      kernel.send(kernel.wire.submit({ deviceId: 0, ...fields, seqnum }));
      return seqnum;
    };
    const reply = async (seqnum: number) => (await kernel.reply(seqnum)) as SubmitReply;
    const setup = setupOctets(0, 9, 1);
    assert.equal((await reply(submit({ direction: OUT, endpoint: 0, setup }))).status, 0);
    return { link, kernel, submit, reply };
  }

  it('lets nothing move behind an error, and loses nothing', async () => {
    const both = await connect({ faults: { seed: 5 } }, { short: 1000, stamp: true });
    const vhci = new FakeVhci();
    const { link, kernel, submit, reply } = await attached(both.ring, vhci);
    for (let round = 0; round < 20; round++) {
      const fields = { direction: IN, endpoint: 1, octets: 4096, flags: SHORT_NOT_OK };
      const reads = Array.from({ length: 8 }, () => submit(fields));
      const rest = reads.slice(1).map((victim) => ({ victim, seqnum: kernel.wire.nextSeqnum() }));
      // The driver's handler runs a while after the report has been read, as on a busy machine.
      kernel.onReply = ({ seqnum }) => {
        if (seqnum !== reads[0]) return;
        kernel.onReply = () => {};
        busy = true;
        const unlink = () => {
          for (const one of rest) kernel.send(kernel.wire.unlink(one.victim, one.seqnum, 0));
          busy = false;
        };
        if (round % 2 === 0) unlink();
        else setTimeout(unlink, 20);
      };
      const first = await reply(reads[0] ?? 0);
      assert.deepEqual([first.status, first.data.readUInt32LE(0)], [-121, 2 * round]);
      const answers = await Promise.all(rest.map(({ seqnum }) => kernel.reply(seqnum)));
      assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([-104]));
    }
    assert.equal(link.counts.timedFences, 0);
    await link.close();
    vhci.remove();
    await end(both);
  });

  it('carries long and isochronous transfers', async () => {
    const both = await connect({}, { pattern: 1 });
    const vhci = new FakeVhci();
    const { link, submit, reply } = await attached(both.ring, vhci);
    const octets = 122_880; // what usb-storage asks for at most
    const got = await reply(submit({ direction: IN, endpoint: 1, octets, flags: SHORT_NOT_OK }));
    assert.deepEqual([got.status, got.actualLength, got.data.length], [0, octets, octets]);
    const put = await reply(submit({ direction: OUT, endpoint: 2, data: got.data }));
    assert.deepEqual([put.status, put.actualLength], [0, octets]);
    const setup = setupOctets(1, 11, 1, 0);
    assert.equal((await reply(submit({ direction: OUT, endpoint: 0, setup }))).status, 0);
    const packets = [0, 1, 2, 3].map((n): [number, number] => [n * 1100, 1000]);
    const stream = await reply(submit({ direction: IN, endpoint: 3, octets: 4400, packets }));
    assert.deepEqual([stream.status, stream.actualLength, stream.data.length], [0, 4000, 4000]);
    assert.deepEqual([stream.data[70], stream.data[1070]], [7, 7], 'gaps are in it');
    await link.close();
    vhci.remove();
    await end(both);
  });

  it('is as new for the next, whatever the last one has left under way', async () => {
    const both = await connect({}, { delay: 60_000 });
    const vhci = new FakeVhci();
    for (let round = 0; round < 3; round++) {
      const { link, kernel, submit } = await attached(both.ring, vhci);
      for (let n = 0; n < 20; n++) submit({ direction: IN, endpoint: 1, octets: 512 });
      await new Promise((resolve) => setTimeout(resolve, 5));
      kernel.detach();
      assert.equal(await link.ended, 'detached');
    }
    vhci.remove();
    await end(both);
  });
});

describe('attach --xen', () => {
  it('is read from the command line, from a file, and by the supervisor', () => {
    const path = join(scratchFolder(), 'attachments');
    const request = requestOf({ xen: true, controller: 2, port: [1, 3], persist: true });
    assert.deepEqual(request, { ...REQUEST, controller: 2, ports: [1, 3], persist: true });
    assert.deepEqual(parseSupervisorRequest(JSON.parse(JSON.stringify(request))), request);
    save(path, request);
    save(path, request);
    assert.deepEqual(savedLines('--xen --controller 2 --port 1 --port 3 # all'), [
      ['--xen', '--controller', '2', '--port', '1', '--port', '3'],
    ]);
  });

  it('refuses a controller that the kernel or another process has', async () => {
    const bus = scratchFolder();
    const rings = new XenGuestRings(bus);
    const controller = 40_000 + (process.pid % 20_000);
    const giveBack = await rings.claim(controller);
    await assert.rejects(new XenGuestRings(bus).claim(controller), /another process has it/);
    giveBack();
    await new Promise((resolve) => setTimeout(resolve, 10));
    (await rings.claim(controller))();
    mkdirSync(join(bus, `vusb-${controller}`, 'driver'), { recursive: true });
    await assert.rejects(rings.claim(controller), /the kernel's xen-hcd has it/);
  });
});
