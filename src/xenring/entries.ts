/**
 * The requests of a URB ring that are out, at most as many as it has slots: by id, and the places for
 * more. A place is not used again before the answer of its request is published, for until then the
 * journal has that request in it.
 */
import { assert } from '../core/assert.ts';
import type { DeviceSession } from '../core/session.ts';
import { JOURNAL_ENTRIES } from './journal.ts';
import { TransferMemory } from './transfer-memory.ts';
import { Request } from './urb-request.ts';

/** A request that is out, and what it needs; made once. */
export class Entry {
  readonly index: number;
  readonly request = new Request();
  readonly memory = new TransferMemory();
  session: DeviceSession | null = null;
  /** The front end wants it back. */
  asked = false;

  constructor(index: number) {
    this.index = index;
  }
}

export class Entries {
  readonly #all = Array.from({ length: JOURNAL_ENTRIES }, (_, index) => new Entry(index));
  readonly #free: Entry[] = [...this.#all];
  readonly #unpublished: Entry[] = [];
  /** By id, which has 16 bits: index + 1 of the entry that is out. */
  readonly #byId = new Uint8Array(1 << 16);

  get outstandingCount(): number {
    return this.#all.length - this.#free.length - this.#unpublished.length;
  }

  /** The request of this id that is out. */
  get(id: number): Entry | undefined {
    const place = this.#byId[id] ?? 0;
    return place === 0 ? undefined : this.#all[place - 1];
  }

  /** A place for the next request. `add` it, unless the connection ends. */
  take(): Entry {
    const entry = this.#free.pop();
    assert(entry !== undefined, 'Cannot take a request: more are out than the ring has slots');
    return entry;
  }

  /** Its request is out. */
  add(entry: Entry): void {
    this.#byId[entry.request.id] = entry.index + 1;
  }

  /** Its request has a response. */
  answered(entry: Entry): void {
    this.#byId[entry.request.id] = 0;
    entry.session = null;
    entry.asked = false;
    this.#unpublished.push(entry);
  }

  /** So have all responses been. */
  published(): void {
    for (let entry = this.#unpublished.pop(); entry; entry = this.#unpublished.pop()) {
      this.#free.push(entry);
    }
  }
}
