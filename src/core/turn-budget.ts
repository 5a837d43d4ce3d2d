/**
 * What one client may have done in one turn of the event loop, before others have theirs.
 *
 * Whatever it sends, a turn is a few milliseconds: each command, each URB that ends and each
 * isochronous packet is an operation (about a microsecond), and what a URB has moved counts in bytes,
 * which somebody has to fill, copy or look at. Who works for a client spends here and looks at
 * `isSpent` between two pieces of work; what is left waits for the next turn.
 */
/** Some two milliseconds' worth. A client of the kernel's has fewer commands under way. */
export const TURN_OPERATIONS_MAX = 1024;
/** Some two milliseconds' worth of copies. One URB may bring up to twice as much by itself. */
export const TURN_BYTES_MAX = 8 << 20;

export class TurnBudget {
  /** A turn of the connection is under way; else each event has a budget of its own. */
  #isTurn = false;
  #operations = 0;
  #bytes = 0;

  get isSpent(): boolean {
    return this.#operations >= TURN_OPERATIONS_MAX || this.#bytes >= TURN_BYTES_MAX;
  }

  spend(operations: number, bytes: number): void {
    this.#operations += operations;
    this.#bytes += bytes;
  }

  /** A turn begins, whose events share one budget until `endTurn`; or the same one goes on. */
  beginTurn(isSame = false): void {
    this.#isTurn = true;
    if (isSame) return;
    this.#operations = 0;
    this.#bytes = 0;
  }

  endTurn(): void {
    this.#isTurn = false;
  }

  /** Something has happened, in a turn or by itself, as when a timer has run out. */
  beginEvent(): void {
    if (this.#isTurn) return;
    this.#operations = 0;
    this.#bytes = 0;
  }
}
