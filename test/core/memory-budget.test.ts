/** Memory that several share: no one takes another's guarantee, and the sum is bounded. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { CLIENT_GUARANTEED_BYTES, clientsBytesMax, DEFAULT_LIMITS } from '../../src/core/limits.ts';
import { MemoryBudget } from '../../src/core/memory-budget.ts';

const MIB = 1 << 20;

describe('memory that several share', () => {
  it('one alone may have half, for the other half is what it leaves', () => {
    const account = new MemoryBudget(1000, 10).account();
    assert(account.admits(0, 500));
    assert(!account.admits(0, 501));
    assert(account.admits(400, 100));
    assert(!account.admits(400, 101));
  });

  it('each may have its guarantee, whatever the others have', () => {
    const budget = new MemoryBudget(1000, 10);
    const greedy = [budget.account(), budget.account()];
    for (const one of greedy) one.note(500);
    const late = budget.account();
    assert(late.admits(0, 10));
    assert(late.admits(4, 6));
    assert(!late.admits(4, 7));
  });

  it('what is noted counts for others, and not against oneself', () => {
    const budget = new MemoryBudget(1000, 10);
    const [one, other] = [budget.account(), budget.account()];
    one.note(400);
    assert(one.admits(400, 100));
    assert(other.admits(0, 300));
    assert(!other.admits(0, 301));
    one.note(0);
    assert(other.admits(0, 500));
    assert.equal(budget.heldBytes, 0);
  });

  it('the share of a machine lets one client have the longest transfer, and all of them not the machine', () => {
    for (const gibibytes of [0.25, 0.5, 1, 4, 24, 1024]) {
      const most = clientsBytesMax(gibibytes * 1024 * MIB);
      assert(most / 2 >= DEFAULT_LIMITS.transferOctetsMax);
      assert(most <= Math.max(64 * MIB, (gibibytes * 1024 * MIB) / 16));
      assert(most <= 512 * MIB);
    }
  });

  it('always: the sum is at most the budget and the guarantees', () => {
    const [most, guarantee, clients] = [1000, 20, 12];
    const steps = fc.array(
      fc.record({ who: fc.nat(clients - 1), bytes: fc.integer({ min: -300, max: 400 }) }),
      { maxLength: 300 },
    );
    fc.assert(
      fc.property(steps, (script) => {
        const budget = new MemoryBudget(most, guarantee);
        const accounts = Array.from({ length: clients }, () => budget.account());
        const held = accounts.map(() => 0);
        for (const { who, bytes } of script) {
          const account = accounts[who];
          const own = held[who];
          assert(account !== undefined && own !== undefined);
          const isAdmitted = bytes <= 0 || account.admits(own, bytes);
          if (!isAdmitted) assert(own + bytes > guarantee, 'the guarantee is kept');
          else held[who] = Math.max(0, own + bytes);
          account.note(held[who] ?? 0);
          const sum = held.reduce((all, one) => all + one, 0);
          assert.equal(budget.heldBytes, sum);
          assert(sum <= most + clients * guarantee, `${sum} bytes`);
        }
      }),
    );
  });

  it('the guarantee holds what a disk has under way', () => {
    assert(CLIENT_GUARANTEED_BYTES >= 2 * MIB);
  });
});
