import { strict as assert } from 'node:assert';
import {
  type BackAction,
  backAction,
  type FrontAction,
  frontAction,
  type XenbusState,
  xenbusStateOf,
} from '../../src/xenring/xenbus-state.ts';

const STATES: XenbusState[] = [
  'initialising',
  'init-wait',
  'initialised',
  'connected',
  'closing',
  'closed',
];

describe('xenbus states', () => {
  it('texts', () => {
    assert.deepEqual(['1', '2', '3', '4', '5', '6'].map(xenbusStateOf), STATES);
    for (const text of [undefined, '', '0', '7', '8', 'x', '1 ', '01']) {
      assert.equal(xenbusStateOf(text), undefined);
    }
  });

  it('a controller that the toolstack does not want is not announced again', () => {
    assert.equal(backAction('closed', 'initialising', true), 'announce');
    assert.equal(backAction('closed', 'initialising', false), 'wait');
  });

  /** What the actions make of the states. */
  const backNext = (own: XenbusState, action: BackAction): XenbusState =>
    (({ announce: 'init-wait', attach: 'connected', quiesce: 'closing', close: 'closed' })[
      action as string
    ] as XenbusState) ?? own;
  const frontNext = (own: XenbusState, action: FrontAction): XenbusState =>
    (({ connect: 'initialised', confirm: 'connected', close: 'closed', restart: 'initialising' })[
      action as string
    ] as XenbusState) ?? own;

  for (const back of STATES) {
    for (const front of STATES) {
      it(`both ends at ${back} and ${front} come to rest, whoever moves first`, () => {
        for (const backFirst of [true, false]) {
          let [b, f] = [back, front];
          const seen: string[] = [];
          for (let step = 0; ; step++) {
            assert(step < 12, `they go on for ever: ${seen.join(' ')}`);
            const before = `${b}/${f}`;
            seen.push(before);
            if (backFirst) b = backNext(b, backAction(b, f, true));
            f = frontNext(f, frontAction(f, b));
            if (!backFirst) b = backNext(b, backAction(b, f, true));
            if (before === `${b}/${f}`) break;
          }
          assert(
            ['connected/connected', 'closing/closed', 'closed/closed', 'closing/closing'].includes(
              `${b}/${f}`,
            ),
            `they rest at ${b}/${f}`,
          );
        }
      });
    }
  }

  it('a stock front end connects, whatever the back end was before', () => {
    for (const back of STATES.filter((state) => state !== 'closing')) {
      let b: XenbusState = back;
      for (let step = 0; step < 4; step++) b = backNext(b, backAction(b, 'initialising', true));
      assert.equal(b, 'init-wait', back);
      assert.equal(backAction(b, 'connected', true), 'attach');
    }
  });

  it('a front end that is gone is released, and never waited for', () => {
    for (const back of STATES) {
      assert(['release', 'close'].includes(backAction(back, undefined, true)), back);
    }
  });
});
