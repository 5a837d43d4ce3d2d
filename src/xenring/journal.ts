/**
 * What a gateway that is killed leaves for the one that comes after it: which requests it owes an
 * answer, so that the guest's controller lives on and each of its URBs comes back exactly once.
 *
 * The indexes of a ring do not tell: answers come in any order, and each overwrites a slot. So the
 * ids of the requests that were taken are noted in 44 octets of the ring's header that no front end
 * uses (`__pad` in ring.h), which a fresh ring has zeroed.
 *
 * Death may come between any two stores. A request counts as taken once its bit in `used` is set,
 * which is before it is submitted; so one that was only read is read again. Answers are published
 * by one store of the index; `answering` says beforehand whose they are, and afterwards the index
 * itself says whether they got there.
 *
 * The front end can write here too, but only its own connection depends on it.
 */
import { RingError } from './ring-error.ts';
import { RingHeader } from './usbif.ts';

/** Octets of the journal, from the start of the page; all little-endian. */
const AT = RingHeader.offsets.rest;
const MAGIC_AT = AT;
/** u16: one bit an entry. */
const USED_AT = AT + 4;
/** u16: one bit an entry whose answer is being published. */
const ANSWERING_AT = AT + 6;
/** u32: the index that the first of these answers has. */
const INDEX_AT = AT + 8;
/** u16 each: ids. */
const IDS_AT = AT + 12;
/** "uj02" */
const MAGIC = 0x32306a75;

/** Entries, as many as the ring has slots. */
export const JOURNAL_ENTRIES = 16;

/** A request taken and not answered. */
export interface Owed {
  readonly entry: number;
  readonly id: number;
}

/** What the gateway before this one owes. */
export interface Debt {
  readonly owed: readonly Owed[];
  /** Responses published, where this back end begins. */
  readonly answered: number;
}

export class Journal {
  readonly #view: DataView;
  #used = 0;

  /** Goes on with the journal that `debt` was read from: the owed entries are still taken. */
  constructor(view: DataView, debt: Debt) {
    this.#view = view;
    for (const { entry } of debt.owed) this.#used |= 1 << entry;
    view.setUint16(USED_AT, this.#used, true);
    view.setUint16(ANSWERING_AT, 0, true);
    view.setUint32(MAGIC_AT, MAGIC, true);
  }

  taken(entry: number, id: number): void {
    this.#view.setUint16(IDS_AT + 2 * entry, id, true);
    this.#used |= 1 << entry;
    this.#view.setUint16(USED_AT, this.#used, true);
  }

  /**
   * Call before the responses from this index on are published, and `answered` after it.
   *
   * @param entries One bit each.
   */
  answering(entries: number, index: number): void {
    this.#view.setUint32(INDEX_AT, index, true);
    this.#view.setUint16(ANSWERING_AT, entries, true);
  }

  answered(entries: number): void {
    this.#used &= ~entries;
    this.#view.setUint16(USED_AT, this.#used, true);
    this.#view.setUint16(ANSWERING_AT, 0, true);
  }
}

/**
 * Reads what was left in a ring page.
 *
 * @throws {RingError} if requests may have been taken by a back end that kept no journal.
 */
export function readDebt(view: DataView): Debt {
  const requests = view.getUint32(RingHeader.offsets.requestProduced, true);
  const answered = view.getUint32(RingHeader.offsets.responseProduced, true);
  if (view.getUint32(MAGIC_AT, true) !== MAGIC) {
    if (answered !== 0 && answered !== requests) {
      throw new RingError(
        'unknown-state',
        `Cannot take over the ring: ${(requests - answered) >>> 0} requests are out and nothing says which, wanted a journal or none`,
      );
    }
    return { owed: [], answered };
  }
  let used = view.getUint16(USED_AT, true);
  const answering = view.getUint16(ANSWERING_AT, true);
  // Published, but not crossed out any more.
  const published = ((answered - view.getUint32(INDEX_AT, true)) | 0) > 0;
  if (published) used &= ~answering;
  const owed: Owed[] = [];
  for (let entry = 0; entry < JOURNAL_ENTRIES; entry++) {
    if ((used >> entry) & 1) owed.push({ entry, id: view.getUint16(IDS_AT + 2 * entry, true) });
  }
  if (owed.length > (requests - answered) >>> 0) {
    throw new RingError(
      'unknown-state',
      `Cannot take over the ring: ${owed.length} requests are noted as out, ${(requests - answered) >>> 0} by its indexes`,
    );
  }
  return { owed, answered };
}
