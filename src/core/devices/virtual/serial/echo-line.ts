/**
 * A loop-back plug: what goes out comes back.
 *
 * Octets wait in the plug while nobody reads, also across DTR: a program may write, close the port,
 * and another may read.
 */
import { Fifo } from './fifo.ts';
import type { Line, LineListener } from './line.ts';

/** What the plug holds before it takes no more. */
export const ECHO_OCTETS_MAX = 64 * 1024;

export class EchoLine implements Line {
  readonly #fifo = new Fifo(ECHO_OCTETS_MAX);
  readonly #listener: LineListener;

  constructor(listener: LineListener) {
    this.#listener = listener;
  }

  raise(): void {
    this.#listener.carrier(true);
  }

  drop(): void {
    this.#listener.carrier(false);
  }

  give(octets: Buffer): number {
    const count = this.#fifo.put(octets);
    if (count > 0) this.#listener.octets();
    return count;
  }

  take(octetsMax: number): Uint8Array {
    const octets = this.#fifo.take(octetsMax);
    if (octets.length > 0) this.#listener.room();
    return octets;
  }

  reset(): void {
    this.#fifo.clear();
  }

  async close(): Promise<void> {}
}
