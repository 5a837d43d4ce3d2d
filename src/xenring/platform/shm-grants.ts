/**
 * Which pages of this domain's segment are granted, in memory that no peer can write to.
 *
 * A page whose grant ended while a peer still has it mapped is not given out again before that
 * peer has let go of it, or died.
 */
import { assert } from '../../core/assert.ts';
import { type Domain, type GrantedPages, PAGE_OCTETS, PlatformError } from '../platform.ts';
import { MappedMemory } from './mapped-memory.ts';
import { FIRST_REFERENCE, type ShmSegment } from './shm-segment.ts';

export class ShmGrants {
  readonly #segment: ShmSegment;
  readonly #isAlive: (peer: Domain) => boolean;
  readonly #used: Uint8Array;
  readonly #lingering: { reference: number; peer: Domain }[] = [];
  readonly #granted = new Set<GrantedPages>();
  #next = FIRST_REFERENCE;
  #pages = 0;

  constructor(segment: ShmSegment, isAlive: (peer: Domain) => boolean) {
    this.#segment = segment;
    this.#isAlive = isAlive;
    this.#used = new Uint8Array(segment.pages);
  }

  get pages(): number {
    return this.#pages;
  }

  /** @throws {PlatformError} if there is no room. */
  grant(peer: Domain, pages: number): GrantedPages {
    this.#reclaim();
    const first = this.#findRoom(pages);
    const references = Array.from({ length: pages }, (_, index) => first + index);
    const at = this.#segment.pageAt(first);
    const mapped = MappedMemory.map(this.#segment.fd, at, pages * PAGE_OCTETS);
    mapped.memory.fill(0);
    this.#used.fill(1, first, first + pages);
    for (const reference of references) {
      this.#segment.resetMapCount(reference);
      this.#segment.setGrant(reference, peer);
    }
    this.#pages += pages;
    const granted: GrantedPages = {
      memory: mapped.memory,
      references,
      end: () => {
        assert(this.#granted.delete(granted), 'Cannot end a grant: it has ended');
        this.#pages -= pages;
        mapped.release();
        for (const reference of references) this.#free(reference, peer);
      },
    };
    this.#granted.add(granted);
    return granted;
  }

  endAll(): void {
    for (const granted of this.#granted) granted.end();
  }

  #free(reference: number, peer: Domain): void {
    this.#segment.setGrant(reference, null);
    if (this.#segment.mapCount(reference) === 0) this.#used[reference] = 0;
    else this.#lingering.push({ reference, peer });
  }

  #reclaim(): void {
    if (this.#lingering.length === 0) return;
    const alive = new Map<Domain, boolean>();
    const still = this.#lingering.filter(({ reference, peer }) => {
      if (this.#segment.mapCount(reference) === 0) this.#used[reference] = 0;
      else {
        if (!alive.has(peer)) alive.set(peer, this.#isAlive(peer));
        if (!alive.get(peer)) this.#used[reference] = 0;
      }
      return this.#used[reference] === 1;
    });
    this.#lingering.splice(0, this.#lingering.length, ...still);
  }

  /** The first of so many free neighbours; goes round, so that a number comes again late. */
  #findRoom(pages: number): number {
    for (const [from, to] of [
      [this.#next, this.#used.length],
      [FIRST_REFERENCE, this.#used.length],
    ] as const) {
      let free = 0;
      for (let at = from; at < to; at++) {
        free = this.#used[at] === 0 ? free + 1 : 0;
        if (free < pages) continue;
        this.#next = at + 1;
        return at + 1 - pages;
      }
    }
    throw new PlatformError(
      `Cannot grant ${pages} pages: ${this.#pages} of ${this.#used.length - FIRST_REFERENCE} are granted, wanted so many free neighbours`,
    );
  }
}
