/**
 * A USB disk: joins the transport (bot.ts), the SCSI unit (scsi.ts) and the endpoints.
 *
 * The transport says what stage a command is in, the task supplies or takes the data, and the
 * handlers below carry one to the other whenever the engine asks. Nothing here waits: what is not
 * ready answers `nak`, and the medium's progress wakes both endpoints.
 */
import type { SetupPacket } from '../../../urb.ts';
import {
  type Ack,
  ack,
  type Bus,
  data,
  type Nak,
  nak,
  type Stall,
  stall,
  type Took,
  took,
} from '../definition.ts';
import {
  type Bot,
  type BotEvent,
  IDLE,
  octetsLeft,
  parseCommand,
  relevantLeft,
  SLACK_OCTETS_MAX,
  statusWrapper,
  step,
} from './bot.ts';
import type { Medium } from './medium.ts';
import type { LogicalUnit } from './scsi.ts';
import { SENSE } from './sense.ts';
import { DoneTask, type Task } from './task.ts';

export const BULK_IN = 0x81;
export const BULK_OUT = 0x02;

/** bRequest of the class (BOT 3.1, 3.2). */
export const REQUEST = { getMaxLun: 0xfe, massStorageReset: 0xff } as const;

const ZEROS = Buffer.alloc(SLACK_OCTETS_MAX);
const NO_OCTETS = Buffer.alloc(0);

export class Disk {
  readonly #bus: Bus;
  readonly #unit: LogicalUnit;
  readonly #medium: Medium;
  readonly #maxPacketOctets: number;
  #bot: Bot = IDLE;
  #task: Task = new DoneTask();

  constructor(bus: Bus, unit: LogicalUnit, maxPacketOctets: number) {
    this.#bus = bus;
    this.#unit = unit;
    this.#medium = unit.medium;
    this.#maxPacketOctets = maxPacketOctets;
    this.#medium.onProgress = () => this.#wakeBoth();
  }

  /** The transport, for tests. */
  get bot(): Bot {
    return this.#bot;
  }

  onIn(octetsMax: number): Uint8Array | Nak | Stall {
    if (octetsMax === 0) return NO_OCTETS; // a read of nothing changes nothing
    switch (this.#bot.stage) {
      case 'data-in':
        return this.#sendData(octetsMax);
      case 'fill':
        return this.#sendFill(octetsMax);
      case 'stall-in':
        this.#step({ type: 'stalled' });
        return stall;
      case 'status':
        return this.#sendStatus();
      case 'broken':
        return stall;
      default:
        return nak;
    }
  }

  onOut(octets: Buffer): Ack | Took | Nak | Stall {
    const answer = this.#out(octets);
    // What the host sent may be what a pending read was waiting for.
    if (answer !== nak) this.#bus.wake(BULK_IN);
    return answer;
  }

  #out(octets: Buffer): Ack | Took | Nak | Stall {
    const { stage } = this.#bot;
    if (stage === 'broken') return stall;
    if (stage === 'stall-out') {
      this.#step({ type: 'stalled' });
      return stall;
    }
    if (stage === 'data-out' || stage === 'discard') return this.#takeData(octets);
    // The empty packet that some hosts put behind a data stage of whole packets.
    if (octets.length === 0) return ack;
    return stage === 'command' ? this.#takeCommand(octets) : nak;
  }

  #takeCommand(packet: Buffer): Ack | Nak {
    // Something of an abandoned command is still on its way to the medium.
    if (this.#medium.busy) return nak;
    const command = parseCommand(packet);
    if (command === null) {
      this.#step({ type: 'invalid' });
      this.#haltBoth();
      return ack;
    }
    this.#task = this.#unit.command(command.block);
    this.#step({ type: 'begin', command, device: this.#task });
    if (this.#bot.phaseError) this.#task = new DoneTask();
    this.#task.start();
    return ack;
  }

  #sendData(octetsMax: number): Uint8Array | Nak | Stall {
    const octets = this.#task.read(octetsMax);
    if (octets === null) {
      if (this.#task.failure === null) return nak;
      this.#step({ type: 'failed' });
      return this.onIn(octetsMax);
    }
    this.#step({ type: 'moved', octets: octets.length });
    // Fill follows in the same packet, or a short packet would end the transfer before it.
    const isShort = octets.length % this.#maxPacketOctets !== 0;
    if (this.#bot.stage !== 'fill' || !isShort || octets.length === octetsMax) return data(octets);
    return Buffer.concat([octets, this.#sendFill(octetsMax - octets.length)]);
  }

  #sendFill(octetsMax: number): Buffer {
    const octets = ZEROS.subarray(0, Math.min(octetsMax, octetsLeft(this.#bot)));
    this.#step({ type: 'moved', octets: octets.length });
    return octets;
  }

  #sendStatus(): Uint8Array | Nak {
    if (this.#medium.busy) return nak;
    const { failure } = this.#task;
    this.#unit.ended(failure);
    const wrapper = statusWrapper(this.#bot, failure === null);
    this.#step({ type: 'reported' });
    this.#bus.wake(BULK_OUT); // the next command may be waiting
    return wrapper;
  }

  /**
   * Takes data of the command, or drops it. A transfer that ends with a short packet, or is empty,
   * before all announced data has come is cut: the host and we disagree, which is a phase error.
   */
  #takeData(octets: Buffer): Ack | Took | Nak | Stall {
    if (this.#bot.stage === 'data-out' && this.#task.failure !== null) {
      this.#step({ type: 'failed' });
      return this.#out(octets);
    }
    const isDiscard = this.#bot.stage === 'discard';
    const offered = octets.subarray(0, isDiscard ? octetsLeft(this.#bot) : relevantLeft(this.#bot));
    const count = isDiscard || octets.length === 0 ? offered.length : this.#task.write(offered);
    if (count === 0 && octets.length > 0) return nak;
    if (count > 0) this.#step({ type: 'moved', octets: count });
    if (count < octets.length) return took(count);
    const isEnd = octets.length % this.#maxPacketOctets !== 0 || octets.length === 0;
    if (isEnd && octetsLeft(this.#bot) > 0) this.#step({ type: 'cut' });
    return ack;
  }

  /** Bulk-Only Mass Storage Reset (BOT 3.1): the endpoints stay halted until the host clears them. */
  onMassStorageReset(setup: SetupPacket): Ack | Stall {
    if (setup.value !== 0 || setup.length !== 0) return stall;
    this.reset();
    return ack;
  }

  /** Get Max LUN (BOT 3.2): the highest unit number. */
  onGetMaxLun(setup: SetupPacket): Uint8Array | Stall {
    if (setup.value !== 0 || setup.length !== 1) return stall;
    return data(Buffer.from([0]));
  }

  onClearHalt(): void {
    if (this.#bot.stage === 'broken') this.#haltBoth();
  }

  /** Forgets the command under way; writes of it that have begun will still end. */
  reset(): void {
    this.#task = new DoneTask();
    this.#step({ type: 'reset' });
    this.#wakeBoth();
  }

  /**
   * The client has gone: finishes what is in flight and stores it. A failure to store is reported
   * to the next client, in the form that SCSI has for errors of commands long done.
   */
  async release(): Promise<void> {
    this.reset();
    await this.#medium.idle();
    this.#unit.renew();
    const error = await new Promise<Error | null>((resolve) => this.#medium.sync(resolve));
    if (error !== null) this.#unit.defer(SENSE.writeError);
  }

  async dispose(): Promise<void> {
    await this.release();
    await this.#medium.close();
  }

  #step(event: BotEvent): void {
    this.#bot = step(this.#bot, event);
  }

  #haltBoth(): void {
    this.#bus.halt(BULK_IN);
    this.#bus.halt(BULK_OUT);
  }

  #wakeBoth(): void {
    this.#bus.wake(BULK_IN);
    this.#bus.wake(BULK_OUT);
  }
}
