/** A transfer of the client side while it is under way. */

import type { Handler, Transfer, TransferResult } from '../core/transfer.ts';
import type { RetryQueue } from '../stall/retry-queue.ts';

/** A transfer under way; `FrontEnd.unlink` takes it. */
export interface Pending {
  readonly queue: RetryQueue<Pending>;
  readonly transfer: Transfer;
  readonly in: boolean;
  readonly done: Handler;
  /** How many transfers of the device were submitted before. */
  readonly order: number;
  /** Of its last CMD_SUBMIT. */
  seqnum: number;
  result: TransferResult;
}
