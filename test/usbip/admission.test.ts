/** Who gets a place at the server, as a machine: examples, then what always holds. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { addressKey, LOOPBACK_KEY } from '../../src/usbip/address-key.ts';
import {
  ADMISSION_LIMITS,
  type Admission,
  type AdmissionLimits,
  admission,
  step,
} from '../../src/usbip/admission.ts';

const LIMITS: AdmissionLimits = {
  strangersMax: 8,
  strangersOfAddressMax: 4,
  ratePerSecond: 10,
  burstMax: 20,
  addressesKeptMax: 12,
};

/** Lets one in, and says what that leads to: "admit 3", "drop 1, admit 3", "refuse 3". */
function accept(state: Admission<number>, who: number, key: string, now = 0): string {
  const actions = step(state, { type: 'accepted', who, key, now });
  return actions.map(({ type, who }) => `${type} ${who}`).join(', ');
}

describe('admission', () => {
  it('lets strangers in while there are places', () => {
    const state = admission<number>(LIMITS);
    assert.equal(accept(state, 1, 'a'), 'admit 1');
    assert.equal(accept(state, 2, 'a'), 'admit 2');
  });

  it('an address that has all its places gets a new one for its oldest', () => {
    const state = admission<number>(LIMITS);
    for (let n = 0; n < 4; n++) accept(state, n, 'a');
    assert.equal(accept(state, 4, 'a'), 'drop 0, admit 4');
    assert.equal(accept(state, 5, 'a'), 'drop 1, admit 5');
    assert.equal(accept(state, 6, 'b'), 'admit 6');
  });

  it('when all places are taken, the address that has most gives one', () => {
    const state = admission<number>(LIMITS);
    for (let n = 0; n < 4; n++) accept(state, n, 'flood');
    for (let n = 4; n < 8; n++) accept(state, n, `address ${n}`);
    assert.equal(accept(state, 8, 'new'), 'drop 0, admit 8');
    assert.equal(accept(state, 9, 'address 4'), 'drop 1, admit 9');
  });

  it('what has imported, or is closed, counts no more', () => {
    const state = admission<number>(LIMITS);
    for (let n = 0; n < 4; n++) accept(state, n, 'a');
    step(state, { type: 'left', who: 0 });
    step(state, { type: 'left', who: 0 });
    assert.equal(accept(state, 4, 'a'), 'admit 4');
    assert.equal(accept(state, 5, 'a'), 'drop 1, admit 5');
  });

  it('an address that connects too often is refused, and later not', () => {
    const state = admission<number>(LIMITS);
    for (let n = 0; n < LIMITS.burstMax; n++) {
      accept(state, n, 'a');
      step(state, { type: 'left', who: n });
    }
    assert.equal(accept(state, 100, 'a'), 'refuse 100');
    assert.equal(accept(state, 101, 'b'), 'admit 101');
    assert.equal(accept(state, 102, 'a', 99), 'refuse 102');
    assert.equal(accept(state, 103, 'a', 201), 'admit 103');
  });

  it('processes of this machine may connect as often as they want', () => {
    const state = admission<number>(LIMITS);
    for (let n = 0; n < 1000; n++) assert.match(accept(state, n, LOOPBACK_KEY), /admit/);
  });

  it('its own limits let one address have no more than a quarter of the places', () => {
    const { strangersMax, strangersOfAddressMax, addressesKeptMax } = ADMISSION_LIMITS;
    assert(strangersOfAddressMax * 4 <= strangersMax);
    assert(addressesKeptMax > strangersMax, 'or there may be none to forget');
  });

  describe('always', () => {
    const keys = ['a', 'b', 'c', 'd', ...Array.from({ length: 20 }, (_, n) => `many ${n}`)];
    const events = fc.array(
      fc.record({
        key: fc.constantFrom(...keys),
        /** How many come, one after the other. */
        count: fc.integer({ min: 1, max: 6 }),
        pause: fc.integer({ min: 0, max: 400 }),
        /** Of those that are in, which leaves. */
        leaves: fc.option(fc.nat(), { nil: undefined }),
      }),
      { maxLength: 200 },
    );

    it('no more strangers than places, in all and for each address; who is dropped was in', () => {
      fc.assert(
        fc.property(events, (script) => {
          const state = admission<number>(LIMITS);
          const inside = new Map<number, string>();
          let now = 0;
          let who = 0;
          for (const { key, count, pause, leaves } of script) {
            now += pause;
            for (let n = 0; n < count; n++) {
              const countOf = (key: string) =>
                [...inside.values()].filter((one) => one === key).length;
              const own = countOf(key);
              for (const action of step(state, { type: 'accepted', who, key, now })) {
                if (action.type === 'admit') inside.set(who, key);
                if (action.type !== 'drop') continue;
                const victim = inside.get(action.who);
                assert(victim !== undefined, 'who is dropped was let in');
                const isOldest = [...inside].find(([, one]) => one === victim)?.[0] === action.who;
                assert(isOldest, 'the oldest of its address');
                // Whoever comes never takes a place of an address that has fewer than its own.
                assert(countOf(victim) >= own, `${victim} gives way to ${key}`);
                inside.delete(action.who);
              }
              who++;
            }
            assert(inside.size <= LIMITS.strangersMax);
            for (const key of new Set(inside.values())) {
              const strangers = [...inside.values()].filter((one) => one === key).length;
              assert(strangers <= LIMITS.strangersOfAddressMax);
            }
            assert.deepEqual([...state.strangers.keys()].sort(), [...inside.keys()].sort());
            assert(
              state.addresses.size <= LIMITS.addressesKeptMax,
              'what is remembered is limited',
            );
            const leaving = leaves === undefined ? undefined : [...inside.keys()][leaves % 8];
            if (leaving === undefined) continue;
            inside.delete(leaving);
            step(state, { type: 'left', who: leaving });
          }
        }),
      );
    });

    it('an address is let in no more often than its rate, whatever others do', () => {
      fc.assert(
        fc.property(events, (script) => {
          const state = admission<number>(LIMITS);
          const admitted: number[] = [];
          let now = 0;
          let who = 0;
          for (const { key, count, pause } of script) {
            now += pause;
            const isOne = key === 'a' || key === 'b';
            for (let n = 0; n < count * 10; n++) {
              const text = accept(state, who++, isOne ? 'a' : 'b', now);
              if (isOne && text.includes('admit')) admitted.push(now);
            }
          }
          admitted.forEach((from, n) => {
            const inSecond = admitted.slice(n).filter((at) => at <= from + 1000).length;
            assert(
              inSecond <= LIMITS.burstMax + LIMITS.ratePerSecond + 1,
              `${inSecond} in a second`,
            );
          });
        }),
      );
    });
  });
});

describe('what counts as one address', () => {
  it('this machine, by whatever loopback address', () => {
    for (const address of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.2']) {
      assert.equal(addressKey(address), LOOPBACK_KEY, address);
    }
  });

  it('an IPv4 address, also inside an IPv6 one', () => {
    assert.equal(addressKey('192.0.2.7'), '192.0.2.7');
    assert.equal(addressKey('::ffff:192.0.2.7'), '192.0.2.7');
    assert.notEqual(addressKey('192.0.2.7'), addressKey('192.0.2.8'));
  });

  it('a /64 of IPv6', () => {
    const key = addressKey('2001:db8:0:1::1');
    assert.equal(key, '2001:db8:0:1::/64');
    for (const same of [
      '2001:db8:0:1:ffff:ffff:ffff:ffff',
      '2001:0DB8:0000:0001::',
      '2001:db8::1:0:0:0:5',
    ]) {
      assert.equal(addressKey(same), key, same);
    }
    for (const other of ['2001:db8:0:2::1', '2001:db8:1::1', '2001:db8::1']) {
      assert.notEqual(addressKey(other), key, other);
    }
    assert.equal(addressKey('fe80::1%eth0'), addressKey('fe80::2%eth0'));
  });
});
