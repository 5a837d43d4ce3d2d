/** A transfer of the front end while it is under way. */
import type { Transfer } from '../core/transfer.ts';

/** `RingDevice.unlink` takes it. */
export interface Pending {
  readonly transfer: Transfer;
  readonly in: boolean;
}
