/**
 * When a client's socket is read from: one turn's worth of its input at a time, in turn with all others.
 *
 * When the budget of a turn (core/turn-budget.ts) is spent, the socket is not read from, and the connection
 * goes on with what it has when all others have had their turn. libuv reads a socket up to 32 times in a
 * turn of the event loop while each read fills the memory, so a read behind a full one shares its budget. It
 * may belong to a later turn; to find that out would cost more than to pause now and then for nothing.
 */
import type { Socket } from 'node:net';
import type { Connection } from './connection.ts';

export interface ReadTurnsOptions {
  readonly socket: Socket;
  readonly connection: Pick<Connection, 'isBehind'>;
  /** Bytes that one read may bring. */
  readonly readBytesMax: number;
  /** Replies that wait for a client before its input is not worked off any more; who writes them pauses it. */
  readonly unsentBytesMax: number;
  /** Goes on with the input that the connection has; call `worked` at its end. */
  readonly goOn: () => void;
}

export class ReadTurns {
  readonly #options: ReadTurnsOptions;
  /** The last read has filled the memory. */
  #wasFull = false;
  /** The end of a turn after which there is more to do. */
  #turnEnd: NodeJS.Immediate | null = null;

  constructor(options: ReadTurnsOptions) {
    this.#options = options;
    options.socket.on('drain', () => this.#drained());
    options.socket.on('close', () => this.#stop());
  }

  /** Whether what is read now may belong to the turn of the read before. */
  get isSameTurn(): boolean {
    return this.#wasFull;
  }

  /** Call after input was worked off and its replies were written; `count` bytes had been read for it. */
  worked(count: number): void {
    const { socket, connection, readBytesMax } = this.#options;
    this.#wasFull = count === readBytesMax;
    if (!connection.isBehind) return;
    socket.pause();
    this.#awaitTurnEnd();
  }

  /** The client takes no replies. */
  get #isChoked(): boolean {
    return this.#options.socket.writableLength > this.#options.unsentBytesMax;
  }

  #awaitTurnEnd(): void {
    this.#turnEnd ??= setImmediate(() => {
      this.#turnEnd = null;
      this.#turn();
    });
  }

  #turn(): void {
    const { socket, connection, goOn } = this.#options;
    if (!connection.isBehind || this.#isChoked || socket.destroyed) return;
    goOn();
    if (!connection.isBehind && !this.#isChoked) socket.resume();
  }

  #drained(): void {
    if (this.#options.connection.isBehind) this.#awaitTurnEnd();
    else this.#options.socket.resume();
  }

  #stop(): void {
    if (this.#turnEnd !== null) clearImmediate(this.#turnEnd);
    this.#turnEnd = null;
  }
}
