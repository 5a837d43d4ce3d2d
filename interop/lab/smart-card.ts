/**
 * A smart card of ours in QEMU's card reader (`usb-ccid` with `ccid-card-passthru`).
 *
 * It answers two commands: 80 CB returns a fixed text that is as long as asked for, 80 CE the SHA-256
 * of what it is given; any other is refused with 6D 00 (ISO 7816-4, 5.1.3).
 *
 * Source of the protocol with QEMU: libcacard's vscard_common.h. Numbers are big-endian.
 */
import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { layout, u32be } from '../../src/core/layout.ts';

const Header = layout('VSCMsgHeader', 12, { type: u32be, reader: u32be, octets: u32be });

const TYPE = { init: 1, readerAdd: 3, reset: 5, command: 7 } as const;
/** "VSCD", version 0.0.2, no capabilities. */
const INIT = Buffer.from('56534344' + '00000002' + '00000000', 'hex');
/** Answer to reset: direct convention, T=0, two historical octets. */
const ANSWER_TO_RESET = Buffer.from('3b025552', 'hex');
const READER = 0;

export const CARD_RESET_ANSWER = ANSWER_TO_RESET;

export class SmartCard {
  readonly #path: string;
  #socket: Socket | undefined;
  #received: Buffer = Buffer.alloc(0);

  /** @param path - of the socket at which QEMU listens */
  constructor(path: string) {
    this.#path = path;
  }

  /** What QEMU is to be started with: a reader with a serial number, and a place for the card. */
  static qemuArguments(path: string, bus: string, serial: string): string[] {
    return [
      ...['-chardev', `socket,id=card,path=${path},server=on,wait=off`],
      ...['-device', `usb-ccid,bus=${bus},serial=${serial},id=reader`],
      ...['-device', 'ccid-card-passthru,chardev=card,bus=reader.0'],
    ];
  }

  /** Puts the card into the reader. */
  insert(): void {
    const socket = connect(this.#path);
    this.#socket = socket;
    socket.unref();
    socket.on('error', () => {}); // QEMU has ended
    socket.on('data', (chunk) => this.#take(chunk));
    this.#send(TYPE.init, INIT);
    this.#send(TYPE.readerAdd, Buffer.from('reader\0'));
    this.#send(TYPE.reset, ANSWER_TO_RESET);
  }

  #send(type: number, body: Buffer): void {
    this.#socket?.write(Header.write({ type, reader: READER, octets: body.length }));
    this.#socket?.write(body);
  }

  #take(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    while (this.#received.length >= Header.octets) {
      const { type, octets } = Header.read(this.#received);
      const end = Header.octets + octets;
      if (this.#received.length < end) return;
      const body = this.#received.subarray(Header.octets, end);
      if (type === TYPE.command) this.#send(TYPE.command, answer(body));
      this.#received = this.#received.subarray(end);
    }
  }
}

function answer(command: Buffer): Buffer {
  const [, , , , length = 0] = command;
  const end = Buffer.from('9000', 'hex');
  switch (command.readUInt16BE(0)) {
    case 0x80cb:
      return Buffer.concat([cardText(length || 256), end]);
    case 0x80ce:
      return Buffer.concat([cardDigest(command.subarray(5, 5 + length)), end]);
    default:
      return Buffer.from('6d00', 'hex');
  }
}

/** The first octets of the card's text. */
export function cardText(octets: number): Buffer {
  return Buffer.from(Array.from({ length: octets }, (_, at) => (at * 7 + 3) % 251));
}

export function cardDigest(octets: Uint8Array): Buffer {
  return createHash('sha256').update(octets).digest();
}
