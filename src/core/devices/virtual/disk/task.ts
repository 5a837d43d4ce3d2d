/**
 * A SCSI command that is being carried out, as the transport sees it.
 *
 * The transport asks, the task never calls back: it says how much data it means to move, is started
 * once host and device agree on that, is asked for data or offered some as the bus moves, and has a
 * result when all data has moved (or the task has failed) and nothing is in flight at the medium.
 * "Not yet" is an answer; the medium's `onProgress` tells when to ask again.
 *
 * A task that the host gives up is not asked any more, and that is all: what is in flight runs on,
 * and nothing new begins but the sync that a WRITE with all its data may still owe.
 */
import type { Direction } from './bot.ts';
import type { Medium } from './medium.ts';
import { SENSE, type Sense } from './sense.ts';

export interface Task {
  readonly direction: Direction;
  /** Octets the command means to move: Di or Do of BOT 6.7. */
  readonly octets: number;
  start(): void;
  /** The next 1..`octetsMax` octets for the host, or null: not yet. The caller may keep them. */
  read(octetsMax: number): Uint8Array | null;
  /** How many of these octets were taken; 0: not yet. They are free again after the call. */
  write(octets: Buffer): number;
  /** Why the command has failed so far, or null. No more data is moved once it has. */
  readonly failure: Sense | null;
}

/** A task without data, and the base of those with some. */
export abstract class TaskBase implements Task {
  readonly direction: Direction;
  readonly octets: number;
  failure: Sense | null = null;

  constructor(direction: Direction, octets: number) {
    this.direction = octets === 0 ? 'none' : direction;
    this.octets = octets;
  }

  start(): void {}

  read(_octetsMax: number): Uint8Array | null {
    throw new TypeError('Cannot read from a task: it sends no data');
  }

  write(_octets: Buffer): number {
    throw new TypeError('Cannot write to a task: it takes no data');
  }
}

/** Nothing to do, and done. */
export class DoneTask extends TaskBase {
  constructor() {
    super('none', 0);
  }
}

export class FailedTask extends TaskBase {
  constructor(failure: Sense) {
    super('none', 0);
    this.failure = failure;
  }
}

/** An answer that fits in memory, cut off at the allocation length of the command (SPC-4, 4.2.5.6). */
export class AnswerTask extends TaskBase {
  #rest: Uint8Array;

  constructor(answer: Uint8Array, allocationOctets: number) {
    const octets = answer.subarray(0, allocationOctets);
    super('in', octets.length);
    this.#rest = octets;
  }

  override read(octetsMax: number): Uint8Array {
    const octets = this.#rest.subarray(0, octetsMax);
    this.#rest = this.#rest.subarray(octets.length);
    return octets;
  }
}

/** Work at the medium without data: `work` is called once and ends with `done`. */
export class WorkTask extends TaskBase {
  readonly #work: (done: (failure: Sense | null) => void) => void;

  constructor(work: (done: (failure: Sense | null) => void) => void) {
    super('none', 0);
    this.#work = work;
  }

  override start(): void {
    this.#work((failure) => {
      this.failure = failure;
    });
  }
}

/**
 * A parameter list: collected, then acted on.
 *
 * `octets` is what the host announces in the command block; callers limit it.
 */
export class ParameterTask extends TaskBase {
  readonly #list: Buffer;
  readonly #act: (list: Buffer, done: (failure: Sense | null) => void) => void;
  #taken = 0;

  constructor(octets: number, act: (list: Buffer, done: (failure: Sense | null) => void) => void) {
    super('out', octets);
    this.#list = Buffer.alloc(octets);
    this.#act = act;
  }

  override write(octets: Buffer): number {
    this.#taken += octets.copy(this.#list, this.#taken);
    if (this.#taken === this.octets) {
      this.#act(this.#list, (failure) => {
        this.failure = failure;
      });
    }
    return octets.length;
  }
}

/** `SYNCHRONIZE CACHE` and friends: the medium's cache goes to stable storage. */
export function syncMedium(medium: Medium, done: (failure: Sense | null) => void): void {
  medium.sync((error) => done(error === null ? null : SENSE.writeError));
}

/** What went wrong at the backing, as sense data. */
export function writeFailure(error: Error, block: number): Sense {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOSPC' || code === 'EDQUOT') return SENSE.spaceAllocationFailed;
  return { ...SENSE.writeError, block };
}
