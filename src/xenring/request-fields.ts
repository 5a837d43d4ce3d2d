/** What a transfer is in the fields of a request that the front end writes; see usbif.ts. */
import { isInput, type Transfer } from '../core/transfer.ts';
import { PIPE, PIPE_TYPE, TRANSFER_FLAG } from './usbif.ts';

/** Every device behind a ring is alone at its port; only the guest's own bus needs an address. */
const DEVICE_ADDRESS = 1;

/** `pipe` of a request. */
export function pipeOf(port: number, transfer: Transfer): number {
  const type = PIPE_TYPE[transfer.type] << PIPE.typeShift;
  const endpoint = (transfer.endpoint & PIPE.endpointMask) << PIPE.endpointShift;
  const direction = isInput(transfer) ? PIPE.in : 0;
  return (type | endpoint | (DEVICE_ADDRESS << PIPE.deviceShift) | direction | port) >>> 0;
}

/** `transfer_flags` of a request. */
export function flagsOf(transfer: Transfer, clearStall: boolean): number {
  let flags: number = transfer.shortNotOk ? TRANSFER_FLAG.shortNotOk : 0;
  if (transfer.zeroPacket) flags |= TRANSFER_FLAG.zeroPacket; // a stock back end passes it over
  return clearStall ? flags | TRANSFER_FLAG.clearStall : flags;
}
