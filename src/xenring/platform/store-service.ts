/**
 * What xenstored does, as far as `xenstore.ts` asks for it, without sockets.
 *
 * A connection says first which domain it is (INTRODUCE), and is answered nothing else before. A
 * domain's home, /local/domain/ID, is there as long as one of its connections is: its peers see it
 * vanish when its process dies, and "@releaseDomain" with it.
 */
import type { Domain } from '../platform.ts';
import {
  checkPath,
  decodePermissions,
  decodeStrings,
  encodeMessage,
  encodePermissions,
  encodeStrings,
  MessageReader,
  PAYLOAD_OCTETS_MAX,
  STORE_TYPE,
  StoreError,
  type StoreMessage,
} from '../xenstore-wire.ts';
import { DirectoryParts } from './store-parts.ts';
import {
  emptyTree,
  find,
  mayRead,
  type StoreChange,
  StoreTransaction,
  type StoreView,
} from './store-tree.ts';

/** What one connection may have at a time; domain 0 as well, which hosts this process's clients. */
const WATCHES_MAX = 1024;
const TRANSACTIONS_MAX = 32;
const WRITES_PER_TRANSACTION_MAX = 1024;
/** Ids are 16 bits in Xen, and those above are not domains (DOMID_FIRST_RESERVED). */
export const DOMAIN_MAX = 0x7fef;

export class StoreService {
  readonly tree: StoreView = emptyTree();
  readonly parts = new DirectoryParts();
  readonly #connections = new Set<StoreConnection>();

  connect(send: (message: Buffer) => void): StoreConnection {
    const connection = new StoreConnection(this, send);
    this.#connections.add(connection);
    return connection;
  }

  /** Tells watches. */
  announce(changes: readonly StoreChange[]): void {
    for (const change of changes) {
      for (const connection of this.#connections) connection.tell(change);
    }
  }

  introduced(domain: Domain): void {
    const home = homeOf(domain);
    this.announce(this.tree.write(0, `${home}/domid`, Buffer.from(`${domain}`)));
    for (const path of [home, `${home}/domid`]) {
      this.announce(this.tree.setPermissions(0, path, { owner: domain, others: 'none' }));
    }
    this.#tellAll('@introduceDomain');
  }

  left(connection: StoreConnection): void {
    if (!this.#connections.delete(connection)) return;
    const { domain } = connection;
    if (domain === null || [...this.#connections].some((one) => one.domain === domain)) return;
    if (find(this.tree.root, homeOf(domain)) !== undefined)
      this.announce(this.tree.remove(0, homeOf(domain)));
    this.#tellAll('@releaseDomain');
  }

  #tellAll(special: string): void {
    for (const connection of this.#connections) connection.tellSpecial(special);
  }
}

function homeOf(domain: Domain): string {
  return `/local/domain/${domain}`;
}

interface Watch {
  readonly path: string;
  /** What events leave out in front: the home, if the watch's path was relative. */
  readonly prefix: string;
  readonly token: string;
}

export class StoreConnection {
  domain: Domain | null = null;
  readonly #service: StoreService;
  readonly #send: (message: Buffer) => void;
  readonly #reader = new MessageReader();
  readonly #watches: Watch[] = [];
  readonly #transactions = new Map<number, StoreTransaction>();
  #lastTransaction = 0;

  constructor(service: StoreService, send: (message: Buffer) => void) {
    this.#service = service;
    this.#send = send;
  }

  /** @throws {StoreError} EPROTO if no message can be made out; end the connection then. */
  receive(chunk: Buffer): void {
    for (const message of this.#reader.receive(chunk)) this.#answer(message);
  }

  /** The connection has ended. */
  end(): void {
    this.#watches.length = 0;
    this.#transactions.clear();
    this.#service.left(this);
  }

  tell({ path, node, removed }: StoreChange): void {
    if (this.domain === null || this.#watches.length === 0) return;
    if (!mayRead(this.domain, node)) return;
    for (const watch of this.#watches) {
      if (isWithin(path, watch.path)) this.#event(watch, path);
      else if (removed && isWithin(watch.path, path)) {
        const below = find(node, watch.path.slice(path.length));
        if (below !== undefined) this.#event(watch, watch.path);
      }
    }
  }

  tellSpecial(special: string): void {
    for (const watch of this.#watches) if (watch.path === special) this.#event(watch, special);
  }

  #event(watch: Watch, path: string): void {
    const shown = path.slice(watch.prefix.length);
    const payload = encodeStrings(shown, watch.token);
    if (payload.length > PAYLOAD_OCTETS_MAX) return; // the path was refused when it was made
    this.#send(encodeMessage(STORE_TYPE.watchEvent, 0, 0, payload));
  }

  #answer(message: StoreMessage): void {
    const { type, requestId, transactionId } = message;
    const reply = (replyType: number, payload: Buffer) =>
      this.#send(encodeMessage(replyType, requestId, transactionId, payload));
    try {
      const { payload, after } = this.#handle(message);
      if (payload.length > PAYLOAD_OCTETS_MAX) throw new StoreError('E2BIG', 'too long');
      reply(type, payload);
      after?.();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      reply(STORE_TYPE.error, encodeStrings(error.code));
    }
  }

  /** The reply, and what happens after it. */
  #handle(message: StoreMessage): { payload: Buffer; after?: () => void } {
    const ok = encodeStrings('OK');
    const { type, transactionId, payload } = message;
    if (type === STORE_TYPE.introduce) return { payload: ok, after: this.#introduce(payload) };
    const domain = this.domain;
    if (domain === null) throw new StoreError('EACCES', 'not introduced');
    const [first = '', ...more] = decodeStrings(payload);
    switch (type) {
      case STORE_TYPE.transactionStart:
        return { payload: encodeStrings(`${this.#startTransaction(domain)}`) };
      case STORE_TYPE.transactionEnd:
        return { payload: ok, after: this.#endTransaction(transactionId, first) };
      case STORE_TYPE.watch:
        return { payload: ok, after: this.#watch(domain, first, more[0]) };
      case STORE_TYPE.unwatch:
        this.#unwatch(domain, first, more[0]);
        return { payload: ok };
    }
    const path = this.#absolute(domain, first, 'node');
    const transaction = this.#transaction(transactionId);
    const view = transaction?.view ?? this.#service.tree;
    if (transaction === undefined) view.touched.clear();
    switch (type) {
      case STORE_TYPE.read:
        return { payload: view.get(domain, path).value };
      case STORE_TYPE.directory:
        return { payload: encodeStrings(...view.get(domain, path).children.keys()) };
      case STORE_TYPE.directoryPart:
        return { payload: this.#service.parts.part(view.get(domain, path), Number(more[0])) };
      case STORE_TYPE.getPermissions:
        return { payload: encodeStrings(...encodePermissions(view.get(domain, path).permissions)) };
      case STORE_TYPE.write: {
        const value = Buffer.from(payload.subarray(Buffer.byteLength(first) + 1));
        return this.#change(domain, transaction, (on) => on.write(domain, path, value));
      }
      case STORE_TYPE.makeDirectory:
        return this.#change(domain, transaction, (on) => on.write(domain, path, undefined));
      case STORE_TYPE.remove:
        return this.#change(domain, transaction, (on) => on.remove(domain, path));
      case STORE_TYPE.setPermissions: {
        const permissions = decodePermissions(more);
        return this.#change(domain, transaction, (on) =>
          on.setPermissions(domain, path, permissions),
        );
      }
      default:
        throw new StoreError('ENOSYS', `type ${type}`);
    }
  }

  #change(
    domain: Domain,
    transaction: StoreTransaction | undefined,
    write: (view: StoreView, actor: Domain) => StoreChange[],
  ): { payload: Buffer; after?: () => void } {
    const payload = encodeStrings('OK');
    if (transaction === undefined) {
      const changes = write(this.#service.tree, domain);
      return { payload, after: () => this.#service.announce(changes) };
    }
    if (transaction.writes >= WRITES_PER_TRANSACTION_MAX) throw new StoreError('ENOSPC', 'writes');
    transaction.change(write);
    return { payload };
  }

  #introduce(payload: Buffer): () => void {
    const domain = Number(decodeStrings(payload)[0]);
    if (!Number.isInteger(domain) || domain < 0 || domain > DOMAIN_MAX)
      throw new StoreError('EINVAL', 'domain');
    if (this.domain !== null) throw new StoreError('EBUSY', 'introduced');
    this.domain = domain;
    return () => this.#service.introduced(domain);
  }

  #startTransaction(domain: Domain): number {
    if (this.#transactions.size >= TRANSACTIONS_MAX) throw new StoreError('ENOSPC', 'transactions');
    this.#lastTransaction = (this.#lastTransaction % 0x7fff_ffff) + 1;
    this.#transactions.set(this.#lastTransaction, new StoreTransaction(this.#service.tree, domain));
    return this.#lastTransaction;
  }

  #endTransaction(id: number, verdict: string): () => void {
    const transaction = this.#transaction(id);
    if (transaction === undefined || (verdict !== 'T' && verdict !== 'F'))
      throw new StoreError('EINVAL', 'transaction');
    this.#transactions.delete(id);
    const changes = verdict === 'T' ? transaction.commit(this.#service.tree) : [];
    return () => this.#service.announce(changes);
  }

  #transaction(id: number): StoreTransaction | undefined {
    if (id === 0) return undefined;
    const transaction = this.#transactions.get(id);
    if (transaction === undefined) throw new StoreError('ENOENT', `transaction ${id}`);
    return transaction;
  }

  #watch(domain: Domain, given: string, token: string | undefined): () => void {
    const path = this.#absolute(domain, given, 'watch');
    if (token === undefined) throw new StoreError('EINVAL', 'token');
    if (this.#watches.length >= WATCHES_MAX) throw new StoreError('E2BIG', 'watches');
    if (this.#watches.some((one) => one.path === path && one.token === token))
      throw new StoreError('EEXIST', 'watch');
    const prefix = path === given ? '' : `${homeOf(domain)}/`;
    const watch = { path, prefix, token };
    this.#watches.push(watch);
    return () => this.#event(watch, path);
  }

  #unwatch(domain: Domain, given: string, token: string | undefined): void {
    const path = this.#absolute(domain, given, 'watch');
    const at = this.#watches.findIndex((one) => one.path === path && one.token === token);
    if (at < 0) throw new StoreError('ENOENT', 'watch');
    this.#watches.splice(at, 1);
  }

  #absolute(domain: Domain, path: string, kind: 'node' | 'watch'): string {
    checkPath(path, kind);
    return path.startsWith('/') || path.startsWith('@') ? path : `${homeOf(domain)}/${path}`;
  }
}

function isWithin(path: string, above: string): boolean {
  return above === '/' || path === above || path.startsWith(`${above}/`);
}
