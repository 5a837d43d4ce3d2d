/**
 * What the session promises of queues, whatever the machine inside does: every short sequence of
 * events is tried. The machine's own tests stand beside this file.
 */
import { strict as assert } from 'node:assert';
import { DeviceSession, type SessionOptions } from '../../src/core/session.ts';
import type { UrbStatus } from '../../src/core/urb.ts';
import { ManualDevice, NotingClient, read } from '../core/manual-device.ts';
import { FakeClock } from '../examples/rig.ts';

/** Runs `test` once for every way its calls of `pick` can go. */
function everyCase(test: (pick: (count: number) => number) => void): number {
  const path: { taken: number; count: number }[] = [];
  let cases = 0;
  for (;;) {
    let depth = 0;
    test((count) => {
      path[depth] ??= { taken: 0, count };
      const step = path[depth++];
      assert(step?.count === count, 'the test is not the same each time');
      return step.taken;
    });
    cases++;
    path.length = depth;
    while (path.length > 0) {
      const last = path.at(-1);
      if (last !== undefined && ++last.taken < last.count) break;
      path.pop();
    }
    if (path.length === 0) return cases;
  }
}

type Event = 'submit' | 'unlink-first' | 'unlink-last' | 'wait' | UrbStatus;
const EVENTS: readonly Event[] = [
  'submit',
  'ok',
  'stall',
  'unlinked',
  'unlink-first',
  'unlink-last',
  'wait',
];
const LENGTH = 5;

interface Behaviour {
  readonly name: string;
  readonly options: SessionOptions;
  /** An unlink at the device takes effect at once, or when the test says so. */
  readonly later: boolean;
}

const behaviours: readonly Behaviour[] = [
  { name: 'by time', options: {}, later: false },
  { name: 'by time, unlinks take a while', options: {}, later: true },
  { name: 'returning', options: { recovery: { kind: 'return' } }, later: true },
  { name: 'no recovery', options: { recovery: { kind: 'none' } }, later: true },
];

describe('promises of a session', function () {
  this.timeout(30_000);

  for (const { name, options, later } of behaviours) {
    it(`each URB comes back once, and URBs start in order (${name})`, () => {
      const cases = everyCase((pick) => {
        const clock = new FakeClock();
        const device = new ManualDevice();
        const client = new NotingClient();
        const session = new DeviceSession(device, client, { ...options, clock });
        if (later) device.onUnlink = () => {};
        let submitted = 0;
        const submit = () => session.submit(read(submitted++));
        submit();
        submit();
        for (let n = 0; n < LENGTH; n++) {
          const event = EVENTS[pick(EVENTS.length)] ?? 'wait';
          const back = new Set(client.log.map((line) => Number(line.split(' ')[0])));
          const out = Array.from({ length: submitted }, (_, id) => id).filter(
            (id) => !back.has(id),
          );
          const urb = device.atDevice[0];
          if (event === 'submit') submit();
          else if (event === 'wait') clock.advance(10_000);
          else if (event === 'unlink-first') session.unlink(out[0] ?? -1);
          else if (event === 'unlink-last') session.unlink(out.at(-1) ?? -1);
          else if (urb !== undefined) device.complete(urb, event);
          assert(device.atDevice.length <= 1);
        }
        // What the device still has comes back, and time passes, until nothing is left to do.
        for (let n = 0; n < 20 && session.outstandingCount > 0; n++) {
          if (device.atDevice[0] !== undefined) device.complete(device.atDevice[0]);
          clock.advance(10_000);
        }
        const ids = client.log.map((line) => Number(line.split(' ')[0]));
        assert.equal(
          session.outstandingCount,
          0,
          `URBs wait for ever: ${device.log} ${client.log}`,
        );
        assert.deepEqual(
          [...ids].sort((a, b) => a - b),
          Array.from({ length: submitted }, (_, id) => id),
        );
        const started = device.log
          .filter((line) => line.startsWith('submit'))
          .map((line) => Number(line.split(' ')[1]));
        assert.deepEqual(
          started,
          [...started].sort((a, b) => a - b),
          'not in order',
        );
      });
      assert.equal(cases, EVENTS.length ** LENGTH);
    });
  }
});
