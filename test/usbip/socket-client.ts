/** A USB/IP client over a real socket; waits for octets, never for time. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import {
  IN,
  importRequest,
  type Reply,
  type Submit,
  setupOctets,
  Wire,
} from './scripted-client.ts';

export class SocketClient {
  readonly socket: Socket;
  readonly wire = new Wire();
  /** Resolves when the server has ended its side. */
  readonly ended: Promise<void>;
  /** Resolves when the socket is closed. */
  readonly closed: Promise<void>;
  error: Error | undefined;
  #imported = false;
  #octets: Buffer = Buffer.alloc(0);
  readonly #waiting = new Set<() => void>();

  private constructor(socket: Socket) {
    this.socket = socket;
    this.ended = new Promise((resolve) => socket.once('end', () => resolve()));
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
    socket.on('error', (error) => {
      this.error = error;
    });
    socket.on('close', () => this.#wake());
    socket.on('end', () => this.#wake());
    socket.on('data', (octets) => {
      if (this.#imported) this.wire.receive(octets);
      else this.#octets = Buffer.concat([this.#octets, octets]);
      this.#wake();
    });
  }

  static async connect(
    address: { readonly host: string; readonly port: number },
    options: { readonly allowHalfOpen?: boolean; readonly localAddress?: string } = {},
  ): Promise<SocketClient> {
    const socket = connect({ ...address, noDelay: true, ...options });
    await once(socket, 'connect');
    return new SocketClient(socket);
  }

  send(...octets: Uint8Array[]): void {
    for (const one of octets) this.socket.write(one);
  }

  /** Waits until `done`, which is looked at whenever octets or the end have come. */
  async until(done: () => boolean): Promise<void> {
    while (!done()) {
      assert(!this.socket.destroyed, `the connection is closed: ${this.error}`);
      await new Promise<void>((resolve) => {
        this.#waiting.add(resolve);
      });
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }

  /** The first octets of the operations phase. */
  async octets(count: number): Promise<Buffer> {
    await this.until(() => this.#octets.length >= count);
    return this.#octets;
  }

  /** All that the server sent before it ended. */
  async rest(): Promise<Buffer> {
    await this.ended;
    return this.#octets;
  }

  /** Imports and configures. */
  async import(busId = '1-1'): Promise<void> {
    this.send(importRequest(busId));
    const reply = await this.octets(320);
    assert.equal(reply.length, 320);
    assert.equal(reply.readUInt32BE(4), 0);
    this.#imported = true;
    this.deviceId = (reply.readUInt32BE(296) << 16) | reply.readUInt32BE(300);
    const setup = setupOctets(0, 9, 1);
    assert.equal((await this.transfer({ direction: 0, endpoint: 0, setup })).status, 0);
  }

  /** devid of the device that was imported. */
  deviceId = 0;

  submit(fields: Submit): number {
    const seqnum = fields.seqnum ?? this.wire.nextSeqnum();
    this.send(this.wire.submit({ deviceId: this.deviceId, ...fields, seqnum }));
    return seqnum;
  }

  /** Waits for the reply to a seqnum. */
  async reply(seqnum: number): Promise<Reply> {
    const find = () => this.wire.replies.find((one) => one.seqnum === seqnum);
    await this.until(() => find() !== undefined);
    const found = find();
    assert(found !== undefined);
    return found;
  }

  async transfer(fields: Submit): Promise<Reply & { type: 'submit' }> {
    const reply = await this.reply(this.submit(fields));
    assert(reply.type === 'submit');
    return reply;
  }

  async read(endpoint: number, octets: number): Promise<Reply & { type: 'submit' }> {
    return this.transfer({ direction: IN, endpoint, octets });
  }

  close(): Promise<void> {
    this.socket.destroy();
    return this.closed;
  }
}
