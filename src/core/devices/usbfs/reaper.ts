/**
 * What the kernel has ended, in its order, and whether it has taken the device back.
 *
 * A machine that sleeps has its host controllers stop first, then it takes back what they still have
 * (ESHUTDOWN, usb_suspend_both). A controller that runs a little longer than the port calls what it has in
 * hand an error of the bus. So an error of the bus is believed only when nothing behind it says that
 * the machine slept, and the interface is still this process's own (decision 0089).
 */
import type { UrbStatus } from '../../urb.ts';
import { ERRNO, IOCTL, statusOf } from './abi.ts';
import type { UsbfsFile } from './kernel.ts';
import type { UrbSlot, UrbTable } from './urb-table.ts';

/** What the device knows of the kernel. */
export interface KernelState {
  /** It has locked the device, so that any call would wait. */
  readonly isLocked: () => boolean;
  /** Whether it has not given an interface to another driver. */
  readonly isOurs: (interfaceNumber: number) => boolean;
}

const BUS_ERRORS: ReadonlySet<UrbStatus> = new Set(['protocol-error', 'crc-error', 'timeout']);

export class Reaper {
  /** The kernel has taken the device back: the machine slept, or a driver has an interface. */
  isLost = false;
  readonly #file: UsbfsFile;
  readonly #table: UrbTable;
  readonly #kernel: KernelState;
  /** Taken from the kernel already; at most the slots of the table. */
  readonly #ahead: UrbSlot[] = [];

  constructor(file: UsbfsFile, table: UrbTable, kernel: KernelState) {
    this.#file = file;
    this.#table = table;
    this.#kernel = kernel;
  }

  /** Whether something is here that the kernel will not speak of again. */
  get isAhead(): boolean {
    return this.#ahead.length > 0;
  }

  get mayNotAsk(): boolean {
    return this.#kernel.isLocked();
  }

  /** The next that has ended, or -errno. */
  next(): UrbSlot | number {
    return this.#ahead.shift() ?? this.#reap();
  }

  /** What the kernel has answered: EBUSY says that a driver has an interface. */
  checked(answer: number): number {
    if (answer === -ERRNO.EBUSY) this.isLost = true;
    return answer;
  }

  /**
   * How a URB has ended that came back with this -errno.
   *
   * ENOENT: the session unlinked it, or a new setting swept it away. ESHUTDOWN: sleep, or unplugged.
   */
  statusOf(slot: UrbSlot, errno: number): UrbStatus {
    if (errno === 0) return 'ok';
    this.#note(slot, errno);
    if (errno === -ERRNO.ENOENT && !slot.unlinking) return 'shutdown';
    const status = statusOf(errno);
    return BUS_ERRORS.has(status) && this.#isTakenBack(slot) ? 'shutdown' : status;
  }

  #isTakenBack({ urb }: UrbSlot): boolean {
    while (!this.isLost) {
      const slot = this.#reap();
      if (typeof slot === 'number') break;
      this.#ahead.push(slot);
      this.#note(slot, this.#table.status(slot));
    }
    const number = urb?.endpoint.interfaceNumber ?? -1;
    if (!this.isLost && number >= 0 && !this.#kernel.isOurs(number)) this.isLost = true;
    return this.isLost;
  }

  #reap(): UrbSlot | number {
    const answer = this.#file.ioctl(IOCTL.reapUrbNoDelay, this.#table.reapAddress);
    return answer < 0 ? answer : this.#table.reaped;
  }

  /** Endpoint 0 has ESHUTDOWN in a reset as well. */
  #note({ urb }: UrbSlot, errno: number): void {
    if (errno === -ERRNO.ESHUTDOWN && urb?.setup === null) this.isLost = true;
  }
}
