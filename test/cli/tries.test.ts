/** What is attached, and how it is let go of, in time that passes when the test says so. */
import { strict as assert } from 'node:assert';
import { createLog, peerLines } from '../../src/cli/log.ts';
import { Supervised } from '../../src/cli/supervised.ts';
import { Tries } from '../../src/cli/tries.ts';
import { UserError } from '../../src/core/errors.ts';
import { LET_GO_MILLISECONDS } from '../../src/core/limits.ts';
import { FakeClock } from '../examples/rig.ts';
import { FakeVhci } from '../usbip/fake-vhci.ts';

const turns = () => new Promise((resolve) => setImmediate(resolve));

describe('attachment', () => {
  let clock: FakeClock;
  let lines: string[];

  beforeEach(() => {
    clock = new FakeClock();
    lines = [];
  });

  const log = () => createLog(false, (line) => Boolean(lines.push(line)));

  async function attached(letGo: () => Promise<void>): Promise<Tries> {
    const tries = new Tries({
      wait: false,
      persist: false,
      text: 'host/1-1',
      lines: peerLines(log()),
      clock,
      connect: async () => {},
      letGo,
      place: () => '',
    });
    tries.begin();
    await tries.settled;
    lines = [];
    return tries;
  }

  it('that does not let go ends all the same, and says so', async () => {
    const tries = await attached(() => new Promise(() => {}));
    let ended = false;
    const stopped = tries.stop().then(() => {
      ended = true;
    });
    clock.advance(LET_GO_MILLISECONDS - 1_000);
    await turns();
    assert.equal(ended, false);
    clock.advance(1_000);
    await stopped;
    assert.match(
      lines.at(-1) ?? '',
      /WARN .*Cannot let go of host\/1-1: it is still attached after 30 s/,
    );
    assert.equal(clock.timers, 0);
  });

  it('that fails to let go ends, and nothing else does', async () => {
    const tries = await attached(async () => {
      throw new UserError('Cannot detach port 1: the kernel says no');
    });
    await tries.stop();
    assert.match(lines.at(-1) ?? '', /WARN .*Cannot detach port 1: the kernel says no/);
  });

  it('waits for its port by its own clock, and not for ever', async () => {
    const vhci = new FakeVhci();
    try {
      const port = { port: 0, hub: 'hs', state: 'used', deviceId: 1, localBusId: null } as const;
      vhci.port = () => port;
      let tries = 0;
      const source = {
        status: { server: '', busId: null, device: null, direct: false, stallProtocol: null },
        record: { host: '', service: '', busId: '' },
        attach: async () => {
          tries++;
          throw new UserError('no');
        },
      };
      const options = { id: 'a1', text: '', wait: false, persist: false, wantedPort: 0 };
      const one = new Supervised({ ...options, source, vhci, lines: peerLines(log()), clock });
      for (let passed = 0; passed < 4_000; passed += 50) {
        clock.advance(50);
        await turns();
      }
      assert.equal(tries, 0);
      for (let passed = 0; passed < 2_000; passed += 50) {
        clock.advance(50);
        await turns();
      }
      assert.equal(tries, 1);
      await one.ended;
    } finally {
      vhci.remove();
    }
  });
});
