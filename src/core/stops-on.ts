import type { StopsOn } from '../stall/endpoint-queue.ts';
import type { TransferType } from './device.ts';

/** Which ends stop a queue: kernel-doc of usb_unlink_urb, "Unlinking and Endpoint Queues". */
export const STOPS_ON: Readonly<Record<TransferType, StopsOn>> = {
  control: 'errors-but-short',
  bulk: 'errors',
  interrupt: 'errors',
  isochronous: 'nothing',
};
