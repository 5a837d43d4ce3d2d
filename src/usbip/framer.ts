/**
 * Cuts a stream of octets into headers and bodies, whatever the chunks they arrive in.
 *
 * A header that lies in one chunk is read there, a body that lies in one chunk is handed on as a
 * view of it; only what is cut by a chunk's end is copied. The memory of a chunk may be used again
 * after `receive`. The handler says how long each header and body is, after it has checked the
 * peer's numbers: this file trusts it and allocates.
 */
import { assert } from '../core/assert.ts';
import type { BufferPool } from './buffer-pool.ts';

export interface FrameHandler {
  /** Octets of the next header, at most `HEADER_OCTETS_MAX`; read before each. */
  readonly headerOctets: number;
  /** A header, at `at` in `view`, valid during the call. Returns the octets of its body. */
  header(view: DataView, at: number): number;
  /** Where to gather a body that comes in several chunks; null for memory of the pool. */
  room?(octets: number): Buffer | null;
  /** False if the body of the header seen last is to be passed over. */
  readonly keepBody: boolean;
  /** How much of a body that comes in several chunks is kept, at its end. Default: all of it. */
  keptOctets?(octets: number): number;
  /** Copies a body that lies in one chunk, and says so; else `body` gets a view, an object more. */
  copied?(chunk: Buffer, start: number, end: number): boolean;
  /**
   * The body, if it has any octets and is kept. A pooled one belongs to the handler from now on; one
   * in `room` always did; any other is valid during the call.
   */
  body(octets: Buffer, pooled: boolean): void;
}

const HEADER_OCTETS_MAX = 64;

export class Framer {
  readonly #handler: FrameHandler;
  readonly #pool: BufferPool;
  /** Start of a header that a chunk's end has cut. */
  readonly #head = Buffer.alloc(HEADER_OCTETS_MAX);
  readonly #headView = viewOf(this.#head);
  #headFilled = 0;
  /** Octets of the current body that have not arrived. */
  #bodyMissing = 0;
  /** Where the current body is gathered; null if it is passed over. */
  #body: Buffer | null = null;
  #bodyPooled = false;
  /** Over the memory of the current chunk, kept because most chunks share theirs. */
  #view = this.#headView;

  constructor(handler: FrameHandler, pool: BufferPool) {
    this.#handler = handler;
    this.#pool = pool;
  }

  /**
   * Takes a chunk, from `start` on. The handler may throw; the stream is then of no more use.
   *
   * @param framesMax - headers, and pieces of bodies that do not lie in the chunk as a whole
   * @returns where it has stopped: at the chunk's end, or behind that many
   */
  receive(chunk: Buffer, start = 0, framesMax = Number.POSITIVE_INFINITY): number {
    if (this.#view.buffer !== chunk.buffer) this.#view = new DataView(chunk.buffer);
    let at = start;
    for (let left = framesMax; at < chunk.length && left > 0; left--) {
      at = this.#bodyMissing > 0 ? this.#gather(chunk, at) : this.#receiveHeader(chunk, at);
    }
    return at;
  }

  #receiveHeader(chunk: Buffer, at: number): number {
    const wanted = this.#handler.headerOctets;
    assert(wanted <= HEADER_OCTETS_MAX);
    if (this.#headFilled === 0 && chunk.length - at >= wanted) {
      const bodyOctets = this.#handler.header(this.#view, chunk.byteOffset + at);
      return this.#startBody(chunk, at + wanted, bodyOctets);
    }
    const copied = chunk.copy(this.#head, this.#headFilled, at, at + wanted - this.#headFilled);
    this.#headFilled += copied;
    if (this.#headFilled < wanted) return at + copied;
    this.#headFilled = 0;
    const bodyOctets = this.#handler.header(this.#headView, this.#head.byteOffset);
    return this.#startBody(chunk, at + copied, bodyOctets);
  }

  #startBody(chunk: Buffer, at: number, octets: number): number {
    if (octets === 0) return at;
    if (!this.#handler.keepBody) {
      this.#bodyMissing = octets;
      this.#body = null;
      return at;
    }
    const end = at + octets;
    if (end <= chunk.length) {
      const copied = this.#handler.copied?.(chunk, at, end) ?? false;
      if (!copied) this.#handler.body(chunk.subarray(at, end), false);
      return end;
    }
    this.#bodyMissing = octets;
    const kept = this.#handler.keptOctets?.(octets) ?? octets;
    const room = this.#handler.room?.(kept) ?? null;
    this.#bodyPooled = room === null;
    this.#body = room ?? this.#pool.take(kept);
    return at;
  }

  #gather(chunk: Buffer, at: number): number {
    const octets = Math.min(this.#bodyMissing, chunk.length - at);
    const body = this.#body;
    if (body !== null) {
      const to = body.length - this.#bodyMissing;
      const passedOver = Math.min(Math.max(-to, 0), octets); // before what is kept
      chunk.copy(body, Math.max(to, 0), at + passedOver, at + octets);
    }
    this.#bodyMissing -= octets;
    if (this.#bodyMissing === 0 && body !== null) {
      this.#body = null;
      this.#handler.body(body, this.#bodyPooled);
    }
    return at + octets;
  }
}

/** A view of the whole memory behind a buffer; positions in it begin at `byteOffset`. */
function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer);
}
