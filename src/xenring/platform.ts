/**
 * What ring code knows of the machine below it: shared pages, event channels, a store of names.
 *
 * `platform/xen.ts` is a real hypervisor, `platform/shm.ts` two processes of one host. No ring code
 * knows which of them it runs on.
 *
 * Everything that names another domain can fail because of that domain: such calls throw
 * `PlatformError`, and whoever made them ends that connection only.
 */

/** Octets of a page, the unit of sharing (XEN_PAGE_SIZE). */
export const PAGE_OCTETS = 4096;

/** The other domain's fault, or its end: a bad grant reference, a port that is gone. */
export class PlatformError extends Error {
  override readonly name = 'PlatformError';
}

/** A domain id, as in /local/domain/ID; 0 is the one that has the hardware. */
export type Domain = number;

/** Pages of ours that one other domain may use. */
export interface GrantedPages {
  /** The pages, one after the other. */
  readonly memory: Buffer;
  /** Their grant references, in order. */
  readonly references: readonly number[];
  /** Ends the grant and frees the pages. The peer must have let go of them. */
  end(): void;
}

/** Pages of another domain, mapped here. */
export interface MappedPages {
  readonly memory: Buffer;
  unmap(): void;
}

/** A part of a page of another domain: what one grant reference and a segment of a request name. */
export interface GrantSegment {
  reference: number;
  /** Within the page; `offset + octets` is at most `PAGE_OCTETS`. */
  offset: number;
  octets: number;
}

/** One end of an event channel: a bit that the other end can set, and nothing else. */
export interface EventChannel {
  /** Its number in this domain. */
  readonly port: number;
  /** Sets the other end's bit. Never waits; does nothing when the other end has gone. */
  notify(): void;
  /** Called for events, from the event loop; several may come as one, and one for nothing. */
  onEvent: () => void;
  close(): void;
}

export interface Platform {
  /** The domain that this process runs in. */
  readonly domain: Domain;
  readonly store: Store;

  /** Front ends: fresh, zeroed pages that `peer` may map and copy. @throws {PlatformError} */
  grant(peer: Domain, pages: number): GrantedPages;
  /** Back ends: maps pages of `peer` for reading and writing. @throws {PlatformError} */
  map(peer: Domain, references: readonly number[]): MappedPages;
  /**
   * Back ends: copies what `segments` name into `target`, one after the other. Cheaper than
   * mapping for what is touched once.
   *
   * @throws {PlatformError} if a reference is not one that `peer` has granted to this domain.
   */
  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void;
  /** The other direction: `source` fills the segments in order, and may end before they do. */
  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void;

  /** Front ends: a channel that `peer` may bind to; its port goes into the store. */
  offerChannel(peer: Domain): EventChannel;
  /** Back ends: the other end of a channel that `peer` has offered. @throws {PlatformError} */
  bindChannel(peer: Domain, port: number): EventChannel;

  /** What is granted, mapped and bound now: for tests that nothing is leaked. */
  readonly inUse: PlatformUse;
  /** Lets go of everything. */
  close(): Promise<void>;
}

export interface PlatformUse {
  readonly grantedPages: number;
  readonly mappedPages: number;
  readonly channels: number;
  readonly watches: number;
}

/** Who may do what with a node of the store: its owner everything, `others` what they say. */
export interface StorePermissions {
  readonly owner: Domain;
  readonly others: 'none' | 'read' | 'write' | 'both';
  readonly exceptions?: readonly {
    readonly domain: Domain;
    readonly access: 'none' | 'read' | 'write' | 'both';
  }[];
}

/** Nodes of text in a tree, as xenstore has them. Paths are absolute. */
export interface StoreOperations {
  /** The value, or undefined if there is no such node. */
  read(path: string): Promise<string | undefined>;
  /** Names of the children, or undefined if there is no such node. */
  list(path: string): Promise<string[] | undefined>;
  /** Also makes the nodes above. */
  write(path: string, value: string): Promise<void>;
  /** With all below it; nothing happens if it is not there. */
  remove(path: string): Promise<void>;
  permissions(path: string): Promise<StorePermissions | undefined>;
  setPermissions(path: string, permissions: StorePermissions): Promise<void>;
}

export interface Store extends StoreOperations {
  /**
   * Calls back once at first, and then after each change of the node or anything below it; several
   * changes may come as one.
   */
  watch(path: string, onChange: (changed: string) => void): Promise<StoreWatch>;
  /**
   * Runs `work` as one change, again if somebody else has changed what it looked at. An exception
   * from it abandons the change.
   */
  transaction<T>(work: (store: StoreOperations) => Promise<T>): Promise<T>;
}

export interface StoreWatch {
  end(): Promise<void>;
}
