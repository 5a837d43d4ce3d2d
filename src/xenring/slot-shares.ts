/**
 * Who may take a slot of the URB ring. All devices of a controller share 16, and a driver may keep many
 * reads waiting for data that never comes (cdc_acm has 16): it must not have them all. So half of the
 * slots are for endpoints that have none.
 */

import { PORTS_MAX } from './usbif.ts';

/** Slots that an endpoint which has one leaves to those that have none. */
const SLOTS_FOR_OTHERS = 7;

export class SlotShares {
  /** Transfers in the ring by endpoint, those too that nobody waits for any more. */
  readonly #out = new Uint8Array((PORTS_MAX + 1) << 8);
  /** By request id: whose it is. */
  readonly #keys: number[];

  /** @param ids Requests that can be in the ring. */
  constructor(ids: number) {
    this.#keys = new Array(ids).fill(0);
  }

  /** @param free Slots that transfers may take. */
  mayTake(port: number, endpoint: number, free: number): boolean {
    return free > (this.#out[keyOf(port, endpoint)] === 0 ? 0 : SLOTS_FOR_OTHERS);
  }

  /** A transfer is in the ring. */
  taken(id: number, port: number, endpoint: number): void {
    const key = keyOf(port, endpoint);
    this.#keys[id] = key;
    this.#out[key] = (this.#out[key] ?? 0) + 1;
  }

  /** It was answered. */
  left(id: number): void {
    const key = this.#keys[id] ?? 0;
    this.#out[key] = (this.#out[key] ?? 0) - 1;
  }
}

/** A number for each endpoint of each port. */
function keyOf(port: number, endpoint: number): number {
  return (port << 8) | endpoint;
}
