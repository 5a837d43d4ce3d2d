import { strict as assert } from 'node:assert';
import { LET_GO_MILLISECONDS } from '../../src/core/limits.ts';
import { DeviceSession, type SessionClient, type SessionOptions } from '../../src/core/session.ts';
import { TURN_BYTES_MAX, TURN_OPERATIONS_MAX } from '../../src/core/turn-budget.ts';
import { FakeClock } from '../examples/rig.ts';
import {
  bulkIn,
  endpointInfo,
  ManualDevice,
  NotingClient,
  read,
  request,
  stream,
  write,
} from './manual-device.ts';

function open(options: SessionOptions = {}) {
  const device = new ManualDevice();
  const client = new NotingClient();
  const clock = new FakeClock();
  const session = new DeviceSession(device, client, { clock, ...options });
  device.take();
  return { device, client, clock, session };
}

/** Long after every hold. */
const LONG = 60_000;

describe('DeviceSession', () => {
  it('starts URBs of one endpoint one after the other, in order, and gives each back once', () => {
    const { device, client, session } = open();
    for (const id of [3, 1, 2]) session.submit(read(id));
    assert.deepEqual(device.take(), ['submit 3']);
    assert.equal(session.outstandingCount, 3);
    for (const octets of [5, 6, 7]) device.complete(device.atDevice[0], 'ok', octets);
    assert.deepEqual(device.take(), ['submit 1', 'submit 2']);
    assert.deepEqual(client.take(), ['3 ok 5', '1 ok 6', '2 ok 7']);
    assert.equal(session.outstandingCount, 0);
    assert.equal(session.urbCount, 3);
  });

  it('endpoints do not wait for each other', () => {
    const { device, session } = open();
    session.submit(read(1));
    session.submit(write(2));
    session.submit(read(3, endpointInfo(0x82)));
    session.submit(stream(4));
    session.submit(request(5, 0, 9));
    assert.deepEqual(
      device.take(),
      [1, 2, 3, 4, 5].map((id) => `submit ${id}`),
    );
  });

  it('endpoint 0 has one queue for both directions', () => {
    const { device, session } = open();
    session.submit(request(1, 0x00, 9));
    session.submit(request(2, 0x80, 0));
    assert.deepEqual(device.take(), ['submit 1']);
  });

  it('a device that completes at once costs no stack', () => {
    const { device, client, clock, session } = open();
    device.onSubmit = (urb) => device.complete(urb, 'ok', 1);
    for (let id = 0; id < 3; id++) session.submit(read(id));
    assert.deepEqual(client.take(), ['0 ok 1', '1 ok 1', '2 ok 1']);
    device.onSubmit = () => {};
    for (let id = 0; id < 5_000; id++) session.submit(read(id));
    device.onSubmit = (urb) => device.complete(urb);
    device.complete(device.atDevice[0]);
    clock.advance(LONG);
    assert.equal(session.outstandingCount, 0);
    assert.equal(client.take().length, 5_000);
  });

  it('a client may submit from inside gaveBack', () => {
    const { device, client, clock, session } = open();
    device.onSubmit = (urb) => device.complete(urb);
    client.onGaveBack = (urb) => {
      if (urb.id < 5_000) session.submit(read(urb.id + 1));
    };
    session.submit(read(0));
    clock.advance(LONG);
    assert.equal(session.outstandingCount, 0);
    assert.equal(client.log.length, 5_001);
    assert.equal(client.log.at(-1), '5000 ok 0');
  });

  describe('what one event brings about', () => {
    /** A device that completes at once, when `count` URBs wait behind the first. */
    function openBehind(count: number, octets = 0, options: SessionOptions = {}) {
      const opened = open(options);
      const { device, session } = opened;
      for (let id = 0; id <= count; id++) session.submit(read(id));
      device.take();
      device.onSubmit = (urb) => device.complete(urb, 'ok', octets);
      return opened;
    }

    /** Its timers fire one by one, when the test says so. */
    function handClock() {
      const calls: (() => void)[] = [];
      const after = (_: number, call: () => void) => {
        calls.push(call);
        return () => {};
      };
      return { clock: { now: () => 0, after }, turn: () => calls.shift()?.() };
    }

    it('is done a turn after the other: so many operations', () => {
      const { clock, turn } = handClock();
      const { device, client, session } = openBehind(3000, 0, { clock });
      device.complete(device.atDevice[0]);
      const each = TURN_OPERATIONS_MAX / 2; // one is given back, the next one starts
      for (let left = 3001; left > 0; left -= each) {
        assert.equal(client.take().length, Math.min(each, left));
        turn();
      }
      assert.equal(session.outstandingCount, 0);
    });

    it('is done a turn after the other: so many bytes', () => {
      const { clock, turn } = handClock();
      const { device, client } = openBehind(10, TURN_BYTES_MAX / 2, { clock });
      device.complete(device.atDevice[0], 'ok', TURN_BYTES_MAX / 2);
      assert.equal(client.take().length, 2);
      turn();
      assert.equal(client.take().length, 2);
    });

    it('keeps its order when more happens before the next turn', () => {
      const { device, client, clock, session } = openBehind(3000);
      device.complete(device.atDevice[0]);
      client.take();
      session.unlink(3000); // it waits
      session.submit(read(9000));
      const left = client.take();
      clock.advance(LONG);
      const lines = [...left, ...client.take()];
      assert.equal(lines.length, 3002 - TURN_OPERATIONS_MAX / 2);
      assert.equal(lines.at(-1), '9000 ok 0');
      const ended = lines.filter((line) => line.endsWith('ok 0')).map(Number.parseFloat);
      assert.deepEqual(
        ended,
        [...ended].sort((one, other) => one - other),
      );
      assert.equal(session.outstandingCount, 0);
    });

    it('comes back all the same when the session is closed or the device goes', async () => {
      for (const end of ['close', 'removed'] as const) {
        const { device, client, clock, session } = openBehind(3000);
        device.complete(device.atDevice[0]);
        const closed = session[end]();
        clock.advance(LET_GO_MILLISECONDS - 1);
        await closed;
        assert.equal(client.take().filter((line) => !line.startsWith('removed')).length, 3001);
      }
    });
  });

  it('an id can be used again from inside gaveBack', () => {
    const { device, client, session } = open();
    let left = 3;
    client.onGaveBack = () => {
      if (left-- > 0) session.submit(read(7));
    };
    session.submit(read(7));
    for (let n = 0; n < 4; n++) device.complete(device.atDevice[0]);
    assert.deepEqual(client.take(), Array(4).fill('7 ok 0'));
  });

  it('asserts that an id is new', () => {
    const { session } = open();
    session.submit(read(1));
    assert.throws(() => session.submit(read(1)), { code: 'ERR_ASSERTION' });
  });

  it('counts errors', () => {
    const { device, session, clock } = open();
    session.submit(read(1));
    device.complete(device.atDevice[0], 'stall');
    clock.advance(LONG);
    session.submit(read(2));
    device.complete(device.atDevice[0]);
    assert.deepEqual([session.urbCount, session.errorCount], [2, 1]);
  });

  describe('unlink', () => {
    it('of a waiting URB: it never starts', () => {
      const { device, client, session, clock } = open();
      for (const id of [1, 2, 3]) session.submit(read(id));
      session.unlink(2);
      assert.deepEqual(client.take(), ['2 unlinked 0']);
      device.complete(device.atDevice[0]);
      clock.advance(LONG);
      device.complete(device.atDevice[0]);
      assert.deepEqual(client.take(), ['1 ok 0', '3 ok 0']);
      assert.deepEqual(device.take(), ['submit 1', 'submit 3']);
    });

    it('of a URB at the device that comes back at once, or later, or as it had ended', () => {
      for (const [status, octets, later] of [
        ['unlinked', 0, false],
        ['unlinked', 0, true],
        ['unlinked', 5, true],
        ['ok', 64, false],
        ['ok', 64, true],
        ['stall', 0, true],
      ] as const) {
        const { device, client, session, clock } = open();
        const urb = read(1);
        session.submit(urb);
        session.submit(read(2));
        device.onUnlink = () => {
          if (!later) device.complete(urb, status, octets);
        };
        session.unlink(1);
        assert.deepEqual(device.take(), ['submit 1', 'unlink 1']);
        if (later) device.complete(urb, status, octets);
        clock.advance(LONG);
        device.complete(device.atDevice[0]);
        assert.deepEqual(client.take(), [`1 ${status} ${octets}`, '2 ok 0'], `${status} ${later}`);
        assert.equal(session.outstandingCount, 0);
      }
    });

    it('of what is unknown or back does nothing', () => {
      const { device, client, session } = open();
      session.unlink(1);
      session.submit(read(1));
      device.complete(device.atDevice[0]);
      session.unlink(1);
      assert.deepEqual(client.take(), ['1 ok 0']);
      assert.deepEqual(device.take(), ['submit 1']);
    });

    it('twice gives back once', () => {
      const { device, client, session, clock } = open();
      session.submit(read(1));
      device.onUnlink = () => {};
      session.unlink(1);
      session.unlink(1);
      device.complete(device.atDevice[0], 'unlinked');
      session.unlink(1);
      clock.advance(LONG);
      assert.deepEqual(client.take(), ['1 unlinked 0']);
    });

    it('from inside gaveBack, as usb_sg_init’s handler does', () => {
      const { device, client, session, clock } = open();
      for (const id of [1, 2, 3, 4]) session.submit(read(id, bulkIn, 64, true));
      client.onGaveBack = (urb) => {
        if (urb.id === 1) for (const id of [4, 3, 2]) session.unlink(id);
      };
      device.complete(device.atDevice[0], 'short', 10);
      clock.advance(LONG);
      assert.deepEqual(client.take().sort(), [
        '1 short 10',
        '2 unlinked 0',
        '3 unlinked 0',
        '4 unlinked 0',
      ]);
      assert.deepEqual(device.take(), ['submit 1'], 'nothing starts after the error');
    });

    it('from inside gaveBack, of a URB that has completed but is not given back yet', () => {
      const { device, client, session } = open();
      const [first, second] = [read(1), read(2, endpointInfo(0x82))];
      session.submit(first);
      session.submit(second);
      // Two URBs end in one step of the device: the first one's handler unlinks the second.
      device.onSubmit = (urb) => {
        if (urb.id !== 3) return;
        device.complete(first);
        device.complete(second);
      };
      client.onGaveBack = (urb) => {
        if (urb.id === 1) session.unlink(2);
      };
      session.submit(write(3));
      assert.deepEqual(client.take(), ['1 ok 0', '2 ok 0']);
    });

    it('from inside gaveBack, of one that the device completes in its submit', () => {
      const { device, client, session, clock } = open();
      for (const id of [1, 2]) session.submit(read(id));
      device.onSubmit = (urb) => device.complete(urb, 'ok', 3);
      client.onGaveBack = (urb) => {
        if (urb.id === 1) session.unlink(2);
      };
      device.complete(device.atDevice[0]);
      clock.advance(LONG);
      assert.deepEqual(client.take().length, 2);
      assert.equal(session.outstandingCount, 0);
    });
  });

  describe('errors', () => {
    for (const status of ['stall', 'short', 'babble', 'protocol-error', 'shutdown'] as const) {
      it(`${status}: the next URB starts only when the hold is over`, () => {
        const { device, client, session, clock } = open();
        for (const id of [1, 2]) session.submit(read(id));
        device.complete(device.atDevice[0], status);
        clock.advance(40);
        assert.deepEqual(client.take(), [`1 ${status} 0`]);
        assert.deepEqual(device.take(), ['submit 1']);
        clock.advance(LONG);
        assert.deepEqual(device.take(), ['submit 2']);
      });
    }

    it('isochronous URBs go on', () => {
      const { device, session } = open();
      for (const id of [1, 2, 3]) session.submit(stream(id));
      device.complete(device.atDevice[0], 'protocol-error');
      session.unlink(2);
      assert.deepEqual(device.take(), ['submit 1', 'submit 2', 'unlink 2', 'submit 3']);
    });

    it('a short control read stops nothing', () => {
      const { device, session } = open();
      for (const id of [1, 2]) session.submit(request(id, 0x80, 6));
      device.complete(device.atDevice[0], 'short');
      assert.deepEqual(device.take(), ['submit 1', 'submit 2']);
    });

    it('with recovery "none" everything goes on at once', () => {
      const { device, session } = open({ recovery: { kind: 'none' } });
      for (const id of [1, 2]) session.submit(read(id));
      device.complete(device.atDevice[0], 'stall');
      assert.deepEqual(device.take(), ['submit 1', 'submit 2']);
    });

    for (const [what, ...setup] of [
      ['clear-halt', 0x02, 1, 0, 0x81],
      ['set-interface', 0x01, 11, 0, 0],
      ['set-configuration', 0x00, 9, 1, 0],
      ['reset (of the port)', 0x23, 3, 4, 0],
    ] as const) {
      it(`${what} ends a hold soon, and one that fails does not`, () => {
        const { device, session, clock } = open();
        for (const id of [1, 2]) session.submit(read(id));
        device.complete(device.atDevice[0], 'stall');
        clock.advance(40);
        const [requestType, code, value, index] = setup;
        session.submit(request(3, requestType, code, value, index));
        device.complete(device.atDevice[0], 'stall');
        clock.advance(100);
        session.submit(request(4, requestType, code, value, index));
        assert.deepEqual(device.take(), ['submit 1', 'submit 3', 'submit 4']);
        device.complete(device.atDevice[0], 'ok');
        clock.advance(50);
        assert.deepEqual(device.take(), ['submit 2']);
      });
    }

    it('a machine that stood still does not end a hold: what it has not read may be the unlinks', () => {
      const { device, client, session, clock } = open();
      for (const id of [1, 2, 3]) session.submit(read(id));
      device.complete(device.atDevice[0], 'ok', 1);
      for (const id of [4, 5]) session.submit(read(id));
      device.complete(device.atDevice[0], 'short', 1);
      clock.advance(40);
      assert.deepEqual(client.take(), ['1 ok 1', '2 short 1']);
      clock.freeze(LONG);
      for (const id of [5, 4, 3]) session.unlink(id);
      session.submit(read(6));
      assert.deepEqual(device.take(), ['submit 1', 'submit 2', 'submit 6']);
      assert.deepEqual(client.take(), ['5 unlinked 0', '4 unlinked 0', '3 unlinked 0']);
    });

    it('a report that the client’s machine has not acknowledged ends no hold', () => {
      const { device, client, session, clock } = open();
      let acknowledged = false;
      const known: SessionClient = client;
      known.reportMark = () => client.log.length;
      known.evidence = () => (acknowledged ? 'sent-after-report' : 'sent-before-report');
      for (const id of [1, 2, 3]) session.submit(read(id));
      device.complete(device.atDevice[0], 'stall');
      clock.advance(10 * LONG);
      assert.deepEqual(device.take(), ['submit 1']);
      acknowledged = true;
      clock.advance(900);
      assert.deepEqual(device.take(), []);
      clock.advance(100);
      assert.deepEqual(device.take(), ['submit 2']);
    });

    it('of another endpoint or interface do not', () => {
      const { device, session, clock } = open();
      for (const id of [1, 2]) session.submit(read(id));
      device.complete(device.atDevice[0], 'stall');
      clock.advance(40);
      session.submit(request(3, 0x02, 1, 0, 0x82));
      device.complete(device.atDevice[0], 'ok');
      session.submit(request(4, 0x01, 11, 0, 1));
      device.complete(device.atDevice[0], 'ok');
      clock.advance(100);
      assert.deepEqual(device.take(), ['submit 1', 'submit 3', 'submit 4']);
    });

    it('no timer outlives the session', async () => {
      const { device, client, session, clock } = open();
      for (const id of [1, 2, 3]) session.submit(read(id));
      device.complete(device.atDevice[0], 'stall');
      assert(clock.timers > 0);
      await session.close();
      assert.equal(clock.timers, 0);
      assert.equal(client.log.length, 3);
      clock.advance(LONG);
      assert.deepEqual(device.take().at(-1), 'closed');
    });
  });

  describe('fences of single endpoints', () => {
    const exact = Number.POSITIVE_INFINITY;
    const recovery = {
      kind: 'hold',
      settleMilliseconds: 0,
      holdMilliseconds: exact,
      arrivalMilliseconds: exact,
      graceMilliseconds: exact,
      steadyTransfers: exact,
    } as const;

    function reporting() {
      const opened = open({ recovery });
      const client: SessionClient = opened.client;
      client.reportMark = () => opened.client.log.length;
      return opened;
    }

    it('open when their own last report is handled, and only then', () => {
      const { device, clock, session } = reporting();
      const other = endpointInfo(0x82);
      for (const id of [1, 2]) session.submit(read(id));
      for (const id of [3, 4]) session.submit(read(id, other));
      device.complete(device.atDevice[0], 'stall'); // mark 1
      device.complete(device.atDevice[0], 'stall'); // mark 2
      device.take();
      clock.advance(LONG);
      session.openFences((mark) => mark < 1);
      assert.deepEqual(device.take(), []);
      assert.equal(session.fences, 'blocked');
      assert.deepEqual(
        session.heldUrbs((mark) => mark <= 1).map(({ id }) => id),
        [2],
      );
      session.openFences((mark) => mark <= 1);
      assert.deepEqual(device.take(), ['submit 2']);
      session.openFences((mark) => mark <= 2);
      assert.deepEqual(device.take(), ['submit 4']);
      assert.equal(session.fences, 'open');
    });

    it('hold what came before the first unlink, and what came after it, apart', () => {
      const { device, session } = reporting();
      const all = () => session.heldUrbs(() => true).map(({ id }) => id);
      for (const id of [1, 2, 3]) session.submit(read(id));
      device.complete(device.atDevice[0], 'stall');
      session.submit(read(4));
      session.unlink(3);
      session.submit(read(5));
      assert.deepEqual(all(), [2, 4]);
      session.unlink(2);
      session.unlink(4);
      assert.equal(
        session.openFences(() => true),
        false,
      );
      assert.deepEqual(
        device.atDevice.map(({ id }) => id),
        [5],
      );
      // For the next report all begins anew.
      session.submit(read(6));
      device.complete(device.atDevice[0], 'stall');
      session.submit(read(7));
      assert.deepEqual(all(), [6, 7]);
    });

    it('say whether others wait', () => {
      const { device, session } = reporting();
      session.submit(read(1));
      session.submit(read(2, endpointInfo(0x82)));
      device.complete(device.atDevice[0], 'stall'); // mark 1
      device.complete(device.atDevice[0], 'stall'); // mark 2
      assert.equal(
        session.openFences((mark) => mark <= 1),
        true,
      );
      assert.equal(
        session.openFences((mark) => mark <= 2),
        false,
      );
    });

    it('are closed, not blocked, while nothing is held', () => {
      const { device, session } = reporting();
      session.submit(read(1));
      device.complete(device.atDevice[0], 'stall');
      assert.equal(session.fences, 'closed');
      session.submit(read(2));
      assert.equal(session.fences, 'blocked');
    });

    it('an unlinked URB that ended well is a report too', () => {
      const { device, session } = reporting();
      session.submit(read(1));
      session.submit(read(2));
      device.onUnlink = () => {};
      session.unlink(1);
      device.complete(device.atDevice[0], 'ok', 64);
      session.openFences((mark) => mark < 1);
      assert.equal(session.fences, 'blocked');
      session.openFences((mark) => mark <= 1);
      assert.equal(session.fences, 'open');
    });
  });

  describe('removed', () => {
    it('gives back all as shutdown, then tells the client; nothing starts', () => {
      const { device, client, session, clock } = open();
      for (const id of [1, 2, 3]) session.submit(read(id));
      session.submit(write(4));
      device.unplug();
      const [last, ...urbs] = client.take().reverse();
      assert.equal(last, 'removed');
      assert.deepEqual(
        urbs.sort(),
        [1, 2, 3, 4].map((id) => `${id} shutdown 0`),
      );
      clock.advance(LONG);
      assert.deepEqual(
        device.take().filter((line) => line.startsWith('submit')),
        ['submit 1', 'submit 4'],
      );
    });

    it('tells the client once', () => {
      const { device, client } = open();
      device.unplug();
      device.unplug();
      assert.deepEqual(client.take(), ['removed']);
    });

    it('an error that was not reported yet stays that error', () => {
      const { device, client, session } = open();
      session.submit(read(1));
      device.complete(device.atDevice[0], 'stall');
      device.unplug();
      assert.deepEqual(client.take(), ['1 stall 0', 'removed']);
    });

    it('what moved octets keeps them', () => {
      const { device, client, session } = open();
      session.submit(read(1));
      device.onUnlink = (urb) => device.complete(urb, 'unlinked', 5);
      device.unplug();
      assert.deepEqual(client.take(), ['1 shutdown 5', 'removed']);
    });

    it('from inside a submit: still each URB first, then the news', () => {
      const { device, client, session } = open();
      session.submit(read(1));
      session.submit(read(2));
      device.onSubmit = () => device.unplug();
      session.submit(write(3));
      assert.deepEqual(client.take().at(-1), 'removed');
      assert.equal(session.outstandingCount, 0);
    });

    it('from inside gaveBack, with other URBs complete but not given back', () => {
      const { device, client, session } = open();
      const [first, second] = [read(1), read(2, endpointInfo(0x82))];
      session.submit(first);
      session.submit(second);
      device.onSubmit = () => {
        device.complete(first);
        device.complete(second);
      };
      client.onGaveBack = (urb) => {
        if (urb.id === 1) device.unplug();
      };
      session.submit(write(3));
      const log = client.take();
      assert.equal(log.at(-1), 'removed');
      assert.deepEqual(log.slice(0, -1).sort(), ['1 ok 0', '2 ok 0', '3 shutdown 0']);
    });

    it('URBs that come back later still come back as shutdown, once', async () => {
      const { device, client, session } = open();
      session.submit(read(1));
      device.onUnlink = () => {};
      device.unplug();
      const closed = session.close();
      device.complete(device.atDevice[0], 'unlinked');
      await closed;
      assert.deepEqual(
        client.take().filter((line) => line !== 'removed'),
        ['1 shutdown 0'],
      );
    });
  });

  describe('close', () => {
    it('takes back everything, then closes the device, once', async () => {
      const { device, client, session } = open();
      for (const id of [1, 2]) session.submit(read(id));
      session.submit(write(3));
      await Promise.all([session.close(), session.close()]);
      await session.close();
      assert.deepEqual(
        client.take().sort(),
        [1, 2, 3].map((id) => `${id} shutdown 0`),
      );
      assert.deepEqual(device.take().slice(-2), ['close', 'closed']);
      assert.throws(() => session.submit(read(9)), { code: 'ERR_ASSERTION' });
    });

    it('waits for URBs that come back later', async () => {
      const { device, client, session } = open();
      session.submit(read(1));
      session.submit(write(2));
      device.onUnlink = () => {};
      const closed = session.close();
      device.complete(device.atDevice[0], 'ok', 3);
      assert(!device.log.includes('close'));
      device.complete(device.atDevice[0], 'unlinked');
      await closed;
      assert.deepEqual(client.take(), ['1 ok 3', '2 shutdown 0']);
    });

    it('each caller waits until the device is free', async () => {
      const { device, session } = open();
      let free = (): void => {};
      device.closing = new Promise((resolve) => {
        free = resolve;
      });
      const order: string[] = [];
      const first = session.close().then(() => order.push('first'));
      const second = session.close().then(() => order.push('second'));
      setImmediate(() => {
        order.push('free');
        free();
      });
      await Promise.all([first, second]);
      assert.equal(order[0], 'free');
    });

    it('from inside gaveBack', async () => {
      const { device, client, session } = open();
      for (const id of [1, 2, 3]) session.submit(read(id));
      let closed: Promise<void> | undefined;
      client.onGaveBack = () => {
        closed ??= session.close();
      };
      device.complete(device.atDevice[0]);
      await closed;
      assert.equal(client.log.length, 3);
      assert.equal(device.log.at(-1), 'closed');
    });
  });
});
