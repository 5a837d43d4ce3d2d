/**
 * What a relay to vhci (vhci-link.ts) wants of the front end that it stands upon: a device elsewhere,
 * with the promise of the Linux USB stack kept towards whoever submits transfers to it. `RemoteDevice`
 * is one, across TCP; a device behind a ring of shared memory is made to look like one in src/cli.
 */
import type { Speed } from '../core/device.ts';
import type { Handler, Transfer, TransferResult } from '../core/transfer.ts';

/** A transfer under way; only the device that made it looks into it. */
export type Submitted = object;

/** Enough to read a device's descriptors. */
export interface ControlPipe {
  /** The device, for people. */
  readonly name: string;
  readonly speed: Speed;
  /**
   * A transfer that is unlinked when that time is over, and ends as 'unlinked' then. Whoever does not answer
   * that is given up, and it ends as 'shutdown'.
   */
  transferWithin(transfer: Transfer, milliseconds: number): Promise<TransferResult>;
}

export interface RelayDevice extends ControlPipe {
  /** Bus number and device number there, as one number: vhci shows it. */
  readonly deviceId: number;
  /** False once the device, or the connection to it, is gone. */
  readonly isOpen: boolean;
  /** Resolves when it is gone, for whatever reason; all transfers are done then. */
  readonly closed: Promise<void>;
  /** Begins a transfer; `done` is called once with its result, never before this returns. */
  submit(transfer: Transfer, done: Handler): Submitted;
  /** Asks for a transfer back; it is done once, as 'unlinked' or as it had ended before. */
  unlink(submitted: Submitted): void;
  /** What a handler that returned 'later' has begun is done. */
  handled(submitted: Submitted): void;
  /**
   * A transfer was unlinked before it was submitted, which it never will be: what is behind it waits
   * until the function that this returns is called.
   */
  overtaken(transfer: Pick<Transfer, 'endpoint' | 'type'>): () => void;
  /** Takes no results until `resume`. Not there: what can be under way is little anyway. */
  pause?(): void;
  resume?(): void;
  /** Lets go of the device; outstanding transfers end. */
  close(): Promise<void>;
}
