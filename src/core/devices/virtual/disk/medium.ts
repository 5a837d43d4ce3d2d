/**
 * A backing as the commands see it: in blocks, with a count of what is in flight.
 *
 * The count is what keeps commands apart. A host may abandon a command and reset the device while
 * writes of it are still on their way to the file; the next command begins only when `busy` is
 * false again, or an old write could land on top of a new one.
 */
import type { Backing, Done } from './backing.ts';

/** Data moves between the bus and the backing in pieces of at most this size. */
export const PIECE_OCTETS = 256 << 10;

/** Writes of one command that run at a time; the next piece fills up meanwhile. */
export const WRITES_IN_FLIGHT_MAX = 4;

/**
 * What an immediate medium does for commands that ask for more work than they bring data (WRITE SAME,
 * UNMAP), before others have their turn; in bytes written.
 */
export const SLICE_BYTES = 1 << 20;

/** Reads of one command that run, or wait for the bus, at a time. */
export const READS_AHEAD_MAX = 2;

export class Medium {
  readonly blockOctets: number;
  readonly blocks: number;
  readonly readonly: boolean;
  readonly immediate: boolean;
  readonly #backing: Backing;
  readonly #spare: Buffer[] = [];
  /** Called when something that had to be waited for is done. */
  onProgress: () => void = () => {};
  #inFlight = 0;
  #isDirty = false;
  #idle: (() => void)[] = [];
  /** Since others had their turn last. */
  #sliceBytes = 0;

  constructor(backing: Backing, blockOctets: number) {
    this.#backing = backing;
    this.blockOctets = blockOctets;
    this.blocks = backing.octets / blockOctets;
    this.readonly = backing.readonly;
    this.immediate = backing.immediate;
  }

  get busy(): boolean {
    return this.#inFlight > 0;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get canDiscard(): boolean {
    return this.#backing.discard !== null;
  }

  read(offset: number, into: Buffer, done: Done): void {
    this.#run((ended) => this.#backing.read(offset, into, ended), done);
  }

  write(offset: number, octets: Buffer, done: Done): void {
    this.#isDirty = true;
    this.#run((ended) => this.#backing.write(offset, octets, ended), done);
  }

  /** Only if `canDiscard`. */
  discard(offset: number, octets: number, done: Done): void {
    this.#isDirty = true;
    this.#run((ended) => this.#backing.discard?.(offset, octets, ended), done);
  }

  /** Stores what was written since the last time; at once if that is nothing. */
  sync(done: Done): void {
    if (!this.#isDirty) {
      done(null);
      return;
    }
    this.#isDirty = false;
    this.#run(
      (ended) => this.#backing.sync(ended),
      (error) => {
        if (error !== null) this.#isDirty = true;
        done(error);
      },
    );
  }

  /**
   * Goes on with a long command that has just done work worth `bytes` written: at once, or when others
   * have had their turn. Until then it counts as in flight.
   */
  goOn(bytes: number, next: () => void): void {
    this.#sliceBytes += bytes;
    if (!this.immediate || this.#sliceBytes < SLICE_BYTES) {
      next();
      return;
    }
    this.#sliceBytes = 0;
    this.#run((ended) => setImmediate(ended, null), next);
  }

  /** Resolves when nothing is in flight. */
  idle(): Promise<void> {
    if (!this.busy) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  close(): Promise<void> {
    return this.#backing.close();
  }

  /** A buffer of `PIECE_OCTETS` with any content; give it back with `recycle`. */
  piece(): Buffer {
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(PIECE_OCTETS);
  }

  recycle(piece: Buffer): void {
    if (this.#spare.length <= WRITES_IN_FLIGHT_MAX) this.#spare.push(piece);
  }

  #run(start: (ended: Done) => void, done: Done): void {
    let hasReturned = false;
    this.#inFlight++;
    start((error) => {
      this.#inFlight--;
      done(error); // may start more
      if (hasReturned) this.#progress();
    });
    hasReturned = true;
  }

  #progress(): void {
    if (!this.busy) {
      const waiting = this.#idle;
      this.#idle = [];
      for (const resolve of waiting) resolve();
    }
    this.onProgress();
  }
}
