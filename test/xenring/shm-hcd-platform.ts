/** Lets the model of xen-hcd run on shared memory, in a process of its own. */
import { strict as assert } from 'node:assert';
import {
  type EventChannel,
  type GrantedPages,
  PAGE_OCTETS,
  type Platform,
  type Store,
} from '../../src/xenring/platform.ts';
import type { HcdPlatform } from './xen-hcd.ts';

interface Allocation {
  readonly granted: GrantedPages;
  /** Pages whose grant has not ended. */
  left: number;
}

export class ShmHcdPlatform implements HcdPlatform {
  readonly store: Store;
  readonly #platform: Platform;
  readonly #backDomain: number;
  readonly #byReference = new Map<number, Allocation>();

  constructor(platform: Platform, backDomain = 0) {
    this.#platform = platform;
    this.#backDomain = backDomain;
    this.store = platform.store;
  }

  offerChannel(peer: number): EventChannel {
    return this.#platform.offerChannel(peer);
  }

  /** They are granted at once, and known by their place. */
  pages(count: number): Buffer {
    if (count === 0) return Buffer.alloc(0);
    const granted = this.#platform.grant(this.#backDomain, count);
    const allocation = { granted, left: count };
    for (const reference of granted.references) this.#byReference.set(reference, allocation);
    return granted.memory;
  }

  grantPage(_peer: number, page: Buffer): number {
    for (const [reference, { granted }] of this.#byReference) {
      const { memory, references } = granted;
      if (memory.buffer !== page.buffer) continue;
      const at = references.indexOf(reference) * PAGE_OCTETS;
      if (memory.byteOffset + at === page.byteOffset) return reference;
    }
    assert.fail('not one of its pages');
  }

  endGrant(reference: number): void {
    const allocation = this.#byReference.get(reference);
    assert(allocation !== undefined);
    this.#byReference.delete(reference);
    if (--allocation.left === 0) allocation.granted.end();
  }
}
