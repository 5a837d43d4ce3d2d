/** A USB/IP client that a test leads by the hand, over octets or over a `Connection`. */
import { strict as assert } from 'node:assert';
import { Containment } from '../../src/core/containment.ts';
import { DEFAULT_LIMITS, type SessionLimits } from '../../src/core/limits.ts';
import type { MemoryBudget } from '../../src/core/memory-budget.ts';
import { Registry } from '../../src/core/registry.ts';
import { BufferPool } from '../../src/usbip/buffer-pool.ts';
import { Connection, type ConnectionEvent } from '../../src/usbip/connection.ts';
import {
  CmdSubmit,
  CmdUnlink,
  DeviceRecord,
  ImportRequest,
  IsoDescriptor,
  OpCommon,
  RetSubmit,
  RetUnlink,
} from '../../src/usbip/protocol.ts';
import { FakeClock } from '../examples/rig.ts';

/** devid of the first export. */
export const DEVICE_ID = 0x10002;
export const IN = 1;
export const OUT = 0;

export interface Submit {
  readonly seqnum?: number;
  readonly deviceId?: number;
  readonly direction: number;
  readonly endpoint: number;
  readonly flags?: number;
  /** Default: the length of `data`. */
  readonly octets?: number;
  readonly data?: Uint8Array;
  readonly packetCount?: number;
  /** Offsets and lengths. */
  readonly packets?: readonly (readonly [number, number])[];
  readonly setup?: Uint8Array;
}

export interface Packet {
  readonly offset: number;
  readonly length: number;
  readonly actualLength: number;
  readonly status: number;
}

export type Reply =
  | {
      readonly type: 'submit';
      readonly seqnum: number;
      readonly status: number;
      readonly actualLength: number;
      readonly startFrame: number;
      readonly packetCount: number;
      readonly errorCount: number;
      readonly data: Buffer;
      readonly packets: readonly Packet[];
    }
  | { readonly type: 'unlink'; readonly seqnum: number; readonly status: number };
export type SubmitReply = Extract<Reply, { type: 'submit' }>;

export function opCommon(code: number, version = 0x0111): Buffer {
  return OpCommon.write({ version, code, status: 0 });
}

export const listRequest = (): Buffer => opCommon(0x8005);

export function importRequest(busId: string): Buffer {
  return Buffer.concat([opCommon(0x8003), ImportRequest.write({ busId })]);
}

/** bmRequestType, bRequest, wValue, wIndex, wLength. */
export function setupOctets(
  requestType: number,
  request: number,
  value = 0,
  index = 0,
  length = 0,
): Buffer {
  const octets = Buffer.from([requestType, request, 0, 0, 0, 0, 0, 0]);
  octets.writeUInt16LE(value, 2);
  octets.writeUInt16LE(index, 4);
  octets.writeUInt16LE(length, 6);
  return octets;
}

/** Writes commands and keeps in mind what is needed to read the replies. */
export class Wire {
  #seqnum = 0;
  readonly #submitted = new Map<number, Submit>();
  #received: Buffer = Buffer.alloc(0);
  /** Every reply so far. */
  readonly replies: Reply[] = [];

  nextSeqnum(): number {
    return ++this.#seqnum;
  }

  submit(fields: Submit): Buffer {
    const seqnum = fields.seqnum ?? this.nextSeqnum();
    this.#submitted.set(seqnum, fields);
    const packets = (fields.packets ?? []).map(([offset, length]) =>
      IsoDescriptor.write({ offset, length, actualLength: 0, status: 0 }),
    );
    const head = CmdSubmit.write({
      command: 1,
      seqnum,
      deviceId: fields.deviceId ?? DEVICE_ID,
      direction: fields.direction,
      endpoint: fields.endpoint,
      transferFlags: fields.flags ?? 0,
      transferBufferLength: fields.octets ?? fields.data?.length ?? 0,
      startFrame: -1,
      numberOfPackets: fields.packetCount ?? fields.packets?.length ?? 0,
      interval: 0,
      setup: fields.setup ?? Buffer.alloc(8),
    });
    return Buffer.concat([head, fields.data ?? Buffer.alloc(0), ...packets]);
  }

  unlink(victim: number, seqnum = this.nextSeqnum(), deviceId = DEVICE_ID): Buffer {
    const common = { command: 2, seqnum, deviceId, direction: 0, endpoint: 0 };
    return CmdUnlink.write({ ...common, victim, padding: Buffer.alloc(24) });
  }

  /** Takes octets from the server; returns the replies that are complete. */
  receive(octets: Uint8Array): Reply[] {
    this.#received = Buffer.concat([this.#received, octets]);
    const replies: Reply[] = [];
    for (let reply = this.#nextReply(); reply !== undefined; reply = this.#nextReply()) {
      replies.push(reply);
    }
    this.replies.push(...replies);
    return replies;
  }

  /** Octets that no whole reply has come of. */
  get leftOver(): number {
    return this.#received.length;
  }

  #nextReply(): Reply | undefined {
    const received = this.#received;
    if (received.length < 48) return undefined;
    const command = received.readUInt32BE(0);
    if (command === 4) {
      const { seqnum, deviceId, direction, endpoint, status, padding } = RetUnlink.read(received);
      assert.deepEqual([deviceId, direction, endpoint], [0, 0, 0]);
      assert(padding.every((octet) => octet === 0));
      this.#received = received.subarray(48);
      return { type: 'unlink', seqnum, status };
    }
    assert.equal(command, 3, `no reply begins with ${received.toString('hex', 0, 48)}`);
    const head = RetSubmit.read(received);
    const request = this.#submitted.get(head.seqnum);
    assert(request !== undefined, `nobody has submitted ${head.seqnum}`);
    assert.deepEqual([head.deviceId, head.direction, head.endpoint], [0, 0, 0]);
    assert(head.padding.every((octet) => octet === 0));
    const dataOctets = request.direction === IN ? head.actualLength : 0;
    const count = request.packets?.length ?? 0;
    assert.equal(head.numberOfPackets, count, 'number_of_packets is not the request’s');
    const end = 48 + dataOctets + 16 * count;
    if (received.length < end) return undefined;
    const packets = Array.from({ length: count }, (_, n) =>
      IsoDescriptor.read(received, 48 + dataOctets + 16 * n),
    );
    this.#received = received.subarray(end);
    return {
      type: 'submit',
      seqnum: head.seqnum,
      status: head.status,
      actualLength: head.actualLength,
      startFrame: head.startFrame,
      packetCount: head.numberOfPackets,
      errorCount: head.errorCount,
      data: Buffer.from(received.subarray(48, 48 + dataOctets)),
      packets,
    };
  }
}

export interface ScriptedOptions {
  readonly registry?: Registry;
  readonly limits?: Partial<SessionLimits>;
  readonly clock?: FakeClock;
  readonly peer?: string;
  readonly memory?: MemoryBudget;
  readonly pool?: BufferPool;
}

/** A client and the `Connection` that serves it. */
export class ScriptedClient {
  readonly registry: Registry;
  readonly clock: FakeClock;
  readonly connection: Connection;
  readonly events: ConnectionEvent[] = [];
  readonly wire = new Wire();
  /** How often the connection said that there is output between two calls. */
  announced = 0;
  unsentOctets = 0;

  constructor(options: ScriptedOptions = {}) {
    this.registry = options.registry ?? new Registry();
    this.clock = options.clock ?? new FakeClock();
    this.connection = new Connection({
      registry: this.registry,
      peer: options.peer ?? 'test',
      limits: { ...DEFAULT_LIMITS, ...options.limits },
      pool: options.pool ?? new BufferPool(),
      ...(options.memory && { memory: options.memory }),
      network: { unsentOctets: () => this.unsentOctets, ackedOctets: () => undefined },
      session: { clock: this.clock },
      // A bug is to fail the test, wherever it comes up.
      containment: new Containment((error) => {
        throw error;
      }),
      onOutput: () => this.announced++,
      onEvent: (event) => this.events.push(event),
    });
  }

  /** Sends octets; the chunk's memory is spoiled afterwards, as the next read would do. */
  send(...octets: Uint8Array[]): void {
    const chunk = Buffer.concat(octets);
    try {
      this.connection.receive(chunk);
      while (this.connection.isBehind) this.connection.goOn(); // a turn after the other
    } finally {
      chunk.fill(0xee);
    }
  }

  output(): Buffer {
    return Buffer.concat(this.connection.takeOutput());
  }

  /** Imports a device; the output must be a good reply and nothing else. */
  import(busId = '1-1'): void {
    this.send(importRequest(busId));
    const reply = this.output();
    assert.equal(reply.length, 320);
    assert.deepEqual(OpCommon.read(reply), { version: 0x0111, code: 3, status: 0 });
    assert.equal(DeviceRecord.read(reply, 8).busId, busId);
  }

  /** What came since the last call. */
  replies(): Reply[] {
    const replies = this.wire.receive(this.output());
    assert.equal(this.wire.leftOver, 0, 'the output ends in the middle of a reply');
    return replies;
  }

  /** Submits, and returns the seqnum. */
  submit(fields: Submit): number {
    const seqnum = fields.seqnum ?? this.wire.nextSeqnum();
    this.send(this.wire.submit({ ...fields, seqnum }));
    return seqnum;
  }

  unlink(victim: number): number {
    const seqnum = this.wire.nextSeqnum();
    this.send(this.wire.unlink(victim, seqnum));
    return seqnum;
  }

  /** Submits and returns the one reply; time passes if an error has to settle. */
  transfer(fields: Submit): SubmitReply {
    const seqnum = this.submit(fields);
    let replies = this.replies();
    if (replies.length === 0) {
      this.clock.advance(100);
      replies = this.replies();
    }
    const [reply, ...others] = replies;
    assert(reply?.type === 'submit', `no reply to ${seqnum}`);
    assert.deepEqual(others, []);
    assert.equal(reply.seqnum, seqnum);
    return reply;
  }

  read(endpoint: number, octets: number, flags = 0): SubmitReply {
    return this.transfer({ direction: IN, endpoint, octets, flags });
  }

  write(endpoint: number, data: Uint8Array, flags = 0): SubmitReply {
    return this.transfer({ direction: OUT, endpoint, data, flags });
  }

  control(
    setup: Uint8Array,
    { octets = 0, data = Buffer.alloc(0) as Uint8Array } = {},
  ): SubmitReply {
    const isIn = ((setup[0] ?? 0) & 0x80) !== 0;
    const common = { direction: isIn ? IN : OUT, endpoint: 0, setup };
    return this.transfer(isIn ? { ...common, octets } : { ...common, data });
  }

  configure(value = 1): void {
    assert.equal(this.control(setupOctets(0, 9, value)).status, 0);
  }

  select(interfaceNumber: number, alternate: number): void {
    assert.equal(this.control(setupOctets(1, 11, alternate, interfaceNumber)).status, 0);
  }

  clearHalt(address: number): void {
    assert.equal(this.control(setupOctets(2, 1, 0, address)).status, 0);
  }
}
