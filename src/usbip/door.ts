/** Where connections come in: the driver of the admission machine (admission.ts), with its addresses and its log. */
import type { Clock } from '../core/clock.ts';
import type { PeerLog } from '../core/peer-log.ts';
import { addressKey } from './address-key.ts';
import {
  ADMISSION_LIMITS,
  type Admission,
  type AdmissionLimits,
  admission,
  step,
} from './admission.ts';

/** What a server's door may be given in place of its own: tests have one address to come from. */
export interface DoorOptions {
  readonly limits?: AdmissionLimits;
  readonly addressKey?: (address: string) => string;
}

/** One connection while it has no device. */
export interface Place {
  /** The peer, for people. */
  readonly name: string;
  readonly address: string;
  /** Somebody else needs the place: close the connection now. */
  readonly drop: () => void;
}

export class Door {
  readonly #admission: Admission<Place>;
  readonly #keyOf: (address: string) => string;
  readonly #clock: Clock;
  readonly #log: PeerLog;

  constructor(log: PeerLog, clock: Clock, options: DoorOptions = {}) {
    this.#log = log;
    this.#clock = clock;
    this.#admission = admission(options.limits ?? ADMISSION_LIMITS);
    this.#keyOf = options.addressKey ?? addressKey;
  }

  /** Connections without a device. */
  get strangerCount(): number {
    return this.#admission.strangers.size;
  }

  /** Whether the connection may stay; somebody else may have been dropped for it. */
  enter(place: Place): boolean {
    const { name, address } = place;
    let isAdmitted = false;
    const event = { type: 'accepted', who: place, key: this.#keyOf(address) } as const;
    for (const { type, who } of step(this.#admission, { ...event, now: this.#clock.now() })) {
      if (type === 'admit') isAdmitted = true;
      else if (type === 'drop') {
        const line = `${who.name}: dropped: others want its place, and it had no device`;
        this.#log.warn(line, 'dropped connections', who.address);
        who.drop();
      } else {
        const line = `${name}: refused: its address connects too often`;
        this.#log.warn(line, 'refused connections', address);
      }
    }
    return isAdmitted;
  }

  /** It has a device now, and its place is free; or it is closed. May be told twice. */
  leave(place: Place): void {
    step(this.#admission, { type: 'left', who: place });
  }
}
