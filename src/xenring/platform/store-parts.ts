/**
 * Directories whose names do not fit one message, given out in parts (XS_DIRECTORY_PART).
 *
 * Each part begins with a number that is another one when the directory has other children, so that
 * whoever puts the parts together knows when to begin again.
 */
import { encodeStrings, PAYLOAD_OCTETS_MAX, StoreError } from '../xenstore-wire.ts';
import type { StoreNode } from './store-tree.ts';

export class DirectoryParts {
  readonly #generations = new WeakMap<StoreNode['children'], number>();
  #last = 0;

  /** Names from an offset on, as many as fit; an empty one is the end of all. */
  part({ children }: StoreNode, offset: number): Buffer {
    const head = encodeStrings(`${this.#generation(children)}`);
    const names = encodeStrings(...children.keys(), '');
    if (!Number.isInteger(offset) || offset < 0 || offset >= names.length)
      throw new StoreError(
        'EINVAL',
        `Cannot list from ${offset}: ${names.length} octets are there`,
      );
    const room = PAYLOAD_OCTETS_MAX - head.length;
    const rest = names.subarray(offset, offset + room);
    const whole = offset + room >= names.length;
    return Buffer.concat([head, whole ? rest : rest.subarray(0, rest.lastIndexOf(0) + 1)]);
  }

  #generation(children: StoreNode['children']): number {
    const known = this.#generations.get(children);
    if (known !== undefined) return known;
    this.#last++;
    this.#generations.set(children, this.#last);
    return this.#last;
  }
}
