/** stall.test.ts for longer: `npm run soak`. */
import { strict as assert } from 'node:assert';
import { bootCabledGuest, type CabledGuest } from './lab/cable.ts';
import {
  faults,
  OTHER_CASES,
  type ProbeCase,
  probeGateway,
  SHORT_CASE,
  UNLINK_CASES,
  usbtestThroughGateway,
} from './lab/stall-cases.ts';
import { formatProbe } from './lab/stall-probe.ts';
import { detachAll } from './lab/usbip.ts';

const ROUNDS = 10_000;
/** How many times the rounds of `npm test` the other cases get, idle and loaded. */
const OTHERS_FACTOR = 5;
/** Where the client's own unlinks decide, a hold is short: those cases get as many as the first. */
const byUnlinks = ({ settings: { unlink } }: ProbeCase) =>
  unlink === 'first' || unlink === 'all' || unlink === 'restart';
/** A client that the gateway knows nothing of yet is the harder case. */
const ATTACHES = 100;
const ROUNDS_OF_ATTACH = 20;
const USBTEST_MINUTES = 30;

const say = (text: string) => console.log(`      ${text}`);

describe('stall probe, for long', function () {
  this.timeout(3_600_000);
  let cabled: CabledGuest;

  before(async () => {
    cabled = await bootCabledGuest({ name: 'stall-soak', processors: 2 });
  });

  after(() => cabled?.kill());

  afterEach(async function () {
    const { guest } = cabled;
    if (guest.alive) await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  for (const load of [false, true]) {
    const cases = [
      { ...SHORT_CASE, rounds: ROUNDS },
      ...OTHER_CASES.map((one) => ({
        ...one,
        rounds: byUnlinks(one) ? ROUNDS : one.rounds * OTHERS_FACTOR,
      })),
    ];
    for (const one of cases) {
      const name = `${one.name}, guest ${load ? 'loaded' : 'idle'}`;
      it(`${name}, ${one.rounds} rounds`, async () => {
        const result = await probeGateway(cabled, one, { rounds: one.rounds, load });
        say(formatProbe(name, result));
        assert.deepEqual(faults(one, one.rounds, result), []);
      });
    }
  }

  for (const depth of [2, 32]) {
    it(`the first ${ROUNDS_OF_ATTACH} rounds, depth ${depth}, ${ATTACHES} times, guest loaded`, async () => {
      const one = { ...SHORT_CASE, settings: { depth } };
      let wrong: string[] = [];
      for (let time = 1; time <= ATTACHES && wrong.length === 0; time++) {
        const result = await probeGateway(cabled, one, { rounds: ROUNDS_OF_ATTACH, load: true });
        wrong = faults(one, ROUNDS_OF_ATTACH, result).map((fault) => `time ${time}: ${fault}`);
      }
      assert.deepEqual(wrong, []);
    });
  }

  it(`usbtest ${UNLINK_CASES.join(', ')} for ${USBTEST_MINUTES} minutes`, async () => {
    const { rounds, failed } = await usbtestThroughGateway(cabled, USBTEST_MINUTES * 60);
    say(`usbtest: ${rounds} rounds of ${UNLINK_CASES.length} cases`);
    assert.deepEqual(failed, []);
  });
});
