/**
 * A host for one disk: drives the handlers of its definition by the rules of the bus (packets,
 * halted endpoints, naks), and Bulk-Only Transport as BOT 5.3 draws it for hosts.
 */
import { strict as assert } from 'node:assert';
import type { DeviceDefinition } from '../../../../../src/core/devices/virtual/definition.ts';
import {
  type Backing,
  MemoryBacking,
} from '../../../../../src/core/devices/virtual/disk/backing.ts';
import {
  CBW,
  CBW_SIGNATURE,
  CSW,
  CSW_SIGNATURE,
} from '../../../../../src/core/devices/virtual/disk/bot.ts';
import { BULK_IN, BULK_OUT, type Disk } from '../../../../../src/core/devices/virtual/disk/disk.ts';
import { defineDisk } from '../../../../../src/core/devices/virtual/disk/kind.ts';

/** Long enough for a file; a nak that lasts longer is a lost wake. */
const PATIENCE_MILLISECONDS = 45_000;

export interface Ended {
  readonly status: 'ok' | 'stall' | 'babble';
  readonly data: Buffer;
}

export interface CommandResult {
  /** bCSWStatus */
  readonly status: number;
  readonly residue: number;
  readonly data: Buffer;
  /** Octets of OUT data that the device took. */
  readonly sent: number;
  /** Endpoints that stalled on the way. */
  readonly stalled: readonly number[];
}

export interface CommandOptions {
  /** Octets to ask for. */
  readonly in?: number;
  readonly out?: Buffer;
  /** dCBWDataTransferLength, if it shall differ from the above. */
  readonly expected?: number;
}

export class Host {
  readonly definition: DeviceDefinition<Disk>;
  readonly state: Disk;
  readonly maxPacketOctets: number;
  readonly halted = new Set<number>();
  readonly #onIn: (state: Disk, octetsMax: number) => Uint8Array | { readonly answer: string };
  readonly #onOut: (
    state: Disk,
    octets: Buffer,
  ) => { readonly answer: string; readonly octets?: number };
  readonly #waiting = new Map<number, () => void>();
  #tag = 0;

  constructor(definition: DeviceDefinition<Disk>) {
    this.definition = definition;
    const [bulkIn, bulkOut] = definition.configurations[0]?.interfaces[0]?.endpoints ?? [];
    assert(bulkIn !== undefined && 'onIn' in bulkIn && bulkIn.address === BULK_IN);
    assert(bulkOut !== undefined && 'onOut' in bulkOut && bulkOut.address === BULK_OUT);
    this.#onIn = bulkIn.onIn;
    this.#onOut = bulkOut.onOut;
    this.maxPacketOctets = bulkIn.maxPacketOctets;
    this.state = definition.state({
      wake: (address) => this.#wake(address),
      halt: (address) => {
        this.halted.add(address);
        this.#wake(address);
      },
    });
  }

  /** A bulk IN transfer, as virtual-device.ts serves it; waits while the device naks. */
  async read(octets: number): Promise<Ended> {
    const parts: Uint8Array[] = [];
    let room = octets;
    const ended = (status: Ended['status']) => ({ status, data: Buffer.concat(parts) });
    for (;;) {
      if (this.halted.has(BULK_IN)) return ended('stall');
      const answer = this.#onIn(this.state, room);
      if (answer instanceof Uint8Array) {
        parts.push(answer.subarray(0, room));
        if (answer.length > room) return ended('babble');
        room -= answer.length;
        const isShort = answer.length === 0 || answer.length % this.maxPacketOctets !== 0;
        if (room === 0 || isShort) return ended('ok');
      } else if (answer.answer === 'stall') {
        this.halted.add(BULK_IN);
      } else {
        assert.equal(answer.answer, 'nak');
        await this.#woken(BULK_IN);
      }
    }
  }

  /** A bulk OUT transfer. The octets are spoiled afterwards: the device must have copied them. */
  async write(octets: Buffer): Promise<{ status: 'ok' | 'stall'; octets: number }> {
    let moved = 0;
    for (;;) {
      if (this.halted.has(BULK_OUT)) return { status: 'stall', octets: moved };
      const offered = Buffer.from(octets.subarray(moved));
      const answer = this.#onOut(this.state, offered);
      offered.fill(0xee);
      if (answer.answer === 'stall') {
        this.halted.add(BULK_OUT);
      } else if (answer.answer === 'nak') {
        await this.#woken(BULK_OUT);
      } else {
        if (answer.answer === 'took') {
          assert(answer.octets !== undefined && answer.octets > 0);
          moved += answer.octets;
          assert.ok(moved < octets.length, 'took is less than all');
          continue;
        }
        assert.equal(answer.answer, 'ack');
        return { status: 'ok', octets: octets.length };
      }
    }
  }

  /** One question to bulk IN, as a test of what the device says right now. */
  peekIn(octets: number): string {
    if (this.halted.has(BULK_IN)) return 'stall';
    const answer = this.#onIn(this.state, octets);
    return answer instanceof Uint8Array ? 'data' : answer.answer;
  }

  /** One question to bulk OUT. */
  peekOut(octets: Buffer): string {
    return this.halted.has(BULK_OUT) ? 'stall' : this.#onOut(this.state, octets).answer;
  }

  clearHalt(address: number): void {
    this.halted.delete(address);
    this.definition.onClearHalt?.(this.state, address);
  }

  /** A class request to interface 0. */
  control(request: number, { isIn = false, value = 0, length = 0 } = {}): Uint8Array | string {
    const row = this.definition.onControl?.find((one) => one.request === request);
    assert(row !== undefined && (row.direction === 'in') === isIn);
    const setup = { requestType: isIn ? 0xa1 : 0x21, request, value, index: 0, length };
    const answer =
      row.direction === 'in'
        ? row.answer(this.state, setup)
        : row.answer(this.state, setup, Buffer.alloc(0));
    return answer instanceof Uint8Array ? answer : answer.answer;
  }

  /** Reset Recovery (BOT 5.3.4). */
  resetRecovery(): void {
    assert.equal(this.control(0xff), 'ack');
    this.clearHalt(BULK_IN);
    this.clearHalt(BULK_OUT);
  }

  cbw(cdb: readonly number[], octets: number, isIn: boolean): Buffer {
    const command = Buffer.alloc(16);
    Buffer.from(cdb).copy(command);
    return CBW.write({
      signature: CBW_SIGNATURE,
      tag: ++this.#tag,
      dataOctets: octets,
      flags: isIn ? 0x80 : 0,
      unit: 0,
      commandOctets: cdb.length,
      command,
    });
  }

  /** A whole command, with the reactions to stalls that BOT figure 2 asks of a host. */
  async command(cdb: readonly number[], options: CommandOptions = {}): Promise<CommandResult> {
    const isIn = options.in !== undefined;
    const expected = options.expected ?? options.in ?? options.out?.length ?? 0;
    const stalled: number[] = [];
    const sentCommand = await this.write(this.cbw(cdb, expected, isIn));
    assert.equal(sentCommand.status, 'ok');
    let data: Buffer = Buffer.alloc(0);
    let sent = 0;
    if (options.in !== undefined) {
      const ended = await this.read(options.in);
      data = ended.data;
      if (ended.status === 'stall') this.#clearStall(BULK_IN, stalled);
    } else if (options.out !== undefined) {
      const ended = await this.write(options.out);
      sent = ended.octets;
      if (ended.status === 'stall') this.#clearStall(BULK_OUT, stalled);
    }
    return { ...(await this.readStatus(stalled)), data, sent, stalled };
  }

  async readStatus(stalled: number[] = []): Promise<{ status: number; residue: number }> {
    let ended = await this.read(CSW.octets);
    if (ended.status === 'stall') {
      this.#clearStall(BULK_IN, stalled);
      ended = await this.read(CSW.octets);
    }
    assert.equal(ended.status, 'ok');
    assert.equal(ended.data.length, CSW.octets);
    const csw = CSW.read(ended.data);
    assert.equal(csw.signature, CSW_SIGNATURE);
    assert.equal(csw.tag, this.#tag);
    return { status: csw.status, residue: csw.residueOctets };
  }

  /** Sense data of the last command, as key/code/qualifier. */
  async sense(): Promise<string> {
    const { data } = await this.command([0x03, 0, 0, 0, 18, 0], { in: 18 });
    assert.equal(data.readUInt8(0) & 0x7e, 0x70);
    return senseText(data.readUInt8(2), data.readUInt8(12), data.readUInt8(13));
  }

  /** Runs a command that must fail, and returns its sense data. */
  async failure(cdb: readonly number[], options: CommandOptions = {}): Promise<string> {
    const { status } = await this.command(cdb, options);
    assert.equal(status, 1);
    return this.sense();
  }

  /** Runs a command that must pass, and returns its data. */
  async pass(cdb: readonly number[], options: CommandOptions = {}): Promise<Buffer> {
    const { status, data } = await this.command(cdb, options);
    assert.equal(status, 0, status === 0 ? '' : await this.sense());
    return data;
  }

  #clearStall(address: number, stalled: number[]): void {
    stalled.push(address);
    this.clearHalt(address);
  }

  #wake(address: number): void {
    const waiting = this.#waiting.get(address);
    this.#waiting.delete(address);
    waiting?.();
  }

  #woken(address: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`endpoint 0x${address.toString(16)} naks for too long`));
      }, PATIENCE_MILLISECONDS);
      this.#waiting.set(address, () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

export const senseText = (key: number, code: number, qualifier: number) =>
  [key, code, qualifier].map((octet) => octet.toString(16).padStart(2, '0')).join('/');

export const IDENTITY = {
  vendor: 'urbgate',
  product: 'Disk',
  revision: '1.0',
  serial: '0123456789AB',
};

export function hostOf(
  backing: Backing = new MemoryBacking(1 << 20),
  { blockOctets = 512, speed = 'high' as 'high' | 'super' } = {},
): Host {
  return new Host(defineDisk({ backing, blockOctets, speed, identity: IDENTITY }));
}

/** READ(10) or WRITE(10). */
export function cdb10(opcode: number, block: number, blocks: number, flags = 0): number[] {
  const cdb = Buffer.alloc(10);
  cdb[0] = opcode;
  cdb[1] = flags;
  cdb.writeUInt32BE(block, 2);
  cdb.writeUInt16BE(blocks, 7);
  return [...cdb];
}

/** READ(16) and its kin. */
export function cdb16(opcode: number, block: number | bigint, blocks: number, flags = 0): number[] {
  const cdb = Buffer.alloc(16);
  cdb[0] = opcode;
  cdb[1] = flags;
  cdb.writeBigUInt64BE(BigInt(block), 2);
  cdb.writeUInt32BE(blocks, 10);
  return [...cdb];
}

/** Octets that differ from place to place, and with the seed. */
export function pattern(octets: number, seed = 1): Buffer {
  const buffer = Buffer.alloc(octets);
  let value = seed;
  for (let at = 0; at < octets; at++) {
    value = (Math.imul(value, 1103515245) + 12345) & 0x7fffffff;
    buffer[at] = value >> 16;
  }
  return buffer;
}

/**
 * Compares without printing a megabyte. (And with a message of its own: without one, a failed
 * `assert(...)` in Node 20 reads its own source, and may never end when that came through tsx.)
 */
export function assertOctets(actual: Uint8Array, expected: Uint8Array, why = 'octets'): void {
  assert.equal(actual.length, expected.length, `${why}: ${actual.length} octets`);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((octet, i) => octet !== expected[i]);
  assert.equal(at, -1, `${why}: they differ from ${at} on`);
}

export function assertZeros(octets: Uint8Array): void {
  const at = octets.findIndex((octet) => octet !== 0);
  assert.equal(at, -1, `octet ${at} is not zero`);
}
