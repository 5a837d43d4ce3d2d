/** Watches which transitions a machine takes, to compare them with its table. */
import { strict as assert } from 'node:assert';
import type { Transition } from '../../src/stall/endpoint-queue.ts';

export class PhaseRecorder {
  readonly #taken = new Set<string>();

  /** From now on each change of the queue's phase is recorded. */
  watch<P extends string>(queue: { phase: P }): void {
    let phase = queue.phase;
    Object.defineProperty(queue, 'phase', {
      get: () => phase,
      set: (to: P) => {
        this.#taken.add(`${phase} --> ${to}`);
        phase = to;
      },
    });
  }

  assertAllTaken<P extends string>(table: readonly Transition<P>[]): void {
    const wanted = table.map(({ from, to }) => `${from} --> ${to}`);
    assert.deepEqual([...this.#taken].sort(), [...wanted].sort());
  }
}
