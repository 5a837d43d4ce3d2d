/** A client's commands as octets, collected for one gathered write (gather.ts). */

import { roomOf, type Transfer } from '../core/transfer.ts';
import { CLEAR_STALL_FLAG } from './extension.ts';
import { packetDescriptors } from './front-end-packets.ts';
import { Gather } from './gather.ts';
import {
  CmdSubmit,
  CmdUnlink,
  COMMAND,
  DIRECTION,
  HEADER_OCTETS,
  TRANSFER_FLAG,
} from './protocol.ts';

export class CommandWriter {
  readonly #out = new Gather();
  readonly #deviceId: number;
  /** Commands written since the last `take`. */
  count = 0;

  constructor(deviceId: number) {
    this.#deviceId = deviceId;
  }

  /** Everything written since the last call, in order; for a gathered write. */
  take(): Uint8Array[] {
    this.count = 0;
    return this.#out.take();
  }

  /** CMD_SUBMIT. The memory of long data must not change until it is sent. */
  submit(seqnum: number, transfer: Transfer, isIn: boolean, clearStall: boolean): void {
    const at = this.#header(COMMAND.submit, seqnum);
    const { view } = this.#out;
    const { type, packets, setup, data } = transfer;
    const offset = CmdSubmit.offsets;
    view.setUint32(at + offset.direction, isIn ? DIRECTION.in : DIRECTION.out);
    view.setUint32(at + offset.endpoint, transfer.endpoint & 15);
    view.setUint32(at + offset.transferFlags, flagsOf(transfer, isIn, clearStall));
    view.setInt32(at + offset.transferBufferLength, roomOf(transfer, isIn));
    if (type === 'interrupt' || type === 'isochronous') {
      view.setInt32(at + offset.interval, transfer.interval ?? 1);
    }
    if (setup !== undefined) this.#out.slab.set(setup, at + offset.setup);
    if (packets !== undefined) view.setInt32(at + offset.numberOfPackets, packets.length);
    if (!isIn && data !== undefined) this.#out.append(data);
    if (packets !== undefined) this.#out.append(packetDescriptors(packets));
  }

  /** CMD_UNLINK of the transfer that was submitted as `victim`. */
  unlink(seqnum: number, victim: number): void {
    const at = this.#header(COMMAND.unlink, seqnum);
    this.#out.view.setUint32(at + CmdUnlink.offsets.victim, victim);
  }

  #header(command: number, seqnum: number): number {
    this.count++;
    const at = this.#out.room(HEADER_OCTETS);
    const { view } = this.#out;
    const offset = CmdSubmit.offsets;
    view.setUint32(at + offset.command, command);
    view.setUint32(at + offset.seqnum, seqnum);
    view.setUint32(at + offset.deviceId, this.#deviceId);
    return at;
  }
}

function flagsOf(transfer: Transfer, isIn: boolean, clearStall: boolean): number {
  const flags =
    (transfer.shortNotOk ? TRANSFER_FLAG.shortNotOk : 0) |
    (transfer.zeroPacket ? TRANSFER_FLAG.zeroPacket : 0) |
    // The server has a clock of its own: a client's start frame would mean nothing to it.
    (transfer.type === 'isochronous' ? TRANSFER_FLAG.isoAsap : 0) |
    (isIn ? TRANSFER_FLAG.directionIn : 0);
  return clearStall ? flags + CLEAR_STALL_FLAG : flags;
}
