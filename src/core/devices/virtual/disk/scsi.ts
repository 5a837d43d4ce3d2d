/**
 * The logical unit: takes command descriptor blocks and makes tasks of them.
 *
 * Source: SPC-4 (all devices) and SBC-3 (disks). The commands are those that Linux, Windows and
 * macOS send to a USB disk, and the ones that SBC-3 makes mandatory; every other opcode, such as
 * ATA PASS-THROUGH, is refused with 5/20/00, from which probing tools go on.
 *
 * Sense data belongs to the last command and is read by the REQUEST SENSE right behind it, as
 * Bulk-Only Transport has no other way to hand it over. Any other command forgets it.
 *
 * There is no unit attention (6/29/00) after power-on or reset. It exists to tell a host that the
 * unit has lost settings, and this unit loses none: the one setting it has, the write cache, stays
 * through a reset and returns to its default only for a new client, which enumerates the disk anew
 * and reads it anyway. What the attention would add is one failed command, a round trip or two, and
 * trouble with small hosts that do not try again.
 */
import { cdbOctets, OPCODE } from './cdb.ts';
import type { Medium } from './medium.ts';
import { read, startStopUnit, synchronizeCache, verify, write } from './scsi-blocks.ts';
import { readCapacity10, readFormatCapacities, serviceActionIn16 } from './scsi-capacity.ts';
import { inquiry, reportLuns } from './scsi-inquiry.ts';
import { modeSelect, modeSense } from './scsi-mode.ts';
import { unmap, writeSame } from './scsi-provisioning.ts';
import { descriptorSense, fixedSense, SENSE, type Sense } from './sense.ts';
import { AnswerTask, DoneTask, FailedTask, type Task } from './task.ts';

/** What INQUIRY and its pages say of the disk. ASCII, no longer than the fields are. */
export interface Identity {
  /** 1..8 characters. */
  readonly vendor: string;
  /** 1..16 characters. */
  readonly product: string;
  /** 1..4 characters. */
  readonly revision: string;
  readonly serial: string;
}

type Handler = (unit: LogicalUnit, cdb: Buffer) => Task;

const done: Handler = () => new DoneTask();

const HANDLERS: Readonly<Partial<Record<number, Handler>>> = {
  [OPCODE.testUnitReady]: done,
  [OPCODE.requestSense]: (unit, cdb) => unit.requestSense(cdb),
  [OPCODE.inquiry]: inquiry,
  [OPCODE.reportLuns]: reportLuns,
  [OPCODE.modeSelect6]: modeSelect,
  [OPCODE.modeSelect10]: modeSelect,
  [OPCODE.modeSense6]: modeSense,
  [OPCODE.modeSense10]: modeSense,
  [OPCODE.startStopUnit]: startStopUnit,
  // The medium cannot be removed, so there is nothing to prevent.
  [OPCODE.preventAllowMediumRemoval]: done,
  [OPCODE.readFormatCapacities]: readFormatCapacities,
  [OPCODE.readCapacity10]: readCapacity10,
  [OPCODE.serviceActionIn16]: serviceActionIn16,
  [OPCODE.read6]: read,
  [OPCODE.read10]: read,
  [OPCODE.read12]: read,
  [OPCODE.read16]: read,
  [OPCODE.write6]: write,
  [OPCODE.write10]: write,
  [OPCODE.write12]: write,
  [OPCODE.write16]: write,
  [OPCODE.verify10]: verify,
  [OPCODE.verify16]: verify,
  [OPCODE.synchronizeCache10]: synchronizeCache,
  [OPCODE.synchronizeCache16]: synchronizeCache,
  [OPCODE.writeSame10]: writeSame,
  [OPCODE.writeSame16]: writeSame,
  [OPCODE.unmap]: unmap,
};

/** Commands that report a deferred error to nobody (SPC-4, 4.5.5): they must always succeed. */
const NEVER_DEFERRED: readonly number[] = [OPCODE.inquiry, OPCODE.reportLuns, OPCODE.requestSense];

export class LogicalUnit {
  readonly medium: Medium;
  readonly identity: Identity;
  /** WCE of the caching mode page: without it, a WRITE ends when its data is on stable storage. */
  writeCache = true;
  #sense: Sense = SENSE.none;
  #deferred: Sense | null = null;

  constructor(medium: Medium, identity: Identity) {
    this.medium = medium;
    this.identity = identity;
  }

  /** Makes the task of a command; it has not started. Once it has ended, tell `ended`. */
  command(cdb: Buffer): Task {
    const opcode = cdb.readUInt8(0);
    if (opcode !== OPCODE.requestSense) this.#sense = SENSE.none;
    const handler = HANDLERS[opcode];
    if (handler === undefined) return new FailedTask(SENSE.invalidOpcode);
    if (cdb.length < cdbOctets(cdb)) return new FailedTask(SENSE.invalidFieldInCommand);
    if (this.#deferred !== null && !NEVER_DEFERRED.includes(opcode)) {
      const failure = this.#deferred;
      this.#deferred = null;
      return new FailedTask(failure);
    }
    return handler(this, cdb);
  }

  /** Keeps a failure for REQUEST SENSE. */
  ended(failure: Sense | null): void {
    if (failure !== null) this.#sense = failure;
  }

  /** Reports a failure of what had been said to be done, with the next command. */
  defer(failure: Sense): void {
    this.#deferred = { ...failure, deferred: true };
  }

  /** A new client: settings and sense data return to their defaults. */
  renew(): void {
    this.writeCache = true;
    this.#sense = SENSE.none;
  }

  /** REQUEST SENSE (SPC-4, 6.39). Reading the sense data clears it. */
  requestSense(cdb: Buffer): Task {
    const sense = this.#sense;
    this.#sense = SENSE.none;
    const wantsDescriptors = (cdb.readUInt8(1) & 0x01) !== 0;
    return new AnswerTask(
      wantsDescriptors ? descriptorSense(sense) : fixedSense(sense),
      cdb.readUInt8(4),
    );
  }
}
