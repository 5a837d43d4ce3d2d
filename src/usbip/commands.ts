/** The commands of a client: CMD_SUBMIT and CMD_UNLINK as octets. See protocol.ts for the layouts. */
import { CLEAR_STALL_FLAG } from './extension.ts';
import {
  CmdSubmit,
  CmdUnlink,
  COMMAND,
  DIRECTION,
  HEADER_OCTETS,
  TRANSFER_FLAG,
} from './protocol.ts';
import { roomOf, type Transfer } from './transfer.ts';

/** Header of a CMD_SUBMIT. Written by offset: this runs once for each transfer. */
export function submitCommand(
  seqnum: number,
  deviceId: number,
  transfer: Transfer,
  isIn: boolean,
  clearStall: boolean,
): Buffer {
  const header = Buffer.alloc(HEADER_OCTETS);
  const offset = CmdSubmit.offsets;
  header.writeUInt32BE(COMMAND.submit, offset.command);
  header.writeUInt32BE(seqnum, offset.seqnum);
  header.writeUInt32BE(deviceId, offset.deviceId);
  header.writeUInt32BE(isIn ? DIRECTION.in : DIRECTION.out, offset.direction);
  header.writeUInt32BE(transfer.endpoint & 15, offset.endpoint);
  header.writeUInt32BE(flagsOf(transfer, isIn, clearStall), offset.transferFlags);
  header.writeInt32BE(roomOf(transfer, isIn), offset.transferBufferLength);
  if (transfer.packets !== undefined) {
    header.writeInt32BE(transfer.packets.length, offset.numberOfPackets);
  }
  if (transfer.type === 'interrupt' || transfer.type === 'isochronous') {
    header.writeInt32BE(transfer.interval ?? 1, offset.interval);
  }
  if (transfer.setup !== undefined) header.set(transfer.setup, offset.setup);
  return header;
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

/** CMD_UNLINK of the transfer that was submitted as `victim`. */
export function unlinkCommand(seqnum: number, deviceId: number, victim: number): Buffer {
  const header = Buffer.alloc(HEADER_OCTETS);
  const offset = CmdUnlink.offsets;
  header.writeUInt32BE(COMMAND.unlink, offset.command);
  header.writeUInt32BE(seqnum, offset.seqnum);
  header.writeUInt32BE(deviceId, offset.deviceId);
  header.writeUInt32BE(victim, offset.victim);
  return header;
}
