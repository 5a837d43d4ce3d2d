/**
 * The phases of the queue in retry-queue.ts.
 *
 * `retrying` lasts only if nothing is left to retry: then it waits for the driver's next transfer.
 * All must be back before the first retry, so that the gateway cannot take an old transfer that is
 * still on its way for one behind the retry; as the connection keeps the order, that is enough.
 */
import type { Transition } from './endpoint-queue.ts';

export type RetryPhase = 'running' | 'collecting' | 'retrying' | 'lost';

/** All there are: `enter` refuses others. docs/stall-protocol.md prints them. */
export const RETRY_TRANSITIONS: readonly Transition<RetryPhase>[] = [
  { from: 'running', to: 'collecting', when: 'one comes back with an error, unlinked or returned' },
  {
    from: 'collecting',
    to: 'running',
    when: 'all are back and handled; what is left is sent again',
  },
  { from: 'collecting', to: 'retrying', when: 'the same, but nothing is left' },
  { from: 'retrying', to: 'running', when: 'the driver submits, and it is sent with clear-stall' },
  { from: 'retrying', to: 'collecting', when: 'an unlink overtook its URB' },
  { from: 'running', to: 'lost', when: 'the connection is lost' },
  { from: 'collecting', to: 'lost', when: 'the connection is lost' },
  { from: 'retrying', to: 'lost', when: 'the connection is lost' },
];
