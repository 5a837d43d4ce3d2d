/**
 * When a client's socket is read from: one turn's worth of its input at a time, in turn with all others.
 *
 * libuv reads a socket up to 32 times in a turn of the event loop while each read fills the memory, so
 * these reads share one budget (core/turn-budget.ts). When that is spent, the socket is not read from,
 * and the connection goes on with what it has when all others have had their turn. A read that leaves
 * memory free is the last of its turn: nothing has to be arranged then, which is the usual case.
 */
import type { Socket } from 'node:net';
import type { Connection } from './connection.ts';

export interface ReadTurnsOptions {
  readonly socket: Socket;
  readonly connection: Pick<Connection, 'isBehind'>;
  /** Bytes that one read may bring. */
  readonly readBytesMax: number;
  /** Replies that wait for a client before its input is not worked off any more. */
  readonly unsentBytesMax: number;
  /** Goes on with the input that the connection has; call `worked` at its end. */
  readonly goOn: () => void;
}

export class ReadTurns {
  readonly #options: ReadTurnsOptions;
  /** The end of a turn in which there may be more to read, or after which there is more to do. */
  #turnEnd: NodeJS.Immediate | null = null;

  constructor(options: ReadTurnsOptions) {
    this.#options = options;
    options.socket.on('drain', () => this.#drained());
    options.socket.on('close', () => this.#stop());
  }

  /** Whether what is read now belongs to the turn of the read before. */
  get isSameTurn(): boolean {
    return this.#turnEnd !== null;
  }

  /** Call after input was worked off and its replies were written; `count` bytes had been read for it. */
  worked(count: number): void {
    const { socket, connection, readBytesMax } = this.#options;
    if (connection.isBehind || this.#isChoked) socket.pause();
    if (connection.isBehind || count === readBytesMax) this.#awaitTurnEnd();
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
