/**
 * Serves a store on a UNIX socket in a folder, for processes of this host that have no Xen.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { Containment } from '../../core/containment.ts';
import { UserError } from '../../core/errors.ts';
import { StoreError } from '../xenstore-wire.ts';
import type { FolderLock, ShmFolder } from './shm-folder.ts';
import { StoreService } from './store-service.ts';

/** Octets that a client may leave unread before it is cut off. */
const UNREAD_OCTETS_MAX = 4 << 20;
/** Clients at a time. */
const CLIENTS_MAX = 256;

export class StoreServer {
  readonly #server: Server;
  readonly #folder: ShmFolder;
  readonly #lock: FolderLock;
  readonly #service = new StoreService();
  readonly #sockets = new Set<Socket>();

  readonly #onBug: (error: unknown) => void;

  private constructor(folder: ShmFolder, lock: FolderLock, onBug: (error: unknown) => void) {
    this.#folder = folder;
    this.#lock = lock;
    this.#onBug = onBug;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = CLIENTS_MAX;
  }

  /**
   * @param onBug A bug has ended the connection of one client.
   * @throws {UserError} if another process serves the store of this folder.
   */
  static async start(
    folder: ShmFolder,
    onBug: (error: unknown) => void = rethrow,
  ): Promise<StoreServer> {
    const lock = folder.lock('store');
    if (lock === null)
      throw new UserError(
        `Cannot serve the store in ${folder.path}: another process does, wanted one only`,
      );
    folder.sweep();
    const server = new StoreServer(folder, lock, onBug);
    try {
      await new Promise<void>((resolve, reject) => {
        // Later ones are of connections that could not be accepted: nothing to do.
        server.#server.on('error', reject);
        server.#server.listen(folder.socket, resolve);
      });
    } catch (error) {
      lock.release();
      throw error;
    }
    return server;
  }

  get clients(): number {
    return this.#sockets.size;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    this.#folder.sweep();
    this.#lock.release();
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    const containment = new Containment((error) => {
      socket.destroy();
      this.#onBug(error);
    });
    const connection = this.#service.connect((message) => {
      if (socket.destroyed) return;
      socket.write(message);
      if (socket.writableLength > UNREAD_OCTETS_MAX) socket.destroy();
    });
    const receive = (chunk: Buffer) => {
      try {
        connection.receive(chunk);
      } catch (error) {
        if (!(error instanceof StoreError)) throw error;
        socket.destroy();
      }
    };
    socket.on('data', (chunk) => containment.run(receive, chunk));
    // 'close' follows, and says all that there is to say.
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#sockets.delete(socket);
      containment.run(() => connection.end(), undefined);
    });
  }
}

function rethrow(error: unknown): never {
  throw error;
}
