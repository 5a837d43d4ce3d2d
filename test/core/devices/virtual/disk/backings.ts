/** Backings for tests: one whose answers the test gives, and one that fails on demand. */
import {
  type Backing,
  type Done,
  MemoryBacking,
} from '../../../../../src/core/devices/virtual/disk/backing.ts';

export interface Operation {
  readonly kind: 'read' | 'write' | 'sync' | 'discard';
  readonly offset: number;
  readonly octets: number;
  /** Ends the operation; with an error it has not happened. */
  readonly end: (error?: Error) => void;
}

/** Keeps each operation in `pending` until the test ends it. */
export class ScriptedBacking implements Backing {
  readonly octets: number;
  readonly readonly = false;
  readonly immediate = false;
  readonly pending: Operation[] = [];
  /** Kinds in the order in which they ended well. */
  readonly ended: string[] = [];
  isClosed = false;
  readonly memory: MemoryBacking;

  constructor(octets: number) {
    this.octets = octets;
    this.memory = new MemoryBacking(octets);
  }

  read(offset: number, into: Buffer, done: Done): void {
    this.#defer('read', offset, into.length, done, (ended) =>
      this.memory.read(offset, into, ended),
    );
  }

  write(offset: number, octets: Buffer, done: Done): void {
    this.#defer('write', offset, octets.length, done, (ended) =>
      this.memory.write(offset, octets, ended),
    );
  }

  discard = (offset: number, octets: number, done: Done): void => {
    this.#defer('discard', offset, octets, done, (ended) =>
      this.memory.discard(offset, octets, ended),
    );
  };

  sync(done: Done): void {
    this.#defer('sync', 0, 0, done, (ended) => ended(null));
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }

  /** Ends the oldest operation. */
  next(error?: Error): Operation {
    const operation = this.pending.shift();
    if (operation === undefined) throw new Error('nothing is pending');
    operation.end(error);
    return operation;
  }

  #defer(
    kind: Operation['kind'],
    offset: number,
    octets: number,
    done: Done,
    act: (ended: Done) => void,
  ): void {
    const end = (error?: Error): void => {
      if (error !== undefined) {
        done(error);
        return;
      }
      this.ended.push(kind);
      act(done);
    };
    this.pending.push({ kind, offset, octets, end });
    this.deferred();
  }

  /** An operation was added to `pending`. */
  protected deferred(): void {}
}

/** Ends every operation by itself, a little later, in the order given. */
export class SlowBacking extends ScriptedBacking {
  /** Told of each operation; what it returns is the error of it. */
  fault: (operation: Operation) => Error | undefined = () => undefined;
  most = 0;

  protected override deferred(): void {
    this.most = Math.max(this.most, this.pending.length);
    setImmediate(() => {
      const [operation] = this.pending;
      if (operation !== undefined) this.next(this.fault(operation));
    });
  }
}
