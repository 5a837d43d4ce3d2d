/**
 * READ and WRITE: blocks between the bus and the medium, in pieces of bounded size.
 *
 *   READ    medium -> piece | piece -> bus     the next piece is read while one is sent
 *   WRITE   bus -> piece -> medium             the next piece fills while up to four are written
 *
 * Memory held for one command is bounded by the pieces, however long the transfer. A WRITE copies
 * the bus's octets once: into a piece, or right into the backing if that is done when it returns.
 * A READ from such a backing needs no pieces either, but answers each transfer with one buffer.
 *
 * Only whole blocks reach the medium. A host that goes away in the middle of a WRITE leaves each of
 * its blocks old or new, never torn, and touches no other.
 */
import { type Medium, PIECE_OCTETS, READS_AHEAD_MAX, WRITES_IN_FLIGHT_MAX } from './medium.ts';
import { SENSE, type Sense } from './sense.ts';
import { syncMedium, TaskBase, writeFailure } from './task.ts';

/** What is read from memory, or written to it, in one piece. */
const AT_ONCE_BYTES_MAX = 1 << 20;

/** A run of blocks; `block` is the first. */
export interface BlockRange {
  readonly block: number;
  readonly blocks: number;
}

interface ReadPiece {
  readonly octets: Buffer;
  readonly block: number;
  state: 'reading' | 'ready' | 'failed';
  sent: number;
}

export class ReadTask extends TaskBase {
  readonly #medium: Medium;
  readonly #offset: number;
  readonly #pieces: ReadPiece[] = [];
  #requested = 0;

  constructor(medium: Medium, range: BlockRange) {
    super('in', range.blocks * medium.blockOctets);
    this.#medium = medium;
    this.#offset = range.block * medium.blockOctets;
  }

  override start(): void {
    this.#readAhead();
  }

  override read(octetsMax: number): Uint8Array | null {
    // From memory, all that the transfer has room for: one answer fills it, and none is joined, unless
    // that is long; the bus then moves it in slices.
    if (this.#medium.immediate) this.#request(Math.min(octetsMax, AT_ONCE_BYTES_MAX));
    const piece = this.#pieces[0];
    if (piece === undefined || piece.state === 'reading') return null;
    if (piece.state === 'failed') {
      // Everything before this piece has been sent, so this is the first block in trouble.
      this.failure = { ...SENSE.unrecoveredReadError, block: piece.block };
      return null;
    }
    const octets = piece.octets.subarray(piece.sent, piece.sent + octetsMax);
    piece.sent += octets.length;
    if (piece.sent === piece.octets.length) {
      this.#pieces.shift();
      this.#readAhead();
    }
    return octets;
  }

  #readAhead(): void {
    if (this.#medium.immediate) return;
    while (this.#pieces.length < READS_AHEAD_MAX && this.#requested < this.octets) {
      this.#request(PIECE_OCTETS);
    }
  }

  #request(octetsMax: number): void {
    const length = Math.min(octetsMax, this.octets - this.#requested);
    const offset = this.#offset + this.#requested;
    // A new buffer each time: what is handed out is sent without a copy, some time later.
    const piece: ReadPiece = {
      octets: Buffer.allocUnsafeSlow(length),
      block: Math.floor(offset / this.#medium.blockOctets),
      state: 'reading',
      sent: 0,
    };
    this.#pieces.push(piece);
    this.#requested += length;
    this.#medium.read(offset, piece.octets, (error) => {
      piece.state = error === null ? 'ready' : 'failed';
    });
  }
}

export interface WriteOptions {
  /** The data is on stable storage when the command ends (FUA, or no write cache). */
  readonly sync: boolean;
}

export class WriteTask extends TaskBase {
  readonly #medium: Medium;
  readonly #offset: number;
  readonly #sync: boolean;
  /** Octets taken from the bus; those in `#piece` have not gone to the medium yet. */
  #taken = 0;
  #piece: Buffer | null = null;
  #filled = 0;

  constructor(medium: Medium, range: BlockRange, options: WriteOptions) {
    super('out', range.blocks * medium.blockOctets);
    this.#medium = medium;
    this.#offset = range.block * medium.blockOctets;
    this.#sync = options.sync;
  }

  override write(octets: Buffer): number {
    if (this.#medium.immediate && this.#filled === 0) {
      const most = Math.min(octets.length, AT_ONCE_BYTES_MAX);
      const whole = most - (most % this.#medium.blockOctets);
      if (whole > 0) return this.#writeThrough(octets.subarray(0, whole));
    }
    if (this.#piece === null) {
      if (this.#medium.inFlight >= WRITES_IN_FLIGHT_MAX) return 0;
      this.#piece = this.#medium.piece();
    }
    const count = octets.copy(this.#piece, this.#filled);
    this.#taken += count;
    this.#filled += count;
    if (this.#filled === PIECE_OCTETS || this.#taken === this.octets) this.#flush(this.#piece);
    return count;
  }

  #writeThrough(octets: Buffer): number {
    const at = this.#taken;
    this.#taken += octets.length;
    this.#writeBlocks(at, octets, () => {});
    return octets.length;
  }

  /** A piece is flushed when it is full or the data complete: whole blocks either way. */
  #flush(piece: Buffer): void {
    const filled = this.#filled;
    this.#piece = null;
    this.#filled = 0;
    this.#writeBlocks(this.#taken - filled, piece.subarray(0, filled), () => {
      this.#medium.recycle(piece);
    });
  }

  #writeBlocks(at: number, octets: Buffer, ended: () => void): void {
    const offset = this.#offset + at;
    this.#medium.write(offset, octets, (error) => {
      ended();
      if (error !== null) this.#fail(writeFailure(error, offset / this.#medium.blockOctets));
      if (this.#taken === this.octets && !this.#medium.busy) this.#finish();
    });
  }

  /** Of several failures the one lowest on the disk is reported: all before it was written. */
  #fail(failure: Sense): void {
    const { block } = this.failure ?? {};
    const isLower = block === undefined || (failure.block !== undefined && failure.block < block);
    if (this.failure === null || isLower) this.failure = failure;
  }

  #finish(): void {
    if (!this.#sync || this.failure !== null) return;
    syncMedium(this.#medium, (failure) => {
      this.failure = failure;
    });
  }
}
