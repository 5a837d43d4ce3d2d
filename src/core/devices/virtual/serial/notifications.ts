/**
 * Notifications for the host: SERIAL_STATE, 10 octets, little endian.
 *
 * Source: PSTN 1.2, 6.5.4, in the frame of CDC 1.2, 6.3 (that of a request of the class).
 */
import { CONTROL_INTERFACE } from './descriptors.ts';

/** UART state bitmap (PSTN 1.2, table 31), as far as it is used. */
export const SERIAL_STATE = {
  carrier: 0x01, // bRxCarrier: DCD
  ready: 0x02, // bTxCarrier: DSR
} as const;

const CLASS_TO_HOST = 0xa1; // bmRequestType: class, interface, IN
const SERIAL_STATE_CODE = 0x20; // bNotification (PSTN 1.2, table 30)

/**
 * A host that polls seldom must still see a carrier that went and came back, so states queue up;
 * when there are too many, the newest takes the last place, for the final one must be right.
 */
const UNREAD_STATES_MAX = 8;

export class SerialStateQueue {
  readonly #states: number[] = [];

  get length(): number {
    return this.#states.length;
  }

  push(state: number): void {
    if (this.#states.length === UNREAD_STATES_MAX) this.#states.pop();
    this.#states.push(state);
  }

  /** The oldest notification, or undefined. */
  shift(): Uint8Array | undefined {
    const state = this.#states.shift();
    if (state === undefined) return undefined;
    return Uint8Array.of(
      CLASS_TO_HOST,
      SERIAL_STATE_CODE,
      ...[0, 0], // wValue
      ...[CONTROL_INTERFACE, 0], // wIndex
      ...[2, 0], // wLength
      ...[state, 0],
    );
  }

  clear(): void {
    this.#states.length = 0;
  }
}
