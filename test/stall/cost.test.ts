/** Thousands of transfers that are queued and unlinked cost each a few looks, not a walk over the others. */
import { strict as assert } from 'node:assert';
import { Actions } from '../../src/stall/actions.ts';
import * as gateway from '../../src/stall/endpoint-queue.ts';
import type { Recovery } from '../../src/stall/fence.ts';
import * as retry from '../../src/stall/retry-queue.ts';

const COUNT = 4096;
/** Looks at a transfer's number: a few binary searches. */
const LOOKS_MAX = 64;
const TIMED: Recovery = {
  kind: 'hold',
  settleMilliseconds: 0,
  holdMilliseconds: 1000,
  arrivalMilliseconds: 50,
  graceMilliseconds: 10,
  steadyTransfers: 2,
};

const ORDERS: Readonly<Record<string, (n: number) => number>> = {
  'oldest first': (n) => n,
  'newest first': (n) => COUNT - 1 - n,
  'every other, then the rest': (n) => ((2 * n) % COUNT) + (2 * n >= COUNT ? 1 : 0),
};

class Counted {
  looks = 0;
  readonly orderOf = (transfer: number) => {
    this.looks++;
    return transfer;
  };

  assertFew(what: string): void {
    assert(this.looks < LOOKS_MAX * COUNT, `${what}: ${this.looks} looks`);
    this.looks = 0;
  }
}

function taken<T, K extends string>(actions: Actions<T, K>): Map<K, number> {
  const counts = new Map<K, number>();
  for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

describe('what a transfer costs in a queue of thousands', () => {
  for (const [name, order] of Object.entries(ORDERS)) {
    it(`gateway, running: ${name}`, () => {
      const counted = new Counted();
      const actions = new Actions<number, gateway.ActionKind>();
      const queue = gateway.endpointQueue<number>(1, 'errors', TIMED, counted.orderOf);
      for (let n = -1; n < COUNT; n++) gateway.submitted(queue, n, false, 'unknown', 0, actions);
      for (let n = 0; n < COUNT; n++) {
        gateway.unlinked(queue, order(n), 0, actions);
        gateway.cleared(queue, 0, actions);
      }
      assert.equal(taken(actions).get('giveBackUnlinked'), COUNT);
      assert.equal(queue.waiting.length, 1, 'a barrier is left');
      counted.assertFew(name);
    });

    it(`gateway, holding: ${name}`, () => {
      const counted = new Counted();
      const actions = new Actions<number, gateway.ActionKind>();
      const queue = gateway.endpointQueue<number>(1, 'errors', TIMED, counted.orderOf);
      for (let n = -1; n < COUNT; n++) gateway.submitted(queue, n, false, 'unknown', 0, actions);
      gateway.completed(queue, -1, 'error', 0, actions);
      assert.equal(queue.phase, 'holding');
      for (let n = 0; n < COUNT; n++) gateway.unlinked(queue, order(n), 0, actions);
      assert.equal(taken(actions).get('giveBackUnlinked'), COUNT);
      assert.equal(queue.phase, 'running');
      counted.assertFew(name);
    });

    it(`client: ${name}`, () => {
      const counted = new Counted();
      const actions = new Actions<number, retry.RetryActionKind>();
      const queue = retry.retryQueue<number>('errors', 'old', counted.orderOf);
      for (let n = 0; n < COUNT; n++) retry.submitted(queue, n, false, actions);
      for (let n = 0; n < COUNT; n++) retry.unlinked(queue, order(n), actions);
      for (let n = 0; n < COUNT; n++) retry.replied(queue, order(n), 'unlinked', actions);
      assert.equal(taken(actions).get('giveBack'), COUNT);
      assert.equal(queue.sent.length, 0);
      counted.assertFew(name);
    });
  }
});
