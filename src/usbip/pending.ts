/** A transfer of the client side while it is under way. */

import type { Handler, Transfer, TransferResult } from '../core/transfer.ts';
import type { Reply, RetryQueue } from '../stall/retry-queue.ts';
import { ERRNO_BY_STATUS } from './status.ts';

/** A transfer under way; `FrontEnd.unlink` takes it. */
export interface Pending {
  readonly queue: RetryQueue<Pending>;
  readonly transfer: Transfer;
  readonly in: boolean;
  readonly done: Handler;
  /** Of its last CMD_SUBMIT. */
  seqnum: number;
  result: TransferResult;
}

/** What a reply means to the queue. */
export function replyOf({ status, actualOctets }: TransferResult, stallProtocol: boolean): Reply {
  if (status === 'ok' || status === 'short') return status;
  if (ERRNO_BY_STATUS[status] !== ERRNO_BY_STATUS.unlinked || actualOctets > 0) return 'error';
  return stallProtocol ? 'returned' : 'unlinked';
}
