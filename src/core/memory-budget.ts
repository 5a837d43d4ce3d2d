/**
 * Memory that several share, each with a part that nobody can take from it.
 *
 * A holder may always have its guaranteed bytes. Beyond those it may have no more than it leaves to the others:
 * `held <= bytesMax - all held`. So one alone may take half of everything, many together never take all
 * of it, and whoever comes late finds something besides its guarantee. What all hold together is at
 * most `bytesMax` and the guarantees.
 *
 * A holder says what it holds when it has done a piece of work; in between it asks with its own figure.
 */
import { assert } from './assert.ts';

export class MemoryBudget {
  readonly bytesMax: number;
  readonly guaranteedBytes: number;
  /** What all accounts together have noted. */
  #heldBytes = 0;

  constructor(bytesMax: number, guaranteedBytes: number) {
    this.bytesMax = bytesMax;
    this.guaranteedBytes = guaranteedBytes;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** For a new holder. */
  account(): MemoryAccount {
    return new MemoryAccount(this);
  }

  /** For accounts. */
  changeHeld(bytes: number): void {
    this.#heldBytes += bytes;
    assert(this.#heldBytes >= 0, 'Cannot hold less than no memory');
  }
}

export class MemoryAccount {
  readonly #budget: MemoryBudget;
  #notedBytes = 0;

  /** Use `MemoryBudget.account`. */
  constructor(budget: MemoryBudget) {
    this.#budget = budget;
  }

  /** What the holder may have, whatever others have. */
  get guaranteedBytes(): number {
    return this.#budget.guaranteedBytes;
  }

  /** Whether a holder of `heldBytes` may have `moreBytes`. */
  admits(heldBytes: number, moreBytes: number): boolean {
    const budget = this.#budget;
    const wantedBytes = heldBytes + moreBytes;
    if (wantedBytes <= budget.guaranteedBytes) return true;
    const othersBytes = budget.heldBytes - this.#notedBytes;
    return wantedBytes <= budget.bytesMax - othersBytes - wantedBytes;
  }

  /** The holder has so much now; others are asked by that. */
  note(heldBytes: number): void {
    if (heldBytes === this.#notedBytes) return;
    this.#budget.changeHeld(heldBytes - this.#notedBytes);
    this.#notedBytes = heldBytes;
  }
}
