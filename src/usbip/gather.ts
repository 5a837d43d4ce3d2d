/**
 * Collects what is to be sent so that one gathered write sends it all.
 *
 * Headers and short payloads are written one after the other into a slab; a long payload is not
 * copied but put between two pieces of slab. Slab memory is used once: it starts out as zeros, so
 * padding needs no writing, and it may be handed to the socket as it is.
 */
const SLAB_OCTETS = 64 * 1024;
/** Payloads up to this length are copied: a longer list of pieces costs more than the copy. */
export const COPY_OCTETS_MAX = 4096;

/** For those who have written nothing yet: a connection of a stranger costs no slab. */
const NO_SLAB = Buffer.alloc(0);
const NO_VIEW = new DataView(new ArrayBuffer(0));

export class Gather {
  slab: Buffer = NO_SLAB;
  /** Of the slab; another one after `room`, perhaps. */
  view: DataView = NO_VIEW;
  /** Octets that the slab has room for. */
  #slabOctets = 0;
  /** Where the piece of slab begins that is not in `#pieces` yet, and where it ends. */
  #start = 0;
  #end = 0;
  #pieces: Uint8Array[] = [];
  #piecesOctets = 0;
  #takenOctets = 0;

  /** Octets that `take` would return. */
  get pendingOctets(): number {
    return this.#piecesOctets + this.#end - this.#start;
  }

  /** Octets written since the beginning: the place in the stream where the next begins. */
  get position(): number {
    return this.#takenOctets + this.pendingOctets;
  }

  /** Everything written since the last call, in order; for a gathered write. */
  take(): Uint8Array[] {
    this.#seal();
    const pieces = this.#pieces;
    this.#takenOctets += this.#piecesOctets;
    this.#pieces = [];
    this.#piecesOctets = 0;
    return pieces;
  }

  /** Octets as they are. Returns whether they were copied: long ones are not, and must not change. */
  append(octets: Uint8Array): boolean {
    if (octets.length > COPY_OCTETS_MAX) {
      this.#seal();
      this.#pieces.push(octets);
      this.#piecesOctets += octets.length;
      return false;
    }
    if (octets.length > 0) {
      const at = this.room(octets.length); // may begin a new slab
      this.slab.set(octets, at);
    }
    return true;
  }

  /** Makes room for `octets` zeros, at most a slab, and returns where in it they begin. */
  room(octets: number): number {
    if (this.#end + octets > this.#slabOctets) {
      this.#seal();
      this.slab = Buffer.alloc(SLAB_OCTETS);
      this.#slabOctets = SLAB_OCTETS;
      this.view = new DataView(this.slab.buffer);
      this.#start = 0;
      this.#end = 0;
    }
    const at = this.#end;
    this.#end += octets;
    return at;
  }

  #seal(): void {
    if (this.#end === this.#start) return;
    this.#pieces.push(this.slab.subarray(this.#start, this.#end));
    this.#piecesOctets += this.#end - this.#start;
    this.#start = this.#end;
  }
}
