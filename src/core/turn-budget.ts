/**
 * What one client may have done in one turn of the event loop, before others have theirs.
 *
 * Whatever it sends, a turn is a few milliseconds. Work counts in bytes that somebody has to fill, copy or
 * look at; a command and an isochronous packet are operations, and each counts as so many bytes as are
 * copied in its time, which is one or two microseconds. Who works for a client looks at its budget between
 * two pieces of work; what is left waits for the next turn.
 */
/** One URB may bring twice as much by itself. */
export const TURN_BYTES_MAX = 8 << 20;
/** A client of the kernel's has fewer commands under way. */
export const TURN_OPERATIONS_MAX = 1024;
/** What an operation counts as. */
export const OPERATION_BYTES = TURN_BYTES_MAX / TURN_OPERATIONS_MAX;

export class TurnBudget {
  #bytesLeft = TURN_BYTES_MAX;

  get isSpent(): boolean {
    return this.#bytesLeft <= 0;
  }

  spend(bytes: number): void {
    this.#bytesLeft -= bytes;
  }

  /** A turn begins. */
  renew(): void {
    this.#bytesLeft = TURN_BYTES_MAX;
  }
}
