/**
 * The transfers of one device: from URBs to what usbfs is asked, and back.
 *
 * One ioctl submits an URB; when something has ended, as many reap as there are. Data lies in memory
 * that the host controller reaches, which is lent to the transport: to put data there (`room`), or to
 * send it from there. What is not lent is copied.
 *
 * URBs too large for one piece of memory go in several, one after the other: what ends one ends all.
 */
import { assert } from '../../assert.ts';
import type { EndpointInfo } from '../../device.ts';
import { type Room, type Urb, type UrbStatus, writeSetup } from '../../urb.ts';
import { ERRNO, FLAG, IOCTL, refusalOf, submitStatus } from './abi.ts';
import { failPart, type Part, partsOf, readPackets, writePackets } from './isochronous.ts';
import type { Memory, UsbfsFile } from './kernel.ts';
import { type KernelState, Reaper } from './reaper.ts';
import { Block, TransferMemory } from './transfer-memory.ts';
import { EndpointRuns, type UrbSlot, UrbTable } from './urb-table.ts';

const SETUP_OCTETS = 8;
/** What one wake-up reaps at most, so that other devices have their turn. */
const REAPS_MAX = 256;
const NO_OCTETS = Buffer.alloc(0);

export class Transfers {
  readonly #file: UsbfsFile;
  readonly #completed: (urb: Urb) => void;
  readonly #mayLend: () => boolean;
  readonly #memory: TransferMemory;
  readonly #table: UrbTable;
  readonly #runs = new EndpointRuns();
  readonly reaper: Reaper;

  /** `table`: memory for the structures, of `TABLE_OCTETS`. `mayLend`: see `DeviceHost.borrows`. */
  constructor(
    file: UsbfsFile,
    table: Memory,
    completed: (urb: Urb) => void,
    mayLend: () => boolean,
    kernel: KernelState,
  ) {
    this.#file = file;
    this.#completed = completed;
    this.#mayLend = mayLend;
    this.#memory = new TransferMemory(file);
    this.#table = new UrbTable(table);
    this.reaper = new Reaper(file, this.#table, kernel);
  }

  /** A URB of this endpoint goes in pieces: nothing may be submitted behind it. */
  isInPieces(endpoint: EndpointInfo): boolean {
    return this.#runs.isInPieces(endpoint);
  }

  /** Memory for data that is yet to come; null if it is to be copied. */
  room(octets: number): Room | null {
    return this.#memory.lendRoom(octets);
  }

  submit(urb: Urb): void {
    if (urb.packets !== null) this.#submitIsochronous(urb);
    else if (urb.setup === null) this.#submitData(urb);
    else this.#submitControl(urb);
  }

  unlink(urb: Urb): void {
    // The last first, so that none of the others starts in its place.
    for (const slot of this.#table.slotsOf(urb).reverse()) {
      slot.unlinking = true;
      this.#file.ioctl(IOCTL.discardUrb, slot.address); // it may have ended: then it is reaped
    }
  }

  /** Asks for everything back; false if nothing is out. */
  unlinkAll(): boolean {
    for (const slot of this.#table.busy) this.#file.ioctl(IOCTL.discardUrb, slot.address);
    return this.#table.busyCount > 0;
  }

  /**
   * Takes what has ended, and asks no more when all is back; but a device that has gone says so only
   * then (`last`).
   * @returns false when the device has gone and nothing is left.
   */
  reap(last: boolean): boolean {
    for (let count = 0; last || this.reaper.isAhead || count < REAPS_MAX; count++) {
      const slot = this.reaper.next();
      if (typeof slot === 'object') this.#reaped(slot);
      else if (slot === -ERRNO.ENODEV) return false;
      else if (slot !== -ERRNO.EINTR) return true;
      if (this.reaper.mayNotAsk) return true;
      if (!last && !this.reaper.isLost && this.#table.busyCount === 0) return true;
    }
    return true;
  }

  /** The device has gone: completes what the kernel may have kept. */
  abandon(): void {
    for (const slot of this.#table.busy) {
      const { urb, iso } = slot;
      if (urb === null) continue;
      if (iso !== null) failPart(urb, slot);
      if (iso !== null && --iso.left > 0) this.#giveUp(slot);
      else this.#finish(slot, 'shutdown', 0);
    }
  }

  /** Nothing is outstanding. */
  dispose(): void {
    this.#memory.dispose();
  }

  #submitControl(urb: Urb): void {
    const { setup } = urb;
    assert(setup !== null);
    const slot = this.#begin(urb, this.#memory.take(SETUP_OCTETS + setup.length));
    if (slot === null) return;
    const octets = slot.block?.octets ?? NO_OCTETS;
    writeSetup(octets, setup);
    urb.dataOut.copy(octets, SETUP_OCTETS);
    slot.pieceOctets = urb.octets;
    const flags = urb.shortNotOk ? FLAG.shortNotOk : 0;
    this.#table.write(slot, urb.endpoint, flags, SETUP_OCTETS + setup.length);
    const answer = this.#ask(slot);
    if (answer < 0) this.#finish(slot, refusalOf(-answer), 0);
  }

  #submitData(urb: Urb): void {
    const lent = urb.room instanceof Block ? urb.room : null;
    const slot = this.#begin(urb, lent ?? this.#memory.takeUpTo(urb.octets));
    if (slot === null) return;
    const run = this.#runs.of(urb.endpoint);
    slot.run = run;
    const room = slot.block?.octets.length ?? 0;
    run.inPieces = room < urb.octets;
    if (run.inPieces && urb.in) slot.whole = Buffer.allocUnsafeSlow(urb.octets);
    this.#submitPiece(slot);
  }

  /** Submits what comes next of a bulk or interrupt URB. */
  #submitPiece(slot: UrbSlot): void {
    const { urb, run, block } = slot;
    assert(urb !== null && run !== null && block !== null);
    const left = urb.octets - slot.done;
    // All but the last are whole packets, or they would end the transfer.
    const packet = Math.max(1, urb.endpoint.maxPacketOctets);
    const room = block.octets.length - (block.octets.length % packet);
    const last = left <= block.octets.length;
    const octets = last ? left : room;
    const isThere = urb.in || block === urb.room;
    if (!isThere) urb.dataOut.copy(block.octets, 0, slot.done, slot.done + octets);
    slot.pieceOctets = octets;
    let flags = urb.shortNotOk ? FLAG.shortNotOk : 0;
    if (urb.zeroPacket && last) flags |= FLAG.zeroPacket;
    if (run.flying > 0 && urb.endpoint.type === 'bulk') flags |= FLAG.bulkContinuation;
    this.#table.write(slot, urb.endpoint, flags, octets);
    const answer = this.#ask(slot);
    if (answer >= 0) {
      run.flying++;
      return;
    }
    // Refused because one before it has failed, which is not reaped yet: as if it had been unlinked.
    const refused = (flags & FLAG.bulkContinuation) !== 0 && answer === -ERRNO.EREMOTEIO;
    this.#finish(slot, refused ? 'unlinked' : submitStatus(-answer), 0);
  }

  #submitIsochronous(urb: Urb): void {
    const parts = partsOf(urb);
    if (parts === null || parts.length === 0) {
      this.#complete(urb, parts === null ? 'invalid' : 'ok', 0, NO_OCTETS);
      return;
    }
    const iso = { left: 0, actualOctets: 0, data: [], status: 0 };
    for (const [index, part] of parts.entries()) {
      const answer = this.#submitPart(urb, part, iso);
      if (answer >= 0) {
        iso.left++;
        continue;
      }
      iso.status = answer;
      for (const packet of urb.packets?.slice(part.first) ?? []) packet.status = 'missed';
      if (index === 0) this.#complete(urb, submitStatus(-answer), 0, NO_OCTETS);
      return; // what is under way completes the URB
    }
  }

  #submitPart(urb: Urb, part: Part, iso: NonNullable<UrbSlot['iso']>): number {
    const block = this.#memory.take(part.octets);
    const slot = block && this.#table.take();
    if (block === null || slot === null) {
      if (block !== null) this.#memory.give(block);
      return -ERRNO.ENOMEM;
    }
    slot.urb = urb;
    slot.block = block;
    slot.iso = iso;
    slot.firstPacket = part.first;
    slot.packetCount = part.count;
    writePackets(this.#table, slot, urb);
    this.#table.write(slot, urb.endpoint, FLAG.isoAsap, part.octets, part.count);
    const answer = this.#ask(slot);
    if (answer < 0) this.#giveUp(slot);
    return answer;
  }

  #ask(slot: UrbSlot): number {
    return this.reaper.checked(this.#file.ioctl(IOCTL.submitUrb, slot.address));
  }

  /** A slot for a URB with this memory, or completes it. */
  #begin(urb: Urb, block: Block | null): UrbSlot | null {
    const slot = block && this.#table.take();
    if (slot === null) {
      this.#release(block, urb);
      this.#complete(urb, 'no-memory', 0, NO_OCTETS);
      return null;
    }
    slot.urb = urb;
    slot.block = block;
    return slot;
  }

  #reaped(slot: UrbSlot): void {
    const errno = this.#table.status(slot);
    if (slot.iso !== null) {
      this.#reapedPart(slot, slot.iso, errno);
      return;
    }
    if (slot.run !== null) slot.run.flying--;
    const { urb, block } = slot;
    assert(urb !== null && block !== null);
    const actual = Math.min(this.#table.actual(slot), slot.pieceOctets);
    if (slot.whole !== null) block.octets.copy(slot.whole, slot.done, 0, actual);
    const status = this.reaper.statusOf(slot, errno);
    const more = slot.done + slot.pieceOctets < urb.octets && actual === slot.pieceOctets;
    if (status === 'ok' && more && slot.run !== null) {
      slot.done += actual;
      if (slot.unlinking) this.#finish(slot, 'unlinked', 0);
      else this.#submitPiece(slot);
      return;
    }
    this.#finish(slot, status, actual);
  }

  #reapedPart(slot: UrbSlot, iso: NonNullable<UrbSlot['iso']>, errno: number): void {
    const { urb } = slot;
    assert(urb !== null);
    const into = urb.in ? Buffer.allocUnsafe(this.#table.actual(slot)) : null;
    if (errno === -ERRNO.ENOENT && !slot.unlinking) failPart(urb, slot);
    const moved = readPackets(this.#table, slot, urb, into);
    iso.actualOctets += moved;
    if (into !== null) iso.data.push(into.subarray(0, moved));
    if (errno < 0 && iso.status === 0) iso.status = errno;
    const status = iso.status === 0 ? 'ok' : this.reaper.statusOf(slot, iso.status);
    iso.left--;
    this.#giveUp(slot);
    if (iso.left > 0) return;
    const data = iso.data.length === 1 ? iso.data[0] : Buffer.concat(iso.data);
    this.#complete(urb, status, iso.actualOctets, data ?? NO_OCTETS);
  }

  /** `actual` octets of the piece at hand moved. */
  #finish(slot: UrbSlot, status: UrbStatus, actual: number): void {
    const { urb, block, whole, done, run } = slot;
    assert(urb !== null && block !== null);
    let data: Buffer = NO_OCTETS;
    if (urb.in && done + actual > 0) {
      if (whole !== null) data = whole.subarray(0, done + actual);
      else {
        const from = urb.setup === null ? 0 : SETUP_OCTETS;
        data = block.octets.subarray(from, from + actual);
        if (this.#mayLend() && this.#memory.lend(block)) {
          urb.loan = block;
          slot.block = null;
        } else data = Buffer.from(data);
      }
    }
    if (run !== null && run.flying === 0) run.inPieces = false;
    this.#giveUp(slot);
    this.#complete(urb, status, done + actual, data);
  }

  #giveUp(slot: UrbSlot): void {
    this.#release(slot.block, slot.urb);
    this.#table.give(slot);
  }

  #release(block: Block | null, urb: Urb | null): void {
    if (block !== null && block !== urb?.room) this.#memory.give(block);
  }

  #complete(urb: Urb, status: UrbStatus, actualOctets: number, dataIn: Uint8Array): void {
    urb.status = status;
    urb.actualOctets = actualOctets;
    urb.dataIn = dataIn;
    this.#completed(urb);
  }
}
