/**
 * Stands before a server and makes it a silent one: everything passes until it is told otherwise, then the
 * connections stay open and say nothing more.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { ListenAddress } from '../../src/usbip/server.ts';

const IMPORT = 0x8003;
const IMPORT_OCTETS = 40;
const GRANTED_OCTETS = 320;
/** Of a reply's header, which has 48. */
const HALF_OCTETS = 24;

/**
 * 'drop': what the server says is lost. 'half': but for half of a reply's header. 'unread': nothing is read from
 * the client either, so that its window closes.
 */
export type Mute = 'drop' | 'half' | 'unread';

interface Pass {
  readonly client: Socket;
  readonly server: Socket;
  mute: Mute | null;
}

export class MutingProxy {
  readonly address: ListenAddress;
  /** Imports of these bus ids are granted, and nothing is said after that. */
  isSilent: (busId: string) => boolean = () => false;
  /** Connections with an import, now and at most at a time, and all together. */
  imports = 0;
  importsMost = 0;
  importsAll = 0;
  readonly #listener: Server;
  readonly #passes = new Set<Pass>();

  static async before(behind: ListenAddress): Promise<MutingProxy> {
    const listener = createServer({ noDelay: true });
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    return new MutingProxy(listener, behind);
  }

  private constructor(listener: Server, behind: ListenAddress) {
    this.#listener = listener;
    this.address = { host: '127.0.0.1', port: (listener.address() as { port: number }).port };
    listener.on('connection', (client) => this.#accept(client, behind));
  }

  /** Connections that are open. */
  get connections(): number {
    return this.#passes.size;
  }

  /** What is connected now is silent from here on. */
  mute(how: Mute = 'drop'): void {
    for (const pass of this.#passes) {
      pass.mute = how;
      if (how === 'unread') pass.client.pause();
    }
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#listener.close(resolve));
    for (const { client } of this.#passes) client.destroy();
    await closed;
  }

  #accept(client: Socket, behind: ListenAddress): void {
    const server = connect(behind);
    const pass: Pass = { client, server, mute: null };
    this.#passes.add(pass);
    let mutesAt = Number.POSITIVE_INFINITY;
    let said = 0;
    client.on('data', (chunk) => {
      const isImport = chunk.length === IMPORT_OCTETS && chunk.readUInt16BE(2) === IMPORT;
      if (isImport) {
        const busId = chunk.toString('latin1', 8).split('\0', 1)[0] ?? '';
        if (this.isSilent(busId)) mutesAt = GRANTED_OCTETS;
        this.importsAll++;
        this.importsMost = Math.max(this.importsMost, ++this.imports);
        client.once('close', () => this.imports--);
      }
      server.write(chunk);
    });
    server.on('data', (chunk) => {
      const left = pass.mute === 'half' ? HALF_OCTETS : pass.mute === null ? mutesAt - said : 0;
      if (pass.mute === 'half') pass.mute = 'drop';
      said += chunk.length;
      if (left > 0) client.write(chunk.subarray(0, left));
    });
    for (const socket of [client, server]) {
      socket.on('error', () => {});
      socket.on('close', () => {
        client.destroy();
        server.destroy();
        this.#passes.delete(pass);
      });
    }
  }
}
