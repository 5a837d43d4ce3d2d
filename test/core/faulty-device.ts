/** A device with the bugs that a back end can have, each at the word of a test. */
import type { DeviceHost, DeviceInfo, EndpointInfo, UsbDevice } from '../../src/core/device.ts';
import type { Urb } from '../../src/core/urb.ts';
import { endpointInfo, ManualDevice } from './manual-device.ts';

export type Fault =
  | 'submit throws'
  | 'unlink throws'
  | 'endpoint throws'
  | 'room throws'
  | 'a loan throws when it is given back'
  | 'info throws'
  | 'completes twice'
  | 'completes what it does not have'
  | 'says more octets than it brings'
  | 'a queue throws when time is over'
  | 'finds a bug of its own'
  | 'keeps its URBs'
  | 'does not close'
  | 'close throws';

/** Says that a test has made it. */
export class MadeBug extends Error {
  override readonly name = 'MadeBug';
}

/** A timer's turn: nobody of this process is below on the stack. */
const later = (work: () => void): unknown => setTimeout(work, 1);

export class FaultyDevice implements UsbDevice {
  /** What is wrong with the next URB of a bulk endpoint; control transfers are always fine. */
  fault: Fault | null = null;
  readonly queueModel = 'host-controller';
  openCount = 0;
  closeCount = 0;
  /** Calls of `submit` and `unlink`, and completions, of bulk URBs. */
  readonly atDevice = new Set<Urb>();
  readonly #info: DeviceInfo = new ManualDevice().info;
  #host: DeviceHost | null = null;

  get info(): DeviceInfo {
    if (this.fault === 'info throws') throw new MadeBug(this.fault);
    return this.#info;
  }

  endpoint(address: number): EndpointInfo | undefined {
    if (address !== 0 && this.fault === 'endpoint throws') throw new MadeBug(this.fault);
    return address === 0
      ? new ManualDevice().endpoint(0)
      : ENDPOINTS[(address & 0x80) === 0 ? 0 : 1];
  }

  room(): null {
    if (this.fault === 'room throws') throw new MadeBug(this.fault);
    return null;
  }

  mustNotBeOvertaken(): boolean {
    if (this.fault === 'a queue throws when time is over') throw new MadeBug(this.fault);
    return false;
  }

  open(host: DeviceHost): void {
    if (this.#host !== null) throw new Error('the device is open');
    this.openCount++;
    this.#host = host;
  }

  submit(urb: Urb): void {
    if (urb.setup !== null) {
      this.complete(urb);
      return;
    }
    if (this.fault === 'submit throws') throw new MadeBug(this.fault);
    this.atDevice.add(urb);
    const host = this.#host;
    if (this.fault === 'completes twice') {
      later(() => {
        this.complete(urb);
        host?.completed(urb);
      });
    } else if (this.fault === 'completes what it does not have') {
      later(() => {
        const other = Object.create(urb) as Urb;
        other.atDevice = false;
        host?.completed(other);
      });
    } else if (this.fault === 'says more octets than it brings') {
      later(() => {
        urb.actualOctets = 100;
        this.complete(urb);
      });
    } else if (this.fault === 'finds a bug of its own') {
      later(() => host?.failed(new MadeBug('finds a bug of its own')));
    } else if (this.fault === 'a loan throws when it is given back') {
      const giveBack = () => {
        throw new MadeBug('a loan throws when it is given back');
      };
      urb.loan = { giveBack };
      urb.dataIn = Buffer.alloc(urb.octets);
      urb.actualOctets = urb.octets;
      later(() => this.complete(urb));
    } else if (this.fault === null) this.complete(urb);
  }

  unlink(urb: Urb): void {
    if (this.fault === 'unlink throws') throw new MadeBug(this.fault);
    if (this.fault === 'keeps its URBs' || !this.atDevice.has(urb)) return;
    urb.status = 'unlinked';
    later(() => this.complete(urb));
  }

  complete(urb: Urb): void {
    this.atDevice.delete(urb);
    this.#host?.completed(urb);
  }

  /** Fails the URB that it has. */
  stall(): void {
    for (const urb of this.atDevice) {
      urb.status = 'stall';
      this.complete(urb);
    }
  }

  bug(): void {
    this.#host?.failed(new MadeBug('finds a bug of its own'));
  }

  reset(): void {}

  async close(): Promise<void> {
    this.closeCount++;
    if (this.fault === 'does not close') await new Promise(() => {});
    if (this.fault === 'close throws') throw new MadeBug(this.fault);
    this.#host = null;
  }

  async dispose(): Promise<void> {}
}

const ENDPOINTS = [endpointInfo(0x02), endpointInfo(0x81)] as const;
