/**
 * The pipes of one device, and their pauses: most of what changes a device can only be done while none
 * of its transfers is outstanding.
 */
import type { EndpointInfo } from '../../device.ts';
import type { Urb } from '../../urb.ts';
import type { Claims } from './claims.ts';
import type { PackageDevice } from './package.ts';
import { Pipe, type PipeHost } from './pipe.ts';

/** The endpoints that something changes: those of one interface, or all, claims and all. */
export type Changed = number | 'all';

export class Pipes {
  readonly #device: PackageDevice;
  readonly #claims: Claims;
  readonly #host: PipeHost;
  readonly #pipes = new Map<number, Pipe>();
  /** How often all are paused. */
  #pauses = 0;
  #gone = false;

  constructor(device: PackageDevice, claims: Claims, host: PipeHost) {
    this.#device = device;
    this.#claims = claims;
    this.#host = host;
  }

  submit(urb: Urb): void {
    this.#of(urb.endpoint).submit(urb);
  }

  unlink(urb: Urb): void {
    this.#pipes.get(urb.endpoint.address)?.unlink(urb);
  }

  /** The device has gone: ends every URB, and asks it for nothing more. */
  abandon(): void {
    this.#gone = true;
    for (const pipe of this.#pipes.values()) pipe.abandon('shutdown');
  }

  get isPaused(): boolean {
    return this.#pauses > 0;
  }

  /** No transfer begins until what this returns is called. */
  pause(): () => void {
    this.#pauses++;
    for (const pipe of this.#pipes.values()) pipe.pause();
    return () => {
      this.#pauses--;
      for (const pipe of this.#pipes.values()) pipe.resume();
    };
  }

  /** URBs that are there now. */
  urbs(): Set<Urb> {
    return new Set([...this.#pipes.values()].flatMap(({ urb }) => urb ?? []));
  }

  /**
   * Does something while no transfer is outstanding. The endpoints that it changes begin anew after it:
   * those URBs of theirs that are among `before` have lost their endpoint.
   */
  async whilePaused(
    work: () => Promise<void>,
    changed: Changed,
    before: ReadonlySet<Urb> = this.urbs(),
  ): Promise<void> {
    const resume = this.pause();
    try {
      const aborted = await this.#settle();
      if (changed !== 'all' && !this.#gone) await this.#claims.renew(aborted);
      await work();
      for (const pipe of this.#pipes.values()) {
        if (changed !== 'all' && pipe.endpoint.interfaceNumber !== changed) continue;
        pipe.forget();
        if (pipe.urb !== null && before.has(pipe.urb)) pipe.abandon('shutdown');
      }
    } finally {
      resume();
    }
  }

  /** Does something while no transfer of one endpoint is outstanding, which begins anew after it. */
  async whileOnePaused(address: number, work: () => Promise<void>): Promise<void> {
    const pipe = this.#pipes.get(address);
    pipe?.pause();
    try {
      await pipe?.settled();
      await work();
      pipe?.forget();
    } finally {
      pipe?.resume();
    }
  }

  /**
   * Waits until no transfer is outstanding; ends those that wait for the device, where it can.
   *
   * @returns the interfaces whose claims went with that.
   */
  async #settle(): Promise<Set<number>> {
    const aborted = new Set<number>();
    for (;;) {
      const busy = [...this.#pipes.values()].filter((pipe) => pipe.isBusy);
      if (busy.length === 0) return aborted;
      const inWork = busy.filter((pipe) => !pipe.isInterruptible);
      const keep = new Set(inWork.map(({ endpoint }) => endpoint.interfaceNumber));
      const idle = busy.filter(({ endpoint }) => !keep.has(endpoint.interfaceNumber));
      if (!this.#claims.aborts || idle.length === 0 || this.#gone) {
        await Promise.race(busy.map((pipe) => pipe.settled()));
        continue;
      }
      for (const pipe of idle) pipe.expectAbort();
      for (const number of new Set(idle.map(({ endpoint }) => endpoint.interfaceNumber))) {
        await this.#claims.abort(number);
        aborted.add(number);
      }
      await Promise.all(idle.map((pipe) => pipe.settled()));
    }
  }

  #of(endpoint: EndpointInfo): Pipe {
    const known = this.#pipes.get(endpoint.address);
    // Another setting may have another endpoint there; what was out at the old one is back.
    if (known?.endpoint === endpoint) return known;
    const fresh = new Pipe(endpoint, this.#device, this.#host);
    for (let count = 0; count < this.#pauses; count++) fresh.pause();
    this.#pipes.set(endpoint.address, fresh);
    return fresh;
  }
}
