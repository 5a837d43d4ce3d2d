/**
 * The nodes of a store, who may use them, and transactions on them.
 *
 * Nodes are never changed: a change makes new ones up to the root. So a transaction begins by
 * keeping the root, works on a root of its own, and ends by comparing the nodes that it looked at
 * with what they are by then. If they are the same, its changes are made once more on the newest
 * root; else it fails with EAGAIN and its owner begins again.
 *
 * The rules are xenstored's (docs/misc/xenstore.txt, docs/misc/xenstore-ring.txt): a new node has
 * its parent's permissions, but belongs to whoever makes it; domain 0 may do everything.
 */
import type { Domain, StorePermissions } from '../platform.ts';
import { StoreError, type StoreErrorCode } from '../xenstore-wire.ts';

/** Nodes that one domain other than 0 may own (xenstored's quota of nodes). */
export const NODES_PER_DOMAIN_MAX = 1000;
/** Octets of a value that a domain other than 0 may write (xenstored's entry size). */
export const VALUE_OCTETS_MAX = 2048;
/** All nodes together, for domain 0 that has no quota. */
export const NODES_MAX = 20_000;

export interface StoreNode {
  readonly value: Buffer;
  readonly permissions: StorePermissions;
  readonly children: ReadonlyMap<string, StoreNode>;
}

/** What watches are told of. */
export interface StoreChange {
  readonly path: string;
  /** As it is now, or as it was before it was removed. */
  readonly node: StoreNode;
  readonly removed: boolean;
}

type Write = (view: StoreView, actor: Domain) => StoreChange[];

const NO_CHILDREN: ReadonlyMap<string, StoreNode> = new Map();

export function namesOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '');
}

export function find(root: StoreNode, path: string): StoreNode | undefined {
  let node: StoreNode | undefined = root;
  for (const name of namesOf(path)) node = node?.children.get(name);
  return node;
}

export function mayRead(actor: Domain, node: StoreNode): boolean {
  const access = accessOf(actor, node);
  return access === 'read' || access === 'both';
}

function mayWrite(actor: Domain, node: StoreNode): boolean {
  const access = accessOf(actor, node);
  return access === 'write' || access === 'both';
}

function accessOf(actor: Domain, { permissions }: StoreNode): StorePermissions['others'] {
  if (actor === 0 || actor === permissions.owner) return 'both';
  const exception = permissions.exceptions?.find(({ domain }) => domain === actor);
  return exception?.access ?? permissions.others;
}

function fail(code: StoreErrorCode): never {
  throw new StoreError(code, `Cannot use the node: ${code}`);
}

/** A root and what may be done with it; the tree itself and each transaction have one. */
export class StoreView {
  root: StoreNode;
  /** Paths that an answer depended on. */
  readonly touched = new Set<string>();

  constructor(root: StoreNode) {
    this.root = root;
  }

  /** @throws {StoreError} ENOENT, EACCES */
  get(actor: Domain, path: string): StoreNode {
    this.touched.add(path);
    const node = find(this.root, path) ?? fail('ENOENT');
    return mayRead(actor, node) ? node : fail('EACCES');
  }

  /** Makes the node, and those above it. `value` undefined leaves a node that is there alone. */
  write(actor: Domain, path: string, value: Buffer | undefined): StoreChange[] {
    if (actor !== 0 && (value?.length ?? 0) > VALUE_OCTETS_MAX) fail('ENOSPC');
    this.touched.add(path);
    const old = find(this.root, path);
    if (old !== undefined) {
      if (!mayWrite(actor, old)) fail('EACCES');
      if (value === undefined) return [];
    } else this.#checkMake(actor, path);
    this.root = made(this.root, namesOf(path), actor, (node) => ({
      ...node,
      value: value ?? node.value,
    }));
    return [{ path, node: find(this.root, path) as StoreNode, removed: false }];
  }

  remove(actor: Domain, path: string): StoreChange[] {
    if (path === '/') fail('EINVAL');
    const parent = path.slice(0, path.lastIndexOf('/')) || '/';
    this.touched.add(path);
    const node = find(this.root, path);
    if (node === undefined) return find(this.root, parent) === undefined ? fail('ENOENT') : [];
    if (!mayWrite(actor, node)) fail('EACCES');
    this.touched.add(parent);
    const name = namesOf(path).at(-1) as string;
    this.root = made(this.root, namesOf(parent), actor, (above) => {
      const children = new Map(above.children);
      children.delete(name);
      return { ...above, children };
    });
    return [{ path, node, removed: true }];
  }

  setPermissions(actor: Domain, path: string, permissions: StorePermissions): StoreChange[] {
    this.touched.add(path);
    const node = find(this.root, path) ?? fail('ENOENT');
    const { owner } = node.permissions;
    if (actor !== 0 && actor !== owner) fail('EACCES');
    if (actor !== 0 && permissions.owner !== owner) fail('EPERM');
    this.root = made(this.root, namesOf(path), actor, (old) => ({ ...old, permissions }));
    return [{ path, node: find(this.root, path) as StoreNode, removed: false }];
  }

  #checkMake(actor: Domain, path: string): void {
    const names = namesOf(path);
    let above: StoreNode = this.root;
    let depth = 0;
    for (const name of names) {
      const below = above.children.get(name);
      if (below === undefined) break;
      above = below;
      depth++;
    }
    for (let at = depth; at < names.length; at++)
      this.touched.add(`/${names.slice(0, at).join('/')}`);
    if (!mayWrite(actor, above)) fail('EACCES');
    const more = names.length - depth;
    const counts = count(this.root, actor);
    if (counts.all + more > NODES_MAX) fail('ENOSPC');
    if (actor !== 0 && counts.owned + more > NODES_PER_DOMAIN_MAX) fail('ENOSPC');
  }
}

/** `node` with the node below it at `names` made, if it is not there, and changed. */
function made(
  node: StoreNode,
  names: readonly string[],
  actor: Domain,
  change: (node: StoreNode) => StoreNode,
): StoreNode {
  const [name, ...rest] = names;
  if (name === undefined) return change(node);
  const { permissions } = node;
  const below = node.children.get(name) ?? {
    value: Buffer.alloc(0),
    permissions: actor === 0 ? permissions : { ...permissions, owner: actor },
    children: NO_CHILDREN,
  };
  const children = new Map(node.children).set(name, made(below, rest, actor, change));
  return { ...node, children };
}

function count(node: StoreNode, actor: Domain): { all: number; owned: number } {
  let all = 1;
  let owned = node.permissions.owner === actor ? 1 : 0;
  for (const child of node.children.values()) {
    const below = count(child, actor);
    all += below.all;
    owned += below.owned;
  }
  return { all, owned };
}

export class StoreTransaction {
  readonly view: StoreView;
  readonly #base: StoreNode;
  readonly #actor: Domain;
  readonly #writes: Write[] = [];

  constructor(tree: StoreView, actor: Domain) {
    this.#base = tree.root;
    this.#actor = actor;
    this.view = new StoreView(tree.root);
  }

  get writes(): number {
    return this.#writes.length;
  }

  /** Changes the transaction's own root and remembers how. */
  change(write: Write): void {
    write(this.view, this.#actor);
    this.#writes.push(write);
  }

  /** Makes the changes in the tree. @throws {StoreError} EAGAIN if what it looked at has changed. */
  commit(tree: StoreView): StoreChange[] {
    for (const path of this.view.touched) {
      if (!alike(find(this.#base, path), find(tree.root, path))) fail('EAGAIN');
    }
    const result = new StoreView(tree.root);
    const changes = this.#writes.flatMap((write) => write(result, this.#actor));
    tree.root = result.root;
    return changes;
  }
}

/** Value, permissions and the children's names; not what is below. */
function alike(a: StoreNode | undefined, b: StoreNode | undefined): boolean {
  if (a === undefined || b === undefined || a === b) return a === b;
  if (a.value !== b.value || a.permissions !== b.permissions) return false;
  if (a.children.size !== b.children.size) return false;
  for (const name of a.children.keys()) if (!b.children.has(name)) return false;
  return true;
}

export function emptyTree(): StoreView {
  const permissions: StorePermissions = { owner: 0, others: 'none' };
  return new StoreView({ value: Buffer.alloc(0), permissions, children: NO_CHILDREN });
}
